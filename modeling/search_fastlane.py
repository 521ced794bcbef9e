"""Search over token vectors: an index of documents, built, searched, saved and loaded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any, Literal, overload

from .index_arguments_fastlane import (
    QueryRoutes,
    check_counts,
    check_documents,
    check_ids,
    check_lengths,
    check_search,
    is_id,
)
from .index_contents_fastlane import IndexContents, collect_contents
from .ranking_fastlane import DocumentRanker, Hit, Match
from .routing_fastlane import NumRoutes, check_num_routes
from .storage_fastlane import read_contents, write_contents
from .views_fastlane import Embeddings, Encoder, Positions, document_views, given_views, query_views

__all__ = ["FastLaneIndex", "Hit", "Match"]


class FastLaneIndex:
    """Documents as token vectors in a flat FAISS index, searched by inner product.

    A document scores its MaxSim, the sum over query views q of max_j q·d_j, and equal scores come
    in the order in which the documents were given. Similarities are computed in float64 and
    rounded to float32, so that equal vectors tie wherever they lie and however queries are batched.

    Below, the three best vectors for (1, 0) belong to two documents only; the third document is
    found all the same. With two routes "c" wins, by -0.25 + 1.5:

    >>> index = FastLaneIndex.from_embeddings(
    ...     [[[0.5, 0.0], [0.75, 0.0]], [[1.0, 0.0]], [[-0.25, 1.5]]], ids=["a", "b", "c"]
    ... )
    >>> [(hit.id, hit.score) for hit in index.search([[[1.0, 0.0]]], top_k=3)[0]]
    [('b', 1.0), ('a', 0.75), ('c', -0.25)]
    >>> [(hit.id, hit.score) for hit in index.search([[[1.0, 0.0], [0.0, 1.0]]], top_k=1)[0]]
    [('c', 1.25)]

    Attributes:
        metadata: Free keys with JSON values, saved with the index.
    """

    def __init__(self, contents: IndexContents, encoder: Encoder | None = None) -> None:
        self._contents = contents
        self._numbers = {id: number for number, id in enumerate(contents.ids)}
        self.encoder = encoder
        self.metadata = contents.metadata
        self._ranker = DocumentRanker(contents)

    @classmethod
    def build(
        cls,
        encoder: Encoder,
        documents: Iterable[str],
        ids: Iterable[str | int] | None = None,
        *,
        num_routes: NumRoutes | Literal["default"] = "default",
        batch_size: int = 32,
        chunk_size: int = 256,
        show_progress_bar: bool = False,
    ) -> FastLaneIndex:
        """Encodes and indexes texts, holding the padded tensors of `chunk_size` of them at a time.

        Args:
            ids: One per document, str or int, all different; 0, 1, 2, … by default.
            num_routes: Views kept per document: a number, a fraction in (0, 1], None for all, or
                "default" for the checkpoint's own setting.

        Raises:
            ValueError: No documents, ids that do not fit, or a vector that is not finite.
        """
        texts = check_documents(documents)
        checked = check_ids(ids, len(texts))
        check_counts(batch_size=batch_size, chunk_size=chunk_size)
        options: dict[str, Any] = {"batch_size": batch_size}
        if num_routes != "default":
            check_num_routes(num_routes, allow_fraction=True)
            options["num_routes"] = num_routes
        views = document_views(encoder, texts, checked, chunk_size, show_progress_bar, **options)
        return cls(collect_contents(views, checked, texts), encoder)

    @classmethod
    def from_embeddings(
        cls,
        embeddings: Sequence[Embeddings],
        ids: Iterable[str | int] | None = None,
        *,
        positions: Sequence[Positions] | None = None,
        texts: Sequence[str] | None = None,
        encoder: Encoder | None = None,
    ) -> FastLaneIndex:
        """Indexes vectors that are there already, one array `(num_vectors, dim)` per document.

        They are kept as float32. A document without vectors is kept and never found.

        Args:
            ids: As for `build`.
            positions: Each vector's token position in its document; 0, 1, 2, … by default.
            texts: One per document, to be given back with hits.
            encoder: Encodes text queries.

        Raises:
            ValueError: No documents, lengths or dimensions that differ, ids that do not fit, or
                a vector that is not finite.
        """
        checked = check_ids(ids, len(embeddings))
        check_lengths(len(embeddings), positions=positions, texts=texts)
        places = [None] * len(checked) if positions is None else positions
        views = (
            given_views(vectors, f"document {id!r}", place)
            for vectors, id, place in zip(embeddings, checked, places, strict=True)
        )
        checked_texts = None if texts is None else check_documents(texts)
        return cls(collect_contents(views, checked, checked_texts), encoder)

    @classmethod
    def load(
        cls, directory: str | os.PathLike[str], encoder: Encoder | None = None
    ) -> FastLaneIndex:
        """Reads a saved index after checking its files; to search with texts, pass the encoder.

        Raises:
            FileNotFoundError: There is no index.
            ValueError: A file is damaged, or the encoder's dimension is another.
        """
        return cls(read_contents(directory), encoder)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Saves to a new or empty folder or over the index in it, which a crash leaves as it was.

        Raises:
            FileExistsError: The folder holds other files and no index.
            ValueError: The folder's index is damaged or newer, or the metadata is not JSON.
        """
        self._contents.metadata = self.metadata
        write_contents(directory, self._contents)

    @overload
    def search(  # type: ignore[overload-overlap]
        self,
        queries: str,
        top_k: int = ...,
        num_routes: QueryRoutes = ...,
        *,
        candidates: int | None = ...,
        batch_size: int = ...,
    ) -> list[Hit]: ...

    @overload
    def search(
        self,
        queries: Sequence[str] | Sequence[Embeddings],
        top_k: int = ...,
        num_routes: QueryRoutes = ...,
        *,
        candidates: int | None = ...,
        batch_size: int = ...,
    ) -> list[list[Hit]]: ...

    def search(
        self,
        queries: str | Sequence[str] | Sequence[Embeddings],
        top_k: int = 10,
        num_routes: QueryRoutes = "default",
        *,
        candidates: int | None = None,
        batch_size: int = 32,
    ) -> list[Hit] | list[list[Hit]]:
        """Finds the `top_k` best documents for each query; fewer only if fewer have vectors.

        A query of one view is answered exactly. Of several views each proposes its `candidates`
        best documents, and all that are proposed get their exact scores; from
        `candidates=len(index)` on, that is exact too.

        Args:
            queries: Texts, or arrays `(views, dim)` that hold one query's routed views each.
            num_routes: Views routed from each text: a number, or None for every token. "default"
                is 1 for texts, and all that vectors can take.
            candidates: Documents that each of several views proposes, at least `top_k`;
                max(100, 4 * top_k) by default. One route takes none.
            batch_size: Queries encoded and searched at once.

        Returns:
            A list of hits, best first, for each query; for a single str that list alone.

        Raises:
            ValueError: An empty text, a query without views, a wrong dimension, a vector that is
                not finite, texts without an encoder, or an argument that cannot apply.
        """
        items: list[Any] = [queries] if isinstance(queries, str) else list(queries)
        check_counts(top_k=top_k, batch_size=batch_size)
        check_search(items, top_k, num_routes, candidates)
        routes = 1 if num_routes == "default" else num_routes
        hits: list[list[Hit]] = []
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            views = query_views(batch, self.encoder, routes, self.dim, start)
            hits += self._ranker.rank(views, top_k, candidates or max(100, 4 * top_k))
        return hits[0] if isinstance(queries, str) else hits

    def __len__(self) -> int:
        """The number of documents."""
        return len(self._contents.ids)

    def __contains__(self, id: object) -> bool:
        """Whether a document has this id; 1 and "1" are two ids."""
        return is_id(id) and id in self._numbers

    def __repr__(self) -> str:
        """The sizes, for people."""
        size = f"{len(self):,} documents, {self.num_vectors:,} vectors of {self.dim} dimensions"
        return f"FastLaneIndex({size})"

    @property
    def encoder(self) -> Encoder | None:
        """Encodes text queries, if any; setting one of another dimension is a ValueError."""
        return self._encoder

    @encoder.setter
    def encoder(self, encoder: Encoder | None) -> None:
        dim = None if encoder is None else encoder.get_embedding_dimension()
        if dim is not None and dim != self.dim:
            raise ValueError(
                f"the encoder gives {dim}-dimensional vectors, the index holds {self.dim}: "
                "use the checkpoint that the index was built with"
            )
        self._encoder = encoder

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return self._contents.vectors.d

    @property
    def num_vectors(self) -> int:
        """The number of vectors, of all documents together."""
        return self._contents.vectors.ntotal

    @property
    def ids(self) -> list[str | int]:
        """The documents' ids, in the order in which they were given."""
        return list(self._contents.ids)

    def text(self, id: str | int) -> str | None:
        """The document's text, None if the index was made without; an unknown id is an error."""
        if id not in self:
            raise ValueError(f"no document has the id {id!r}: index.ids lists those there are")
        texts = self._contents.texts
        return None if texts is None else texts[self._numbers[id]]
