"""Scores of the documents of one part of an index, and the hits that are made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .index_contents_fastlane import Part
from .segment_fastlane import Id, Metadata, expanded
from .vector_index_fastlane import FloatArray, IntArray
from .views_fastlane import Views

BLOCK_VECTORS = 16_384  # 8 MB of 128 dimensions; smaller is no faster, and BLAS threads wait more
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


class PartScorer:
    """Scores the live documents of one part that have vectors."""

    def __init__(self, part: Part) -> None:
        self.segment = part.segment
        self.counts = part.segment.counts
        self.is_live = part.is_live & (self.counts > 0)
        self.documents: IntArray = np.flatnonzero(self.is_live)
        self.num_vectors = int(self.counts[self.documents].sum())

    def is_small(self, limit: int) -> bool:
        """Whether all documents are scored sooner than the `limit` best are looked for."""
        is_sparse = self.num_vectors <= SCAN_FRACTION * self.segment.vectors.ntotal
        return is_sparse or limit >= len(self.documents)

    def owners(self, rows: IntArray) -> IntArray:
        """(n,): the documents that own vectors, by number; -1 where they aren't live."""
        documents = np.searchsorted(self.segment.offsets, rows, side="right") - 1
        return np.where(self.is_live[documents], documents, -1)

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
            rows = expanded(self.segment.offsets[block], counts)
            yield block, np.cumsum(counts) - counts, rows


class ScoredDocument(NamedTuple):
    """A document of a part, by its number there, with the rows and similarities of its matches."""

    scorer: PartScorer
    document: int
    place: int
    score: float
    rows: IntArray
    similarities: FloatArray

    def hit(self, query: Views) -> Hit:
        """As a search gives it."""
        segment = self.scorer.segment
        found = segment.positions[self.rows].tolist()
        matches = map(Match, query.positions.tolist(), found, self.similarities.tolist())
        return Hit(
            id=segment.ids[self.document],
            score=self.score,
            matches=tuple(matches),
            text=segment.texts[self.document],
            metadata=segment.metadata[self.document],
        )
