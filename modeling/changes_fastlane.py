"""The documents of an index: they are added, replaced and deleted, and looked up by their ids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .filters_fastlane import Filter, filtered, known_fields
from .fingerprint_fastlane import encoder_digests
from .incoming_fastlane import Encoding, Incoming
from .index_arguments_fastlane import check_id_list, is_id
from .index_contents_fastlane import IndexContents, Part
from .segment_fastlane import Id, Metadata
from .storage_fastlane import IndexSettings
from .views_fastlane import Embeddings, Encoder, Positions


class ChangingIndex:
    """What `FastLaneIndex` does besides searching.

    Attributes:
        vectors: How vectors are found and stored; to search with more or less effort, put
            `dataclasses.replace(index.vectors, effort=2)` here.
        metadata: Free keys with JSON values, saved with the index.
        document_routes: Views kept of documents that are added; what `build` was given.
        checkpoint: Digests of the checkpoint that encoded the documents (`encoder_digests`), which an
            encoder of the index must have; empty if unknown, and then any will do.
    """

    def __init__(
        self,
        contents: IndexContents,
        settings: IndexSettings,
        encoder: Encoder | None = None,
    ) -> None:
        self._contents = contents
        self.vectors = settings.vectors
        self.document_routes = settings.document_routes
        self.checkpoint = settings.checkpoint
        self.metadata = settings.metadata
        self.encoder = encoder

    def add(
        self,
        documents: Iterable[str] | Sequence[Embeddings],
        ids: Iterable[Id] | None = None,
        **options: Any,
    ) -> list[Id]:
        """Adds new documents, encoded like those that the index was built of: all of them or none.

        Args:
            documents: Texts, or arrays `(num_vectors, dim)` that hold one document's views each.
            ids: One per document, none of which is there; by default integers above all that were
                used so far.
            **options: `metadata`, `batch_size`, `chunk_size`, `show_progress_bar` and `pool` as in
                `build`; with vectors `texts` and `positions` as in `from_embeddings`.

        Returns:
            The documents' ids.

        Raises:
            ValueError: An id is there already, or what `build` or `from_embeddings` refuses.
        """
        return self._insert(documents, ids, self._contents.check_absent, **options)

    def update(
        self,
        documents: Iterable[str] | Sequence[Embeddings],
        ids: Iterable[Id],
        **options: Any,
    ) -> None:
        """Replaces documents that are there: views, text and metadata. Arguments are those of `add`.

        Raises:
            ValueError: An id isn't there, or what `add` refuses.
        """
        self._insert(documents, ids, self._contents.check_present, **options)

    def upsert(
        self,
        documents: Iterable[str] | Sequence[Embeddings],
        ids: Iterable[Id],
        **options: Any,
    ) -> None:
        """Replaces the documents whose ids are there and adds the others. Arguments are those of `add`."""
        self._insert(documents, ids, lambda ids: None, **options)

    def delete(self, ids: Iterable[Id]) -> None:
        """Takes documents out: all of these or none.

        Raises:
            ValueError: An id isn't there.
        """
        self._contents.remove(check_id_list(ids))

    def compact(self) -> None:
        """Writes all documents anew as one segment, without what deleted ones take up.

        Changes see to it that less than half is wasted; this leaves no waste at all.
        """
        self._contents.compact()

    def _insert(
        self,
        documents: Iterable[str] | Sequence[Embeddings],
        ids: Iterable[Id] | None,
        check: Callable[[Iterable[Id]], None],
        *,
        metadata: Iterable[Metadata] | None = None,
        texts: Sequence[str] | None = None,
        positions: Sequence[Positions] | None = None,
        batch_size: int = 32,
        chunk_size: int = 256,
        show_progress_bar: bool = False,
        pool: Any = None,
    ) -> list[Id]:
        items: Any = documents if hasattr(documents, "shape") else list(documents)
        if ids is None:
            ids = self._contents.reserve_ids(len(items))
        if len(items) == 0 or isinstance(items[0], str):
            if texts is not None or positions is not None:
                raise ValueError("texts and positions belong to vectors, the documents are texts")
            incoming = Incoming.of_texts(items, ids, metadata)
        else:
            incoming = Incoming.of_embeddings(items, ids, metadata, texts, positions)
        if incoming.ids:
            check(incoming.ids)  # before the long work, and once more after it
            encoding = Encoding(
                self.encoder, self.document_routes, batch_size, chunk_size, show_progress_bar, pool
            )
            self._contents.insert(incoming.segment(encoding, self._contents.empty), check)
        return incoming.ids

    def _selected(self, where: Filter | None, ids: Iterable[Id] | None) -> tuple[Part, ...]:
        parts = self._contents.parts if ids is None else self._contents.only(check_id_list(ids))
        return parts if where is None else filtered(parts, where)

    def select(self, where: Filter | None = None, ids: Iterable[Id] | None = None) -> list[Id]:
        """The ids of the documents that a search with these filters may find, in no order."""
        parts = self._selected(where, ids)
        return [part.segment.ids[number] for part in parts for number in part.numbers()]

    def __len__(self) -> int:
        """The number of documents."""
        return len(self._contents)

    def __contains__(self, id: object) -> bool:
        """Whether a document has this id; 1 and "1" are two ids."""
        return is_id(id) and self._contents.locate(id) is not None

    @property
    def encoder(self) -> Encoder | None:
        """Encodes texts, if any; one of another checkpoint or dimension is a ValueError."""
        return self._encoder

    @encoder.setter
    def encoder(self, encoder: Encoder | None) -> None:
        dim = None if encoder is None else encoder.get_embedding_dimension()
        if dim is not None and dim != self.dim:
            raise ValueError(
                f"the encoder gives {dim}-dimensional vectors, the index holds {self.dim}: "
                "use the checkpoint that the index was built with"
            )
        digests = encoder_digests(encoder) if self.checkpoint else []
        if digests and not set(digests) & set(self.checkpoint):
            raise ValueError(
                "the index was built with another checkpoint than this encoder's: use that one, or build "
                "the index again (index.checkpoint = [] lets any in)"
            )
        self._encoder = encoder

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return self._contents.empty.d

    @property
    def num_vectors(self) -> int:
        """The number of vectors, of all documents together."""
        return sum(part.num_vectors for part in self._contents.parts)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The documents as they are now: another tuple after every change."""
        return self._contents.parts

    @property
    def ids(self) -> list[Id]:
        """The documents' ids, in the order in which they were given."""
        return self._contents.ids()

    @property
    def fields(self) -> list[str]:
        """The metadata fields that documents have, to filter by."""
        return known_fields(self._contents.parts)

    def text(self, id: Id) -> str | None:
        """The document's text, None if it was given without; an unknown id is an error."""
        found = self._contents.locate(id) if is_id(id) else None
        if found is None:
            raise ValueError(f"no document has the id {id!r}: index.ids lists those there are")
        segment, number = found
        return segment.texts[number]
