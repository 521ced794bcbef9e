"""Searches and encodings as a server runs them, one batch at a time, with what they cost."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ..index.encoding import Encoding
from ..index.explaining import Explanation
from ..index.index import FastLaneIndex
from ..modeling.search_fastlane import Encoder, Hit, Id, Views, default_routes, query_views

NumRoutes: TypeAlias = int | float | Literal["default"] | None


@dataclass(frozen=True)
class SearchOptions:
    """What queries of one batch have in common; `where` is JSON, so that options can be compared."""

    top_k: int
    num_routes: int | Literal["default"] | None
    rerank: int | None
    candidates: int | None
    where: str | None
    ids: tuple[Id, ...] | None
    explain: bool


@dataclass(frozen=True)
class EncodeOptions:
    """How queries of one batch are encoded."""

    num_routes: NumRoutes


@dataclass(frozen=True)
class Found:
    """What was found for a query, and what its batch took, in seconds."""

    hits: list[Hit]
    explanations: list[Explanation | None] | None
    comparisons: int
    encoding: float
    searching: float
    explaining: float


class Searcher:
    """Searches the index that a server holds.

    Args:
        index: Gives it; a change may replace it.
    """

    def __init__(self, index: Callable[[], FastLaneIndex]) -> None:
        self._index = index
        self.stopwatch = Stopwatch()

    def run(
        self, options: SearchOptions | EncodeOptions, queries: list[str]
    ) -> Sequence[Found | Views]:
        """Answers a batch of queries with the same options."""
        if isinstance(options, EncodeOptions):
            return self.encode_queries(options.num_routes, queries)
        return self.search(options, queries)

    def search(self, options: SearchOptions, queries: list[str]) -> list[Found]:
        """Searches for queries together and explains the hits of each, if that is asked for."""
        index = self._index()
        self.stopwatch.watch(index.encoder)
        self.stopwatch.reset()
        begun = time.perf_counter()
        found = index.search(
            queries,
            options.top_k,
            options.num_routes,
            where=None if options.where is None else json.loads(options.where),
            ids=options.ids,
            rerank=options.rerank,
            candidates=options.candidates,
            batch_size=len(queries),
        )
        encoding = self.stopwatch.seconds
        searching = time.perf_counter() - begun - encoding
        answered = []
        for query, hits in zip(queries, found, strict=True):
            explanations: list[Explanation | None] | None = None
            explaining = 0.0
            if options.explain:
                begun = time.perf_counter()
                hits, explanations = explained(index, query, hits)
                explaining = time.perf_counter() - begun
            counted = comparisons(index, options, hits)
            answered.append(Found(hits, explanations, counted, encoding, searching, explaining))
        return answered

    def encode_queries(self, num_routes: NumRoutes, texts: list[str]) -> list[Views]:
        """The routed views of queries."""
        index = self._index()
        encoder = index.encoder
        routing: dict[str, Any] = {
            "num_routes": default_routes(encoder) if num_routes == "default" else num_routes
        }
        return query_views(texts, encoder, routing, index.dim, 0).routed

    def encode_documents(self, num_routes: NumRoutes, texts: list[str]) -> Iterator[Views]:
        """Yields the views of documents, as the index would hold them unless `num_routes` says otherwise."""
        index = self._index()
        encoding = Encoding(
            index.encoder,
            index.document_routes if num_routes == "default" else num_routes,
            long_texts=index.long_texts,
            context=index.context,
        )
        for one in encoding.encoded(texts, list(range(len(texts)))):
            yield one.views


def within(most: int, views: Iterable[Views]) -> list[Views]:
    """The views as a list; a ValueError as soon as they hold more than `most` numbers."""
    kept, count = [], 0
    for one in views:
        count += one.vectors.size
        if count > most:
            raise ValueError(
                f"the vectors of all texts may hold {most:,} numbers, got more: send fewer or shorter texts, "
                "or set num_routes"
            )
        kept.append(one)
    return kept


def explained(
    index: FastLaneIndex, query: str, hits: list[Hit]
) -> tuple[list[Hit], list[Explanation | None]]:
    """Hits with their explanations, without those that were deleted meanwhile.

    One whose text was replaced meanwhile has None: the spans of its explanation lie in the new text.
    """
    while True:
        try:
            explanations = index.explain(query, hits)
            stored = index.get([hit.id for hit in hits])
            return hits, [
                explanation if now.text == hit.text else None
                for hit, explanation, now in zip(hits, explanations, stored, strict=True)
            ]
        except ValueError:
            there = [hit for hit in hits if hit.id in index]
            if len(there) == len(hits):
                raise
            hits = there


def comparisons(index: FastLaneIndex, options: SearchOptions, hits: Sequence[Hit]) -> int:
    """About how many pairs of a query vector and a document vector a search compared.

    Each route is compared with every vector of a flat index, or with its share of an `ivf` one; `rerank`
    compares all tokens with the vectors of so many documents, of the mean length. What a filter spares
    isn't known.
    """
    if not hits:
        return 0
    parts = index.parts  # once: a change replaces them, and may leave no document
    views, total = len(hits[0].matches), sum(part.num_vectors for part in parts)
    num_documents = sum(part.num_documents for part in parts)
    clustered = [part for part in parts if part.segment.vectors.is_clustered]
    within = total - sum(part.num_vectors for part in clustered)
    for part in clustered:
        num_clusters = part.segment.vectors.clusters.nlist
        within += part.num_vectors * index.vectors.num_probed(num_clusters) // num_clusters
    if options.rerank is None:
        return views * within
    routes = (
        default_routes(index.encoder) if options.num_routes == "default" else options.num_routes
    )
    again = min(options.rerank, num_documents) * total // max(1, num_documents)
    return (routes or 1) * within + views * again


class Stopwatch:
    """Measures how long an encoder takes for queries: it stands in for the encoder's `encode_query`."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._watched: Encoder | None = None

    @property
    def seconds(self) -> float:
        """What the encoder took in this thread since `reset`."""
        return float(getattr(self._local, "seconds", 0.0))

    def reset(self) -> None:
        """Starts this thread at 0."""
        self._local.seconds = 0.0

    def watch(self, encoder: Encoder | None) -> None:
        """Measures this encoder, and no other any more."""
        if encoder is self._watched:
            return
        self.release()
        if encoder is None:
            return
        encode = encoder.encode_query

        def encode_query(*arguments: Any, **options: Any) -> Any:
            begun = time.perf_counter()
            try:
                return encode(*arguments, **options)
            finally:
                self._local.seconds = self.seconds + time.perf_counter() - begun

        vars(encoder)["encode_query"] = encode_query
        self._watched = encoder

    def release(self) -> None:
        """Gives the encoder its own method back."""
        if self._watched is not None:
            vars(self._watched).pop("encode_query", None)
            self._watched = None
