"""Scores the documents of one part of an index, and makes hits of the best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ..modeling.search_fastlane import Hit, Match, Views, exact_matches, inner_products
from .contents import Part
from .segment import expanded
from .vectors.settings import FloatArray, IntArray
from .windows import best_span

BLOCK_VECTORS = 16_384  # 8 MB of 128 dimensions; smaller is no faster, and BLAS threads wait more
SCAN_FRACTION = 0.1  # of a segment's vectors: so few are scored one by one, without FAISS


class PartScorer:
    """Scores the live documents of one part that have vectors."""

    def __init__(self, part: Part) -> None:
        self.segment = part.segment
        self.counts = part.segment.counts
        self.is_live = part.is_live & (self.counts > 0)
        self.documents: IntArray = np.flatnonzero(self.is_live)
        self.num_vectors = int(self.counts[self.documents].sum())

    def is_small(self, limit: int) -> bool:
        """Whether scoring all documents is faster than asking FAISS for the `limit` best."""
        is_sparse = self.num_vectors <= SCAN_FRACTION * len(self.segment.vectors)
        return is_sparse or limit >= len(self.documents)

    def owners(self, rows: IntArray) -> IntArray:
        """(n,): the document that owns each row, by its number in the part; -1 where it isn't live."""
        documents = np.searchsorted(self.segment.offsets, rows, side="right") - 1
        return np.where(self.is_live[documents], documents, -1)

    def scan(self, views: FloatArray, documents: IntArray) -> FloatArray:
        """(documents, views) float32: each view's best similarity in each document."""
        best = [np.empty((0, len(views)), dtype=np.float32)]
        for _, firsts, rows in self._blocks(documents):
            similarities = inner_products(self.segment.vectors.rows(rows), views)
            best.append(np.maximum.reduceat(similarities, firsts, axis=0))
        return np.concatenate(best)

    def score(self, query: Views, documents: IntArray) -> list[ScoredDocument]:
        """Each of `documents` with its exact MaxSim and what matched (`exact_matches`)."""
        found = []
        for block, firsts, rows in self._blocks(documents):
            scores, matched, similarities = exact_matches(
                self.segment.vectors.rows(rows), firsts, query.vectors
            )
            places = self.segment.places[block]
            for number, document in enumerate(block.tolist()):
                found.append(
                    ScoredDocument(
                        self,
                        document,
                        int(places[number]),
                        float(scores[number]),
                        rows[matched[number]],
                        similarities[number],
                    )
                )
        return found

    def _blocks(self, documents: IntArray) -> Iterator[tuple[IntArray, IntArray, IntArray]]:
        """Splits `documents` into blocks of some `BLOCK_VECTORS` vectors.

        Yields the block's documents, where each begins among the block's vectors, and the rows of
        those in the store. Memory is bounded by the block and the longest document.
        """
        ends = np.cumsum(self.counts[documents])
        cuts = np.flatnonzero(np.diff(ends // BLOCK_VECTORS)) + 1
        for block in np.split(documents, cuts) if len(documents) else []:
            counts = self.counts[block]
            rows = expanded(self.segment.offsets[block], counts)
            yield block, np.cumsum(counts) - counts, rows


class ScoredDocument(NamedTuple):
    """A document (numbered in its part) with the matching row and similarity of each query view."""

    scorer: PartScorer
    document: int
    place: int
    score: float
    rows: IntArray
    similarities: FloatArray

    def matches(self, query: Views) -> tuple[Match, ...]:
        """The match of each query view, as a hit shows it."""
        found = self.scorer.segment.positions[self.rows].tolist()
        return tuple(map(Match, query.positions.tolist(), found, self.similarities.tolist()))


def hits_of(query: Views, found: Sequence[ScoredDocument]) -> list[Hit]:
    """Makes hits, reading texts and metadata with one query for each part."""
    numbers: dict[PartScorer, list[int]] = {}
    for one in found:
        numbers.setdefault(one.scorer, []).append(one.document)
    stored = {scorer: iter(scorer.segment.documents.read(some)) for scorer, some in numbers.items()}
    hits = []
    for one in found:
        document, matches = next(stored[one.scorer]), one.matches(query)
        span = best_span(document.windows, matches)
        hits.append(Hit(document.id, one.score, matches, document.text, document.metadata, span))
    return hits
