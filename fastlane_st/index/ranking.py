"""Ranking of an index's documents for a query: FAISS proposes candidates, exact scores decide.

A query is compared up to three times: with short codes, with stored vectors in float32, and with the
survivors in float64 (`exact_matches`). The float32 scores only leave out documents that are further from the
best than their rounding error, so that ties are exact.

Four kinds of number occur here: a *part index* is a place in `parts`; a *document* is numbered over the whole
index, or in its part where that is said; a *row* is a vector's number in its store; a *view* is a row of the
batch's query views.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..modeling.search_fastlane import FETCHED, Hit, Views, rounding_slack
from .contents import Part
from .scoring import PartScorer, ScoredDocument, hits_of
from .vectors.gpu import GpuVectors
from .vectors.nearest import Nearest, looks_everywhere, nearest_vectors
from .vectors.settings import FloatArray, IntArray, VectorSettings


class DocumentRanker:
    """Ranks the live documents of an index by MaxSim, the sum over query views q of max_j q·d_j.

    Args:
        parts: The documents.
        settings: How their vectors are found.
        gpu: Where FAISS looks for them, if not on the CPU.
    """

    def __init__(
        self, parts: Sequence[Part], settings: VectorSettings, gpu: GpuVectors | None = None
    ) -> None:
        self._scorers = [PartScorer(part) for part in parts]
        self._settings = settings
        self._gpu = gpu
        self._starts = np.cumsum([0, *(len(scorer.counts) for scorer in self._scorers)])
        # The longest vector bounds the rounding.
        self._longest = max((part.segment.longest for part in parts), default=0.0)

    def rank(self, queries: list[Views], top_k: int, candidates: int) -> list[list[Hit]]:
        """The `top_k` best documents for each query, best first, equal scores in document order.

        A query of one view is answered exactly. Of several views each proposes its `candidates`
        best documents, and the query gets the best of all that are proposed.
        """
        proposed = self._propose(queries, top_k, candidates)
        return [
            hits_of(query, self._best(query, documents, top_k))
            for query, documents in zip(queries, proposed, strict=True)
        ]

    def rank_again(
        self, queries: list[Views], full: list[Views], top_k: int, candidates: int, rerank: int
    ) -> list[list[Hit]]:
        """The `top_k` best by the views in `full` of the `rerank` best by those in `queries`."""
        proposed = self._propose(queries, rerank, candidates)
        return [
            hits_of(whole, self._best(whole, self._select(query, documents, rerank), top_k))
            for query, whole, documents in zip(queries, full, proposed, strict=True)
        ]

    def _propose(
        self, queries: list[Views], limit: int, candidates: int
    ) -> Iterator[list[IntArray]]:
        """For each query some documents of each part, numbered in it, its `limit` best among them."""
        limits = [limit if len(q.vectors) == 1 else candidates for q in queries for _ in q.vectors]
        views = np.concatenate([query.vectors for query in queries])
        slacks = rounding_slack(views, self._longest)
        scanned: list[int] = []
        searched: list[int] = []
        for part_index, scorer in enumerate(self._scorers):
            (scanned if scorer.is_small(min(limits)) else searched).append(part_index)
        scored = [self._scan(scanned, views)]
        if searched:
            scored.append(self._search(searched, views, limits, slacks))
        first = 0
        for query in queries:
            here = range(first, first + len(query.vectors))
            best = [best_of([one[v] for one in scored], limits[v], slacks[v]) for v in here]
            yield self._by_part(np.unique(np.concatenate([ids for one in best for ids in one])))
            first += len(query.vectors)

    def _by_part(self, documents: IntArray) -> list[IntArray]:
        """Splits ascending documents of the index by part, and numbers them in their part."""
        parts = np.split(documents, np.searchsorted(documents, self._starts[1:-1]))
        return [part - start for part, start in zip(parts, self._starts[:-1], strict=False)]

    def _scan(self, part_indices: Sequence[int], views: FloatArray) -> list[Scored]:
        """For each view all live documents of these parts."""
        documents = [np.empty(0, dtype=np.int64)]
        best = [np.empty((0, len(views)), dtype=np.float32)]
        for part_index in part_indices:
            scorer = self._scorers[part_index]
            documents.append(scorer.documents + self._starts[part_index])
            best.append(scorer.scan(views, scorer.documents))
        joined, scores = np.concatenate(documents), np.concatenate(best)
        return [(joined, scores[:, view]) for view in range(len(views))]

    def _search(
        self,
        part_indices: Sequence[int],
        views: FloatArray,
        limits: Sequence[int],
        slacks: npt.NDArray[np.float64],
    ) -> list[Scored]:
        """For each view some documents of these parts, its `limit` best among them.

        The best N vectors are not N documents: one document can fill the list, and others may be
        deleted. FAISS is asked for more vectors, from further away, until there are enough
        documents and none beyond could tie with the last of them.
        """
        scorers = [self._scorers[part_index] for part_index in part_indices]
        stores = [scorer.segment.vectors for scorer in scorers]
        num_vectors = sum(map(len, stores))
        num_documents = sum(len(scorer.documents) for scorer in scorers)
        proposals: dict[int, Scored] = {}
        pending = list(range(len(views)))
        fetch, reach = FETCHED * max(8, *limits), 1.0
        while pending:
            fetch = min(fetch, num_vectors)
            near = nearest_vectors(stores, self._settings, views[pending], fetch, reach, self._gpu)
            is_short = near.rows[:, -1] < 0  # then these are all within reach
            for asked, view in enumerate(pending):
                documents, best = self._documents_of(part_indices, near, asked)
                limit = min(limits[view], num_documents)
                is_enough = len(documents) >= limit
                if is_enough and not is_short[asked] and fetch < num_vectors:
                    floor = np.partition(best, -limit)[-limit] - slacks[view]
                    is_enough = near.similarities[asked, -1] < floor
                if is_enough:
                    proposals[view] = documents, best
                elif (is_short[asked] or fetch == num_vectors) and looks_everywhere(
                    stores, self._settings, fetch, reach
                ):
                    [proposals[view]] = self._scan(part_indices, views[view : view + 1])
            is_left = np.array([view not in proposals for view in pending])
            fetch, reach = 4 * fetch, 4 * reach if is_short[is_left].any() else reach
            pending = [view for view in pending if view not in proposals]
        return [proposals[view] for view in range(len(views))]

    def _documents_of(self, part_indices: Sequence[int], near: Nearest, asked: int) -> Scored:
        """The live documents that own the vectors found for one view, with the best of each.

        `near.stores` counts the parts that were searched: those at `part_indices`.
        """
        owners = np.full(near.rows.shape[1], -1)
        for store, part_index in enumerate(part_indices):
            is_here = (near.stores[asked] == store) & (near.rows[asked] >= 0)
            documents = self._scorers[part_index].owners(near.rows[asked, is_here])
            owners[is_here] = np.where(documents < 0, -1, documents + self._starts[part_index])
        documents, first = np.unique(owners[owners >= 0], return_index=True)
        return documents, near.similarities[asked, owners >= 0][first]

    def _select(self, query: Views, documents: list[IntArray], limit: int) -> list[IntArray]:
        """The `limit` best of the `documents` of each part, by their exact MaxSim, in no order."""
        if sum(map(len, documents)) <= limit:
            return documents
        scored = [
            (some, scorer.scan(query.vectors, some).sum(axis=1, dtype=np.float64))
            for scorer, some in zip(self._scorers, documents, strict=True)
        ]
        kept = best_of(scored, limit, float(rounding_slack(query.vectors, self._longest).sum()))
        if sum(map(len, kept)) <= limit:
            return kept
        best = self._order(query, kept)[:limit]
        return [
            np.array([one.document for one in best if one.scorer is scorer], dtype=np.int64)
            for scorer in self._scorers
        ]

    def _best(self, query: Views, documents: list[IntArray], limit: int) -> list[ScoredDocument]:
        """The `limit` best of the `documents` of each part, by their exact MaxSim, best first."""
        return self._order(query, self._select(query, documents, limit))

    def _order(self, query: Views, documents: list[IntArray]) -> list[ScoredDocument]:
        """The `documents` of each part with their exact MaxSim, best first."""
        found = [
            one
            for scorer, some in zip(self._scorers, documents, strict=True)
            for one in scorer.score(query, some)
        ]
        found.sort(key=lambda one: (-one.score, one.place))
        return found


Scored = tuple[IntArray, npt.NDArray[np.floating[Any]]]
"""Documents and the score of each."""


def best_of(parts: Sequence[Scored], limit: int, slack: float) -> list[IntArray]:
    """The documents of each part that are among the `limit` best of all, or less than `slack` worse."""
    scores = np.concatenate([scores for _, scores in parts]) if parts else np.empty(0)
    if len(scores) <= limit:
        return [documents for documents, _ in parts]
    floor = np.partition(scores, -limit)[-limit] - slack
    return [documents[scores >= floor] for documents, scores in parts]
