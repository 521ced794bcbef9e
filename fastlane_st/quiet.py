"""Loading for the command line, without the progress bars and notes of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .encoder import FastLaneEncoder


def load_encoder(name: str) -> FastLaneEncoder:
    """The encoder of a checkpoint folder or name."""
    quiet_transformers()
    from .encoder import FastLaneEncoder

    return FastLaneEncoder(name)


def quiet_transformers() -> None:
    """Keeps transformers from printing anything but errors."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
