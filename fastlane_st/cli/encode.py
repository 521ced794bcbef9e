"""The `encode` command: a corpus to shards of routed vectors, by this process, several, or a Ray cluster."""

from __future__ import annotations

import logging
import sys
from typing import Annotated, Any

import typer

from ..files import found_anywhere
from .arguments import BatchSize, DocumentRoutes
from .choices import Backend, Dtype, IndexCommand, one_of
from .display import log_to_stderr, print_json
from .index import DEFAULT_MODEL, IdColumn, Json, LongTexts, TextColumn

SHARD_SIZE = 4_096  # that of `shards.encode`, which isn't imported for --help


def register(app: typer.Typer) -> None:
    """Adds the command of this module to the application."""
    app.command(cls=IndexCommand)(encode)


def encode(
    corpus: Annotated[
        str,
        typer.Argument(
            metavar="CORPUS", help="JSONL, CSV, TSV or Parquet file, or a folder of texts"
        ),
    ],
    out: Annotated[str, typer.Option(metavar="DIR", help="folder of the shards")],
    model: Annotated[
        str, typer.Option(metavar="CHECKPOINT", help="folder or Hub name of the encoder")
    ] = DEFAULT_MODEL,
    engine: Annotated[
        Any,
        typer.Option(
            metavar="ENGINE",
            parser=one_of(lambda: ("local", "ray")),
            help="local, or ray: the cluster of RAY_ADDRESS, or else this machine's cores",
        ),
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="of Ray; default: as many as there is room for")
    ] = None,
    gpus_per_worker: Annotated[
        float, typer.Option(metavar="N", help="of Ray; may be a fraction")
    ] = 0,
    processes: Annotated[
        int, typer.Option(metavar="N", help="of the local engine, on the CPU")
    ] = 1,
    document_routes: DocumentRoutes = "default",
    long_texts: LongTexts = "window",
    storage: Annotated[
        Any,
        typer.Option(
            metavar="STORAGE",
            parser=one_of(lambda: ("float16", "float32")),
            help="of a vector's numbers",
        ),
    ] = "float16",
    shard_size: Annotated[int, typer.Option(metavar="N", help="documents in a file")] = SHARD_SIZE,
    batch_size: BatchSize = 32,
    backend: Backend = "torch",
    dtype: Dtype = None,
    text_column: TextColumn = "text",
    id_column: IdColumn = None,
    as_json: Json = False,
) -> None:
    """Encodes a corpus into shards of vectors.

    'index' makes an index of them. Called again, it goes on.
    """
    from ..data.corpus import STANDARD_INPUT, read_corpus
    from ..index import windows
    from ..loading import quiet_transformers
    from ..onnx import backend as backends
    from ..shards.encode import encode_corpus

    if corpus == STANDARD_INPUT:
        raise ValueError("a file or folder can be read again to go on: give its name, not -")
    quiet_transformers()
    log_to_stderr()
    for each in (windows, backends):  # they log long documents, and what encodes
        logging.getLogger(each.__name__).setLevel(logging.INFO)
    columns: dict[str, Any] = {"text_column": text_column, "id_column": id_column}
    num_documents = sum(1 for _ in read_corpus(corpus, **columns))
    try:
        done = encode_corpus(
            read_corpus(corpus, **columns, log=False),
            out,
            found_anywhere(model),
            engine=engine,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            processes=processes,
            num_routes=document_routes,
            long_texts=long_texts,
            storage=storage,
            shard_size=shard_size,
            batch_size=batch_size,
            backend=backend,
            dtype=dtype,
            num_documents=num_documents,
            show_progress_bar=True,
        )
    except KeyboardInterrupt:
        print(
            f"fastlane: interrupted; finished shards in {out} stay: the same command goes on",
            file=sys.stderr,
        )
        raise
    vectors = sum(one.vectors for one in done.shards)
    there = len(done.shards) - done.encoded
    if as_json:
        print_json(
            {
                "documents": num_documents,
                "vectors": vectors,
                "encoded": done.encoded,
                "there": there,
            }
        )
        return
    print(
        f"{num_documents:,} documents, {vectors:,} token vectors in {len(done.shards):,} shards in {out}, "
        f"{there:,} there already"
    )
