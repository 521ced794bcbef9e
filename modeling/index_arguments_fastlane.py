"""Checks of what callers give an index; each error says what came and what to give."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Sized
from typing import Any, Literal, TypeAlias

from .routing_fastlane import check_num_routes

QueryRoutes: TypeAlias = int | Literal["default"] | None


def check_counts(**counts: object) -> None:
    """Each must be a positive integer."""
    for name, count in counts.items():
        if not isinstance(count, int) or isinstance(count, bool) or count <= 0:
            raise ValueError(f"{name} must be a positive integer, got {count!r}")


def check_lengths(num_documents: int, **given: Sized | None) -> None:
    """What is given, if it is, must have one item a document."""
    for name, items in given.items():
        if items is not None and len(items) != num_documents:
            raise ValueError(f"{name} must be {num_documents}, one a document: got {len(items)}")


def check_documents(documents: Iterable[str]) -> list[str]:
    """The texts as a list."""
    if isinstance(documents, str):
        raise ValueError("documents must be several texts, got one str: put it into a list")
    texts = list(documents)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"document {number} must be a str, got {type(text).__name__}")
    return texts


def check_ids(ids: Iterable[str | int] | None, num_documents: int) -> list[str | int]:
    """The ids as a list, 0, 1, 2, … by default: one a document, all different."""
    if num_documents == 0:
        raise ValueError("there are no documents: an index needs at least one")
    checked: list[str | int] = list(range(num_documents) if ids is None else ids)
    check_lengths(num_documents, ids=checked)
    seen = set()
    for id in checked:
        if not is_id(id):
            raise ValueError(f"an id must be a str or an int, got {id!r} ({type(id).__name__})")
        if id in seen:
            raise ValueError(f"ids must all be different, got {id!r} twice")
        seen.add(id)
    return checked


def is_id(id: object) -> bool:
    """Whether this can be an id: True would be taken for 1."""
    return isinstance(id, str | int) and not isinstance(id, bool)


def check_search(
    queries: Sequence[Any], top_k: int, num_routes: QueryRoutes, candidates: int | None
) -> None:
    """Queries all of one kind, none of them an empty text, and only options that can apply."""
    if candidates is not None:
        check_counts(candidates=candidates)
        if candidates < top_k:
            raise ValueError(f"candidates must be at least top_k={top_k}, got {candidates}")
    if queries and not any(isinstance(query, str) for query in queries):
        if num_routes != "default":
            raise ValueError(
                f"num_routes applies to texts, got {num_routes} with vectors: each array holds "
                "one query's routed views, so leave it out"
            )
        return
    if num_routes != "default":
        check_num_routes(num_routes)
    if num_routes in ("default", 1) and candidates is not None:
        raise ValueError(
            f"candidates applies to several routes, got {candidates} with num_routes=1, which is "
            "exact: leave it out"
        )
    for number, query in enumerate(queries):
        if not isinstance(query, str):
            raise ValueError(
                f"query {number} must be a str as others are, got {type(query).__name__}: search "
                "with texts and with vectors apart"
            )
        if not query.strip():
            raise ValueError(f"query {number} is empty, got {query!r}: leave it out")
