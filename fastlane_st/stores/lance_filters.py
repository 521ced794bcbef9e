"""Filters in LanceDB's SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..index.filters import kind_of
from .arrow import range_column

_SIGNS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


@dataclass(frozen=True)
class LanceDialect:
    """Conditions as SQL over a table with these columns."""

    columns: frozenset[str]

    def has(self, facts: Sequence[str]) -> str:
        return f"array_has_any(facts, [{', '.join(map(literal, facts))}])"

    def has_not(self, facts: Sequence[str]) -> str:
        return f"(NOT {self.has(facts)})"

    def compare(self, field: str, operator: str, operand: float | str) -> str:
        column = range_column(field, kind_of(operand))
        if column not in self.columns:
            return "false"
        value = (
            literal(operand)
            if isinstance(operand, str)
            else f"CAST('{float(operand)!r}' AS DOUBLE)"
        )
        return f"(`{column}` IS NOT NULL AND `{column}` {_SIGNS[operator]} {value})"

    def every(self, conditions: Sequence[str]) -> str:
        return f"({' AND '.join(conditions)})" if conditions else "true"

    def some(self, conditions: Sequence[str]) -> str:
        return f"({' OR '.join(conditions)})" if conditions else "false"

    @staticmethod
    def keys(keys: Sequence[str]) -> str:
        """The documents of these keys."""
        return f"id IN ({', '.join(map(literal, keys))})"


def literal(text: str) -> str:
    """A text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"
