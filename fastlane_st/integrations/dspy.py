"""DSPy: a retriever that modules call, and that ReAct takes as a tool."""

from __future__ import annotations

from typing import Any

try:
    import dspy
except ImportError as error:
    from .collection import missing

    raise missing("dspy", error) from error

from ..index.arguments import QueryRoutes
from ..index.filters import Filter
from ..index.index import FastLaneIndex
from ..modeling.search_fastlane import check_counts
from .collection import Collection, check_index, passage

_ROUTING = ("num_routes", "rerank", "candidates")


class FastLaneRetriever:
    """Finds passages in a `FastLaneIndex`.

    `retriever(query)` gives a `dspy.Prediction` of lists, best first: `passages`, and for each of them
    `indices` (ids), `scores`, `spans` (of a long document's best window, or None) and `metadata`.

    Args:
        index: The index, with its encoder.
        k: How many passages to find.
        num_routes, rerank, candidates: As for `FastLaneIndex.search`.
        filter: A filter of the index; DSPy has none of its own.
        windows: Give of a long document the best window alone, in place of the whole text.
    """

    def __init__(
        self,
        index: FastLaneIndex,
        k: int = 3,
        *,
        num_routes: QueryRoutes = "default",
        rerank: int | None = None,
        candidates: int | None = None,
        filter: Filter | None = None,
        windows: bool = False,
    ) -> None:
        check_index(index)
        check_counts(k=k)
        self._collection = Collection(index)
        self.k = k
        self.num_routes, self.rerank, self.candidates = num_routes, rerank, candidates
        self.filter = filter
        self.windows = windows

    def __call__(self, query: str, k: int | None = None, **options: Any) -> dspy.Prediction:
        """Finds the passages that are most relevant to the query."""
        return self.forward(query, k, **options)

    def forward(self, query: str, k: int | None = None, **options: Any) -> dspy.Prediction:
        """The best passages for a query.

        Args:
            query: The query.
            k: How many; the retriever's own number by default.
            **options: `num_routes`, `rerank`, `candidates`, `filter`, in place of the retriever's own.
        """
        unknown = sorted(options.keys() - {*_ROUTING, "filter"})
        if unknown:
            raise TypeError(f"a call takes {', '.join(_ROUTING)} and filter, got {unknown[0]!r}")
        where = options.pop("filter", self.filter)
        routing = {name: getattr(self, name) for name in _ROUTING} | options
        hits = self._collection.search(query, self.k if k is None else k, where, **routing)
        found = [passage(hit, self.windows) for hit in hits]
        return dspy.Prediction(
            passages=[one.text for one in found],
            indices=[hit.id for hit in hits],
            scores=[one.score for one in found],
            spans=[one.span for one in found],
            metadata=[one.metadata for one in found],
        )

    def rm(self, query: str, k: int | None = None, **options: Any) -> list[dspy.Example]:
        """For `dspy.configure(rm=retriever.rm)` and `dspy.Retrieve`: each passage as `long_text`."""
        return [dspy.Example(long_text=text) for text in self.forward(query, k, **options).passages]
