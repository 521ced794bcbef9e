"""Stores by address: lancedb:PATH, qdrant:URL, milvus:URI."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ..modeling.search_fastlane import Encoder
from .base import RETRIES, Store
from .settings import StoreSettings

FORMS = "lancedb:PATH, qdrant:URL, milvus:URI"


def create_store(
    address: str,
    settings: StoreSettings | int,
    name: str = "documents",
    *,
    encoder: Encoder | None = None,
    retries: int = RETRIES,
    **connection: Any,
) -> Store:
    """Creates a store.

    Args:
        address: `lancedb:PATH`, where the path is a folder or an object storage's URL; `qdrant:URL`, a
            server's, a folder, or `:memory:`; `milvus:URI`, a server's, or a file that ends in `.db`. Keys
            come from the environment: QDRANT_API_KEY, MILVUS_TOKEN.
        settings: What the vectors are, or their dimension alone.
        name: Of the table or collection.
        encoder: Encodes texts.
        retries: How often a call is repeated while the store can't be reached.
        **connection: For the engine's client.

    Raises:
        FileExistsError: There is such a store.
        ValueError: The address has another form.
        ConnectionError: The store can't be reached.
    """
    kind, place = engine_of(address)
    return kind.create(place, settings, name, encoder=encoder, retries=retries, **connection)


def open_store(
    address: str,
    name: str = "documents",
    *,
    encoder: Encoder | None = None,
    retries: int = RETRIES,
    **connection: Any,
) -> Store:
    """Opens a store; arguments are those of `create_store`.

    Raises:
        FileNotFoundError: There is no such store.
        ValueError: The address has another form, or the encoder is of another checkpoint or dimension.
        ConnectionError: The store can't be reached.
    """
    kind, place = engine_of(address)
    return kind.open(place, name, encoder=encoder, retries=retries, **connection)


def engine_of(address: str) -> tuple[type[Store], str]:
    """The class of an address's engine, and the rest of the address."""
    engine, colon, place = os.fspath(address).partition(":")
    if engine not in _ENGINES or not colon or not place:
        raise ValueError(f"expected a store's address ({FORMS}), got {address!r}")
    return _ENGINES[engine](), place


def _lance() -> type[Store]:
    from .lancedb import LanceStore

    return LanceStore


def _qdrant() -> type[Store]:
    from .qdrant import QdrantStore

    return QdrantStore


def _milvus() -> type[Store]:
    from .milvus import MilvusStore

    return MilvusStore


_ENGINES: dict[str, Callable[[], type[Store]]] = {
    "lancedb": _lance,
    "qdrant": _qdrant,
    "milvus": _milvus,
}
