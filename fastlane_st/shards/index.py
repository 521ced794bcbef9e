"""Makes an index of shards: one quantiser for all of them, then shard after shard."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm.auto import tqdm

from ..index.building import check_folder
from ..index.contents import IndexContents, Part
from ..index.index import FastLaneIndex
from ..index.segment import collect_segment
from ..index.storage.folder import IndexSettings
from ..index.unfinished import UNFINISHED, Unfinished, resumed
from ..index.vectors.settings import FloatArray, Kind, Storage, VectorSettings
from ..index.vectors.store import VectorStore
from ..stores.settings import StoreSettings
from .folder import MANIFEST, Shard, read_manifest, read_shard

SHARDS = "shards"
"""Key of an unfinished index's metadata: which shards it is made of."""
SAMPLED_SHARDS = 64


def is_shard_folder(directory: str | os.PathLike[str]) -> bool:
    """Whether `encode_corpus` wrote this folder."""
    return (Path(directory) / MANIFEST).is_file()


def index_shards(
    shards: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    part: tuple[int, int] | None = None,
    kind: Kind | Literal["auto"] = "auto",
    storage: Storage = "float32",
    metadata: dict[str, Any] | None = None,
    resume: bool = False,
    show_progress_bar: bool = False,
) -> FastLaneIndex:
    """Builds an index of the documents in a folder of shards, in bounded memory.

    Clusters and quantisers are fitted to a sample of all shards, whatever part of them is indexed. So the
    parts can be indexed on different machines, and scores of one part compare with those of another.

    Args:
        shards: A folder that `encode_corpus` has finished.
        directory: A new or empty folder, or with `resume` that of an unfinished index.
        part: (k, n) takes every n-th shard from the k-th on, counted from 1; all by default.
        kind, storage: As for `FastLaneIndex.build`; "auto" decides by the vectors of the part.
        metadata: Free keys with JSON values, saved with the index.
        resume: Go on with an index that was interrupted; it was committed after each shard.
        show_progress_bar: Show one.

    Raises:
        FileExistsError: The folder holds something else, or an index and `resume` is false.
        ValueError: The shards aren't finished or are damaged, there is nothing to resume, it was started
            with other settings or shards, or an id is in two shards.
    """
    source = Path(shards)
    manifest = read_manifest(source)
    if manifest["shards"] is None:
        raise ValueError(f"{source} isn't encoded wholly: finish it with the command that began it")
    every = [Shard(**one) for one in manifest["shards"]]
    chosen = part_of(every, part)
    settings = StoreSettings.from_json(json.dumps(manifest["settings"]["vectors"]), str(source))
    num_vectors = sum(one.vectors for one in chosen)
    vectors = VectorSettings.choose(kind, storage, num_vectors)
    state = Unfinished(
        sum(one.documents for one in chosen),
        settings.document_routes,
        kind,
        storage,
        is_fitted=True,
        long_texts=settings.long_texts,
    )
    folder = Path(directory)
    about = {**(metadata or {}), SHARDS: digest_of(every, part)}
    index: FastLaneIndex | None = None
    if check_folder(folder, resume):
        index = FastLaneIndex.load(folder, memory_map=True)
        state = resumed(index, folder, state)
        if index.metadata.get(SHARDS) != about[SHARDS]:
            raise ValueError(f"{folder} was started with other shards: name a new folder")
        template = index._contents.template
    else:
        count = vectors.sample_size(sum(one.vectors for one in every))
        template = VectorStore.fitted(
            vectors, sample_of(source, every, count, settings.dim), num_vectors
        )
    done = 0 if index is None else len(index)
    bar: dict[str, Any] = {"desc": "Indexing", "unit": "doc", "disable": not show_progress_bar}
    with tqdm(total=state.num_documents, initial=done, **bar) as progress:
        for shard in remaining(chosen, done):
            segment = collect_segment(read_shard(source / f"{shard.name}.parquet"), template)
            if index is None:
                kept = IndexSettings(
                    vectors,
                    settings.document_routes,
                    settings.long_texts,
                    list(settings.checkpoint),
                    about,
                )
                index = FastLaneIndex(IndexContents(template, [Part.whole(segment)]), kept, None)
            else:
                index._contents.insert(segment, index._contents.check_absent)
            index.metadata = {
                **about,
                UNFINISHED: {**state.to_dict(), "committed": len(index)},
            }
            index.save(folder)
            index.map_saved()
            progress.update(shard.documents)
    assert index is not None
    index.metadata = {**(metadata or {})}
    index.save(folder)
    return index


def part_of(shards: Sequence[Shard], part: tuple[int, int] | None) -> list[Shard]:
    """Every n-th shard from the k-th on, for (k, n); a ValueError if there is none."""
    number, count = part or (1, 1)
    if not 1 <= number <= count:
        raise ValueError(f"part must be k of n with 1 <= k <= n, got {number} of {count}")
    chosen = list(shards[number - 1 :: count])
    if not chosen:
        raise ValueError(f"there are {len(shards)} shards, too few for {count} parts")
    return chosen


def remaining(shards: Sequence[Shard], committed: int) -> list[Shard]:
    """The shards behind so many committed documents."""
    rest = list(shards)
    while rest and committed >= rest[0].documents:
        committed -= rest.pop(0).documents
    if committed:
        raise ValueError("the index ends within a shard: it was changed since, build it anew")
    return rest


def sample_of(folder: Path, shards: Sequence[Shard], count: int, dim: int) -> FloatArray:
    """About `count` vectors of at most `SAMPLED_SHARDS` shards, drawn alike by whoever asks."""
    chance = random.Random(0)
    drawn = chance.sample(list(shards), min(len(shards), SAMPLED_SHARDS)) if count else []
    found = [np.empty((0, dim), np.float32)]
    for shard in drawn:
        rows = [one.views.vectors for one in read_shard(folder / f"{shard.name}.parquet")]
        vectors = np.concatenate([np.empty((0, dim), np.float32), *rows])
        wanted = -(-count * len(vectors) // max(1, sum(one.vectors for one in drawn)))
        numbers = np.random.default_rng(0).permutation(len(vectors))[:wanted]
        found.append(vectors[np.sort(numbers)])
    return np.concatenate(found)


def digest_of(shards: Sequence[Shard], part: tuple[int, int] | None) -> str:
    """Identifies the shards of an index."""
    about = json.dumps([[one.name for one in shards], part])
    return hashlib.blake2b(about.encode(), digest_size=16).hexdigest()
