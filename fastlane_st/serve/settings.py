"""What a server runs with: its limits, its batches, its key. Nothing here needs the extra `serve`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from ..modeling.routing_fastlane import is_count

KEY_VARIABLE = "FASTLANE_API_KEY"
"""The environment variable with the API key, unless another one is named."""

SHORTEST_KEY = 16
"""Characters of a key: a shorter one is guessed."""


@dataclass(frozen=True)
class ServerSettings:
    """How a server runs.

    Attributes:
        api_key: What every request but those for `/health` must carry; None lets everyone in.
        read_only: Refuse changes.
        max_batch: Queries that are encoded and searched at once; 1 batches nothing.
        max_wait_ms: Milliseconds that a query waits for others at most. One that comes alone after one that
            came alone doesn't wait.
        max_queue: Queries that may wait; one more is answered with status 503. So many rankings and encodings
            of documents may wait as well, and so many changes.
        max_body_bytes: Size of a request's body; it sets `max_encoded`, too.
        max_texts: Queries, texts, documents or ids in a request.
        max_text_length: Characters of a text.
        max_top_k: The greatest `top_k`, `rerank` and `candidates`.

    Raises:
        ValueError: A limit that isn't positive, or a key that can't be one.
    """

    api_key: str | None = field(default=None, repr=False)
    read_only: bool = False
    max_batch: int = 32
    max_wait_ms: float = 2.0
    max_queue: int = 1024
    max_body_bytes: int = 16 * 2**20
    max_texts: int = 1000
    max_text_length: int = 200_000
    max_top_k: int = 1000

    def __post_init__(self) -> None:
        for name in (
            "max_batch",
            "max_queue",
            "max_body_bytes",
            "max_texts",
            "max_text_length",
            "max_top_k",
        ):
            if not is_count(getattr(self, name)):
                raise ValueError(f"{name} must be a positive integer, got {getattr(self, name)!r}")
        if not 0 <= self.max_wait_ms <= 1000:
            raise ValueError(
                f"max_wait_ms must be between 0 and 1000 milliseconds, got {self.max_wait_ms!r}"
            )
        if self.api_key is not None:
            check_key(self.api_key, "api_key")

    @property
    def max_encoded(self) -> int:
        """Characters of all texts of an `/encode`, and numbers of all vectors that it answers with.

        As float32 these vectors take as many bytes as a body may have.
        """
        return max(1, self.max_body_bytes // 4)

    @property
    def limits(self) -> dict[str, int]:
        """The limits of a request, by name."""
        names = ("max_body_bytes", "max_texts", "max_text_length", "max_top_k", "max_encoded")
        return {name: getattr(self, name) for name in names}


def check_key(key: str, owner: str) -> None:
    """Raises a ValueError, which doesn't show it, for a short key or one that no header can hold."""
    if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError(
            f"{owner} must hold a key of {SHORTEST_KEY} or more printable ASCII characters without spaces "
            f"(python -c 'import secrets; print(secrets.token_urlsafe())' makes one); it has {len(key)} "
            "characters"
        )


def key_from_environment(name: str | None = None) -> str | None:
    """The API key in an environment variable.

    Args:
        name: The variable. By default that is `FASTLANE_API_KEY`, and None is given if it isn't set.

    Raises:
        ValueError: The variable that is named isn't set, or what it holds can't be a key.
    """
    variable = KEY_VARIABLE if name is None else name
    key = os.environ.get(variable)
    if key is None:
        if name is None:
            return None
        raise ValueError(f"the environment variable {name} isn't set: put the API key there")
    check_key(key, f"the environment variable {variable}")
    return key
