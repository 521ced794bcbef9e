"""The commands that build, change and check index folders; `search` has a module of its own."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..files import found_anywhere
from .arguments import BatchSize, DocumentRoutes, check_left_out
from .choices import Backend, Dtype, IndexCommand, kinds, long_texts, one_of, storages
from .display import log_to_stderr, print_json, printable

if TYPE_CHECKING:
    from ..data.corpus import CorpusDocument
    from ..index.index import FastLaneIndex

CHECKPOINT = "checkpoint"
"""The key of an index's metadata that names the model it was built with."""

DEFAULT_MODEL = "fastlane-minilm"

Folder = Annotated[str, typer.Argument(metavar="INDEX", help="folder that 'fastlane index' wrote")]
Corpus = Annotated[
    str,
    typer.Argument(
        metavar="CORPUS",
        help="JSONL, CSV, TSV or Parquet file, a folder of texts, or - for JSONL on standard input",
    ),
]
Model = Annotated[
    str | None, typer.Option(metavar="CHECKPOINT", help="default: the one that indexed")
]
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


LongTexts = Annotated[
    Any,
    typer.Option(
        metavar="HOW",
        parser=one_of(long_texts),
        help="what becomes of texts beyond the checkpoint's length: overlapping windows, their start "
        "alone, or an error",
    ),
]
TextColumn = Annotated[str, typer.Option(metavar="NAME", help="field of a row that holds the text")]
IdColumn = Annotated[
    str | None, typer.Option(metavar="NAME", help="field that holds the id; default: _id or id")
]


def register(app: typer.Typer) -> None:
    """Adds the commands of this module to the application."""
    app.command(cls=IndexCommand)(index)
    app.command(cls=IndexCommand)(add)
    app.command(context_settings={"ignore_unknown_options": True})(delete)  # an id may be -2
    app.command()(compact)
    app.command()(info)
    app.command()(verify)


def index(
    corpus: Corpus,
    out: Annotated[str, typer.Option(metavar="DIR", help="folder of the index")],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="folder or Hub name of the encoder; default: fastlane-minilm, to resume that of the start",
        ),
    ] = None,
    document_routes: DocumentRoutes = "default",
    long_texts: LongTexts = "window",
    kind: Annotated[
        Any,
        typer.Option(
            metavar="KIND",
            parser=one_of(kinds),
            help="how vectors are found; auto is flat, which is exact, or ivf for many",
        ),
    ] = "auto",
    storage: Annotated[
        Any,
        typer.Option(
            metavar="STORAGE",
            parser=one_of(storages),
            help="four bytes a dimension, two, one, half a byte, or a byte for eight",
        ),
    ] = "float32",
    batch_size: BatchSize = 32,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="go on with an index whose building was interrupted"),
    ] = False,
    processes: Annotated[int, typer.Option(metavar="N", help="encode in so many, on the CPU")] = 1,
    backend: Backend = "torch",
    dtype: Dtype = None,
    part: Annotated[
        str | None,
        typer.Option(metavar="K/N", help="of shards: every N-th of them, from the K-th on"),
    ] = None,
    text_column: TextColumn = "text",
    id_column: IdColumn = None,
) -> None:
    """Builds an index over a corpus or its shards.

    Shards are what 'encode' wrote.
    """
    from ..data.corpus import STANDARD_INPUT, read_corpus
    from ..index import building, windows
    from ..index.storage.manifest import read_manifest
    from ..loading import load_encoder
    from ..modeling.search_fastlane import check_counts
    from ..onnx import backend as backends
    from ..shards.index import is_shard_folder

    if is_shard_folder(corpus):
        decided = {
            "--model": (model, None),
            "--document-routes": (document_routes, "default"),
            "--long-texts": (long_texts, "window"),
            "--batch-size": (batch_size, 32),
            "--processes": (processes, 1),
            "--backend": (backend, "torch"),
            "--dtype": (dtype, None),
            "--text-column": (text_column, "text"),
            "--id-column": (id_column, None),
        }
        check_left_out(decided, f"was decided when {corpus} was encoded")
        index_of_shards(corpus, out, kind, storage, part, resume)
        return
    if part is not None:
        raise ValueError(
            f"--part is for shards that 'fastlane encode' wrote, and {corpus} isn't a folder of them"
        )
    is_there = building.check_folder(out, resume)  # before reading and encoding the corpus
    check_counts(processes=processes)
    log_to_stderr()
    # They log the kind and size of the index, long documents, and what encodes.
    for each in (building, windows, backends):
        logging.getLogger(each.__name__).setLevel(logging.INFO)
    columns: dict[str, Any] = {"text_column": text_column, "id_column": id_column}
    documents: Iterable[CorpusDocument] = read_corpus(corpus, **columns)
    if corpus == STANDARD_INPUT:
        documents = list(documents)  # can't be read twice
        num_documents = len(documents)
    else:
        num_documents = sum(1 for _ in documents)
        documents = read_corpus(corpus, **columns, log=False)
    if model is None:
        started = read_manifest(Path(out))["metadata"] if is_there else {}
        model = str(started.get(CHECKPOINT, DEFAULT_MODEL))
    encoder = load_encoder(model, backend, dtype)
    with (
        building.encoding_processes(encoder, processes) as pool,
        explained_interruption(out, "start again"),
    ):
        built = building.build_folder(
            out,
            encoder,
            documents,
            num_documents,
            num_routes=document_routes,
            long_texts=long_texts,
            kind=kind,
            storage=storage,
            metadata={CHECKPOINT: found_anywhere(model)},
            batch_size=batch_size,
            resume=resume,
            show_progress_bar=True,
            pool=pool,
        )
    print(f"{sizes(built)} in {out}")


def index_of_shards(
    shards: str, out: str, kind: Any, storage: Any, part: str | None, resume: bool
) -> None:
    """Builds an index over shards."""
    from ..shards.folder import read_manifest
    from ..shards.index import index_shards

    log_to_stderr()
    model = read_manifest(Path(shards))["settings"]["model"]
    with explained_interruption(out, "start again"):
        built = index_shards(
            shards,
            out,
            part=None if part is None else parse_part(part),
            kind=kind,
            storage=storage,
            metadata={CHECKPOINT: model},
            resume=resume,
            show_progress_bar=True,
        )
    print(f"{sizes(built)} in {out}")


def parse_part(text: str) -> tuple[int, int]:
    """K and N of "K/N"."""
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal()):
        raise ValueError(f"--part must be K/N, such as 1/4, got {text!r}")
    return int(number), int(count)


@contextmanager
def explained_interruption(folder: str, otherwise: str) -> Iterator[None]:
    """Says after Ctrl-C what of an index is kept, and how the work goes on.

    Args:
        folder: The index's folder.
        otherwise: What to do if nothing was committed.
    """
    from ..index.storage.manifest import MANIFEST, read_manifest

    try:
        yield
    except KeyboardInterrupt:
        kept = f"nothing was committed to {folder} yet: {otherwise}"
        if (Path(folder) / MANIFEST).exists():
            count = read_manifest(Path(folder))["num_documents"]
            kept = f"{count:,} documents are committed in {folder}: go on with --resume"
        print(f"fastlane: interrupted; {kept}", file=sys.stderr)
        raise


def add(
    folder: Folder,
    corpus: Corpus,
    model: Model = None,
    batch_size: BatchSize = 32,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="documents whose ids are there take their place"),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="pass over documents that are there and the same"),
    ] = False,
    long_texts: LongTexts = None,
    backend: Backend = "torch",
    dtype: Dtype = None,
    text_column: TextColumn = "text",
    id_column: IdColumn = None,
) -> None:
    """Adds the documents of a corpus to an index."""
    from ..data.corpus import read_corpus
    from ..index import windows
    from ..index.adding import add_to_folder
    from ..loading import load_encoder

    changed = load_finished(folder)
    log_to_stderr()
    logging.getLogger(windows.__name__).setLevel(logging.INFO)  # logs long documents
    documents = list(read_corpus(corpus, text_column=text_column, id_column=id_column))
    changed.encoder = load_encoder(model or model_of(changed), backend, dtype)
    with explained_interruption(folder, "add again"):
        count = add_to_folder(
            changed,
            folder,
            documents,
            replace=replace,
            resume=resume,
            long_texts=long_texts,
            batch_size=batch_size,
            show_progress_bar=True,
        )
    passed_over = f", {len(documents) - count:,} there already" if resume else ""
    print(f"{count:,} added or replaced{passed_over}: {sizes(changed)} in {folder}")


def delete(
    folder: Folder,
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="of the documents to delete")],
) -> None:
    """Deletes documents from an index."""
    changed = load_finished(folder)
    changed.delete([as_indexed(changed, id) for id in ids])
    changed.save(folder)
    print(f"{len(set(ids)):,} deleted: {sizes(changed)} in {folder}")


def compact(folder: Folder) -> None:
    """Rewrites an index without its deleted documents."""
    changed = load_finished(folder)
    before = bytes_of(folder)
    changed.compact()
    changed.save(folder)
    print(f"{sizes(changed)}, {before:,} bytes before, {bytes_of(folder):,} now")


def info(folder: Folder, as_json: Json = False) -> None:
    """Shows the size, kind and checkpoint of an index."""
    loaded = load(folder)
    digest = loaded.checkpoint[0] if loaded.checkpoint else None
    if as_json:
        print_json(
            {
                **counts(loaded),
                "dim": loaded.dim,
                "kind": loaded.vectors.kind,
                "storage": loaded.vectors.storage,
                "bytes": bytes_of(folder),
                "checkpoint": loaded.metadata.get(CHECKPOINT),
                "checkpoint_digest": digest,
                "document_routes": loaded.document_routes,
                "long_texts": loaded.long_texts,
                "metadata_fields": loaded.fields,
                **state_of(loaded),
            }
        )
        return
    facts = {
        "documents": f"{len(loaded):,}",
        "token vectors": f"{loaded.num_vectors:,} of {loaded.dim} dimensions",
        "kind, storage": f"{loaded.vectors.kind}, {loaded.vectors.storage}",
        "bytes": f"{bytes_of(folder):,}",
        "checkpoint": loaded.metadata.get(CHECKPOINT, "not named"),
        "its digest": digest or "unknown",
        "views of a document": "all" if loaded.document_routes is None else loaded.document_routes,
        "long texts": loaded.long_texts,
        "metadata fields": ", ".join(loaded.fields) or "none",
    }
    if unfinished := unfinished_note(folder, loaded):
        facts["unfinished"] = unfinished
    for name, fact in facts.items():
        print(f"{name:20} {printable(str(fact))}")


def verify(folder: Folder, as_json: Json = False) -> None:
    """Checks that every file of an index is undamaged."""
    try:
        loaded = load(folder)  # reads every file and compares its checksum
    except ValueError as error:
        if as_json:
            print_json({"index": folder, "whole": False, "problem": str(error)})
        raise
    if as_json:
        print_json({"index": folder, "whole": True, **counts(loaded), **state_of(loaded)})
        return
    print(f"{folder} is whole: {sizes(loaded)}")
    if unfinished := unfinished_note(folder, loaded):
        print(f"its building is unfinished: {unfinished}")


def state_of(index: FastLaneIndex) -> dict[str, Any]:
    """Says for JSON whether an index is finished, and if not, how many documents its corpus has."""
    from ..index.unfinished import Unfinished

    state = Unfinished.of(index)
    if state is None:
        return {"finished": True}
    return {"finished": False, "documents_in_corpus": state.num_documents}


def unfinished_note(folder: str, index: FastLaneIndex) -> str | None:
    """Says how far an unfinished index has come and how it goes on; None for a finished one."""
    from ..index.unfinished import Unfinished

    state = Unfinished.of(index)
    if state is None:
        return None
    return f"{state.summary}; go on with 'fastlane index CORPUS --out {folder} --resume'"


def load_finished(folder: str) -> FastLaneIndex:
    """Loads an index folder to change it; an unfinished one is a ValueError."""
    loaded = load(folder)
    if unfinished := unfinished_note(folder, loaded):
        raise ValueError(f"{folder} is unfinished, finish it before any change: {unfinished}")
    return loaded


def load(folder: str, memory_map: bool = False) -> FastLaneIndex:
    """Loads an index folder after checking its files; of mapped ones only the sizes."""
    from ..index.index import FastLaneIndex

    return FastLaneIndex.load(folder, memory_map=memory_map)


def model_of(index: FastLaneIndex) -> str:
    """Gives the checkpoint that built an index; an index without one is a ValueError."""
    if CHECKPOINT not in index.metadata:
        raise ValueError("this index doesn't name the model that built it: name it with --model")
    return str(index.metadata[CHECKPOINT])


def counts(index: FastLaneIndex) -> dict[str, int]:
    """Counts the documents and token vectors of an index for JSON."""
    return {"documents": len(index), "token_vectors": index.num_vectors}


def sizes(index: FastLaneIndex) -> str:
    """Describes how many documents and token vectors an index has."""
    return f"{len(index):,} documents, {index.num_vectors:,} token vectors"


def bytes_of(folder: str) -> int:
    """Sums the sizes of the files directly in a folder."""
    return sum(path.stat().st_size for path in Path(folder).iterdir() if path.is_file())


def as_indexed(index: FastLaneIndex, id: str) -> str | int:
    """Converts an id from the command line: digits are an int unless a document has them as a str."""
    is_number = id not in index and id.removeprefix("-").isdecimal()
    return int(id) if is_number else id
