"""Filters as Milvus's expressions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from ..index.filters import kind_of
from .records import kind_fact

_SIGNS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


@dataclass(frozen=True)
class MilvusDialect:
    """Conditions as text."""

    def has(self, facts: Sequence[str]) -> str:
        return f"array_contains_any(facts, {quoted(list(facts))})"

    def has_not(self, facts: Sequence[str]) -> str:
        return f"(not {self.has(facts)})"

    def compare(self, field: str, operator: str, operand: float | str) -> str:
        if '"' in field or "\\" in field:
            raise ValueError(
                f"Milvus has no {operator} of a field with a quote or backslash, asked of {field!r}"
            )
        value = quoted(operand) if isinstance(operand, str) else repr(operand)
        kind = self.has([kind_fact(field, kind_of(operand))])
        return f'({kind} and metadata["{field}"] {_SIGNS[operator]} {value})'

    def every(self, conditions: Sequence[str]) -> str:
        return f"({' and '.join(conditions)})" if conditions else "row >= 0"

    def some(self, conditions: Sequence[str]) -> str:
        return f"({' or '.join(conditions)})" if conditions else "row < 0"


def quoted(value: str | list[str]) -> str:
    """A text or a list of texts as a literal."""
    return json.dumps(value, ensure_ascii=False)
