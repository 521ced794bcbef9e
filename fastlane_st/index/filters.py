"""Filters: which documents a search may find, by their metadata.

A filter is JSON, in the form that vector databases have in common:

    {"year": 2024}                                    equal
    {"year": {"$gte": 2020, "$lt": 2025}}             $eq $ne $gt $gte $lt $lte
    {"language": {"$in": ["de", "fr"]}}               $in $nin
    {"author": {"$exists": False}}
    {"$or": [{"year": 2024}, {"$not": {"draft": True}}]}    $and $or $not

Several fields or operators in one object must all hold. A field that a document doesn't have is equal to
nothing and in no range, so that `$ne`, `$nin` and `$not` hold for it. Numbers are compared with
numbers and texts with texts; True is no number.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from ..modeling.search_fastlane import plain
from .contents import Part
from .segment import BoolArray, Segment

Filter: TypeAlias = Mapping[str, Any]

DEEPEST = 32
"""Levels of `$and`, `$or` and `$not` that a filter may have."""
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}
_OPERATORS = ("$eq", "$ne", *_ORDERS, "$in", "$nin", "$exists")


def filtered(parts: Sequence[Part], where: Filter) -> tuple[Part, ...]:
    """Restricts each part to the live documents that a filter lets through.

    Raises:
        ValueError: It is no filter, no live document has one of its fields, or a range is compared with
            values of another kind than the field has.
    """
    fields = check_filter(where)
    unknown = sorted(name for name in fields if not any(_has_field(part, name) for part in parts))
    if unknown:
        raise ValueError(
            f"no document has the field {unknown[0]!r}; there are {known_fields(parts)}"
        )
    for name, operator_name, operand in ranges_of(where):
        kinds = {
            kind_of(value) for part in parts for value in part.segment.documents.column(name).values
        }
        if kind_of(operand) not in kinds:
            raise ValueError(
                f"{operator_name} of {name!r} compares with {operand!r}, a {kind_of(operand)}; the field "
                f"holds values of the kind {', '.join(sorted(kinds))}"
            )
    return tuple(
        replace(part, is_live=part.is_live & matching(where, part.segment)) for part in parts
    )


def ranges_of(where: Filter) -> Iterator[tuple[str, str, Any]]:
    """Yields field, operator and operand of each comparison by order in a checked filter."""
    for key, value in where.items():
        if key in ("$and", "$or"):
            for one in value:
                yield from ranges_of(one)
        elif key == "$not":
            yield from ranges_of(value)
        else:
            for name, operand in conditions_of(value).items():
                if name in _ORDERS:
                    yield key, name, operand


def known_fields(parts: Sequence[Part]) -> list[str]:
    """The names of the fields that at least one live document has."""
    names = {name for part in parts for name in part.segment.documents.fields()}
    return sorted(name for name in names if any(_has_field(part, name) for part in parts))


def _has_field(part: Part, name: str) -> bool:
    return bool((part.segment.documents.column(name).codes[part.is_live] >= 0).any())


def check_filter(where: Filter, depth: int = 1) -> set[str]:
    """Checks a filter and gives the fields it names.

    Raises:
        ValueError: It isn't one, or it is more than `DEEPEST` levels deep; the message says where.
    """
    if depth > DEEPEST:
        raise ValueError(f"a filter may be {DEEPEST} levels deep, this one is deeper")
    if not isinstance(where, Mapping):
        raise ValueError(f"a filter must be an object such as {{'year': 2024}}, got {where!r}")
    fields = set()
    for key, value in where.items():
        if key in ("$and", "$or"):
            if not isinstance(value, list | tuple) or not value:
                raise ValueError(f"{key} takes a list of filters, got {value!r}")
            fields |= set().union(*(check_filter(one, depth + 1) for one in value))
        elif key == "$not":
            fields |= check_filter(value, depth + 1)
        elif not isinstance(key, str) or key.startswith("$"):
            raise ValueError(f"a filter has fields, $and, $or and $not, got {key!r}")
        else:
            _check_conditions(key, value)
            fields.add(key)
    return fields


def matching(where: Filter, segment: Segment) -> BoolArray:
    """(num_documents,) bool: which documents of a segment pass a checked filter."""
    found = np.ones(len(segment), dtype=bool)
    for key, value in where.items():
        if key == "$and":
            found &= np.logical_and.reduce([matching(one, segment) for one in value])
        elif key == "$or":
            found &= np.logical_or.reduce([matching(one, segment) for one in value])
        elif key == "$not":
            found &= ~matching(value, segment)
        else:
            for name, operand in conditions_of(value).items():
                found &= _holds(segment, key, name, operand)
    return found


def is_scalar(value: object) -> bool:
    """Whether metadata can have this value: text, finite number, truth value or None."""
    if isinstance(value, float):
        return bool(np.isfinite(value))
    return value is None or isinstance(value, str | int)


def _holds(segment: Segment, field: str, name: str, operand: Any) -> BoolArray:
    """(num_documents,) bool: where one condition holds. It is evaluated once for each distinct value."""
    column = segment.documents.column(field)
    if name == "$exists":
        exists: BoolArray = column.codes >= 0
        return exists if operand else ~exists
    if name in ("$ne", "$nin"):
        return ~_holds(segment, field, "$eq" if name == "$ne" else "$in", operand)
    test = _test(name, operand)
    holds = np.array([*map(test, column.values), False])  # the last is for code -1, no value
    found: BoolArray = holds[column.codes]
    return found


def _test(name: str, operand: Any) -> Callable[[Any], bool]:
    if name == "$eq":
        return lambda value: _equal(value, operand)
    if name == "$in":
        wanted = {(kind_of(one), one) for one in operand}
        return lambda value: (kind_of(value), value) in wanted
    compare = _ORDERS[name]
    return lambda value: kind_of(value) == kind_of(operand) and compare(value, operand)


def _equal(value: Any, operand: Any) -> bool:
    return kind_of(value) == kind_of(operand) and bool(value == operand)


def kind_of(value: Any) -> str:
    """The type class of a value; only values of one class are compared."""
    if isinstance(value, bool):
        return "truth value"
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else "None"


def conditions_of(value: Any) -> Mapping[str, Any]:
    """The operands by operator, with NumPy's scalars as Python's."""
    conditions = value if isinstance(value, Mapping) else {"$eq": value}
    return {name: _plain_operand(operand) for name, operand in conditions.items()}


def _plain_operand(operand: Any) -> Any:
    if isinstance(operand, Sequence | set | frozenset | np.ndarray) and not isinstance(
        operand, str
    ):
        return [plain(one) for one in operand]
    return plain(operand)


def _check_conditions(field: str, value: Any) -> None:
    conditions = conditions_of(value)
    if not conditions:
        raise ValueError(f"the filter on {field!r} is empty: give a value or {{'$exists': True}}")
    for name, operand in conditions.items():
        if name not in _OPERATORS:
            raise ValueError(
                f"{field!r} has the operator {name!r}, there are {', '.join(_OPERATORS)}"
            )
        problem = _problem(name, operand)
        if problem:
            raise ValueError(f"{name} of {field!r} takes {problem}, got {operand!r}")


def _problem(name: str, operand: Any) -> str | None:
    """What the operand should have been; None if it is right."""
    if name in ("$in", "$nin"):
        is_list = isinstance(operand, list)
        return None if is_list and all(map(is_scalar, operand)) else "a list of values"
    if name == "$exists":
        return None if isinstance(operand, bool) else "True or False"
    if name in _ORDERS:
        is_ordered = is_scalar(operand) and kind_of(operand) in ("number", "text")
        return None if is_ordered else "a number or a text"
    return None if is_scalar(operand) else "a text, a finite number, True, False or None"
