"""Ranking of an index's documents for a query: FAISS proposes candidates, exact scores decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .gpu_fastlane import GpuVectors
from .index_contents_fastlane import Part
from .segment_fastlane import Id, Metadata
from .vector_index_fastlane import FloatArray, IntArray, VectorSettings
from .views_fastlane import Views

BLOCK_VECTORS = 16_384  # 8 MB of 128 dimensions; smaller is no faster, and BLAS threads wait more
FETCHED = 16  # vectors, for each document that is asked for
SCAN_FRACTION = 0.1  # of a segment's vectors: so few are scored one by one, without FAISS


class Match(NamedTuple):
    """A query view and the document token it found, as positions in the two tokenised texts."""

    query_position: int
    document_position: int
    similarity: float


@dataclass(frozen=True, slots=True)
class Hit:
    """A document found, its score the sum of its matches: one for each routed query view."""

    id: Id
    score: float
    matches: tuple[Match, ...]
    text: str | None
    metadata: Metadata = field(default_factory=dict)

    @property
    def route(self) -> int:
        """The query position whose match contributed most; the first of equals."""
        return max(self.matches, key=lambda match: match.similarity).query_position


class DocumentRanker:
    """Ranks the live documents of an index by MaxSim, the sum over query views q of max_j q·d_j.

    Similarities that decide are computed in float64 and rounded to float32. What comes before
    them, in FAISS and in `scan`, is float32 and only leaves out documents that are further
    from the best than its rounding.

    Args:
        parts: The documents.
        settings: How their vectors are found.
        gpu: Where FAISS looks for them, if not on the CPU.
    """

    def __init__(
        self, parts: Sequence[Part], settings: VectorSettings, gpu: GpuVectors | None = None
    ) -> None:
        self._rankers = [PartRanker(part, settings, gpu) for part in parts]
        # The longest vector bounds the rounding.
        self._longest = max((part.segment.longest for part in parts), default=0.0)

    def rank(self, queries: list[Views], top_k: int, candidates: int) -> list[list[Hit]]:
        """The `top_k` best documents for each query, best first, equal scores in document order.

        A query of one view is answered exactly. Of several views each proposes its `candidates`
        best documents, and the query gets the best of all that are proposed.
        """
        proposed = self._propose(queries, top_k, candidates)
        return [
            [one.hit(query) for one in self._best(query, documents, top_k)]
            for query, documents in zip(queries, proposed, strict=True)
        ]

    def rank_again(
        self, queries: list[Views], full: list[Views], top_k: int, candidates: int, rerank: int
    ) -> list[list[Hit]]:
        """The `top_k` best by the views in `full` of the `rerank` best by those in `queries`."""
        proposed = self._propose(queries, rerank, candidates)
        return [
            [
                one.hit(whole)
                for one in self._best(whole, self._select(query, documents, rerank), top_k)
            ]
            for query, whole, documents in zip(queries, full, proposed, strict=True)
        ]

    def _propose(
        self, queries: list[Views], limit: int, candidates: int
    ) -> Iterator[list[IntArray]]:
        """For each query documents of each part, by number, its `limit` best among them."""
        limits = [limit if len(q.vectors) == 1 else candidates for q in queries for _ in q.vectors]
        views = np.concatenate([query.vectors for query in queries])
        slacks = self._slacks(views)
        by_part = [ranker.propose(views, limits, slacks) for ranker in self._rankers]
        first = 0
        for query in queries:
            here = range(first, first + len(query.vectors))
            proposed = [
                best_of([proposals[n] for proposals in by_part], limits[n], slacks[n]) for n in here
            ]
            yield [np.unique(np.concatenate(one)) for one in zip(*proposed, strict=True)]
            first += len(query.vectors)

    def _slacks(self, views: FloatArray) -> npt.NDArray[np.float64]:
        """(V,): how far apart two float32 similarities of a view may be where exact ones tie.

        Both may be off by the rounding of a float32 product, at most dim * 2**-24 * |q| * |d|; the 8
        is for the norms' and the exact scores' own rounding.
        """
        lengths = np.linalg.norm(views.astype(float), axis=1)
        slacks: npt.NDArray[np.float64] = (views.shape[1] + 8) * 2.0**-23 * lengths * self._longest
        return slacks

    def _select(self, query: Views, documents: list[IntArray], limit: int) -> list[IntArray]:
        """The `limit` best of the `documents` of each part, by their exact MaxSim, in no order."""
        if sum(map(len, documents)) <= limit:
            return documents
        scored = [
            (numbers, ranker.scan(query.vectors, numbers).sum(axis=1, dtype=np.float64))
            for ranker, numbers in zip(self._rankers, documents, strict=True)
        ]
        kept = best_of(scored, limit, float(self._slacks(query.vectors).sum()))
        if sum(map(len, kept)) <= limit:
            return kept
        best = self._order(query, kept)[:limit]
        return [
            np.array([one.document for one in best if one.ranker is ranker], dtype=np.int64)
            for ranker in self._rankers
        ]

    def _best(self, query: Views, documents: list[IntArray], limit: int) -> list[ScoredDocument]:
        """The `limit` best of the `documents` of each part, by their exact MaxSim, best first."""
        return self._order(query, self._select(query, documents, limit))

    def _order(self, query: Views, documents: list[IntArray]) -> list[ScoredDocument]:
        """The `documents` of each part with their exact MaxSim, best first."""
        found = [
            one
            for ranker, numbers in zip(self._rankers, documents, strict=True)
            for one in ranker.score(query, numbers)
        ]
        found.sort(key=lambda one: (-one.score, one.place))
        return found


Scored = tuple[IntArray, npt.NDArray[np.floating[Any]]]
"""Documents of one part, by number, and the score of each."""


def best_of(parts: Sequence[Scored], limit: int, slack: float) -> list[IntArray]:
    """Of each part the documents that may be among the `limit` best of all."""
    scores = np.concatenate([scores for _, scores in parts]) if parts else np.empty(0)
    if len(scores) <= limit:
        return [documents for documents, _ in parts]
    floor = np.partition(scores, -limit)[-limit] - slack
    return [documents[scores >= floor] for documents, scores in parts]


class PartRanker:
    """Scores the live documents of one part that have vectors."""

    def __init__(self, part: Part, settings: VectorSettings, gpu: GpuVectors | None) -> None:
        self.segment = part.segment
        self.settings = settings
        self.gpu = gpu
        self.counts = part.segment.counts
        self.is_live = part.is_live & (self.counts > 0)
        self.documents: IntArray = np.flatnonzero(self.is_live)
        self.num_vectors = int(self.counts[self.documents].sum())

    def propose(
        self,
        views: FloatArray,
        limits: Sequence[int],
        slacks: npt.NDArray[np.float64],
    ) -> list[Scored]:
        """For each view documents with their best similarity, its `limit` best among them.

        The best N vectors are not N documents: one document can fill the list, and others may be
        gone. FAISS looks further, for more vectors, until there are enough documents and none beyond
        could tie with the last of them.
        """
        ntotal = self.segment.vectors.ntotal
        if self.num_vectors <= SCAN_FRACTION * ntotal or min(limits) >= len(self.documents):
            return self._scan_all(views)
        proposals: list[Scored | None] = [None] * len(views)
        pending = list(range(len(views)))
        fetch, reach = FETCHED * max(8, *limits), 1.0
        while pending:
            fetch = min(fetch, ntotal)
            found = self._search(views[pending], fetch, reach)
            for number, similarities, rows in zip(pending, *found, strict=True):
                proposals[number] = self._group(
                    similarities, rows, limits[number], slacks[number], reach, views[number]
                )
            is_short = found[1][:, -1] < 0
            unanswered = [
                place for place, number in enumerate(pending) if proposals[number] is None
            ]
            fetch, reach = 4 * fetch, 4 * reach if is_short[unanswered].any() else reach
            pending = [pending[place] for place in unanswered]
        return [proposal for proposal in proposals if proposal is not None]

    def _search(self, views: FloatArray, count: int, reach: float) -> tuple[FloatArray, IntArray]:
        if self.gpu is None:
            return self.settings.search(self.segment.vectors, views, count, reach)
        return self.gpu.search(self.segment, self.settings, views, count, reach)

    def _group(
        self,
        similarities: FloatArray,
        rows: IntArray,
        limit: int,
        slack: float,
        reach: float,
        view: FloatArray,
    ) -> Scored | None:
        """The live documents that own the rows; None if one beyond could be in the best `limit`."""
        asked = len(rows)
        if rows[-1] < 0:
            similarities, rows = similarities[rows >= 0], rows[rows >= 0]
        owners = np.searchsorted(self.segment.offsets, rows, side="right") - 1
        documents, first = np.unique(owners, return_index=True)
        is_live = self.is_live[documents]
        documents, best = documents[is_live], similarities[first[is_live]]
        if len(rows) < asked or asked == self.segment.vectors.ntotal:  # these are all within reach
            if len(documents) >= min(limit, len(self.documents)):
                return documents, best
            if self.settings.looks_everywhere(self.segment.vectors, asked, reach):
                [found] = self._scan_all(view[None])  # a graph may not lead everywhere
                return found
            return None
        if len(documents) < limit:
            return None
        floor = np.partition(best, -limit)[-limit] - slack
        return None if similarities[-1] >= floor else (documents, best)

    def _scan_all(self, views: FloatArray) -> list[Scored]:
        """For each view all live documents."""
        best = self.scan(views, self.documents)
        return [(self.documents, best[:, number]) for number in range(len(views))]

    def scan(self, views: FloatArray, documents: IntArray) -> FloatArray:
        """(documents, views) float32: each view's best similarity in each document."""
        best = [np.empty((0, len(views)), dtype=np.float32)]
        for _, firsts, rows in self._blocks(documents):
            best.append(np.maximum.reduceat(self.segment.rows(rows) @ views.T, firsts, axis=0))
        return np.concatenate(best)

    def score(self, query: Views, documents: IntArray) -> list[ScoredDocument]:
        """Each of `documents` with its exact MaxSim."""
        views = query.vectors.T.astype(float)
        found = []
        for block, firsts, rows in self._blocks(documents):
            products = (self.segment.rows(rows) @ views).astype(np.float32)
            similarities = np.maximum.reduceat(products, firsts, axis=0)
            is_best = products == np.repeat(similarities, np.diff(firsts, append=len(rows)), axis=0)
            places = np.where(is_best, np.arange(len(rows))[:, None], len(rows))
            matched = rows[np.minimum.reduceat(places, firsts, axis=0)]  # the first of equals
            scores = similarities.sum(axis=1, dtype=np.float64)
            places = self.segment.places[block]
            for number, document in enumerate(block.tolist()):
                found.append(
                    ScoredDocument(
                        self,
                        document,
                        int(places[number]),
                        float(scores[number]),
                        matched[number],
                        similarities[number],
                    )
                )
        return found

    def _blocks(self, documents: IntArray) -> Iterator[tuple[IntArray, IntArray, IntArray]]:
        """Some of `documents` after others, where each begins among their vectors, and these by number.

        Memory stays bounded by the block and the longest document.
        """
        ends = np.cumsum(self.counts[documents])
        cuts = np.flatnonzero(np.diff(ends // BLOCK_VECTORS)) + 1
        for block in np.split(documents, cuts) if len(documents) else []:
            counts = self.counts[block]
            firsts = np.cumsum(counts) - counts
            rows = np.repeat(self.segment.offsets[block] - firsts, counts)
            yield block, firsts, rows + np.arange(counts.sum())


class ScoredDocument(NamedTuple):
    """A document of a part, by its number there, with the rows and similarities of its matches."""

    ranker: PartRanker
    document: int
    place: int
    score: float
    rows: IntArray
    similarities: FloatArray

    def hit(self, query: Views) -> Hit:
        """As a search gives it."""
        segment = self.ranker.segment
        found = segment.positions[self.rows].tolist()
        matches = map(Match, query.positions.tolist(), found, self.similarities.tolist())
        return Hit(
            id=segment.ids[self.document],
            score=self.score,
            matches=tuple(matches),
            text=segment.texts[self.document],
            metadata=segment.metadata[self.document],
        )
