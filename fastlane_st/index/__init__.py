"""The search engine: documents as token vectors, changed, searched, saved and loaded.

Its names load when they are first used, as those of the package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .hybrid import HybridSearch
    from .index import FastLaneIndex
    from .vectors.settings import VectorSettings

__all__ = ["FastLaneIndex", "HybridSearch", "VectorSettings"]

_HOMES = {
    "FastLaneIndex": "index",
    "HybridSearch": "hybrid",
    "VectorSettings": "vectors.settings",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
