"""Translates this library's filters into a store's own.

Equality and existence are decided by facts (`records.facts_of`), which every store looks up in a list of
texts; only comparisons by order are left to a store's numbers and texts. Negations are pushed down to both,
so that a store's own reading of a missing field never counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from ..index.filters import Filter, check_filter, conditions_of, kind_of, ranges_of
from .records import check_number, fact_of, kind_fact

KINDS = ("number", "text", "truth value", "None")
_OPPOSITE = {"$gt": "$lte", "$gte": "$lt", "$lt": "$gte", "$lte": "$gt"}

Condition = TypeVar("Condition")


class Dialect(Protocol[Condition]):
    """How a store writes the parts of a filter."""

    def has(self, facts: Sequence[str]) -> Condition:
        """Documents with at least one of these facts."""

    def has_not(self, facts: Sequence[str]) -> Condition:
        """Documents with none of them."""

    def compare(self, field: str, operator: str, operand: float | str) -> Condition:
        """Documents whose field has a value of the operand's kind, in this order to it.

        Raises:
            ValueError: The store has no such comparison; it names the operator.
        """

    def every(self, conditions: Sequence[Condition]) -> Condition:
        """All of the conditions; of none, every document."""

    def some(self, conditions: Sequence[Condition]) -> Condition:
        """At least one; of none, no document."""


def translate(where: Filter, dialect: Dialect[Condition]) -> Condition:
    """A checked filter as a store's own condition.

    Raises:
        ValueError: It is no filter, or the store lacks an operator.
    """
    check_filter(where)
    return _translated(where, dialect, False)


def _translated(where: Filter, dialect: Dialect[Condition], negated: bool) -> Condition:
    every, some = (dialect.some, dialect.every) if negated else (dialect.every, dialect.some)
    parts: list[Condition] = []
    for key, value in where.items():
        if key == "$and":
            parts.append(every([_translated(one, dialect, negated) for one in value]))
        elif key == "$or":
            parts.append(some([_translated(one, dialect, negated) for one in value]))
        elif key == "$not":
            parts.append(_translated(value, dialect, not negated))
        else:
            parts += [
                _field(key, name, operand, dialect, negated)
                for name, operand in conditions_of(value).items()
            ]
    return parts[0] if len(parts) == 1 else every(parts)


def _field(
    field: str, name: str, operand: Any, dialect: Dialect[Condition], negated: bool
) -> Condition:
    """One operator of a field."""
    if name in _OPPOSITE:
        check_number(operand, f"the operand of {name} of {field!r}")
        if not negated:
            return dialect.compare(field, name, operand)
        other = dialect.has_not([kind_fact(field, kind_of(operand))])
        return dialect.some([other, dialect.compare(field, _OPPOSITE[name], operand)])
    if name == "$exists":
        facts, is_wanted = [kind_fact(field, kind) for kind in KINDS], bool(operand)
    else:
        operands = operand if name in ("$in", "$nin") else [operand]
        facts = list(dict.fromkeys(fact_of(field, one) for one in operands))
        is_wanted = name in ("$eq", "$in")
    if is_wanted != negated:
        return dialect.has(facts) if facts else dialect.some([])
    return dialect.has_not(facts) if facts else dialect.every([])


def asked_kinds(where: Filter) -> dict[str, set[str]]:
    """The fields that a checked filter names, and the kinds that it compares by order."""
    kinds: dict[str, set[str]] = {field: set() for field in check_filter(where)}
    for field, _, operand in ranges_of(where):
        kinds[field].add(kind_of(operand))
    return kinds
