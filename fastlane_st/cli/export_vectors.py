"""The `export-vectors` command: documents with their vectors to a vector store or Parquet files."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .arguments import BatchSize, DocumentRoutes, check_left_out
from .choices import IndexCommand
from .display import log_to_stderr, print_json
from .index import DEFAULT_MODEL, IdColumn, Json, LongTexts, TextColumn, load, unfinished_note

if TYPE_CHECKING:
    from ..data.corpus import CorpusDocument
    from ..index.index import FastLaneIndex


def register(app: typer.Typer) -> None:
    """Adds the command of this module to the application."""
    app.command("export-vectors", cls=IndexCommand)(export_vectors)


def export_vectors(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INDEX|CORPUS",
            help="folder that 'fastlane index' wrote, or documents to encode: JSONL, CSV, TSV or Parquet "
            "file, a folder of texts",
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            metavar="TARGET",
            help="lancedb:PATH, qdrant:URL, milvus:URI or parquet:DIR; keys come from QDRANT_API_KEY and "
            "MILVUS_TOKEN",
        ),
    ],
    name: Annotated[
        str, typer.Option(metavar="NAME", help="table or collection; parquet has none")
    ] = "documents",
    model: Annotated[
        str | None,
        typer.Option(metavar="CHECKPOINT", help=f"encodes a corpus; default: {DEFAULT_MODEL}"),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="STORAGE", help="float16 or float32; default: float16, float32 in Milvus"
        ),
    ] = None,
    document_routes: DocumentRoutes = "default",
    long_texts: LongTexts = "window",
    batch_size: BatchSize = 32,
    text_column: TextColumn = "text",
    id_column: IdColumn = None,
    as_json: Json = False,
) -> None:
    """Exports documents with their vectors to a vector store. Called again, it goes on."""
    from ..index import windows
    from ..index.storage.manifest import MANIFEST
    from ..stores.export import export_vectors as export

    log_to_stderr()
    logging.getLogger(windows.__name__).setLevel(logging.INFO)  # logs long documents
    # gRPC is silent unless a program logs, and would show a traceback for what milvus-lite doesn't have.
    logging.getLogger("grpc").setLevel(logging.CRITICAL)
    options: dict[str, Any] = {"storage": storage, "show_progress_bar": True}
    given: FastLaneIndex | Iterable[CorpusDocument]
    if (Path(source) / MANIFEST).is_file():
        of_corpus = {
            "--model": (model, None),
            "--document-routes": (document_routes, "default"),
            "--long-texts": (long_texts, "window"),
            "--text-column": (text_column, "text"),
            "--id-column": (id_column, None),
        }
        check_left_out(of_corpus, f"applies to a corpus, and {source} is an index")
        given = finished(source)
    else:
        given, more = corpus(source, model, text_column, id_column)
        options |= {"num_routes": document_routes, "long_texts": long_texts, **more}
    try:
        done = export(given, to, name, batch_size=batch_size, **options)
    except KeyboardInterrupt:
        print(
            f"fastlane: interrupted; what was written to {to} stays: the same command goes on",
            file=sys.stderr,
        )
        raise
    if as_json:
        print_json({"target": to, **done._asdict()})
        return
    left_out = (
        f", {done.without_vectors:,} without vectors left out" if done.without_vectors else ""
    )
    print(f"{done.written:,} documents written to {to}, {done.there:,} there already{left_out}")


def finished(folder: str) -> FastLaneIndex:
    """Loads an index folder; an unfinished one is a ValueError."""
    loaded = load(folder, memory_map=True)
    if unfinished := unfinished_note(folder, loaded):
        raise ValueError(f"{folder} is unfinished, finish it before it is exported: {unfinished}")
    return loaded


def corpus(
    source: str, model: str | None, text_column: str, id_column: str | None
) -> tuple[Iterable[CorpusDocument], dict[str, Any]]:
    """The documents of a corpus, and the options that its export takes."""
    from ..data.corpus import STANDARD_INPUT, read_corpus
    from ..loading import load_encoder

    if source == STANDARD_INPUT:
        raise ValueError(
            "an export reads a file or folder, so that it can go on: give its name, not -"
        )
    columns: dict[str, Any] = {"text_column": text_column, "id_column": id_column}
    num_documents = sum(1 for _ in read_corpus(source, **columns))
    documents = read_corpus(source, **columns, log=False)
    return documents, {
        "encoder": load_encoder(model or DEFAULT_MODEL),
        "num_documents": num_documents,
    }
