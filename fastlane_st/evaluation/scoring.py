"""The token views of queries and documents, routed and not, and each view's best similarity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from ..modeling.views_fastlane import Encoder, Features

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Similarities: TypeAlias = npt.NDArray[np.float32]

NUM_ROUTES = (1, 2, 4, 8)
BLOCK_VIEWS = 8192
"""Document views in one product: with 512 query views 16 MB of similarities."""
QUERY_VIEWS = 512
"""Query views that are scored together: a float16 block is converted once for all of them."""
_TEXTS = 512


@dataclass(frozen=True)
class TextViews:
    """The V token views of one text that isn't routed, in the order of the text.

    Attributes:
        vectors: (V, D) float32.
        logits: (V,) float32, the router's.
        token_ids: (V,) int.
        positions: (V,) int, the tokens' places in the encoded text.
    """

    vectors: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]
    token_ids: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]


@dataclass(frozen=True)
class QueryViews(TextViews):
    """The views of one query, which depend on how many routes are kept (`ViewProjection.routed`).

    In `vectors` each token stands for itself, as in full late interaction.

    Attributes:
        alone: (V, D) float32, the view that each of those tokens has if it is the one route.
        routed: By k above 1, (K, D) float32: the views of the router's k routes, whose lengths
            aren't 1. Where the query has no more tokens than k, it is `vectors` itself.
    """

    alone: npt.NDArray[np.float32]
    routed: Mapping[int, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class DocumentViews:
    """The token views of a corpus, in blocks, each document's best router logit first.

    MaxSim doesn't depend on the order, and a routed document is then a prefix of the whole one.

    Attributes:
        blocks: (views, D) float32 or float16 each, of whole documents.
        counts: (documents,) int each, how many views the documents of the block have.
        document_frequency: In how many documents a token id is a view, by id.
    """

    blocks: tuple[Floats, ...]
    counts: tuple[npt.NDArray[np.int64], ...]
    document_frequency: Counter[int]

    def __len__(self) -> int:
        """Number of documents."""
        return sum(len(counts) for counts in self.counts)

    @property
    def num_views(self) -> npt.NDArray[np.int64]:
        """(documents,) int: how many views each document has."""
        return np.concatenate(self.counts)


def encode_queries(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    num_routes: Sequence[int] = NUM_ROUTES,
    batch_size: int = 32,
    show_progress: bool = False,
) -> list[QueryViews]:
    """The views of each query, from one pass of the encoder for each number of routes.

    Args:
        encoder: Encodes them with each of `num_routes`, and always with 1 and None.
        texts: The queries.
        num_routes: The k of `QueryViews.routed`.
        batch_size: Texts in one forward pass.
        show_progress: Show it.

    Raises:
        ValueError: A query has no view, or a number of routes isn't a positive integer.
    """
    counts = sorted({*num_routes} - {1})
    found = []
    for start, chunk in _chunks(texts, "query", show_progress):
        encode = partial(_encode, encoder.encode_query, chunk, batch_size)
        views = [_views(one, f"query {number}") for number, one in enumerate(encode(None), start)]
        pairs = zip(encode(1), views, strict=True)
        alone = [_vectors(features, one.positions) for features, one in pairs]
        routed = {k: [_vectors(one, _positions(one)) for one in encode(k)] for k in counts}
        for number, (one, own) in enumerate(zip(views, alone, strict=True)):
            of_query = {
                k: rows[number] if k < len(one.vectors) else one.vectors
                for k, rows in routed.items()
            }
            found.append(QueryViews(**vars(one), alone=own, routed=of_query))
    return found


def encode_documents(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    batch_size: int = 32,
    dtype: npt.DTypeLike = np.float32,
    show_progress: bool = False,
) -> DocumentViews:
    """All views of each document, best router logit first, stored as `dtype`.

    Raises:
        ValueError: A document has no view.
    """
    frequency: Counter[int] = Counter()

    def ordered_vectors() -> Iterator[Floats]:
        for start, chunk in _chunks(texts, "document", show_progress):
            encoded = _encode(encoder.encode_document, chunk, batch_size, None)
            for number, features in enumerate(encoded, start):
                views = _views(features, f"document {number}")
                frequency.update(set(views.token_ids.tolist()))
                yield views.vectors[np.argsort(-views.logits, kind="stable")]

    blocks, counts = store_blocks(ordered_vectors(), dtype)
    return DocumentViews(blocks, counts, frequency)


def _chunks(
    texts: Sequence[str], owner: str, show_progress: bool
) -> Iterator[tuple[int, list[str]]]:
    """Some texts at a time, with the number of the first: memory holds the tensors of one chunk."""
    for start in tqdm(range(0, len(texts), _TEXTS), owner, disable=not show_progress):
        yield start, list(texts[start : start + _TEXTS])


def _encode(
    encode: Callable[..., Sequence[Features]],
    texts: list[str],
    batch_size: int,
    num_routes: int | None,
) -> Sequence[Features]:
    return encode(
        texts,
        num_routes=num_routes,
        output_value=None,
        batch_size=batch_size,
        show_progress_bar=False,
    )


def _views(features: Features, owner: str) -> TextViews:
    positions = _positions(features)
    if not len(positions):
        raise ValueError(f"{owner} has no view: none of its tokens can be routed")
    return TextViews(
        vectors=_vectors(features, positions),
        logits=features["router_logits"].float().cpu().numpy()[positions],
        token_ids=features["input_ids"].cpu().numpy()[positions],
        positions=positions,
    )


def _positions(features: Features) -> npt.NDArray[np.int64]:
    """Where the mask is true."""
    found: npt.NDArray[np.int64] = features["attention_mask"].cpu().numpy().nonzero()[0]
    return found


def _vectors(features: Features, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = features["token_embeddings"].float().cpu().numpy()[positions]
    return found


def store_blocks(
    documents: Iterable[Floats], dtype: npt.DTypeLike
) -> tuple[tuple[Floats, ...], tuple[npt.NDArray[np.int64], ...]]:
    """Joins the vectors of documents, (views, D) each, into the blocks of `DocumentViews`."""
    blocks: list[Floats] = []
    counts: list[npt.NDArray[np.int64]] = []
    pending: list[Floats] = []
    size = 0

    def flush() -> None:
        if pending:
            blocks.append(np.concatenate(pending).astype(dtype, copy=False))
            counts.append(np.array([len(one) for one in pending], dtype=np.int64))
            pending.clear()

    for vectors in documents:
        if size + len(vectors) > BLOCK_VIEWS:
            flush()
            size = 0
        pending.append(vectors)
        size += len(vectors)
    flush()
    return tuple(blocks), tuple(counts)


def best_similarities(
    queries: Iterable[Floats], documents: DocumentViews, fractions: Sequence[float] = ()
) -> Iterator[Similarities]:
    """For each query M_ij = max_t q_i·d_jt, of every view i with every document j.

    Queries are scored a few together, so that memory holds one block of documents as float32 and
    `QUERY_VIEWS` rows of M.

    Args:
        queries: (V, D) float each.
        documents: To score.
        fractions: Rising numbers in (0, 1): M once more for each, over this fraction of a
            document's views, rounded up, best router logit first.

    Yields:
        (len(fractions) + 1, V, documents) float32, the whole documents last.
    """
    if list(fractions) != sorted(set(fractions)) or not all(0 < one < 1 for one in fractions):
        raise ValueError(f"fractions must rise within (0, 1), got {list(fractions)}")
    for group in _groups(queries):
        rows = np.concatenate(group).astype(np.float32, copy=False)
        best = np.empty((len(fractions) + 1, len(rows), len(documents)), dtype=np.float32)
        start = 0
        for block, counts in zip(documents.blocks, documents.counts, strict=True):
            place = slice(start, start + len(counts))
            products = rows @ block.astype(np.float32, copy=False).T
            best[:, :, place] = _segment_maxima(products, counts, fractions)
            start += len(counts)
        first = 0
        for query in group:
            yield best[:, first : first + len(query)]
            first += len(query)


def _groups(queries: Iterable[Floats]) -> Iterator[list[Floats]]:
    group: list[Floats] = []
    for query in queries:
        if group and sum(map(len, group)) + len(query) > QUERY_VIEWS:
            yield group
            group = []
        group.append(query)
    if group:
        yield group


def _segment_maxima(
    products: Similarities, counts: npt.NDArray[np.int64], fractions: Sequence[float]
) -> Similarities:
    """The maxima of each document's prefixes: (V, views) to (prefixes, V, documents).

    A document's views fall into the pieces between one prefix and the next, some of them empty; the
    maximum of a prefix is the running maximum of its pieces.
    """
    sizes = np.stack([*(np.ceil(one * counts).astype(int) for one in fractions), counts], axis=1)
    offsets = np.cumsum(counts) - counts
    edges = offsets[:, None] + np.concatenate([np.zeros_like(sizes[:, :1]), sizes], axis=1)
    full = (edges[:, 1:] > edges[:, :-1]).ravel()  # reduceat has no identity for an empty piece
    pieces = np.full((len(products), full.size), -np.inf, dtype=np.float32)
    pieces[:, full] = np.maximum.reduceat(products, edges[:, :-1].ravel()[full], axis=1)
    maxima = np.maximum.accumulate(pieces.reshape(len(products), *sizes.shape), axis=2)
    return np.moveaxis(maxima, 2, 0)
