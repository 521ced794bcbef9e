"""An index folder: a crash leaves the last commit in it, and a damaged file is noticed.

Segments never change, so a commit writes the new ones, which documents of the others are still live,
and then `index.json`, which names all files with their sizes and checksums. Before that one is
moved into its place the folder holds the old index, after it the new one. Files that it doesn't name
are deleted last.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from .incoming_fastlane import DocumentRoutes
from .index_contents_fastlane import IndexContents, Part
from .segment_fastlane import Segment
from .segment_files_fastlane import (
    SUFFIXES,
    FileFacts,
    file_name,
    read_mask,
    read_segment,
    read_vectors,
    sync,
    verify,
    write_mask,
    write_segment,
    write_vectors,
)
from .vector_index_fastlane import VectorIndex, VectorSettings, flat_index, is_flat

MANIFEST = "index.json"
LOCK = "index.lock"
SOFT_LOCK = "index.soft.lock"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # what flock gives where there are none
NO_FOLDER_SYNC = (
    errno.EINVAL,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
)  # what fsync of a folder gives there
FORMAT = "fastlane-index"
FORMAT_VERSION = 3  # 2: ivf without fast scan, no longest; 1: one segment
OWN_FILE = re.compile(
    r"(vectors|offsets|positions|places|documents)-\d{6,}\.(faiss|npy|jsonl)"
    r"|live-\d{6,}-\d{6,}\.npy|empty-\d{6,}\.faiss|index\.json\.tmp|index\.(soft\.)?lock"
)


@dataclass(frozen=True)
class IndexSettings:
    """What is saved of an index besides its documents.

    Attributes:
        vectors: How vectors are found and stored.
        document_routes: Views kept of documents that are added.
        checkpoint: Digests of the checkpoint that encoded the documents.
        metadata: Free keys with JSON values.
    """

    vectors: VectorSettings
    document_routes: DocumentRoutes
    checkpoint: list[str]
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Commit:
    """What a folder held when it was read or written: later commits leave that as it is.

    Attributes:
        directory: The folder, absolute.
        generation: The number of the commit.
        numbers: Of the segments.
        masks: The file that says what of a part is live; None where all of it is.
        empty: What holds the vectors of new segments, and its file; None for a flat one.
        files: Size and checksum of all files, by name.
    """

    directory: Path
    generation: int
    numbers: dict[Segment, int]
    masks: dict[Part, str | None]
    empty: tuple[VectorIndex, str | None] | None
    files: dict[str, FileFacts]


def write_index(
    directory: str | os.PathLike[str],
    contents: IndexContents,
    settings: IndexSettings,
    last: Commit | None,
    committed: Callable[[Commit], None],
) -> None:
    """Commits an index to a folder, which is made if need be; one writer at a time.

    Args:
        directory: The folder.
        contents: What to save.
        settings: To be saved along.
        last: The last commit of this index, to whichever folder.
        committed: Called with this commit once it is what the folder holds; what fails after that
            only leaves old files behind.

    Raises:
        FileExistsError: The folder holds other files and no index. What an interrupted first save
            left behind is no obstacle.
        BlockingIOError: Someone else is writing.
        ValueError: The folder's index is damaged or newer, or has another generation than `last`
            says; or the metadata is not JSON.
    """
    directory = Path(directory)
    try:
        metadata = json.loads(json.dumps(settings.metadata, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata must be JSON, to be saved with the index: {error}") from error
    next_generation(directory)  # refuses a folder of others before anything is written
    directory.mkdir(parents=True, exist_ok=True)
    with _writing(directory):
        generation, first_number = next_generation(directory), _next_number(directory)
        if last is None or last.directory != directory.resolve():
            last = Commit(directory.resolve(), generation - 1, {}, {}, None, {})
        if last.generation != generation - 1:
            raise ValueError(
                f"{directory} was changed by someone else since this index was loaded or saved: it has "
                f"generation {generation - 1}, not {last.generation}; load it again"
            )
        with contents.lock:
            parts, next_place, next_id = contents.parts, contents.next_place, contents.next_id
        commit = _write_parts(last, generation, parts, first_number, contents.empty)
        numbers = [commit.numbers[part.segment] for part in parts]
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "generation": generation,
            "dim": contents.empty.d,
            "num_documents": sum(part.num_documents for part in parts),
            "num_vectors": sum(part.num_vectors for part in parts),
            "next_place": next_place,
            "next_id": next_id,
            "next_segment": max([first_number - 1, *numbers]) + 1,
            "vectors": asdict(settings.vectors),
            "empty": commit.empty[1] if commit.empty is not None else None,
            "document_routes": settings.document_routes,
            "checkpoint": settings.checkpoint,
            "metadata": metadata,
            "segments": [
                {
                    "number": number,
                    "live": commit.masks[part],
                    "longest": part.segment.longest,
                }
                for number, part in zip(numbers, parts, strict=True)
            ],
            "files": commit.files,
        }
        manifest["sha256"] = _manifest_checksum(manifest)
        with open(directory / f"{MANIFEST}.tmp", "wb") as file:
            file.write(json.dumps(manifest, indent=2).encode())
            sync(file)
        # The new files' names must be on disk before the manifest that relies on them.
        _sync_directory(directory)
        os.replace(directory / f"{MANIFEST}.tmp", directory / MANIFEST)
        committed(commit)
        _sync_directory(directory)
        for path in sorted(directory.iterdir()):
            if OWN_FILE.fullmatch(path.name) and path.name not in (*commit.files, LOCK, SOFT_LOCK):
                path.unlink()


def read_index(
    directory: str | os.PathLike[str], memory_map: bool = False
) -> tuple[IndexContents, IndexSettings, Commit]:
    """Reads the folder's index, after checking each file's size and checksum.

    Raises:
        FileNotFoundError: The folder is absent or holds no index.
        ValueError: A file is missing, altered or cut short, counts disagree, or the format is
            newer.
    """
    directory = Path(directory)
    while True:
        manifest = _read_manifest(directory)
        try:
            return _read_parts(directory, manifest, memory_map)
        except (ValueError, OSError, RuntimeError):  # the last is what FAISS raises
            # A writer may have committed meanwhile, and deleted what only the old manifest names.
            if _read_manifest(directory)["generation"] == manifest["generation"]:
                raise


def next_generation(directory: Path) -> int:
    """The number of the next commit to a folder; refuses a folder that `write_index` would."""
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


def _next_number(directory: Path) -> int:
    """The number of the next new segment."""
    if not (directory / MANIFEST).exists():
        return 1
    manifest = _read_manifest(directory)
    number: int = manifest.get("next_segment", manifest["generation"] + 1)
    return number


def _write_parts(
    last: Commit,
    generation: int,
    parts: tuple[Part, ...],
    first_number: int,
    empty: VectorIndex,
) -> Commit:
    """Writes what of the parts, and of the empty index, isn't in the folder yet."""
    files: dict[str, FileFacts] = {}
    if last.empty is not None and last.empty[0] is empty:
        name = last.empty[1]
        facts = None if name is None else last.files[name]
    elif is_flat(empty):
        name, facts = None, None
    else:
        name = f"empty-{generation:06d}.faiss"
        facts = write_vectors(last.directory / name, empty)
    if name is not None and facts is not None:
        files[name] = facts
    commit = Commit(last.directory, generation, {}, {}, (empty, name), files)
    for part in parts:
        number = last.numbers.get(part.segment)
        if number is None:
            number, first_number = first_number, first_number + 1
            commit.files.update(write_segment(last.directory, number, part.segment))
        else:
            # A segment of the first format has no places.
            names = [file_name(which, number) for which in SUFFIXES]
            commit.files.update({name: last.files[name] for name in names if name in last.files})
        commit.numbers[part.segment] = number
        if part in last.masks:
            mask = last.masks[part]
            facts = None if mask is None else last.files[mask]
        elif part.is_live.all():
            mask, facts = None, None
        else:
            mask = f"live-{generation:06d}-{number:06d}.npy"
            facts = write_mask(last.directory / mask, part.is_live)
        commit.masks[part] = mask
        if mask is not None and facts is not None:
            commit.files[mask] = facts
    return commit


def _read_parts(
    directory: Path, manifest: dict[str, Any], memory_map: bool
) -> tuple[IndexContents, IndexSettings, Commit]:
    files = manifest["files"]
    if manifest["format_version"] == 1:
        segments = [{"number": manifest["generation"], "live": None}]
    else:
        segments = manifest["segments"]
    name = manifest.get("empty")
    if name is None:
        empty = flat_index(manifest["dim"])
    else:
        verify(directory / name, files[name])
        empty = read_vectors(directory / name)
    commit = Commit(directory.resolve(), manifest["generation"], {}, {}, (empty, name), files)
    for entry in segments:
        number, longest = entry["number"], entry.get("longest")
        segment = read_segment(directory, number, files, longest, memory_map)
        part = Part.whole(segment)
        if entry["live"] is not None:
            mask = directory / entry["live"]
            part = Part(segment, read_mask(mask, files[mask.name], len(segment.ids)))
        commit.numbers[segment] = entry["number"]
        commit.masks[part] = entry["live"]
    contents = IndexContents(
        empty,
        list(commit.masks),
        manifest.get("next_place"),
        manifest.get("next_id"),
    )
    found = {
        "num_documents": len(contents),
        "num_vectors": sum(part.num_vectors for part in contents.parts),
    }
    dims = {empty.d, *(part.segment.vectors.d for part in contents.parts)}
    if any(manifest[key] != found[key] for key in found) or not dims <= {manifest["dim"]}:
        raise ValueError(
            f"{directory} contradicts itself: its files hold {found}, in {sorted(dims)} dimensions; "
            "build the index again"
        )
    settings = IndexSettings(
        VectorSettings(**manifest.get("vectors", {})),
        manifest.get("document_routes", "default"),
        manifest.get("checkpoint", []),
        manifest["metadata"],
    )
    return contents, settings, commit


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    """Holds the folder's lock, which ends with the process at the latest.

    A file system without locks (some network and FUSE folders) gets a lock file with the writer's process id
    in it, which a later writer takes over once that process is gone.
    """
    lock: BaseFileLock = FileLock(directory / LOCK, timeout=0, fallback_to_soft=False)
    try:
        try:
            lock.acquire()
        except OSError as error:
            if isinstance(error, Timeout) or error.errno not in NO_LOCKS:
                raise
            lock = SoftFileLock(directory / SOFT_LOCK, timeout=0)
            lock.acquire()
    except Timeout as error:
        raise BlockingIOError(
            f"{directory} is being written by someone else: try again later"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _sync_directory(directory: Path) -> None:
    if os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDER_SYNC:
            raise
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
            f"{path} has index format {version}, this code reads up to {FORMAT_VERSION}: "
            "update fastlane-st"
        )
    if manifest.get("sha256") != _manifest_checksum(manifest):
        raise ValueError(
            f"{path} is damaged: its checksum is wrong; save the index to a new folder"
        )
    return manifest
