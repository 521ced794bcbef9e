"""Whether the packages of the extra `serve` are installed."""

from __future__ import annotations

from importlib.util import find_spec

SERVER = ("fastapi", "prometheus_client", "pydantic", "uvicorn")
CLIENT = ("httpx",)


def require(what: str, packages: tuple[str, ...]) -> None:
    """Raises an ImportError that names the first missing package and says how to install it."""
    for name in packages:
        if find_spec(name) is None:
            raise ImportError(f'{what} needs {name}: pip install "fastlane-st[serve]"')
