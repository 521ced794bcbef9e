"""Views: the token vectors of a text that a search compares, from an encoder or as given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm

Embeddings: TypeAlias = torch.Tensor | npt.NDArray[Any] | Sequence[Sequence[float]]
Positions: TypeAlias = Sequence[int] | npt.NDArray[np.integer[Any]]
Features: TypeAlias = Mapping[str, torch.Tensor]


class Encoder(Protocol):
    """What gives token vectors: a FastLaneModel, or the Sentence Transformers model around it.

    With `output_value=None` each text gives a mapping with `token_embeddings (tokens, dim)` and
    `attention_mask (tokens,)`, true exactly at the routed views. To rank again by all tokens of a
    query, `unrouted_embeddings` and `token_mask` are what these two are without routing.
    """

    def encode_query(
        self,
        texts: list[str],
        /,
        *,
        output_value: None,
        num_routes: int | Literal["auto"] | None = ...,
        batch_size: int = ...,
        show_progress_bar: bool = ...,
        route_budget: int = ...,
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


class Views(NamedTuple):
    """Vectors `(views, dim)` of one text, and where in it their tokens stand, `(views,)`."""

    vectors: npt.NDArray[np.float32]
    positions: npt.NDArray[np.int32]


def document_views(
    encoder: Encoder,
    texts: list[str],
    ids: list[str | int],
    chunk_size: int,
    show_progress_bar: bool,
    **options: Any,
) -> Iterator[Views]:
    """Each text's routed views, holding the padded tensors of `chunk_size` texts at a time."""
    options |= {"output_value": None, "show_progress_bar": False}
    if "pool" in options:
        options["chunk_size"] = options["batch_size"]  # what each process takes at a time
    with tqdm(
        total=len(texts), desc="Indexing", unit="doc", leave=None, disable=not show_progress_bar
    ) as bar:
        for start in range(0, len(texts), chunk_size):
            chunk = slice(start, start + chunk_size)
            encoded = encoder.encode_document(texts[chunk], **options)
            for id, features in zip(ids[chunk], encoded, strict=True):
                yield routed_views(features, f"document {id!r}")
            bar.update(len(encoded))


class QueryBatch(NamedTuple):
    """The views of a batch of queries; `full` holds all of their tokens, where they are asked for."""

    routed: list[Views]
    full: list[Views]


def query_views(
    queries: list[Any],
    encoder: Encoder | None,
    routing: Mapping[str, Any],
    dim: int,
    first: int,
    with_full: bool = False,
) -> QueryBatch:
    """The views of queries that are all texts, or all arrays.

    Args:
        queries: A batch of at least one.
        encoder: Encodes texts.
        routing: What the encoder is told of the routes of texts.
        dim: The index's dimension.
        first: The number of the batch's first query, for errors.
        with_full: Whether to give all tokens of each text as well.

    Raises:
        ValueError: Texts without an encoder, a query without views, or another dimension.
    """
    as_texts = isinstance(queries[0], str)
    full: list[Views] = []
    if as_texts:
        encoded = _encode_queries(encoder, queries, routing)
        routed = [routed_views(one, f"query {n}") for n, one in enumerate(encoded, first)]
        if with_full:
            full = [unrouted_views(one, f"query {n}") for n, one in enumerate(encoded, first)]
    else:
        routed = [given_views(one, f"query {n}") for n, one in enumerate(queries, first)]
    for number, (vectors, _) in enumerate(routed, first):
        count, given = vectors.shape
        if given != dim:
            giver = "the encoder" if as_texts else f"query {number}"
            raise ValueError(f"{giver} gives {given}-dimensional vectors, the index holds {dim}")
        if count == 0:
            raise ValueError(f"query {number} has no views: none of its tokens can be routed")
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
        ValueError: The shape is not `(views, dim)`, a value is not finite in float32, or the
            positions are more or fewer; it names the `owner`.
    """
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
    return Views(vectors, np.asarray(positions, dtype=np.int32))


def _encode_queries(
    encoder: Encoder | None, texts: list[str], routing: Mapping[str, Any]
) -> Sequence[Features]:
    if encoder is None:
        raise ValueError(
            "text queries need an encoder: pass one to FastLaneIndex.load(directory, encoder), "
            "or search with vectors"
        )
    return encoder.encode_query(
        texts,
        output_value=None,
        batch_size=len(texts),
        show_progress_bar=False,
        **routing,
    )
