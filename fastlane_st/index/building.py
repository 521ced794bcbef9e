"""Builds an index of any size in a folder: in bounded memory, and resumable where it stopped."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm

from ..data.corpus import CorpusDocument
from ..encoder import FastLaneEncoder
from ..modeling.search_fastlane import Encoder
from .encoding import DocumentRoutes
from .index import FastLaneIndex
from .storage.folder import next_generation
from .storage.manifest import MANIFEST
from .vectors.settings import Kind, Storage

UNFINISHED = "unfinished"
"""Key of an index's metadata; present until the last document is indexed."""
_ENCODED_AT_ONCE = 512


def build_folder(
    directory: str | os.PathLike[str],
    encoder: Encoder,
    documents: Iterable[CorpusDocument],
    num_documents: int,
    *,
    num_routes: DocumentRoutes = "default",
    kind: Kind | Literal["auto"] = "auto",
    storage: Storage = "float32",
    metadata: dict[str, Any] | None = None,
    batch_size: int = 32,
    commit_every: int = 10_000,
    resume: bool = False,
    show_progress_bar: bool = False,
    pool: Any = None,
) -> FastLaneIndex:
    """Encodes documents into an index that is committed every `commit_every` documents.

    What is committed stays in its files, so that memory holds only the documents since, and a commit
    costs what it adds and merges. Clusters and quantisers are fitted to the first `commit_every`
    documents.

    Args:
        directory: A new or empty folder, or with `resume` that of an unfinished index.
        encoder: Encodes the documents.
        documents: With different ids; to resume, the same ones.
        num_documents: How many there are.
        num_routes, kind, storage: As for `FastLaneIndex.build`; to resume, those of the start.
        metadata: Free keys with JSON values, saved with the index.
        batch_size: Texts encoded at once.
        commit_every: Documents between commits.
        resume: Go on with an unfinished index.
        show_progress_bar: Show one, with the time that is left.
        pool: Processes to encode in, such as `encoding_processes` starts.

    Returns:
        The index, which the folder holds whole.

    Raises:
        FileExistsError: The folder holds something else, or an index and `resume` is false.
        ValueError: There is nothing to resume, it was started with other settings, or a document
            can't be indexed.
    """
    folder = Path(directory)
    is_there = check_folder(folder, resume)
    rest = iter(documents)
    options: dict[str, Any] = {"batch_size": batch_size, "show_progress_bar": show_progress_bar}
    if pool is not None:
        options |= {"pool": pool, "chunk_size": _ENCODED_AT_ONCE}
    if is_there:
        index = FastLaneIndex.load(folder, encoder, memory_map=True)
        check_resumed(index, folder, num_routes, kind, storage)
        rest = (document for document in rest if document.id not in index)
    else:
        index = FastLaneIndex.build(
            encoder,
            **as_arguments(list(islice(rest, commit_every))),
            num_routes=num_routes,
            kind=kind,
            storage=storage,
            num_documents=num_documents,
            **options,
        )
        index.metadata = {**(metadata or {}), UNFINISHED: True}
        index.save(folder)
        index.map_saved()
    is_shown = show_progress_bar and len(index) < num_documents
    with tqdm(
        total=num_documents, initial=len(index), desc="Indexed", unit="doc", disable=not is_shown
    ) as progress:
        while chunk := list(islice(rest, commit_every)):
            # One add per commit: segments merged after a save would be written twice.
            index.add(**as_arguments(chunk), **options)
            index.save(folder)
            index.map_saved()
            progress.update(len(chunk))
    del index.metadata[UNFINISHED]
    index.save(folder)
    return index


@contextmanager
def encoding_processes(encoder: FastLaneEncoder, count: int) -> Iterator[Any]:
    """Starts processes that encode on the CPU and share its cores; gives None for a count of 1."""
    if count == 1:
        yield None
        return
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = threads or str(max(1, (os.cpu_count() or 1) // count))
    try:
        pool = encoder.start_multi_process_pool(["cpu"] * count)
    finally:
        if threads is None:
            del os.environ["OMP_NUM_THREADS"]
    try:
        yield pool
    finally:
        encoder.stop_multi_process_pool(pool)


def check_folder(directory: str | os.PathLike[str], resume: bool) -> bool:
    """Whether the folder holds an index to resume.

    Raises:
        FileExistsError: It holds other files, or an index and `resume` is false.
    """
    folder = Path(directory)
    next_generation(folder)
    is_there = (folder / MANIFEST).exists()
    if is_there and not resume:
        raise FileExistsError(
            f"{folder} holds an index: name another folder, delete this one, or resume if its building "
            "was interrupted"
        )
    return is_there


def as_arguments(documents: list[CorpusDocument]) -> dict[str, Any]:
    """The keyword arguments of `build`, `add` and `upsert` for these documents."""
    return {
        "documents": [document.content for document in documents],
        "ids": [document.id for document in documents],
        "metadata": [document.metadata for document in documents],
    }


def check_resumed(
    index: FastLaneIndex,
    folder: Path,
    num_routes: DocumentRoutes,
    kind: Kind | Literal["auto"],
    storage: Storage,
) -> None:
    """Raises a ValueError unless the index is unfinished and was started with these settings."""
    if UNFINISHED not in index.metadata:
        raise ValueError(f"{folder} holds a finished index: there is nothing to resume; use add")
    started: dict[str, Any] = {
        "num_routes": index.document_routes,
        "storage": index.vectors.storage,
    }
    given: dict[str, Any] = {"num_routes": num_routes, "storage": storage}
    if kind != "auto":
        started["kind"], given["kind"] = index.vectors.kind, kind
    if started != given:
        raise ValueError(
            f"{folder} was started with {started}, not with {given}: resume with those"
        )
