"""Search over token vectors: a FAISS search for each route, grouped by document, scored exactly."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, overload

import numpy as np
import numpy.typing as npt
import torch

from .storage_fastlane import IndexContents, import_faiss, read_contents, write_contents

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]
Embeddings: TypeAlias = torch.Tensor | npt.NDArray[Any] | Sequence[Sequence[float]]
Features: TypeAlias = Mapping[str, torch.Tensor]
QueryRoutes: TypeAlias = int | Literal["default"] | None
DocumentRoutes: TypeAlias = int | float | Literal["default"] | None


class Encoder(Protocol):
    """What gives token vectors: a FastLaneModel, or the Sentence Transformers model around it.

    With `output_value=None` each text gives a mapping with `token_embeddings (tokens, dim)` and
    `attention_mask (tokens,)`, true exactly at the routed views.
    """

    def encode_query(
        self,
        texts: list[str],
        /,
        *,
        output_value: None,
        num_routes: int | None = ...,
        batch_size: int = ...,
        show_progress_bar: bool = ...,
    ) -> Sequence[Features]:
        """Encodes queries."""

    def encode_document(
        self,
        texts: list[str],
        /,
        *,
        output_value: None,
        num_routes: int | float | None = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
    ) -> Sequence[Features]:
        """Encodes documents; `num_routes` may be the fraction of the tokens to keep."""

    def get_embedding_dimension(self) -> int | None:
        """The length of a token vector, if known."""


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


class _Views(NamedTuple):
    vectors: FloatArray  # (views, dim)
    positions: npt.NDArray[np.int32]  # (views,)


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
        encoder: Encodes text queries; None if queries come as vectors.
        metadata: Free keys with JSON values, saved with the index.
    """

    def __init__(self, contents: IndexContents, encoder: Encoder | None = None) -> None:
        self._contents = contents
        self._numbers = {id: number for number, id in enumerate(contents.ids)}
        self.encoder = encoder
        self.metadata = contents.metadata
        given = None if encoder is None else encoder.get_embedding_dimension()
        if given is not None and given != self.dim:
            raise ValueError(
                f"the encoder gives {given}-dimensional vectors, the index holds {self.dim}: "
                "use the checkpoint that the index was built with"
            )
        # The longest vector bounds FAISS's rounding; einsum makes no second copy of the vectors.
        squares = np.einsum("nd,nd->n", self._stored, self._stored, dtype=np.float64)
        self._longest = float(np.sqrt(squares.max(initial=0.0)))

    @classmethod
    def build(
        cls,
        encoder: Encoder,
        documents: Iterable[str],
        ids: Iterable[str | int] | None = None,
        *,
        num_routes: DocumentRoutes = "default",
        batch_size: int = 32,
        chunk_size: int = 1024,
        show_progress_bar: bool | None = None,
    ) -> FastLaneIndex:
        """Encodes and indexes texts, holding the padded tensors of `chunk_size` of them at a time.

        Args:
            ids: One per document, str or int, all different; 0, 1, 2, … by default.
            num_routes: Views kept per document: a number, a fraction in (0, 1], None for all, or
                "default" for the checkpoint's own setting.

        Raises:
            ValueError: No documents, ids that do not fit, or a vector that is not finite.
        """
        texts = _check_documents(documents)
        checked = _check_ids(ids, len(texts))
        _check_count("batch_size", batch_size)
        _check_count("chunk_size", chunk_size)
        options: dict[str, Any] = {"batch_size": batch_size, "show_progress_bar": show_progress_bar}
        if num_routes != "default":
            _check_document_routes(num_routes)
            options["num_routes"] = num_routes

        def encode() -> Iterator[_Views]:
            for start in range(0, len(texts), chunk_size):
                chunk = texts[start : start + chunk_size]
                encoded = encoder.encode_document(chunk, output_value=None, **options)
                for number, features in enumerate(encoded, start):
                    yield _routed_views(features, f"document {checked[number]!r}")

        return cls(_collect(encode(), checked, texts), encoder)

    @classmethod
    def from_embeddings(
        cls,
        embeddings: Sequence[Embeddings],
        ids: Iterable[str | int] | None = None,
        *,
        positions: Sequence[Sequence[int] | npt.NDArray[np.integer[Any]]] | None = None,
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
        checked = _check_ids(ids, len(embeddings))
        for name, given in (("positions", positions), ("texts", texts)):
            if given is not None and len(given) != len(embeddings):
                raise ValueError(
                    f"{name} must be {len(embeddings)}, one a document: got {len(given)}"
                )
        views = (
            _given_views(
                vectors,
                f"document {checked[number]!r}",
                None if positions is None else positions[number],
            )
            for number, vectors in enumerate(embeddings)
        )
        checked_texts = None if texts is None else _check_documents(texts)
        return cls(_collect(views, checked, checked_texts), encoder)

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
        as_texts = not items or any(isinstance(item, str) for item in items)
        routes = 1 if num_routes == "default" else num_routes
        _check_count("top_k", top_k)
        _check_count("batch_size", batch_size)
        if candidates is not None:
            _check_count("candidates", candidates)
            if candidates < top_k:
                raise ValueError(f"candidates must be at least top_k={top_k}, got {candidates}")
        if as_texts:
            _check_query_routes(routes, candidates)
            _check_queries(items)
        elif num_routes != "default":
            raise ValueError(
                f"num_routes applies to texts, got {num_routes} with vectors: each array holds "
                "one query's routed views, so leave it out"
            )
        hits: list[list[Hit]] = []
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            if as_texts:
                views = self._encode(batch, routes, start)
            else:
                views = [_given_views(item, f"query {n}") for n, item in enumerate(batch, start)]
            for number, query in enumerate(views, start):
                self._check_views(query, number, "the encoder" if as_texts else f"query {number}")
            hits += self._search(views, top_k, candidates or max(100, 4 * top_k))
        return hits[0] if isinstance(queries, str) else hits

    def __len__(self) -> int:
        """The number of documents."""
        return len(self._contents.ids)

    def __contains__(self, id: object) -> bool:
        """Whether a document has this id; 1 and "1" are two ids."""
        return _is_id(id) and id in self._numbers

    def __repr__(self) -> str:
        """The sizes, for people."""
        size = f"{len(self):,} documents, {self.num_vectors:,} vectors of {self.dim} dimensions"
        return f"FastLaneIndex({size})"

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
        """The document's text; None if the index was made without texts.

        Raises:
            ValueError: No document has this id.
        """
        if id not in self:
            raise ValueError(f"no document has the id {id!r}: index.ids lists those there are")
        texts = self._contents.texts
        return None if texts is None else texts[self._numbers[id]]

    @property
    def _stored(self) -> FloatArray:
        """All vectors `(num_vectors, dim)`: FAISS's own memory, not a copy."""
        flat = self._contents.vectors
        if flat.ntotal == 0:
            return np.empty((0, flat.d), dtype=np.float32)
        memory: FloatArray = import_faiss().rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d)
        return memory.reshape(flat.ntotal, flat.d)

    def _encode(self, texts: list[str], num_routes: int | None, start: int) -> list[_Views]:
        if self.encoder is None:
            raise ValueError(
                "text queries need an encoder: pass one to FastLaneIndex.load(directory, encoder), "
                "or search with vectors"
            )
        encoded = self.encoder.encode_query(
            texts,
            output_value=None,
            num_routes=num_routes,
            batch_size=len(texts),
            show_progress_bar=False,
        )
        return [_routed_views(one, f"query {number}") for number, one in enumerate(encoded, start)]

    def _check_views(self, query: _Views, number: int, giver: str) -> None:
        count, dim = query.vectors.shape
        if dim != self.dim:
            raise ValueError(f"{giver} gives {dim}-dimensional vectors, the index holds {self.dim}")
        if count == 0:
            raise ValueError(f"query {number} has no views: none of its tokens can be routed")

    def _search(self, queries: list[_Views], top_k: int, candidates: int) -> list[list[Hit]]:
        limits = [top_k if len(q.vectors) == 1 else candidates for q in queries for _ in q.vectors]
        proposals = iter(self._propose(np.concatenate([q.vectors for q in queries]), limits))
        hits = []
        for query in queries:
            proposed = np.concatenate([next(proposals) for _ in query.vectors])
            hits.append(self._score(query, np.unique(proposed), top_k))
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
            fetch = min(fetch, self.num_vectors)
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
            # Both sides of a comparison may be off by the rounding of a float32 product, at most
            # dim * 2**-24 * |q| * |d|; the 8 is for the norms' and the scores' own rounding.
            length = float(np.linalg.norm(view.astype(float)))
            slack = (self.dim + 8) * 2.0**-23 * length * self._longest
            floor = float(np.partition(best, -limit)[-limit]) - slack
        if len(rows) < self.num_vectors and similarities[-1] >= floor:
            return None
        return documents[best >= floor]

    def _score(self, query: _Views, documents: IntArray, top_k: int) -> list[Hit]:
        """The best of `documents`, in ascending order, by their exact MaxSim."""
        stored, offsets, views = self._stored, self._contents.offsets, query.vectors.T.astype(float)
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
        self, query: _Views, document: int, score: float, rows: IntArray, similarities: FloatArray
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


def _collect(
    documents: Iterable[_Views], ids: list[str | int], texts: list[str] | None
) -> IndexContents:
    vectors = None
    positions, counts = [], [0]
    for id, views in zip(ids, documents, strict=True):
        count, dim = views.vectors.shape
        if vectors is None:
            vectors = import_faiss().IndexFlatIP(dim)
        if dim != vectors.d:
            raise ValueError(
                f"document {id!r} has {dim}-dimensional vectors, the first document has "
                f"{vectors.d}-dimensional ones: all must be alike"
            )
        vectors.add(views.vectors)
        positions.append(views.positions)
        counts.append(count)
    assert vectors is not None
    offsets = np.cumsum(counts, dtype=np.int64)
    return IndexContents(vectors, offsets, np.concatenate(positions), ids, texts, metadata={})


def _routed_views(features: Features, owner: str) -> _Views:
    """The views at which the attention mask is true."""
    routed = features["attention_mask"].bool()
    positions = routed.nonzero()[:, 0].cpu().numpy()
    return _given_views(features["token_embeddings"][routed], owner, positions)


def _given_views(
    embeddings: Embeddings,
    owner: str,
    positions: Sequence[int] | npt.NDArray[np.integer[Any]] | None = None,
) -> _Views:
    if isinstance(embeddings, torch.Tensor):
        embeddings = embeddings.detach().float().cpu().numpy()
    with np.errstate(over="ignore"):  # beyond float32 is inf, refused below
        vectors = np.ascontiguousarray(embeddings, dtype=np.float32)
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise ValueError(f"{owner} must be vectors of shape (number, dim), got {vectors.shape}")
    if not np.isfinite(vectors).all():
        raise ValueError(
            f"{owner} has a vector with NaN or infinity: only finite float32 can be used"
        )
    if positions is None:
        positions = range(len(vectors))
    if len(positions) != len(vectors):
        raise ValueError(f"{owner} has {len(vectors)} vectors, got {len(positions)} positions")
    return _Views(vectors, np.asarray(positions, dtype=np.int32))


def _check_documents(documents: Iterable[str]) -> list[str]:
    if isinstance(documents, str):
        raise ValueError("documents must be several texts, got one str: put it into a list")
    texts = list(documents)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"document {number} must be a str, got {type(text).__name__}")
    return texts


def _check_ids(ids: Iterable[str | int] | None, num_documents: int) -> list[str | int]:
    if num_documents == 0:
        raise ValueError("there are no documents: an index needs at least one")
    checked: list[str | int] = list(range(num_documents) if ids is None else ids)
    if len(checked) != num_documents:
        raise ValueError(f"ids must be {num_documents}, one a document: got {len(checked)}")
    seen = set()
    for id in checked:
        if not _is_id(id):
            raise ValueError(f"an id must be a str or an int, got {id!r} ({type(id).__name__})")
        if id in seen:
            raise ValueError(f"ids must all be different, got {id!r} twice")
        seen.add(id)
    return checked


def _is_id(id: object) -> bool:
    return isinstance(id, str | int) and not isinstance(id, bool)


def _check_queries(texts: list[Any]) -> None:
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(
                f"query {number} must be a str as others are, got {type(text).__name__}: search "
                "with texts and with vectors apart"
            )
        if not text.strip():
            raise ValueError(f"query {number} is empty, got {text!r}: leave it out")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _check_count(name: str, value: object) -> None:
    if not _is_count(value):
        raise ValueError(f"{name} must be a positive integer, got {value!r}")


def _check_query_routes(num_routes: object, candidates: int | None) -> None:
    if num_routes is not None and not _is_count(num_routes):
        raise ValueError(f"num_routes must be a positive integer or None, got {num_routes!r}")
    if num_routes == 1 and candidates is not None:
        raise ValueError(
            f"candidates applies to several routes, got {candidates} with num_routes=1, which is "
            "exact: leave it out"
        )


def _check_document_routes(num_routes: object) -> None:
    is_fraction = isinstance(num_routes, float) and 0 < num_routes <= 1
    if num_routes is not None and not is_fraction and not _is_count(num_routes):
        raise ValueError(
            "num_routes must be a positive integer, a fraction in (0, 1] or None, "
            f"got {num_routes!r}"
        )
