"""The commit protocol of an index folder: a crash at any byte leaves the last commit.

Segments never change. A commit writes the new segments, a mask of live documents for each old one that
lost some, and then the manifest `index.json`, which names all files with sizes and checksums. The commit
happens when the manifest is moved into its place: before, the folder holds the old index, and after, the
new one. Files that the manifest doesn't name are deleted last.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...lock import locked
from ..contents import IndexContents, Part
from ..context import ContextMixing
from ..encoding import DocumentRoutes
from ..long_texts import LongTexts
from ..segment import Segment
from ..vectors.settings import VectorSettings
from ..vectors.store import VectorStore
from .manifest import FORMAT, FORMAT_VERSION, MANIFEST, read_manifest, with_checksum
from .segment_files import (
    SUFFIXES,
    FileFacts,
    file_name,
    read_mask,
    read_segment,
    sync,
    verify,
    write_mask,
    write_segment,
    write_vectors,
)

LOCK = "index.lock"
SOFT_LOCK = "index.soft.lock"
NO_FOLDER_SYNC = (
    errno.EINVAL,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
)  # what fsync of a folder gives there
OWN_FILE = re.compile(
    r"(vectors|offsets|positions|places|documents)-\d{6,}\.(faiss|npy|sqlite)"
    r"|live-\d{6,}-\d{6,}\.npy|template-\d{6,}\.faiss|index\.json\.tmp|index\.(soft\.)?lock"
)


@dataclass(frozen=True)
class IndexSettings:
    """What is saved of an index besides its documents.

    Attributes:
        vectors: How vectors are found and stored.
        document_routes: Views kept of documents that are added.
        long_texts: What becomes of documents beyond the encoder's length that are added.
        checkpoint: Digests of the checkpoint that encoded the documents.
        metadata: Free keys with JSON values.
        context: What is mixed into documents' vectors; folders written before have none.
    """

    vectors: VectorSettings
    document_routes: DocumentRoutes
    long_texts: LongTexts
    checkpoint: list[str]
    metadata: dict[str, Any]
    context: ContextMixing | None = None


@dataclass(frozen=True)
class Commit:
    """What a folder held when this index was last read from it or written to it.

    Attributes:
        directory: The folder, absolute.
        generation: The number of the commit.
        checksum: Of the manifest. A folder that was built anew may have the same generation.
        numbers: Each segment's number, which its files are named by.
        masks: The file with each part's mask of live documents; None where all are live.
        template: The empty store that new segments are made like, and its file; None for a flat one.
        files: Size and checksum of all files, by name.
    """

    directory: Path
    generation: int
    checksum: str
    numbers: dict[Segment, int]
    masks: dict[Part, str | None]
    template: tuple[VectorStore, str | None] | None
    files: dict[str, FileFacts]

    def is_of(self, manifest: Mapping[str, Any] | None) -> bool:
        """Whether it is the commit that a folder's manifest tells of; None stands for no manifest."""
        return manifest is not None and bool(manifest["sha256"] == self.checksum)


@contextmanager
def write_index(
    directory: str | os.PathLike[str],
    contents: IndexContents,
    settings: IndexSettings,
    last: Commit | None,
) -> Iterator[Commit]:
    """Commits an index to a folder, which is made if need be; one writer at a time.

    The block runs once the folder holds the new commit; files of the old one are deleted after it.

    Args:
        directory: The folder.
        contents: What to save.
        settings: To be saved along.
        last: The last commit of this index, to whichever folder.

    Raises:
        FileExistsError: The folder holds other files and no index. What an interrupted first save
            left behind is no obstacle.
        BlockingIOError: Someone else is writing.
        ValueError: The folder's index is damaged or newer, or another than `last` says; or the
            metadata is not JSON.
    """
    directory = Path(directory)
    try:
        metadata = json.loads(json.dumps(settings.metadata, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata must be JSON, to be saved with the index: {error}") from error
    saved_manifest(directory)  # refuses a folder of others before anything is written
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory, directory / LOCK):
        saved = saved_manifest(directory)
        generation = 1 if saved is None else saved["generation"] + 1
        first_number = 1 if saved is None else saved["next_segment"]
        if last is None or last.directory != directory.resolve():
            last = Commit(directory.resolve(), generation - 1, "", {}, {}, None, {})
        elif not last.is_of(saved):
            raise ValueError(
                f"{directory} was changed by someone else since this index was loaded or saved; load it again"
            )
        with contents.lock:
            parts, next_place, next_id = contents.parts, contents.next_place, contents.next_id
        commit = _write_parts(last, generation, parts, first_number, contents.template)
        numbers = [commit.numbers[part.segment] for part in parts]
        described = _describe(contents.template, parts, commit)
        manifest = {
            **described,
            "next_place": next_place,
            "next_id": next_id,
            "next_segment": max([first_number - 1, *numbers]) + 1,
            "vectors": asdict(settings.vectors),
            "document_routes": settings.document_routes,
            "long_texts": settings.long_texts,
            "checkpoint": settings.checkpoint,
            "metadata": metadata,
            "context": None if settings.context is None else asdict(settings.context),
        }
        commit = replace(commit, checksum=_put_manifest(directory, manifest))
        yield commit
        _sync_directory(directory)
        for path in sorted(directory.iterdir()):
            if OWN_FILE.fullmatch(path.name) and path.name not in (*commit.files, LOCK, SOFT_LOCK):
                path.unlink()


def _describe(template: VectorStore, parts: Sequence[Part], commit: Commit) -> dict[str, Any]:
    """What the manifest says of a commit's files."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "generation": commit.generation,
        "dim": template.dim,
        "num_documents": sum(part.num_documents for part in parts),
        "num_vectors": sum(part.num_vectors for part in parts),
        "template": None if commit.template is None else commit.template[1],
        "segments": [
            {
                "number": commit.numbers[part.segment],
                "live": commit.masks[part],
                "longest": part.segment.longest,
            }
            for part in parts
        ],
        "files": commit.files,
    }


def _put_manifest(directory: Path, manifest: dict[str, Any]) -> str:
    """Makes the new files the folder's index, in one step, and gives the manifest's checksum."""
    whole = with_checksum(manifest)
    with open(directory / f"{MANIFEST}.tmp", "wb") as file:
        file.write(json.dumps(whole, indent=2).encode())
        sync(file)
    # The new files' names must be on disk before the manifest that relies on them.
    _sync_directory(directory)
    os.replace(directory / f"{MANIFEST}.tmp", directory / MANIFEST)
    checksum: str = whole["sha256"]
    return checksum


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
        manifest = read_manifest(directory)
        try:
            return _read_parts(directory, manifest, memory_map)
        except (ValueError, OSError, RuntimeError):  # the last is what FAISS raises
            # A writer may have committed meanwhile, and deleted what only the old manifest names.
            if read_manifest(directory)["sha256"] == manifest["sha256"]:
                raise


def saved_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest in a folder, None without an index; raises what `write_index` would for the folder."""
    if (directory / MANIFEST).exists():
        return read_manifest(directory)
    if directory.exists():
        foreign = sorted(
            path.name for path in directory.iterdir() if not OWN_FILE.fullmatch(path.name)
        )
        if foreign:
            raise FileExistsError(
                f"{directory} holds other files ({foreign[0]!r}) and no {MANIFEST}: "
                "give a new or empty folder, or one that an index was saved to"
            )
    return None


def _write_parts(
    last: Commit,
    generation: int,
    parts: tuple[Part, ...],
    first_number: int,
    template: VectorStore,
) -> Commit:
    """Writes the segments, masks and template that aren't in the folder yet."""
    files: dict[str, FileFacts] = {}
    if last.template is not None and last.template[0] is template:
        name = last.template[1]
        facts = None if name is None else last.files[name]
    elif template.is_plain_float32:
        name, facts = None, None
    else:
        name = f"template-{generation:06d}.faiss"
        facts = write_vectors(last.directory / name, template)
    if name is not None and facts is not None:
        files[name] = facts
    commit = Commit(last.directory, generation, "", {}, {}, (template, name), files)
    for part in parts:
        number = last.numbers.get(part.segment)
        if number is None:
            number, first_number = first_number, first_number + 1
            commit.files.update(write_segment(last.directory, number, part.segment))
        else:
            names = [file_name(which, number) for which in SUFFIXES]
            commit.files.update({name: last.files[name] for name in names})
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
    files, name = manifest["files"], manifest["template"]
    if name is None:
        template = VectorStore.flat(manifest["dim"])
    else:
        verify(directory / name, files[name])
        template = VectorStore.read(directory / name)
    commit = Commit(
        directory.resolve(),
        manifest["generation"],
        manifest["sha256"],
        {},
        {},
        (template, name),
        files,
    )
    for entry in manifest["segments"]:
        number = entry["number"]
        segment = read_segment(directory, number, files, entry["longest"], memory_map)
        part = Part.whole(segment)
        if entry["live"] is not None:
            mask = directory / entry["live"]
            part = Part(segment, read_mask(mask, files[mask.name], len(segment)))
        commit.numbers[segment] = number
        commit.masks[part] = entry["live"]
    contents = IndexContents(
        template, list(commit.masks), manifest["next_place"], manifest["next_id"]
    )
    found = {
        "num_documents": len(contents),
        "num_vectors": sum(part.num_vectors for part in contents.parts),
    }
    dims = {template.dim, *(part.segment.vectors.dim for part in contents.parts)}
    if any(manifest[key] != found[key] for key in found) or not dims <= {manifest["dim"]}:
        raise ValueError(
            f"{directory} contradicts itself: its files hold {found}, in {sorted(dims)} dimensions; "
            "build the index again"
        )
    context = manifest.get("context")
    settings = IndexSettings(
        VectorSettings(**manifest["vectors"]),
        manifest["document_routes"],
        manifest.get("long_texts", "cut"),  # as they once were
        manifest["checkpoint"],
        manifest["metadata"],
        None if context is None else ContextMixing(**context),
    )
    return contents, settings, commit


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


def map_saved(commit: Commit, contents: IndexContents) -> Commit:
    """Replaces segments that are held in memory by their files of a commit.

    Nothing is read but the small arrays. Segments that changed since the commit stay as they are.
    """
    numbers, masks = dict(commit.numbers), dict(commit.masks)
    with contents.lock:
        parts = []
        for part in contents.parts:
            number = commit.numbers.get(part.segment)
            if number is not None and part in commit.masks and not part.segment.is_mapped:
                files, longest = commit.files, part.segment.longest
                segment = read_segment(commit.directory, number, files, longest, memory_map=True)
                mapped = replace(part, segment=segment)
                del numbers[part.segment]
                numbers[segment], masks[mapped] = number, masks.pop(part)
                part = mapped
            parts.append(part)
        contents.parts = tuple(parts)
    return replace(commit, numbers=numbers, masks=masks)
