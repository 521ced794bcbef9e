"""The demo: an index over Python's own documentation, kept in the user's cache."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from .hub import cache_folder, default_checkpoint
from .index.index import FastLaneIndex
from .python_docs import python_documents

if TYPE_CHECKING:
    from .encoder import FastLaneEncoder


def demo_index(encoder: FastLaneEncoder) -> FastLaneIndex:
    """The index over the documentation of the running Python, built at first use.

    `encoder` is the one of this package, `fastlane-minilm`.
    """
    name = f"demo-python-{platform.python_version()}-{default_checkpoint().name}"
    folder = cache_folder() / name
    if folder.exists():
        return FastLaneIndex.load(folder, encoder)
    documents = list(python_documents())
    index = encoder.build_index(
        [document.content for document in documents],
        [document.id for document in documents],
        kind="flat",
        show_progress_bar=True,
    )
    index.save(folder)
    return index
