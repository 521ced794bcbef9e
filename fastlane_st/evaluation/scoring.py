"""Token views of queries and documents, routed or not, and their best similarities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm

from ..encoder import FastLaneEncoder
from ..modeling.modeling_fastlane import FastLaneModel
from ..modeling.routing_fastlane import NumRoutes, Task
from ..modeling.search_fastlane import Features

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Similarities: TypeAlias = npt.NDArray[np.float32]

NUM_ROUTES = (1, 2, 4, 8)
BLOCK_VIEWS = 8192
"""Document views in one product: with 512 query views 16 MB of similarities."""
QUERY_VIEWS = 512
"""Query views that are scored together, so that a float16 block is converted once for all of them."""
_TEXTS = 512


@dataclass(frozen=True)
class TextViews:
    """All V token views of a text, in the order of the text.

    Attributes:
        vectors: (V, D) float32.
        logits: (V,) float32, the router's.
        token_ids: (V,) int.
        positions: (V,) int, places of the tokens in the encoded text.
    """

    vectors: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]
    token_ids: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]


@dataclass(frozen=True)
class QueryViews(TextViews):
    """The views of a query, which depend on the number of routes (see `ViewProjection.routed`).

    In `vectors` each token stands for itself, as in full late interaction.

    Attributes:
        alone: (V, D) float32, the view of each token if it is the one route.
        routed: For each k above 1, (K, D) float32: the views of the router's k routes, not of unit
            length. If the query has at most k tokens, it is `vectors` itself.
    """

    alone: npt.NDArray[np.float32]
    routed: Mapping[int, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class DocumentViews:
    """The token views of a corpus, in blocks.

    Attributes:
        blocks: (views, D) float32 or float16 each; a document is never split.
        counts: For each block (documents,) int, the number of views of its documents.
        document_frequency: Number of documents in which a token id has a view.
        routed: Views that documents' tokens are pooled to, by the fraction of their number.
    """

    blocks: tuple[Floats, ...]
    counts: tuple[npt.NDArray[np.int64], ...]
    document_frequency: Counter[int] = field(default_factory=Counter)
    routed: Mapping[float, DocumentViews] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(len(counts) for counts in self.counts)

    @property
    def num_views(self) -> npt.NDArray[np.int64]:
        """(documents,) int: the number of views of each document."""
        return np.concatenate(self.counts)


def encode_queries(
    encoder: FastLaneModel | FastLaneEncoder,
    texts: Sequence[str],
    *,
    num_routes: Sequence[int] = NUM_ROUTES,
    batch_size: int = 32,
    show_progress: bool = False,
) -> list[QueryViews]:
    """Encodes queries, with the prompt and length of the encoder's configuration.

    Args:
        encoder: The model or the encoder around it.
        texts: The queries.
        num_routes: The keys k of `QueryViews.routed`; 1 is always there, as `alone`.
        batch_size: Texts per forward pass.
        show_progress: Whether to show a progress bar.

    Raises:
        ValueError: A query has no view, or a number of routes isn't a positive integer.
    """
    counts = sorted({*num_routes} - {1})
    found = []
    encoded = _encode(encoder, texts, "query", [None, 1, *counts], batch_size, show_progress)
    for query_index, features in enumerate(encoded):
        one = _views(features[None], f"query {query_index}")
        owner = f"query {query_index}"
        routed = {k: _vectors(features[k], _positions(features[k], owner)) for k in counts}
        of_query = {k: rows if k < len(one.vectors) else one.vectors for k, rows in routed.items()}
        alone = _vectors(features[1], one.positions)
        found.append(QueryViews(**vars(one), alone=alone, routed=of_query))
    return found


def encode_documents(
    encoder: FastLaneModel | FastLaneEncoder,
    texts: Sequence[str],
    *,
    fractions: Sequence[float] = (),
    batch_size: int = 32,
    dtype: npt.DTypeLike = np.float32,
    show_progress: bool = False,
) -> DocumentViews:
    """Encodes documents, and stores all views and those of each fraction of tokens as `dtype`.

    Raises:
        ValueError: A document has no view, or a fraction isn't a float in (0, 1].
    """
    frequency: Counter[int] = Counter()
    stores = {fraction: BlockStore(dtype) for fraction in (None, *fractions)}
    encoded = _encode(encoder, texts, "document", list(stores), batch_size, show_progress)
    for document_index, features in enumerate(encoded):
        for fraction, store in stores.items():
            positions = _positions(features[fraction], f"document {document_index}")
            store.add(_vectors(features[fraction], positions))
            if fraction is None:
                ids = features[fraction]["input_ids"].cpu().numpy()[positions]
                frequency.update(set(ids.tolist()))
    routed = {one: stores[one].documents() for one in fractions}
    return replace(stores[None].documents(), document_frequency=frequency, routed=routed)


def _encode(
    encoder: FastLaneModel | FastLaneEncoder,
    texts: Sequence[str],
    task: Task,
    num_routes: Sequence[NumRoutes],
    batch_size: int,
    show_progress: bool,
) -> Iterator[dict[NumRoutes, Features]]:
    """Yields each text with each of `num_routes`, after one forward pass; queries with their logits.

    At most `_TEXTS` texts are in memory as tensors.
    """
    model: FastLaneModel = encoder if isinstance(encoder, FastLaneModel) else encoder[0].model  # type: ignore[assignment]
    model.eval()
    for start in tqdm(range(0, len(texts), _TEXTS), task, disable=not show_progress):
        chunk = texts[start : start + _TEXTS]
        order = sorted(range(len(chunk)), key=lambda place: -model.count_tokens(chunk[place]))
        places = iter(order)
        found: list[dict[NumRoutes, Features]] = [{}] * len(chunk)
        with torch.inference_mode():
            ordered = [chunk[place] for place in order]
            for features, output in model.forward_batches(ordered, task, batch_size, False):
                routed = {k: model.route(output, task, k) for k in num_routes}
                logits = output.router_logits
                for row, input_ids in enumerate(features["input_ids"]):
                    found[next(places)] = {
                        k: {
                            "token_embeddings": views[row],
                            "input_ids": input_ids,
                            "attention_mask": kept[row],
                            **({} if logits is None else {"router_logits": logits[row]}),
                        }
                        for k, (views, kept) in routed.items()
                    }
        yield from found


def _views(features: Features, owner: str) -> TextViews:
    positions = _positions(features, owner)
    return TextViews(
        vectors=_vectors(features, positions),
        logits=features["router_logits"].float().cpu().numpy()[positions],
        token_ids=features["input_ids"].cpu().numpy()[positions],
        positions=positions,
    )


def _positions(features: Features, owner: str) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = features["attention_mask"].cpu().numpy().nonzero()[0]
    if not len(found):
        raise ValueError(f"{owner} has no view: none of its tokens can be routed")
    return found


def _vectors(features: Features, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = features["token_embeddings"].float().cpu().numpy()[positions]
    return found


class BlockStore:
    """Joins the vectors of documents, (views, D) each, into the blocks of `DocumentViews`."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self.dtype = dtype
        self.blocks: list[Floats] = []
        self.counts: list[npt.NDArray[np.int64]] = []
        self.pending: list[Floats] = []

    def add(self, vectors: Floats) -> None:
        if sum(map(len, self.pending)) + len(vectors) > BLOCK_VIEWS:
            self.flush()
        self.pending.append(vectors)

    def flush(self) -> None:
        if self.pending:
            self.blocks.append(np.concatenate(self.pending).astype(self.dtype, copy=False))
            self.counts.append(np.array([len(one) for one in self.pending], dtype=np.int64))
            self.pending.clear()

    def documents(self) -> DocumentViews:
        self.flush()
        return DocumentViews(tuple(self.blocks), tuple(self.counts))


def best_similarities(
    queries: Iterable[Floats], documents: DocumentViews
) -> Iterator[Similarities]:
    """Yields for each query M_ij = max_t q_i·d_jt, for every view i and document j.

    Queries are scored in groups, so that memory holds one block of documents as float32 and the products of
    `QUERY_VIEWS` rows. Views of low rank are factorised first (see `factorise`).

    Args:
        queries: (V, D) float each.
        documents: The documents to score.

    Yields:
        (len(documents.routed) + 1, V, documents) float32: M over the views of each fraction of
        document tokens, then M over all views.
    """
    stores = [*documents.routed.values(), documents]
    for group in _groups(map(factorise, queries)):
        rows = np.concatenate([basis for _, basis in group])
        ends = np.cumsum([len(basis) for _, basis in group])
        best = [np.empty((len(stores), len(mix), len(documents)), np.float32) for mix, _ in group]
        for store_index, store in enumerate(stores):
            start = 0
            for block, counts in zip(store.blocks, store.counts, strict=True):
                span = slice(start, start + len(counts))
                firsts = np.cumsum(counts) - counts
                products = rows @ block.astype(np.float32, copy=False).T
                parts = np.split(products, ends[:-1])
                for found, (mix, basis), part in zip(best, group, parts, strict=True):
                    mixed = part if mix is basis else mix @ part
                    np.maximum.reduceat(mixed, firsts, axis=1, out=found[store_index, :, span])
                start += len(counts)
        yield from best


_Factors: TypeAlias = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def factorise(views: Floats) -> _Factors:
    """Splits views (V, D) of rank R into `mix` (V, R) and `basis` (R, D), with views = mix @ basis.

    The views of all numbers of routes are linear combinations of the query's tokens, so R is at most the
    number of tokens, and only R rows need products with the documents. Exact up to float32 rounding.

    Returns:
        `mix` and `basis`, or the views as both if R exceeds two thirds of V.
    """
    rows = np.asarray(views, dtype=np.float32)
    left, strengths, right = np.linalg.svd(rows, full_matrices=False)
    rank = int((strengths > 1e-5 * strengths[0]).sum()) if len(rows) else 0
    if 3 * rank > 2 * len(rows):
        return rows, rows
    return left[:, :rank] * strengths[:rank], right[:rank]


def _groups(queries: Iterable[_Factors]) -> Iterator[list[_Factors]]:
    group: list[_Factors] = []
    for query in queries:
        if group and sum(len(mix) for mix, _ in group) + len(query[0]) > QUERY_VIEWS:
            yield group
            group = []
        group.append(query)
    if group:
        yield group
