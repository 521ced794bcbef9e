"""Checks of what callers give an index; each error says what came and what to give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from ..modeling.routing_fastlane import check_num_routes
from ..modeling.search_fastlane import Id, Metadata, check_counts, check_ids, check_queries
from .filters import is_scalar

QueryRoutes: TypeAlias = int | Literal["default", "auto"] | None


def check_lengths(num_documents: int, **given: Sized | None) -> None:
    """Raises a ValueError unless each argument that isn't None has one item a document."""
    for name, items in given.items():
        if items is not None and len(items) != num_documents:
            raise ValueError(f"{name} must be {num_documents}, one a document: got {len(items)}")


def check_items(documents: Iterable[Any]) -> Any:
    """Documents or queries by place, whatever kind of collection they come in.

    An array or tensor is given back as it is, and anything else as a list: a generator is read once,
    and a pandas Series gives its values in their order, not by their labels.

    Raises:
        ValueError: One str, or a mapping, in place of several texts or arrays.
    """
    if isinstance(documents, np.ndarray | torch.Tensor):
        return documents
    if isinstance(documents, str | bytes):
        raise ValueError(
            f"documents must be several texts, got one {type(documents).__name__}: put it into a list"
        )
    if isinstance(documents, Mapping):
        raise ValueError(
            f"documents must be several texts or arrays, got a {type(documents).__name__}: pass its values "
            "as documents, and its keys as ids"
        )
    try:
        return list(documents)
    except TypeError:
        raise ValueError(
            f"documents must be several texts or arrays, got {documents!r} ({type(documents).__name__})"
        ) from None


def check_id_list(ids: Iterable[Id]) -> list[Id]:
    """The ids without repetitions; a ValueError for a str in place of a list, or what can be no id."""
    if isinstance(ids, str):
        raise ValueError(f"ids must be several, got one str, {ids!r}: put it into a list")
    checked = list(ids)
    return check_ids(dict.fromkeys(checked), len(set(checked)))


def check_metadata(metadata: Iterable[Metadata] | None, num_documents: int) -> list[Metadata]:
    """Copies of the metadata, one a document; a ValueError names a field that isn't a JSON scalar."""
    if metadata is None:
        return [{}] * num_documents
    checked: list[Metadata] = [dict(one) for one in metadata]
    check_lengths(num_documents, metadata=checked)
    for number, one in enumerate(checked):
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
    route_budget: int | None = None,
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
        for_texts |= {} if route_budget is None else {"route_budget": route_budget}
        for name, given in for_texts.items():
            raise ValueError(
                f"{name} applies to texts, got {given} with vectors: each array holds one query's "
                "routed views, so leave it out"
            )
        return
    if num_routes not in ("default", "auto"):
        check_num_routes(num_routes)
    if route_budget is not None:
        check_counts(route_budget=route_budget)
        if num_routes != "auto":
            raise ValueError(
                f'route_budget applies to num_routes="auto", got {route_budget} with '
                f"num_routes={num_routes!r}: leave it out"
            )
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
