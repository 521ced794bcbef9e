"""Checks of what callers give an index; each error says what came and what to give."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from ..modeling.routing_fastlane import check_num_routes
from ..modeling.search_fastlane import (
    Id,
    Metadata,
    check_counts,
    check_ids,
    check_queries,
    check_unicode,
    listed,
    plain,
)
from .filters import is_scalar

QueryRoutes: TypeAlias = int | Literal["default"] | None


def check_lengths(num_documents: int, **given: Sized | None) -> None:
    """Raises a ValueError unless each argument that isn't None has one item a document."""
    for name, items in given.items():
        if items is not None and len(items) != num_documents:
            raise ValueError(f"{name} must be {num_documents}, one a document: got {len(items)}")


def check_items(documents: Iterable[Any]) -> Any:
    """Documents by place, whatever kind of collection they come in; see `listed` for what is refused.

    An array or tensor is given back as it is, and anything else as a list.
    """
    if isinstance(documents, np.ndarray | torch.Tensor):
        return documents
    items = listed("documents", documents)
    for number, item in enumerate(items):
        if item is None or isinstance(item, bytes | int | float):
            raise ValueError(
                f"document {number} must be a text, or an array of its vectors, got {item!r:.60} "
                f"({type(item).__name__})"
            )
    return items


def check_id_list(ids: Iterable[Id]) -> list[Id]:
    """The ids without repetitions; a ValueError for a str in place of a list, or what can be no id."""
    given = dict.fromkeys(map(plain, listed("ids", ids)))
    return check_ids(list(given), len(given))


def check_encoder(encoder: object) -> None:
    """Raises a ValueError for a checkpoint's name, or what can't encode, in place of an encoder."""
    if isinstance(encoder, str | os.PathLike):
        raise ValueError(
            f"encoder must be a model, got {encoder!r}: pass FastLaneEncoder({str(encoder)!r})"
        )
    if encoder is not None and not hasattr(encoder, "get_embedding_dimension"):
        raise ValueError(
            "encoder must be a FastLaneEncoder, a FastLaneModel or have the methods of `Encoder`, got "
            f"{encoder!r:.60} ({type(encoder).__name__})"
        )


def check_options(method: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises a TypeError that names a method's unknown argument and the nearest one it has."""
    for name in given:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
            raise TypeError(f"{method} has no argument {name!r}: did you mean {nearest!r}?")


def check_metadata(metadata: Iterable[Metadata] | None, num_documents: int) -> list[Metadata]:
    """Copies of the metadata, one a document; a ValueError names what is no JSON scalar or no Unicode."""
    if metadata is None:
        return [{}] * num_documents
    checked: list[Metadata] = []
    for number, one in enumerate(listed("metadata", metadata)):
        if not isinstance(one, Mapping):
            raise ValueError(
                f"metadata of document {number} must be a mapping of fields to values, got {one!r}"
            )
        checked.append({plain(name): plain(value) for name, value in one.items()})
    check_lengths(num_documents, metadata=checked)
    for number, one in enumerate(checked):
        check_unicode(list(one), f"metadata of document {number}: field")
        check_unicode(list(one.values()), f"metadata of document {number}: value")
        for name, value in one.items():
            if not isinstance(name, str) or not name or name.startswith("$"):
                raise ValueError(
                    f"metadata of document {number} has the field {name!r}: a field is a text that "
                    "doesn't start with $"
                )
            if not is_scalar(value):
                raise ValueError(
                    f"{name} of document {number} must be a text, a finite number, True, False or "
                    f"None, got {value!r}"
                )
    return checked


def check_search(
    queries: Sequence[Any],
    top_k: int,
    num_routes: QueryRoutes,
    candidates: int | None,
    rerank: int | None = None,
) -> None:
    """Raises a ValueError for queries of mixed kinds, an empty text, or an option that can't apply."""
    for name, value, least in (
        ("rerank", rerank, {"top_k": top_k}),
        ("candidates", candidates, {"top_k": top_k, "rerank": rerank or 0}),
    ):
        if value is not None:
            check_counts(**{name: value})
            for other, count in least.items():
                if value < count:
                    raise ValueError(f"{name} must be at least {other}={count}, got {value}")
    if queries and not any(isinstance(query, str) for query in queries):
        for_texts = {} if num_routes == "default" else {"num_routes": num_routes}
        for_texts |= {} if rerank is None else {"rerank": rerank}
        for name, given in for_texts.items():
            raise ValueError(
                f"{name} applies to texts, got {given} with vectors: each array holds one query's "
                "routed views, so leave it out"
            )
        return
    if num_routes != "default":
        check_num_routes(num_routes)
    if num_routes is None and rerank is not None:
        raise ValueError(
            f"rerank applies to routed searches, got {rerank} with num_routes=None, which ranks by all "
            "tokens at once: leave it out"
        )
    if num_routes in ("default", 1) and candidates is not None:
        raise ValueError(
            f"candidates applies to several routes, got {candidates} with num_routes=1, which is "
            "exact: leave it out"
        )
    check_queries(queries)
