"""Ranking of an index's documents for a query: FAISS proposes candidates, exact scores decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .index_contents_fastlane import IndexContents
from .views_fastlane import Views

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]

BLOCK_VECTORS = 16_384  # 8 MB of 128 dimensions; smaller is no faster, and BLAS threads wait more


class Match(NamedTuple):
    """A query view and the document token it found, as positions in the two tokenised texts."""

    query_position: int
    document_position: int
    similarity: float


@dataclass(frozen=True, slots=True)
class Hit:
    """A document found, its score the sum of its matches: one for each routed query view."""

    id: str | int
    score: float
    matches: tuple[Match, ...]
    text: str | None

    @property
    def route(self) -> int:
        """The query position whose match contributed most; the first of equals."""
        return max(self.matches, key=lambda match: match.similarity).query_position


class DocumentRanker:
    """Ranks documents by MaxSim, the sum over query views q of max_j q·d_j.

    Similarities that decide are computed in float64 and rounded to float32. What comes before
    them, in FAISS and in `_shortlist`, is float32 and only leaves out documents that are further
    from the best than its rounding.
    """

    def __init__(self, contents: IndexContents) -> None:
        self._contents = contents
        # The longest vector bounds the rounding; einsum makes no second copy of the vectors.
        squares = np.einsum("nd,nd->n", contents.stored, contents.stored, dtype=np.float64)
        self._longest = float(np.sqrt(squares.max(initial=0.0)))

    def rank(self, queries: list[Views], top_k: int, candidates: int) -> list[list[Hit]]:
        """The `top_k` best documents for each query, best first, equal scores in document order.

        A query of one view is answered exactly. Of several views each proposes its `candidates`
        best documents, and the query gets the best of all that are proposed.
        """
        limits = [top_k if len(q.vectors) == 1 else candidates for q in queries for _ in q.vectors]
        proposals = iter(self._propose(np.concatenate([q.vectors for q in queries]), limits))
        hits = []
        for query in queries:
            proposed = np.concatenate([next(proposals) for _ in query.vectors])
            documents = self._shortlist(query.vectors, np.unique(proposed), top_k)
            hits.append(self._score(query, documents, top_k))
        return hits

    def _propose(self, views: FloatArray, limits: list[int]) -> list[IntArray]:
        """For each view some documents, its `limit` best among them.

        The best N vectors are not N documents: one document can fill the list. More vectors are
        fetched until there are enough documents and none beyond could tie with the last of them.
        """
        everything = np.flatnonzero(np.diff(self._contents.offsets))
        proposals = [everything] * len(views)
        pending = [number for number, limit in enumerate(limits) if limit < len(everything)]
        fetch = max(64, 8 * max(limits))
        while pending:
            fetch = min(fetch, self._contents.vectors.ntotal)
            similarities, rows = self._contents.vectors.search(views[pending], fetch)
            unfinished = []
            for i, number in enumerate(pending):
                found = self._group(views[number], similarities[i], rows[i], limits[number])
                if found is None:
                    unfinished.append(number)
                else:
                    proposals[number] = found
            pending, fetch = unfinished, 4 * fetch
        return proposals

    def _group(
        self, view: FloatArray, similarities: FloatArray, rows: IntArray, limit: int
    ) -> IntArray | None:
        """The documents that own the rows; None if a row beyond could be in the best `limit`."""
        owners = np.searchsorted(self._contents.offsets, rows, side="right") - 1
        documents, first = np.unique(owners, return_index=True)
        best, floor = similarities[first], -np.inf
        if len(documents) >= limit:
            floor = self._floor(view[None], best, limit)
        if len(rows) < self._contents.vectors.ntotal and similarities[-1] >= floor:
            return None
        return documents[best >= floor]

    def _shortlist(self, views: FloatArray, documents: IntArray, top_k: int) -> IntArray:
        """Leaves out documents, in ascending order, whose float32 MaxSim is too low by far.

        Vectors are taken in blocks of whole documents: memory stays bounded by the block and the
        longest document.
        """
        if len(documents) <= top_k:
            return documents
        stored, offsets = self._contents.stored, self._contents.offsets
        ends = np.cumsum(offsets[documents + 1] - offsets[documents])
        cuts = np.flatnonzero(np.diff(ends // BLOCK_VECTORS)) + 1
        scores = []
        for block in np.split(documents, cuts):
            counts = offsets[block + 1] - offsets[block]
            firsts = np.cumsum(counts) - counts
            rows = np.repeat(offsets[block] - firsts, counts) + np.arange(counts.sum())
            best = np.maximum.reduceat(stored[rows] @ views.T, firsts, axis=0)
            scores.append(best.sum(axis=1, dtype=np.float64))
        approximate = np.concatenate(scores)
        return documents[approximate >= self._floor(views, approximate, top_k)]

    def _floor(self, views: FloatArray, scores: npt.NDArray[np.floating[Any]], limit: int) -> float:
        """The float32 score below which no document can be in the best `limit` of `scores`.

        Both sides of a comparison may be off by the rounding of a float32 product, at most
        dim * 2**-24 * |q| * |d|; the 8 is for the norms' and the exact scores' own rounding.
        """
        lengths = float(np.linalg.norm(views.astype(float), axis=1).sum())
        slack: float = (views.shape[1] + 8) * 2.0**-23 * lengths * self._longest
        return float(np.partition(scores, -limit)[-limit]) - slack

    def _score(self, query: Views, documents: IntArray, top_k: int) -> list[Hit]:
        """The best of `documents`, in ascending order, by their exact MaxSim."""
        stored, offsets = self._contents.stored, self._contents.offsets
        views = query.vectors.T.astype(float)
        rows = np.empty((len(documents), len(query.vectors)), dtype=np.int64)
        similarities = np.empty(rows.shape, dtype=np.float32)
        for i, document in enumerate(documents):
            start, end = offsets[document], offsets[document + 1]
            products = (stored[start:end] @ views).astype(np.float32)
            rows[i] = start + products.argmax(axis=0)
            similarities[i] = products.max(axis=0)
        scores = similarities.sum(axis=1, dtype=np.float64)
        best = np.argsort(-scores, kind="stable")[:top_k]
        return [
            self._hit(query, int(documents[i]), float(scores[i]), rows[i], similarities[i])
            for i in best
        ]

    def _hit(
        self, query: Views, document: int, score: float, rows: IntArray, similarities: FloatArray
    ) -> Hit:
        found = self._contents.positions[rows].tolist()
        matches = map(Match, query.positions.tolist(), found, similarities.tolist())
        texts = self._contents.texts
        return Hit(
            id=self._contents.ids[document],
            score=score,
            matches=tuple(matches),
            text=None if texts is None else texts[document],
        )
