"""Documents on their way into an index: checked first, then encoded if they are texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..modeling.search_fastlane import (
    Embeddings,
    Id,
    Metadata,
    Positions,
    check_documents,
    check_ids,
    check_unicode,
    given_views,
)
from .arguments import check_items, check_lengths, check_metadata
from .encoding import Encoded, Encoding, mixed
from .segment import Document, Segment, collect_segment
from .vectors.store import VectorStore

if TYPE_CHECKING:
    from ..data.rows import CorpusDocument


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
    def of(
        cls,
        documents: Sequence[Any],
        ids: Iterable[Id] | None,
        metadata: Iterable[Metadata] | None,
        texts: Sequence[str] | None,
        positions: Sequence[Positions] | None,
    ) -> Incoming:
        """Checks texts or vectors, whichever the first document is; texts and positions come with vectors."""
        if len(documents) and not isinstance(documents[0], str):
            return cls.of_embeddings(documents, ids, metadata, texts, positions)
        if texts is not None or positions is not None:
            raise ValueError("texts and positions belong to vectors, the documents are texts")
        return cls.of_texts(documents, ids, metadata)

    @classmethod
    def of_corpus(cls, documents: Sequence[CorpusDocument]) -> Incoming:
        """Checks documents as a corpus file gives them."""
        return cls.of_texts(
            [one.content for one in documents],
            [one.id for one in documents],
            [one.metadata for one in documents],
        )

    @classmethod
    def of_texts(
        cls, documents: Iterable[str], ids: Iterable[Id] | None, metadata: Iterable[Metadata] | None
    ) -> Incoming:
        """Checks texts; without ids they are numbered from 0."""
        texts = check_documents(check_items(documents))
        check_unicode(texts, "document")
        checked = check_ids(range(len(texts)) if ids is None else ids, len(texts))
        return cls(checked, texts, check_metadata(metadata, len(texts)))

    @classmethod
    def of_embeddings(
        cls,
        embeddings: Iterable[Embeddings],
        ids: Iterable[Id] | None,
        metadata: Iterable[Metadata] | None,
        texts: Sequence[str] | None,
        positions: Sequence[Positions] | None,
    ) -> Incoming:
        """Checks vectors; without ids they are numbered from 0."""
        arrays: Sequence[Embeddings] = check_items(embeddings)
        size = len(arrays)
        checked = check_ids(range(size) if ids is None else ids, size)
        check_lengths(size, positions=positions, texts=texts)
        checked_texts = None if texts is None else check_documents(texts)
        return cls(checked, checked_texts, check_metadata(metadata, size), arrays, positions)

    def segment(self, encoding: Encoding, template: VectorStore | None = None) -> Segment:
        """Encodes the documents into a segment whose vectors are held as `template` holds them.

        Raises:
            ValueError: A vector isn't finite, or of another dimension than `template` or the first one.
        """
        return collect_segment(self.documents(encoding), template)

    def documents(self, encoding: Encoding) -> Iterator[Document]:
        """Encodes the documents; a vector that isn't finite is a ValueError."""
        if self.embeddings is None:
            assert self.texts is not None
            encoded = encoding.encoded(self.texts, self.ids)
        else:
            places = [None] * len(self.ids) if self.positions is None else self.positions
            encoded = (
                Encoded(given_views(vectors, f"document {id!r}", place))
                for vectors, id, place in zip(self.embeddings, self.ids, places, strict=True)
            )
            if encoding.context is not None:
                encoded = mixed(encoding.context, encoded, self.ids)
        texts = [None] * len(self.ids) if self.texts is None else self.texts
        for place, (id, one, text, metadata) in enumerate(
            zip(self.ids, encoded, texts, self.metadata, strict=True)
        ):
            yield Document(id, one.views, text, metadata, place, one.windows)
