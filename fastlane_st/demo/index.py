"""The demo's index over Python's own documentation, kept in the user's cache."""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING

from ..hub import cache_folder, default_checkpoint
from ..index.index import FastLaneIndex
from ..index.storage.manifest import MANIFEST
from .python_docs import python_documents

if TYPE_CHECKING:
    from ..encoder import FastLaneEncoder


def demo_index(encoder: FastLaneEncoder) -> FastLaneIndex:
    """Loads the index over the documentation of the running Python; builds it at first use.

    An interrupted build leaves a folder without `index.json`, in which the next call builds again.

    Args:
        encoder: The encoder of `fastlane-minilm`.
    """
    name = f"demo-python-{platform.python_version()}-{default_checkpoint().name}"
    folder = cache_folder() / name
    if (folder / MANIFEST).exists():
        return FastLaneIndex.load(folder, encoder)
    documents = list(python_documents())
    print(
        f"indexing {len(documents):,} passages of Python's documentation, once, in some minutes; the index "
        f"stays in {folder}",
        file=sys.stderr,
    )
    index = encoder.build_index(
        [document.content for document in documents],
        [document.id for document in documents],
        kind="flat",
        show_progress_bar=True,
    )
    index.save(folder)
    return index
