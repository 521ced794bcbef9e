"""The commands that measure a checkpoint on judged data: evaluate and diagnose."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .arguments import BatchSize, DocumentRoutes, check_left_out, parse_route_list, usage

if TYPE_CHECKING:
    from ..diagnostics.diagnose import RouterDiagnostics
    from ..evaluation.evaluate import Evaluation
    from ..evaluation.nano_beir import NanoBeirEvaluation

Checkpoint = Annotated[str, typer.Argument(metavar="CHECKPOINT", help="folder, or fastlane-minilm")]
Data = Annotated[str, typer.Argument(metavar="DATA", help="BEIR folder: corpus, queries, qrels")]
Split = Annotated[
    str | None, typer.Option(metavar="NAME", help="judgements; default: the only ones, or test")
]
LimitQueries = Annotated[int | None, typer.Option(metavar="N", help="only the first N queries")]
LimitDocuments = Annotated[
    int | None, typer.Option(metavar="N", help="the judged documents, and others up to N")
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="write everything there, too")
]


def register(app: typer.Typer) -> None:
    """Adds the commands of this module to the application."""
    app.command()(evaluate)
    app.command()(diagnose)


def evaluate(
    checkpoint: Checkpoint,
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA", show_default=False, help="BEIR folder: corpus, queries, qrels"
        ),
    ] = None,
    split: Split = None,
    limit_queries: LimitQueries = None,
    limit_documents: LimitDocuments = None,
    batch_size: BatchSize = 32,
    json_file: JsonFile = None,
    routes: Annotated[
        Any,
        typer.Option(
            metavar="N,N",
            parser=usage(parse_route_list),
            help="token views of the queries: numbers, 'all'; default: 1,2,4,8,all, of NanoBEIR 1,2,all",
        ),
    ] = None,
    document_routes: DocumentRoutes = "default",
    index: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="search an index of the corpus; default: all documents"),
    ] = None,
    rerank: Annotated[
        int | None,
        typer.Option(metavar="N", help="with --index: rank the best N again by all views"),
    ] = None,
    runs: Annotated[
        Path | None, typer.Option(metavar="DIR", help="write TREC run files there")
    ] = None,
    nano_beir: Annotated[
        bool, typer.Option("--nano-beir", help="measure NanoBEIR in place of DATA")
    ] = False,
    data_sets: Annotated[
        str | None,
        typer.Option(metavar="NAME,NAME", help="with --nano-beir: some, such as msmarco,nq"),
    ] = None,
    nano_beir_data: Annotated[
        str | None,
        typer.Option(metavar="DIR|REPO", help="with --nano-beir: a copy of it; default: the Hub's"),
    ] = None,
) -> None:
    """Measures quality on judged data, by number of routes."""
    if not nano_beir:
        of_nano_beir = {
            "--data-sets": (data_sets, None),
            "--nano-beir-data": (nano_beir_data, None),
        }
        check_left_out(of_nano_beir, "is for --nano-beir")
        if data is None:
            raise typer.BadParameter("name a BEIR folder, or give --nano-beir", param_hint="DATA")
    else:
        of_a_folder = {
            "DATA": (data, None),
            "--split": (split, None),
            "--limit-queries": (limit_queries, None),
            "--limit-documents": (limit_documents, None),
            "--index": (index, None),
            "--rerank": (rerank, None),
            "--runs": (runs, None),
        }
        check_left_out(of_a_folder, "can't be given with --nano-beir")
    check_file(json_file)
    check_new_folder(runs)
    from ..loading import quiet_transformers

    quiet_transformers()
    options: dict[str, Any] = {
        "document_routes": document_routes,
        "batch_size": batch_size,
        "show_progress": True,
    }
    if routes is not None:
        options["routes"] = routes
    if data is None:
        from ..evaluation.nano_beir import run_nano_beir

        if data_sets is not None:
            options["data_sets"] = [name.strip() for name in data_sets.split(",")]
        if nano_beir_data is not None:
            options["nano_beir_data"] = nano_beir_data
        report(run_nano_beir(checkpoint, **options), json_file)
        return
    from ..evaluation.evaluate import run_evaluate

    found = run_evaluate(
        checkpoint,
        data,
        index=index,
        rerank=rerank,
        split=split,
        limit_queries=limit_queries,
        limit_documents=limit_documents,
        **options,
    )
    report(found, json_file)
    if runs is not None:
        found.write_runs(runs)


def diagnose(
    checkpoint: Checkpoint,
    data: Data,
    split: Split = None,
    limit_queries: LimitQueries = None,
    limit_documents: LimitDocuments = None,
    batch_size: BatchSize = 32,
    json_file: JsonFile = None,
) -> None:
    """Shows what a router chooses, and how good its choices are."""
    check_file(json_file)
    from ..diagnostics.diagnose import run_diagnose
    from ..loading import quiet_transformers

    quiet_transformers()
    found = run_diagnose(
        checkpoint,
        data,
        split=split,
        limit_queries=limit_queries,
        limit_documents=limit_documents,
        batch_size=batch_size,
        show_progress=True,
    )
    report(found, json_file)


def check_file(path: Path | None) -> None:
    """Checks before the long work that a file can be written.

    Raises:
        OSError: The path is a folder, its parent is missing, or one of them is read-only.
    """
    if path is None:
        return
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name a file in it")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} to")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(f"{path} can't be written: permission denied")


def check_new_folder(path: Path | None) -> None:
    """Checks before the long work that a folder is there or can be made in its parent.

    Raises:
        OSError: The path is a file, its parent is missing, or the folder can't be written.
    """
    if path is None:
        return
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path} is a file: name a folder")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to make {path.name} in")
    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise PermissionError(f"{path} can't be written: permission denied")


def report(
    found: Evaluation | NanoBeirEvaluation | RouterDiagnostics, json_file: Path | None
) -> None:
    """Prints a measurement as a table, and writes it to a JSON file if one is named."""
    print(found.render())
    if json_file is not None:
        json_file.write_text(json.dumps(found.to_dict(), indent=2) + "\n", encoding="utf-8")
