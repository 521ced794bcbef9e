"""Exact MaxSim search in memory: `ExactIndex`, which comes with every checkpoint, for a small corpus.

It relies on NumPy, and on FAISS for queries of one route. The names before it are what every index
shares: hits, token views, the comparison that decides a ranking, and checks of arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, TypeGuard, overload

import numpy as np
import numpy.typing as npt
import torch

from .fingerprint_fastlane import fastlane_model
from .routing_fastlane import AskedRoutes, NumRoutes, check_num_routes, is_count

Embeddings: TypeAlias = torch.Tensor | npt.NDArray[Any] | Sequence[Sequence[float]]
Positions: TypeAlias = Sequence[int] | npt.NDArray[np.integer[Any]]
Features: TypeAlias = Mapping[str, torch.Tensor]
Id: TypeAlias = str | int
Metadata: TypeAlias = Mapping[str, str | int | float | bool | None]
FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]

FETCHED = 16  # vectors that the first FAISS search returns for each document asked for
CHUNK = 256  # documents whose padded tensors are held at a time
BLOCK_VECTORS = 16_384  # compared at a time: 8 MB of 128 dimensions


class Match(NamedTuple):
    """A query view and the document token it found, as positions in the two tokenised texts."""

    query_position: int
    document_position: int
    similarity: float


@dataclass(frozen=True, slots=True)
class Hit:
    """A document found. Its score is the sum of its matches, one for each routed query view.

    `span` is where the best window of a long document begins and ends in its text, in characters; None of a
    document that was encoded as one text.
    """

    id: Id
    score: float
    matches: tuple[Match, ...]
    text: str | None
    metadata: Metadata = field(default_factory=dict)
    span: tuple[int, int] | None = None

    @property
    def route(self) -> int:
        """The query position whose match contributed most; the first of equals."""
        return max(self.matches, key=lambda match: match.similarity).query_position

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it; each match by the names of its fields."""
        return {
            "id": self.id,
            "score": self.score,
            "text": self.text,
            "metadata": dict(self.metadata),
            "span": None if self.span is None else list(self.span),
            "matches": [match._asdict() for match in self.matches],
        }


class Encoder(Protocol):
    """A FastLaneModel, the Sentence Transformers model around it, or anything with these methods.

    They are called with `output_value=None`, `batch_size`, `show_progress_bar` and, where a caller says
    so, `num_routes`, and give a mapping for each text: `token_embeddings` (T, D) and
    `attention_mask` (T,), true exactly at the routed views. `unrouted_embeddings` and `token_mask` are the
    same without routing; only a query that is ranked again by all of its tokens needs them.
    """

    def encode_query(self, texts: list[str], /, *args: Any, **options: Any) -> Sequence[Features]:
        """Encodes queries; `num_routes` may be None for all tokens, or a number."""

    def encode_document(
        self, texts: list[str], /, *args: Any, **options: Any
    ) -> Sequence[Features]:
        """Encodes documents; `num_routes` may be a fraction, None for all tokens, or a number."""

    def get_embedding_dimension(self) -> int | None:
        """The length of a token vector, if known."""


class Views(NamedTuple):
    """Vectors (K, D) of one text, and the positions (K,) of their tokens in it."""

    vectors: FloatArray
    positions: npt.NDArray[np.int32]


class QueryBatch(NamedTuple):
    """The routed views of a batch of queries; `full` holds all of their tokens, if asked for."""

    routed: list[Views]
    full: list[Views]


def default_routes(encoder: object) -> int | None:
    """The number of routes of a query where a caller names none: the checkpoint's, 1 for other encoders."""
    model = fastlane_model(encoder)
    routes: int | None = 1 if model is None else model.config.query_num_routes
    return routes


def query_views(
    queries: list[Any],
    encoder: Encoder | None,
    routing: Mapping[str, Any],
    dim: int,
    first: int,
    with_full: bool = False,
) -> QueryBatch:
    """The views of at least one query, all texts or all arrays.

    `routing` are the options of `encoder.encode_query` that decide the routes, and `first` is the number of
    the first query, for errors. `with_full` gives all tokens of each text as well.

    Raises:
        ValueError: Texts without an encoder, a query without views, or another dimension than `dim`.
    """
    names = [f"query {number}" for number in range(first, first + len(queries))]
    full: list[Views] = []
    if isinstance(queries[0], str):
        if encoder is None:
            raise ValueError(
                "text queries need an encoder: pass one to FastLaneIndex.load(directory, encoder), "
                "or search with vectors"
            )
        options = {"output_value": None, "batch_size": len(queries), "show_progress_bar": False}
        encoded = encoder.encode_query(queries, **options, **routing)
        routed = list(map(routed_views, encoded, names))
        if with_full:
            full = list(map(unrouted_views, encoded, names))
    else:
        routed = list(map(given_views, queries, names))
    for query, name, (vectors, _) in zip(queries, names, routed, strict=True):
        count, given = vectors.shape
        if given != dim:
            giver = "the encoder" if isinstance(query, str) else name
            raise ValueError(f"{giver} gives {given}-dimensional vectors, the index holds {dim}")
        if count == 0:
            raise ValueError(f"{name} has no views: none of its tokens can be routed")
    return QueryBatch(routed, full)


def routed_views(features: Features, owner: str) -> Views:
    """The views at which the attention mask is true; errors name the `owner`."""
    routed = features["attention_mask"].bool()
    positions = routed.nonzero()[:, 0].cpu().numpy()
    return given_views(features["token_embeddings"][routed], owner, positions)


def unrouted_views(features: Features, owner: str) -> Views:
    """All views of a text whose features say which of them are routed."""
    if "unrouted_embeddings" not in features:
        raise ValueError("this encoder doesn't give all tokens beside the routed ones: no rerank")
    every = {"token_embeddings": "unrouted_embeddings", "attention_mask": "token_mask"}
    return routed_views({name: features[other] for name, other in every.items()}, owner)


def given_views(embeddings: Embeddings, owner: str, positions: Positions | None = None) -> Views:
    """Vectors as float32 on the CPU, at positions 0, 1, 2, … by default.

    Raises:
        ValueError: The shape is not (K, D), a value is not finite in float32, or there are not K
            positions; it names the `owner`.
    """
    if isinstance(embeddings, torch.Tensor):
        embeddings = embeddings.detach().float().cpu().numpy()
    try:
        if np.iscomplexobj(embeddings):
            raise ValueError("got complex ones")
        with np.errstate(over="ignore"):  # a value beyond float32 becomes inf, refused below
            vectors = np.ascontiguousarray(embeddings, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{owner} must be vectors of one length, of real numbers: {error}"
        ) from None
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise ValueError(f"{owner} must be vectors of shape (number, dim), got {vectors.shape}")
    if not np.isfinite(vectors).all():
        raise ValueError(
            f"{owner} has a vector with NaN or infinity: only finite float32 can be used"
        )
    places = range(len(vectors)) if positions is None else positions
    if len(places) != len(vectors):
        raise ValueError(f"{owner} has {len(vectors)} vectors, got {len(places)} positions")
    return Views(vectors, np.asarray(places, dtype=np.int32))


def inner_products(
    vectors: FloatArray, views: FloatArray, dtype: torch.dtype = torch.float32
) -> FloatArray:
    """(n, K): inner products of vectors (n, D) and views (K, D), computed in a type and given in float32.

    By torch: the threads of NumPy's own product go on spinning after it, and on a small machine they halve
    the speed of the encoder, which comes next.
    """
    left, right = (torch.from_numpy(np.require(one, requirements="W")) for one in (vectors, views))
    products: FloatArray = (left.to(dtype) @ right.to(dtype).T).float().numpy()
    return products


def exact_matches(
    vectors: FloatArray, firsts: IntArray, views: FloatArray
) -> tuple[npt.NDArray[np.float64], IntArray, FloatArray]:
    """MaxSim of a query with some documents, in which equal vectors tie wherever they lie.

    A similarity is computed in float64 and rounded to float32; a document's score is the sum over query
    views of its greatest one. Of equally similar vectors the first one matches.

    Args:
        vectors: (n, D) of the documents, one document after another.
        firsts: (documents,): where each begins. None is empty.
        views: (K, D) of the query.

    Returns:
        Scores (documents,), and for each view the matching row of `vectors` and its similarity, both
        (documents, K).

    Example:
        >>> vectors = np.float32([[1, 0], [0, 1], [0.5, 0.5]])
        >>> exact_matches(vectors, np.array([0, 2]), np.float32([[1, 0], [0, 1]]))[:2]
        (array([2., 1.]), array([[0, 1],
               [2, 2]]))
    """
    products = inner_products(vectors, views, torch.float64)
    similarities = np.maximum.reduceat(products, firsts, axis=0)
    counts = np.diff(firsts, append=len(vectors))
    is_best = products == np.repeat(similarities, counts, axis=0)
    rows = np.where(is_best, np.arange(len(vectors))[:, None], len(vectors))
    matched: IntArray = np.minimum.reduceat(rows, firsts, axis=0)
    return similarities.sum(axis=1, dtype=np.float64), matched, similarities


def rounding_slack(views: FloatArray, longest: float) -> npt.NDArray[np.float64]:
    """(K,): how far apart two float32 similarities of a view may be where exact ones tie.

    Each is off by at most the rounding of a float32 product, dim · 2⁻²⁴ · |q| · |d|, for documents no
    longer than `longest`; the 8 is for the rounding of the norms and of the exact scores.
    """
    lengths = np.linalg.norm(views.astype(float), axis=1)
    slacks: npt.NDArray[np.float64] = (views.shape[1] + 8) * 2.0**-23 * lengths * longest
    return slacks


class ExactIndex:
    """Documents as token vectors in memory, ranked by MaxSim, the sum over query views q of max_j q·d_j.

    Equal scores come in the order in which documents were given. A query of one route costs one FAISS search
    over all vectors, one of several routes a full comparison. For more than some 100,000 vectors, or to keep
    an index, use the `FastLaneIndex` of the package fastlane-st, which finds the same. An index without
    documents, or ids or vectors that don't fit, raise a ValueError.

    >>> index = ExactIndex.from_embeddings([[[0.5, 0.0], [0.75, 0.0]], [[1.0, 0.0]]], ids=["a", "b"])
    >>> [(hit.id, hit.score) for hit in index.search([[[1.0, 0.0]]])[0]]
    [('b', 1.0), ('a', 0.75)]
    """

    def __init__(
        self,
        views: Iterable[Views],
        ids: list[Id],
        texts: Sequence[str] | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        vectors, positions = zip(*views, strict=True)
        dims = {each.shape[1] for each in vectors}
        if len(dims) > 1:
            raise ValueError(
                f"documents have vectors of {sorted(dims)} dimensions: all must be alike"
            )
        [self.dim] = dims
        self.ids, self.texts, self.encoder = ids, texts, encoder
        self._vectors: FloatArray = np.concatenate(vectors)
        self._positions = np.concatenate(positions)
        counts = [len(each) for each in vectors]
        self._offsets: IntArray = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._owners: IntArray = np.repeat(np.arange(len(ids)), counts)
        self._longest = float(np.linalg.norm(self._vectors, axis=1).max(initial=0.0))

    @classmethod
    def build(
        cls,
        encoder: Encoder,
        documents: Iterable[str],
        ids: Iterable[Id] | None = None,
        *,
        num_routes: NumRoutes | Literal["default"] = "default",
        batch_size: int = 32,
    ) -> ExactIndex:
        """Encodes and indexes texts, `batch_size` at once; of one longer than the encoder reads, its start.

        Args:
            encoder: See `Encoder`.
            documents: At least one text.
            ids: One per document, str or int, all different; 0, 1, 2, … by default.
            num_routes: Views that a document's tokens are pooled to: a number, a fraction in (0, 1], None
                for all tokens, or "default" for the checkpoint's own setting.
        """
        texts = check_documents(documents)
        check_unicode(texts, "document")
        checked = _ids_of(texts, ids)
        check_counts(batch_size=batch_size)
        options: dict[str, Any] = {"output_value": None, "show_progress_bar": False}
        if num_routes != "default":
            check_num_routes(num_routes, allow_fraction=True)
            options["num_routes"] = num_routes
        views = []
        for first in range(0, len(texts), CHUNK):
            chunk = slice(first, first + CHUNK)
            encoded = encoder.encode_document(texts[chunk], batch_size=batch_size, **options)
            for id, features in zip(checked[chunk], encoded, strict=True):
                views.append(routed_views(features, f"document {id!r}"))
        return cls(views, checked, texts, encoder)

    @classmethod
    def from_embeddings(
        cls,
        embeddings: Iterable[Embeddings],
        ids: Iterable[Id] | None = None,
        *,
        positions: Sequence[Positions] | None = None,
        texts: Iterable[str] | None = None,
        encoder: Encoder | None = None,
    ) -> ExactIndex:
        """Indexes given vectors.

        Args:
            embeddings: An array (K, D) per document. One without vectors is kept and never found.
            ids: As for `build`.
            positions: Each vector's token position in its document; 0, 1, 2, … by default.
            texts: One per document, given back with hits.
            encoder: Encodes text queries.
        """
        arrays = list(embeddings)
        known = None if texts is None else check_documents(texts)
        for name, given in (("positions", positions), ("texts", known)):
            if given is not None and len(given) != len(arrays):
                raise ValueError(f"{name} must be {len(arrays)}, one a document: got {len(given)}")
        checked = _ids_of(arrays, ids)
        names = [f"document {id!r}" for id in checked]
        places = [None] * len(arrays) if positions is None else positions
        views = map(given_views, arrays, names, places)
        return cls(views, checked, known, encoder)

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def search(  # type: ignore[overload-overlap]
        self, queries: str, top_k: int = ..., num_routes: AskedRoutes = ..., batch_size: int = ...
    ) -> list[Hit]: ...

    @overload
    def search(
        self,
        queries: Sequence[str] | Sequence[Embeddings],
        top_k: int = ...,
        num_routes: AskedRoutes = ...,
        batch_size: int = ...,
    ) -> list[list[Hit]]: ...

    def search(
        self,
        queries: str | Sequence[str] | Sequence[Embeddings],
        top_k: int = 10,
        num_routes: AskedRoutes = "default",
        batch_size: int = 32,
    ) -> list[Hit] | list[list[Hit]]:
        """Finds the `top_k` best documents for each query; fewer only if fewer have vectors.

        Args:
            queries: Texts, encoded `batch_size` at once, or an array (K, D) of routed views per query.
            top_k: Hits for each query.
            num_routes: Views routed from each text: a number, None for every token; "default" is the
                checkpoint's.

        Returns:
            A list of hits, best first, for each query; for a single str that list alone.

        Raises:
            ValueError: An empty text, a query without views, or another dimension than the index's.
        """
        items = query_list(queries)
        check_counts(top_k=top_k, batch_size=batch_size)
        check_queries(items)
        if num_routes == "default":
            num_routes = default_routes(self.encoder)
        check_num_routes(num_routes)
        routing = {"num_routes": num_routes}
        hits: list[list[Hit]] = []
        for first in range(0, len(items), batch_size):
            batch = items[first : first + batch_size]
            views = query_views(batch, self.encoder, routing, self.dim, first).routed
            hits += [self._best(each, top_k) for each in views]
        return hits[0] if isinstance(queries, str) else hits

    def _best(self, query: Views, top_k: int) -> list[Hit]:
        counts = np.diff(self._offsets)
        documents = np.flatnonzero(counts)
        if len(query.vectors) == 1 and len(documents):
            documents = self._nearest(query.vectors, min(top_k, len(documents)))
        ends = np.cumsum(counts[documents])
        cuts = (
            np.flatnonzero(np.diff(ends // BLOCK_VECTORS)) + 1
        )  # about every BLOCK_VECTORS vectors
        found: list[tuple[float, int, IntArray, FloatArray]] = []
        for block in np.split(documents, cuts) if len(documents) else []:
            rows = np.concatenate([np.arange(*self._offsets[one : one + 2]) for one in block])
            firsts = np.cumsum(counts[block]) - counts[block]
            scores, matched, similarities = exact_matches(
                self._vectors[rows], firsts, query.vectors
            )
            found += zip(scores.tolist(), block.tolist(), rows[matched], similarities, strict=True)
        found.sort(key=lambda one: (-one[0], one[1]))
        return [self._hit(query, *one) for one in found[:top_k]]

    def _nearest(self, view: FloatArray, top_k: int) -> IntArray:
        """The documents that may be among the `top_k` best for one view (1, D), in their order.

        One document can hold all of the N best vectors. So FAISS is asked for more vectors until they belong
        to enough documents, and none beyond could tie with the last of these.
        """
        total, fetch = len(self._vectors), FETCHED * max(8, top_k)
        [slack] = rounding_slack(view, self._longest)
        while True:
            fetch = min(fetch, total)
            with faiss_threads(1) as faiss:
                [near], [rows] = faiss.knn(
                    view, self._vectors, fetch, metric=faiss.METRIC_INNER_PRODUCT
                )
            documents, first = np.unique(self._owners[rows], return_index=True)
            best = near[first]  # the rows come best first
            if len(documents) >= top_k:
                floor = np.partition(best, -top_k)[-top_k] - slack
                if fetch == total or near[-1] < floor:
                    near_enough: IntArray = documents[best >= floor]
                    return near_enough
            fetch *= 4

    def _hit(
        self, query: Views, score: float, document: int, rows: IntArray, similarities: FloatArray
    ) -> Hit:
        positions = self._positions[rows].tolist()
        matches = map(Match, query.positions.tolist(), positions, similarities.tolist())
        text = None if self.texts is None else self.texts[document]
        return Hit(self.ids[document], score, tuple(matches), text)


def check_counts(**counts: object) -> None:
    """Raises a ValueError for the first that isn't a positive integer."""
    for name, count in counts.items():
        if not is_count(count):
            raise ValueError(f"{name} must be a positive integer, got {count!r}")


def check_documents(documents: Iterable[str]) -> list[str]:
    """The texts as a list, in their order; a ValueError names one that isn't a str."""
    texts = listed("documents", documents)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"document {number} must be a str, got {type(text).__name__}")
    return texts


def listed(name: str, items: Any) -> list[Any]:
    """The items of a collection in their order: a pandas Series gives its values, a generator is read.

    Raises:
        ValueError: One str, a mapping or a single value in place of several; it names the argument.
    """
    if isinstance(items, str | bytes):
        raise ValueError(
            f"{name} must be several, got one {type(items).__name__}, {items!r:.60}: put it into a list"
        )
    if isinstance(items, Mapping):
        raise ValueError(
            f"{name} must be several, in a list, got a {type(items).__name__}: pass its values, and its "
            "keys as ids"
        )
    try:
        return list(items)
    except TypeError:
        raise ValueError(
            f"{name} must be several, in a list, got {items!r} ({type(items).__name__})"
        ) from None


def plain(value: Any) -> Any:
    """A scalar of NumPy as Python's; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def check_unicode(texts: Sequence[Any], name: str) -> None:
    """Raises a ValueError that names the first text with a lone surrogate: no tokenizer takes that."""
    for number, text in enumerate(texts):
        if isinstance(text, str):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"{name} {number} is no valid Unicode: {error.reason} at {error.start}"
                ) from None


def check_ids(ids: Iterable[Id], num_documents: int) -> list[Id]:
    """The ids as a list; a ValueError unless there is one a document, all different."""
    checked = [plain(id) for id in listed("ids", ids)]
    if len(checked) != num_documents:
        raise ValueError(f"ids must be {num_documents}, one a document: got {len(checked)}")
    check_unicode(checked, "id")
    seen = set()
    for id in checked:
        if not is_id(id):
            raise ValueError(f"an id must be a str or an int, got {id!r} ({type(id).__name__})")
        if id in seen:
            raise ValueError(f"ids must all be different, got {id!r} twice")
        seen.add(id)
    return checked


def is_id(id: object) -> TypeGuard[Id]:
    """Whether this can be an id: a str or an int, but not True, which would be taken for 1."""
    return isinstance(id, str | int) and not isinstance(id, bool)


def _ids_of(documents: Sequence[Any], ids: Iterable[Id] | None) -> list[Id]:
    """The checked ids of at least one document: 0, 1, 2, … if none are given."""
    checked = check_ids(range(len(documents)) if ids is None else ids, len(documents))
    if not documents:
        raise ValueError("there are no documents: an index needs at least one")
    return checked


def query_list(queries: Any) -> list[Any]:
    """The queries as a list: one str is one query."""
    return [queries] if isinstance(queries, str) else listed("queries", queries)


def check_queries(queries: Sequence[Any]) -> None:
    """Raises a ValueError where texts are mixed with vectors, or a text is blank."""
    if not any(isinstance(query, str) for query in queries):
        return
    for number, query in enumerate(queries):
        if not isinstance(query, str):
            raise ValueError(
                f"query {number} must be a str as others are, got {type(query).__name__}: search "
                "with texts and with vectors apart"
            )
        if not query.strip():
            raise ValueError(f"query {number} is empty, got {query!r}: leave it out")
    check_unicode(queries, "query")


@contextmanager
def faiss_threads(most: int) -> Iterator[ModuleType]:
    """FAISS with at most so many threads, at least one, in the calling thread.

    Its threads spin for a while after each call, as torch's do: where both have as many as there are cores,
    each holds the other up, and a search of one view, which FAISS doesn't share among threads, takes longer.
    """
    faiss = import_faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(max(1, min(before, most)))
    try:
        yield faiss
    finally:
        faiss.omp_set_num_threads(before)


def import_faiss() -> ModuleType:
    """The module `faiss`, imported at first use: a checkpoint encodes without it."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            'an index needs FAISS: pip install "fastlane-st[cpu]", or "fastlane-st[gpu]"'
        ) from error
    return faiss
