"""The module `faiss`, imported at first use: encoding and training work without it."""

from __future__ import annotations

from types import ModuleType


def import_faiss() -> ModuleType:
    """Gives the module.

    Raises:
        ImportError: FAISS isn't installed; the message says how to install it.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            'an index needs FAISS: pip install "fastlane-st[cpu]", or "fastlane-st[gpu]"'
        ) from error
    return faiss
