"""Filters as Qdrant's conditions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_BOUNDS = {"$gt": "gt", "$gte": "gte", "$lt": "lt", "$lte": "lte"}


@dataclass(frozen=True)
class QdrantDialect:
    """Conditions made of the classes of `qdrant_client.models`."""

    models: Any

    def has(self, facts: Sequence[str]) -> Any:
        return self.models.FieldCondition(key="facts", match=self.models.MatchAny(any=list(facts)))

    def has_not(self, facts: Sequence[str]) -> Any:
        return self.models.Filter(must_not=[self.has(facts)])

    def compare(self, field: str, operator: str, operand: float | str) -> Any:
        if isinstance(operand, str):
            raise ValueError(
                f"Qdrant has no {operator} of texts, asked of {field!r}: compare numbers, or use $in"
            )
        if '"' in field:
            raise ValueError(
                f"Qdrant has no {operator} of a field with a quote, asked of {field!r}"
            )
        bounds = self.models.Range(**{_BOUNDS[operator]: float(operand)})
        return self.models.FieldCondition(key=f'metadata."{field}"', range=bounds)

    def every(self, conditions: Sequence[Any]) -> Any:
        return self.models.Filter(must=list(conditions))

    def some(self, conditions: Sequence[Any]) -> Any:
        if not conditions:
            return self.models.Filter(must=[self.models.HasIdCondition(has_id=[])])
        return self.models.Filter(should=list(conditions))
