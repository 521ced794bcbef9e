"""Vector stores: FastLane's documents in LanceDB, Qdrant or Milvus, searched by one route.

A routed query of one vector is a multi-vector query of one row, so that a store's own search ranks documents
by `max_j q·d_j`. Names load when they are first used, and no store's package before.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .addresses import create_store, open_store
    from .base import Store
    from .export import export_vectors
    from .lancedb import LanceStore
    from .milvus import MilvusStore
    from .qdrant import QdrantStore

__all__ = [
    "LanceStore",
    "MilvusStore",
    "QdrantStore",
    "Store",
    "create_store",
    "export_vectors",
    "open_store",
]

_HOMES = {
    "LanceStore": "lancedb",
    "MilvusStore": "milvus",
    "QdrantStore": "qdrant",
    "Store": "base",
    "create_store": "addresses",
    "export_vectors": "export",
    "open_store": "addresses",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
