"""The files of one segment: written with checksums, which are verified before they are read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ...files import sha256_of
from ..segment import BoolArray, Segment
from ..vectors.store import VectorStore
from .document_file import DocumentFile, write_document_file

FileFacts: TypeAlias = dict[str, int | str]
"""Size and sha256 of a file: `{"bytes": …, "sha256": …}`."""
SUFFIXES = {
    "vectors": "faiss",
    "offsets": "npy",
    "positions": "npy",
    "places": "npy",
    "documents": "sqlite",
}

LARGE = ("vectors", "positions", "documents")
"""Parts that stay in their files when an index is memory-mapped."""


class Output(Protocol):
    """Anything with a file's `write`."""

    def write(self, data: bytes, /) -> int:
        """Writes bytes and returns their number."""


def file_name(part: str, number: int) -> str:
    """The name of a part's file, such as `vectors-000003.faiss`."""
    return f"{part}-{number:06d}.{SUFFIXES[part]}"


def write_segment(directory: Path, number: int, segment: Segment) -> dict[str, FileFacts]:
    """Writes and fsyncs a segment's files; gives size and sha256 by file name."""
    writers: dict[str, Callable[[Output], None]] = {
        "vectors": lambda output: segment.vectors.write(output.write),
        "offsets": lambda output: _write_array(segment.offsets, output),
        "positions": lambda output: _write_array(segment.positions, output),
        "places": lambda output: _write_array(segment.places, output),
    }
    names = {part: file_name(part, number) for part in SUFFIXES}
    facts = {names[part]: write_file(directory / names[part], writers[part]) for part in writers}
    documents = directory / names["documents"]
    write_document_file(documents, segment.documents)
    return {**facts, documents.name: sync_and_hash(documents)}


def write_mask(path: Path, is_live: BoolArray) -> FileFacts:
    """Writes a mask of live documents, (num_documents,) bool, packed to bits."""
    return write_file(path, lambda output: _write_array(np.packbits(is_live), output))


def write_vectors(path: Path, store: VectorStore) -> FileFacts:
    """Writes a store to a file of its own."""
    return write_file(path, lambda output: store.write(output.write))


def write_file(path: Path, write: Callable[[Output], None]) -> FileFacts:
    """Writes and fsyncs a file; the checksum is of what was meant to be written."""
    with open(path, "wb") as file:
        output = _Checksummed(file)
        write(output)
        sync(file)
    return {"bytes": output.bytes, "sha256": output.sha256.hexdigest()}


def read_segment(
    directory: Path,
    number: int,
    files: dict[str, FileFacts],
    longest: float,
    memory_map: bool = False,
) -> Segment:
    """Reads a segment after checking its files.

    Args:
        directory: Where they are.
        number: The segment's.
        files: Size and checksum of each, by name.
        longest: The length of the longest vector.
        memory_map: Leave vectors and positions in their files. Of these and of the documents only
            the sizes are checked.

    Raises:
        ValueError: A file is missing, altered or cut short, or they contradict each other.
    """
    names = {part: file_name(part, number) for part in SUFFIXES}
    paths = {part: directory / name for part, name in names.items()}
    for part, path in paths.items():
        verify(path, files[path.name], size_only=memory_map and part in LARGE)
    segment = Segment(
        vectors=VectorStore.read(paths["vectors"], memory_map),
        offsets=np.load(paths["offsets"], allow_pickle=False),
        positions=np.load(paths["positions"], "r" if memory_map else None, allow_pickle=False),
        documents=DocumentFile(paths["documents"]),
        places=np.load(paths["places"], allow_pickle=False),
        known_longest=longest,
        is_mapped=memory_map,
    )
    if not segment.is_consistent:
        raise ValueError(
            f"the files {', '.join(sorted(path.name for path in paths.values()))} contradict each "
            "other; build the index again"
        )
    return segment


def read_mask(path: Path, facts: FileFacts, num_documents: int) -> BoolArray:
    """Reads a mask that `write_mask` wrote, after verifying the file."""
    verify(path, facts)
    packed = np.load(path, allow_pickle=False)
    if packed.dtype != np.uint8 or packed.shape != ((num_documents + 7) // 8,):
        raise ValueError(f"{path} is not of {num_documents} documents; build the index again")
    return np.unpackbits(packed, count=num_documents).astype(bool)


def verify(path: Path, expected: FileFacts, size_only: bool = False) -> None:
    """Raises a ValueError unless the file, or at least its size, is what was written."""
    if not path.exists():
        raise ValueError(f"{path} is missing: copy the index again")
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise ValueError(
            f"{path} has {size} bytes, {expected['bytes']} were written: copy the index again"
        )
    if size_only:
        return
    if sha256_of(path) != expected["sha256"]:
        raise ValueError(f"{path} is damaged: its checksum is wrong; copy the index again")


def sync_and_hash(path: Path) -> FileFacts:
    """Fsyncs a file that something else wrote; gives its size and sha256."""
    with open(path, "rb+") as file:
        sync(file)
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def sync(file: IO[bytes]) -> None:
    """Flushes and fsyncs a file."""
    file.flush()
    os.fsync(file.fileno())


class _Checksummed:
    """A file that hashes what is written to it, and counts the bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.bytes = 0
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.bytes += len(data)
        self.sha256.update(data)
        return self.file.write(data)


def _write_array(array: npt.NDArray[Any], output: Output) -> None:
    np.lib.format.write_array(output, array, allow_pickle=False)
