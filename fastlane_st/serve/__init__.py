"""A server over an index, and its clients; needs the extra `serve`.

Its names load when they are first used, as those of the package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .installed import SERVER, require

if TYPE_CHECKING:
    from .app import create_app
    from .client import AsyncFastLaneClient, FastLaneClient
    from .replies import ServerError
    from .settings import ServerSettings

__all__ = ["AsyncFastLaneClient", "FastLaneClient", "ServerError", "ServerSettings", "create_app"]

_HOMES = {
    "AsyncFastLaneClient": "client",
    "FastLaneClient": "client",
    "ServerError": "replies",
    "ServerSettings": "settings",
    "create_app": "app",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "create_app":
        require("a server", SERVER)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
