"""An index folder: a crash leaves the last good index in it, and a damaged file is noticed.

Each save writes a new generation of four files and then replaces `index.json`, which names them
with their sizes and checksums. Before that one atomic step the folder holds the old index, after
it the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import IO, Any

import numpy as np

from .index_contents_fastlane import IndexContents, import_faiss

MANIFEST = "index.json"
FORMAT = "fastlane-index"
FORMAT_VERSION = 1
SUFFIXES = {"vectors": "faiss", "offsets": "npy", "positions": "npy", "documents": "jsonl"}
OWN_FILE = re.compile(
    r"(vectors|offsets|positions|documents)-\d{6,}\.(faiss|npy|jsonl)|index\.json\.tmp"
)


def write_contents(directory: str | os.PathLike[str], contents: IndexContents) -> None:
    """Saves `contents`, creating the folder or replacing the index in it; one writer at a time.

    Raises:
        FileExistsError: The folder holds other files and no index. What an interrupted first save
            left behind is no obstacle.
        ValueError: The folder's index is damaged or newer, or the metadata is not JSON.
    """
    directory = Path(directory)
    generation = next_generation(directory)
    try:
        metadata = json.loads(json.dumps(contents.metadata, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata must be JSON, to be saved with the index: {error}") from error
    directory.mkdir(parents=True, exist_ok=True)
    files = {}
    for part in SUFFIXES:
        name = _file_name(part, generation)
        with open(directory / name, "wb") as file:
            files[name] = _write_part(part, contents, file)
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "generation": generation,
        "dim": contents.vectors.d,
        "num_documents": len(contents.ids),
        "num_vectors": contents.vectors.ntotal,
        "metadata": metadata,
        "files": files,
    }
    manifest["sha256"] = _manifest_checksum(manifest)
    with open(directory / f"{MANIFEST}.tmp", "wb") as file:
        file.write(json.dumps(manifest, indent=2).encode())
        _sync(file)
    # The new files' names must be on disk before the manifest that relies on them.
    _sync_directory(directory)
    os.replace(directory / f"{MANIFEST}.tmp", directory / MANIFEST)
    _sync_directory(directory)
    for path in directory.iterdir():
        if OWN_FILE.fullmatch(path.name) and path.name not in files:
            path.unlink()


def read_contents(directory: str | os.PathLike[str]) -> IndexContents:
    """Reads the folder's index, after checking each file's size and checksum.

    Raises:
        FileNotFoundError: The folder is absent or holds no index.
        ValueError: A file is missing, altered or cut short, counts disagree, or the format is
            newer.
    """
    directory = Path(directory)
    manifest = _read_manifest(directory)
    paths = {part: directory / _file_name(part, manifest["generation"]) for part in SUFFIXES}
    for path in paths.values():
        _verify(path, manifest["files"][path.name])
    ids: list[str | int] = []
    texts: list[str] = []
    with open(paths["documents"], encoding="ascii", newline="\n") as lines:
        for document in map(json.loads, lines):
            ids.append(document["id"])
            if "text" in document:
                texts.append(document["text"])
    contents = IndexContents(
        vectors=import_faiss().read_index(str(paths["vectors"])),
        offsets=np.load(paths["offsets"], allow_pickle=False),
        positions=np.load(paths["positions"], allow_pickle=False),
        ids=ids,
        texts=texts or None,
        metadata=manifest["metadata"],
    )
    _check_counts(directory, manifest, contents)
    return contents


def _file_name(part: str, generation: int) -> str:
    return f"{part}-{generation:06d}.{SUFFIXES[part]}"


def next_generation(directory: Path) -> int:
    """The number of the next save into a folder; refuses a folder that `write_contents` would."""
    if (directory / MANIFEST).exists():
        generation: int = _read_manifest(directory)["generation"]
        return generation + 1
    if directory.exists():
        foreign = sorted(
            path.name for path in directory.iterdir() if not OWN_FILE.fullmatch(path.name)
        )
        if foreign:
            raise FileExistsError(
                f"{directory} holds other files ({foreign[0]!r}) and no {MANIFEST}: "
                "give a new or empty folder, or one that an index was saved to"
            )
    return 1


class _Checksummed:
    """A file that hashes what it is given: the checksum is of what was meant to be written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.bytes = 0
        self.sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.bytes += len(data)
        self.sha256.update(data)
        return self.file.write(data)


def _write_part(part: str, contents: IndexContents, file: IO[bytes]) -> dict[str, int | str]:
    output = _Checksummed(file)
    if part == "vectors":
        # Not to a path: FAISS 1.15 only prints an error that comes on closing, such as a full disk.
        faiss = import_faiss()
        faiss.write_index(contents.vectors, faiss.PyCallbackIOWriter(output.write))
    elif part == "documents":
        for number, id in enumerate(contents.ids):
            document = (
                {"id": id} if contents.texts is None else {"id": id, "text": contents.texts[number]}
            )
            output.write(json.dumps(document).encode("ascii") + b"\n")
    else:
        np.lib.format.write_array(output, getattr(contents, part), allow_pickle=False)
    _sync(file)
    return {"bytes": output.bytes, "sha256": output.sha256.hexdigest()}


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    if os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _manifest_checksum(manifest: dict[str, Any]) -> str:
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    if not path.exists():
        raise FileNotFoundError(f"{directory} is no FastLane index: it has no {MANIFEST}")
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; save the index to a new folder") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(
            f"{directory} is no FastLane index: its {MANIFEST} has no format {FORMAT!r}"
        )
    version = manifest.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ValueError(
            f"{directory} has index format {version}, this code reads up to {FORMAT_VERSION}: "
            "update fastlane-st"
        )
    if manifest.get("sha256") != _manifest_checksum(manifest):
        raise ValueError(
            f"{path} is damaged: its checksum is wrong; save the index to a new folder"
        )
    return manifest


def _verify(path: Path, expected: dict[str, int | str]) -> None:
    if not path.exists():
        raise ValueError(f"{path} is missing: copy the index again")
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise ValueError(
            f"{path} has {size} bytes, {expected['bytes']} were written: copy the index again"
        )
    sha256 = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
    if sha256.hexdigest() != expected["sha256"]:
        raise ValueError(f"{path} is damaged: its checksum is wrong; copy the index again")


def _check_counts(directory: Path, manifest: dict[str, Any], contents: IndexContents) -> None:
    found = {
        "dim": contents.vectors.d,
        "num_documents": len(contents.ids),
        "num_vectors": contents.vectors.ntotal,
    }
    if not contents.is_consistent or any(manifest[key] != found[key] for key in found):
        raise ValueError(
            f"{directory} contradicts itself: its files hold {found}, {len(contents.offsets)} "
            f"offsets and {len(contents.positions)} positions; build the index again"
        )
