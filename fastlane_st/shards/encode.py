"""Encodes a corpus into shards: in this process, or by the workers of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, TypeAlias

from tqdm.auto import tqdm

from ..data.rows import CorpusDocument
from ..encoder import FastLaneEncoder
from ..index.building import encoding_processes
from ..index.encoding import DocumentRoutes, Encoding
from ..index.identity import encoder_digests
from ..index.long_texts import LongTexts
from ..modeling.search_fastlane import check_counts
from ..onnx.backend import Backend, Dtype, choose
from ..stores.settings import StoreSettings, StoreStorage
from .folder import Shard, ShardFolder, ShardSettings

Engine: TypeAlias = Literal["local", "ray"]

SHARD_SIZE = 4_096


class EncodedCorpus(NamedTuple):
    """What an encoding did.

    Attributes:
        shards: All shards of the corpus, in its order.
        encoded: How many of them were encoded; the others were there.
    """

    shards: list[Shard]
    encoded: int


def encode_corpus(
    documents: Iterable[CorpusDocument],
    directory: str | os.PathLike[str],
    model: str,
    *,
    engine: Engine = "local",
    workers: int | None = None,
    gpus_per_worker: float = 0,
    num_routes: DocumentRoutes = "default",
    long_texts: LongTexts = "window",
    storage: StoreStorage = "float16",
    shard_size: int = SHARD_SIZE,
    batch_size: int = 32,
    backend: Backend = "torch",
    dtype: Dtype | None = None,
    num_documents: int | None = None,
    show_progress_bar: bool = False,
    processes: int = 1,
) -> EncodedCorpus:
    """Encodes documents into a folder of shards, which `index_shards` makes an index of.

    Shards that are there aren't encoded again: the same call goes on after an interruption, and after a
    change of the corpus encodes what has changed.

    Args:
        documents: With different ids. With Ray they are read here and handed out shard by shard.
        directory: New, or of an earlier call with the same settings. With Ray all machines see it.
        model: Checkpoint folder or Hub name, which every worker loads.
        engine: "local" encodes in this process, "ray" in actors of Ray Data: on the cluster that Ray finds by
            RAY_ADDRESS, or else on this machine.
        workers: Of Ray; as many as the cluster has room for by default.
        gpus_per_worker: Of Ray; may be a fraction.
        num_routes, long_texts: As for `FastLaneIndex.build`.
        storage: What a number of a vector is stored as.
        shard_size: Documents in a shard; each is in memory with its vectors.
        batch_size: Texts encoded at once.
        backend, dtype: As for `FastLaneEncoder`; "auto" is settled here, for all workers.
        num_documents: How many there are, for the progress bar.
        show_progress_bar: Show one.
        processes: Of "local", on the CPU.

    Raises:
        FileExistsError: The folder holds other files.
        ValueError: It holds shards of other settings, or a document can't be encoded.
        ImportError: pyarrow isn't installed, or Ray if it is asked for.
    """
    if engine not in ("local", "ray"):
        raise ValueError(f"engine must be 'local' or 'ray', got {engine!r}")
    check_counts(shard_size=shard_size, batch_size=batch_size)
    if workers is not None:
        check_counts(workers=workers)
    if engine == "local" and (workers is not None or gpus_per_worker):
        raise ValueError("workers and gpus_per_worker are Ray's: set engine='ray'")
    check_counts(processes=processes)
    if engine == "ray" and processes != 1:
        raise ValueError("processes are of engine='local': Ray has workers")
    chosen = choose(backend, dtype, "cuda" if gpus_per_worker else None)
    encoder = FastLaneEncoder(model, backend=chosen.backend, dtype=chosen.dtype)  # type: ignore[arg-type]
    dim = encoder.get_embedding_dimension()
    assert dim is not None
    vectors = StoreSettings(
        dim,
        storage=storage,
        checkpoint=tuple(encoder_digests(encoder)),
        document_routes=num_routes,
        long_texts=long_texts,
    )
    folder = ShardFolder(directory, ShardSettings(vectors, shard_size, str(model), *chosen))
    folder.prepare()
    with encoding_processes(encoder, processes) as pool:
        encoding = Encoding(encoder, num_routes, batch_size, long_texts=long_texts, pool=pool)
        bar = {"unit": "doc", "disable": not show_progress_bar}
        with tqdm(desc="Encoding", total=num_documents, **bar) as progress:
            if engine == "ray":
                names, encoded = encode_with_ray(
                    folder, documents, encoding, workers, gpus_per_worker, progress
                )
            else:
                names, encoded = encode_here(folder, documents, encoding, progress)
    if not names:
        raise ValueError("there are no documents to encode")
    encoding.long.tell()
    return EncodedCorpus(folder.finish(names), encoded)


def encode_here(
    folder: ShardFolder, documents: Iterable[CorpusDocument], encoding: Encoding, progress: Any
) -> tuple[list[str], int]:
    """Encodes the shards that are missing; the names of all, and how many were missing."""
    names, encoded = [], 0
    for name, block in folder.shards(documents):
        names.append(name)
        if not folder.path(name).exists():
            folder.encode(name, block, encoding)
            encoded += 1
        progress.update(len(block))
    return names, encoded


def encode_with_ray(
    folder: ShardFolder,
    documents: Iterable[CorpusDocument],
    encoding: Encoding,
    workers: int | None,
    gpus_per_worker: float,
    progress: Any,
) -> tuple[list[str], int]:
    """As `encode_here`, by Ray: first all missing texts are written, then they are handed out."""
    from .ray_engine import encode_waiting, import_ray

    import_ray()
    names: list[str] = []
    waiting: dict[str, int] = {}
    for name, block in folder.shards(documents):
        names.append(name)
        if folder.path(name).exists():
            progress.update(len(block))
        else:
            folder.write_waiting(name, block)
            waiting[name] = len(block)
    if waiting:
        for name in encode_waiting(folder, list(waiting), encoding, workers, gpus_per_worker):
            progress.update(waiting[name])
    return names, len(waiting)
