"""The commands that make and change index folders: index, add, delete, compact, info, verify."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .. import quiet

if TYPE_CHECKING:
    from ..data.corpus import CorpusDocument
    from ..modeling.search_fastlane import FastLaneIndex

CHECKPOINT = "checkpoint"
"""The key of an index's metadata that names the model it was built with."""


def add_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    parse_routes: Callable[[str], int | float | str | None],
) -> None:
    """Adds the parsers of these commands."""
    index = commands.add_parser("index", help="build an index over a corpus")
    add_corpus(index)
    index.add_argument("--out", metavar="DIR", required=True, help="folder of the index")
    index.add_argument("--model", metavar="CHECKPOINT", default="fastlane-minilm")
    add_document_routes(index, parse_routes)
    index.add_argument(
        "--kind",
        choices=("auto", "flat", "hnsw", "ivf"),
        default="auto",
        help="how vectors are found; auto is flat, which is exact, or ivf for many",
    )
    index.add_argument(
        "--storage",
        choices=("float32", "float16", "int8", "int4", "pq"),
        default="float32",
        help="four bytes a dimension, two, one, half a byte, or a byte for eight",
    )
    index.add_argument(
        "--resume", action="store_true", help="go on with an index whose building was interrupted"
    )
    index.add_argument(
        "--processes", type=int, metavar="N", default=1, help="encode in so many, on the CPU"
    )
    index.set_defaults(command=run_index)

    add = commands.add_parser("add", help="add the documents of a corpus to an index")
    add_folder(add)
    add_corpus(add)
    add.add_argument("--model", metavar="CHECKPOINT", help="default: the one that indexed")
    add.add_argument(
        "--replace", action="store_true", help="documents whose ids are there take their place"
    )
    add.set_defaults(command=run_add)

    delete = commands.add_parser("delete", help="delete documents from an index")
    add_folder(delete)
    delete.add_argument("ids", metavar="ID", nargs="+")
    delete.set_defaults(command=run_delete)

    compact = commands.add_parser("compact", help="write an index anew, without deleted documents")
    add_folder(compact)
    compact.set_defaults(command=run_compact)

    info = commands.add_parser("info", help="what an index holds")
    add_folder(info)
    info.set_defaults(command=run_info)

    verify = commands.add_parser("verify", help="check every file of an index")
    add_folder(verify)
    verify.set_defaults(command=run_verify)


def add_folder(parser: argparse.ArgumentParser) -> None:
    """Adds the index folder that a command is about."""
    parser.add_argument("index", metavar="INDEX", help="folder that 'fastlane index' wrote")


def add_document_routes(
    parser: argparse.ArgumentParser, parse_routes: Callable[[str], int | float | str | None]
) -> None:
    """Adds how many token views documents keep."""
    parser.add_argument(
        "--document-routes",
        type=parse_routes,
        metavar="N",
        default="default",
        help="token views kept of a document: a number, a fraction such as 0.25, or 'all'",
    )


def add_corpus(parser: argparse.ArgumentParser) -> None:
    """Adds the corpus that a command reads, and how it is encoded."""
    parser.add_argument(
        "corpus", metavar="CORPUS", help="JSONL, CSV, TSV or Parquet file, or a folder of texts"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", default=32)


def run_index(options: argparse.Namespace) -> None:
    """`fastlane index`."""
    from ..building import build_folder, check_folder, encoding_processes
    from ..data.corpus import read_corpus
    from ..modeling import search_fastlane
    from ..modeling.index_arguments_fastlane import check_counts

    check_folder(options.out, options.resume)  # before the long work
    check_counts(processes=options.processes)
    logging.basicConfig(format="%(message)s")
    logging.getLogger(search_fastlane.__name__).setLevel(logging.INFO)  # which kind, how large
    num_documents = sum(1 for _ in read_corpus(options.corpus))
    encoder = quiet.load_encoder(options.model)
    with encoding_processes(encoder, options.processes) as pool:
        index = build_folder(
            options.out,
            encoder,
            read_corpus(options.corpus),
            num_documents,
            num_routes=options.document_routes,
            kind=options.kind,
            storage=options.storage,
            metadata={CHECKPOINT: options.model},
            batch_size=options.batch_size,
            resume=options.resume,
            show_progress_bar=True,
            pool=pool,
        )
    print(f"{sizes(index)} in {options.out}")


def run_add(options: argparse.Namespace) -> None:
    """`fastlane add`."""
    from ..building import as_arguments

    index = load(options)
    documents = read(options)
    index.encoder = quiet.load_encoder(options.model or str(index.metadata.get(CHECKPOINT)))
    change = index.upsert if options.replace else index.add
    change(**as_arguments(documents), batch_size=options.batch_size, show_progress_bar=True)
    index.save(options.index)
    print(f"{len(documents):,} added or replaced: {sizes(index)} in {options.index}")


def run_delete(options: argparse.Namespace) -> None:
    """`fastlane delete`."""
    index = load(options)
    index.delete([numbered(index, id) for id in options.ids])
    index.save(options.index)
    print(f"{len(set(options.ids)):,} deleted: {sizes(index)} in {options.index}")


def run_compact(options: argparse.Namespace) -> None:
    """`fastlane compact`."""
    index = load(options)
    before = bytes_of(options.index)
    index.compact()
    index.save(options.index)
    print(f"{sizes(index)}, {before:,} bytes before, {bytes_of(options.index):,} now")


def run_info(options: argparse.Namespace) -> None:
    """`fastlane info`."""
    index = load(options)
    facts = {
        "documents": f"{len(index):,}",
        "token vectors": f"{index.num_vectors:,} of {index.dim} dimensions",
        "kind, storage": f"{index.vectors.kind}, {index.vectors.storage}",
        "bytes": f"{bytes_of(options.index):,}",
        "checkpoint": index.metadata.get(CHECKPOINT, "unknown"),
        "views of a document": "all" if index.document_routes is None else index.document_routes,
        "metadata fields": ", ".join(index.fields) or "none",
    }
    for name, fact in facts.items():
        print(f"{name:20} {fact}")


def run_verify(options: argparse.Namespace) -> None:
    """`fastlane verify`; what is wrong comes as an error."""
    index = load(options)  # reads every file and compares its checksum
    print(f"{options.index} is whole: {sizes(index)}")


def load(options: argparse.Namespace) -> FastLaneIndex:
    """The index that a command is about."""
    from ..modeling.search_fastlane import FastLaneIndex

    return FastLaneIndex.load(options.index)


def read(options: argparse.Namespace) -> list[CorpusDocument]:
    """The corpus that a command reads."""
    from ..data.corpus import read_corpus

    return list(read_corpus(options.corpus))


def sizes(index: FastLaneIndex) -> str:
    """How large an index is."""
    return f"{len(index):,} documents, {index.num_vectors:,} token vectors"


def bytes_of(folder: str) -> int:
    """How large the files of a folder are."""
    return sum(path.stat().st_size for path in Path(folder).iterdir() if path.is_file())


def numbered(index: FastLaneIndex, id: str) -> str | int:
    """The id as it is in the index: a number where only that is there."""
    is_number = id not in index and id.removeprefix("-").isdecimal()
    return int(id) if is_number else id
