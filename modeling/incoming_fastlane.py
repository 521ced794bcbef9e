"""Documents on their way into an index: checked, encoded if they are texts, one after another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from .index_arguments_fastlane import (
    check_counts,
    check_documents,
    check_ids,
    check_lengths,
    check_metadata,
)
from .routing_fastlane import NumRoutes, check_num_routes
from .segment_fastlane import Document, Id, Metadata, Segment, collect_segment
from .vector_index_fastlane import VectorIndex
from .views_fastlane import Embeddings, Encoder, Positions, Views, document_views, given_views

DocumentRoutes: TypeAlias = NumRoutes | Literal["default"]


@dataclass(frozen=True)
class Encoding:
    """How texts become views: the arguments of `FastLaneIndex.build`."""

    encoder: Encoder | None
    num_routes: DocumentRoutes = "default"
    batch_size: int = 32
    chunk_size: int = 256
    show_progress_bar: bool = False
    pool: Any = None

    def views(self, texts: list[str], ids: list[Id]) -> Iterator[Views]:
        """Each text's routed views."""
        if self.encoder is None:
            raise ValueError(
                "texts need an encoder: pass one to FastLaneIndex.load(directory, encoder), or give "
                "vectors"
            )
        check_counts(batch_size=self.batch_size, chunk_size=self.chunk_size)
        options: dict[str, Any] = {"batch_size": self.batch_size}
        if self.num_routes != "default":
            check_num_routes(self.num_routes, allow_fraction=True)
            options["num_routes"] = self.num_routes
        if self.pool is not None:
            options["pool"] = self.pool
        return document_views(
            self.encoder, texts, ids, self.chunk_size, self.show_progress_bar, **options
        )


@dataclass(frozen=True)
class Incoming:
    """Checked documents, as texts to encode or as vectors.

    Attributes:
        ids: One per document.
        texts: One per document, or None where there are only vectors.
        metadata: One per document.
        embeddings: One array per document, or None where there are only texts.
        positions: Of the vectors' tokens, one array per document, or None.
    """

    ids: list[Id]
    texts: list[str] | None
    metadata: list[Metadata]
    embeddings: Sequence[Embeddings] | None = None
    positions: Sequence[Positions] | None = None

    @classmethod
    def of_texts(
        cls, documents: Iterable[str], ids: Iterable[Id] | None, metadata: Iterable[Metadata] | None
    ) -> Incoming:
        """Texts; without ids they are numbered from 0."""
        texts = check_documents(documents)
        checked = check_ids(range(len(texts)) if ids is None else ids, len(texts))
        return cls(checked, texts, check_metadata(metadata, len(texts)))

    @classmethod
    def of_embeddings(
        cls,
        embeddings: Sequence[Embeddings],
        ids: Iterable[Id] | None,
        metadata: Iterable[Metadata] | None,
        texts: Sequence[str] | None,
        positions: Sequence[Positions] | None,
    ) -> Incoming:
        """Vectors; without ids they are numbered from 0."""
        size = len(embeddings)
        checked = check_ids(range(size) if ids is None else ids, size)
        check_lengths(size, positions=positions, texts=texts)
        checked_texts = None if texts is None else check_documents(texts)
        return cls(checked, checked_texts, check_metadata(metadata, size), embeddings, positions)

    def segment(self, encoding: Encoding, empty: VectorIndex | None = None) -> Segment:
        """The documents and their views, held as `empty` would; they get places from 0 on.

        Raises:
            ValueError: A vector isn't finite, or of another dimension than `empty` or the first one.
        """
        if self.embeddings is None:
            assert self.texts is not None
            views = encoding.views(self.texts, self.ids)
        else:
            places = [None] * len(self.ids) if self.positions is None else self.positions
            views = (
                given_views(vectors, f"document {id!r}", place)
                for vectors, id, place in zip(self.embeddings, self.ids, places, strict=True)
            )
        texts = [None] * len(self.ids) if self.texts is None else self.texts
        parts = zip(self.ids, views, texts, self.metadata, range(len(self.ids)), strict=True)
        return collect_segment((Document(*one) for one in parts), empty)
