"""FastLane: late-interaction retrieval at the price of a dense index.

Importing this package is cheap: torch, transformers and faiss load when a name is first used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .encoder import FastLaneEncoder
    from .index.index import FastLaneIndex
    from .modeling.configuration_fastlane import FastLaneConfig
    from .modeling.modeling_fastlane import FastLaneModel
    from .modeling.search_fastlane import Hit, Match

__all__ = ["FastLaneConfig", "FastLaneEncoder", "FastLaneIndex", "FastLaneModel", "Hit", "Match"]
__version__ = version("fastlane-st")

_HOMES = {
    "FastLaneConfig": "modeling.configuration_fastlane",
    "FastLaneEncoder": "encoder",
    "FastLaneIndex": "index.index",
    "FastLaneModel": "modeling.modeling_fastlane",
    "Hit": "modeling.search_fastlane",
    "Match": "modeling.search_fastlane",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in ("FastLaneConfig", "FastLaneModel"):
        import_module(f"{__name__}.loading")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
