"""Files that are there or not, and never half; and their digests."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Lets `write` make a file beside another, and puts it on the disk and in its place.

    Several processes may do so at once: the last one's file stays.
    """
    scratch = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        write(scratch)
        with scratch.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def found_anywhere(model: str | Path) -> str:
    """A folder's absolute path, which names its model from any working directory; other names as given.

    As for `find_checkpoint`, the text `fastlane-minilm` is a name, whatever lies here, and a `Path` a folder.
    """
    from .hub import DEFAULT_CHECKPOINT  # imports torch, as whoever asks has done

    is_folder = model != DEFAULT_CHECKPOINT and Path(model).is_dir()
    return str(Path(model).absolute()) if is_folder else str(model)


def sha256_of(path: Path) -> str:
    """The digest of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
