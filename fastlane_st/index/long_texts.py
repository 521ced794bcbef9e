"""The choices for texts beyond the encoder's length; importing it is cheap, for the command line's help."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

LongTexts: TypeAlias = Literal["window", "cut", "error"]
"""What becomes of a long text: overlapping windows, its start alone, or a ValueError; see `windows`."""


def check_long_texts(long_texts: str) -> None:
    """Raises a ValueError unless this is one of `LongTexts`."""
    if long_texts not in get_args(LongTexts):
        raise ValueError(
            f'long_texts must be "window", "cut" or "error", got {long_texts!r}: "window" indexes all of '
            "a long text"
        )
