"""The command that puts routes onto a late-interaction checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..files import found_anywhere
from .arguments import BatchSize
from .choices import one_of
from .index import CHECKPOINT, load_finished

if TYPE_CHECKING:
    from ..index.index import FastLaneIndex
    from ..modeling.projection_fastlane import Context

CONTEXTS = ("none", "window", "document", "both")


def register(app: typer.Typer) -> None:
    """Adds the command of this module to the application."""
    app.command()(retrofit)


def retrofit(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="late-interaction checkpoint: a folder, or a name on the Hub"
        ),
    ],
    out: Annotated[str, typer.Option(metavar="DIR", help="folder of the new checkpoint")],
    corpus: Annotated[
        str | None, typer.Option(metavar="DOCS", help="documents to train on, as for 'index'")
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(metavar="PAIRS", help='JSONL of {"query", "positive"} to train on'),
    ] = None,
    index: Annotated[
        str | None,
        typer.Option(
            metavar="INDEX",
            help="index of the checkpoint's vectors: trained on without encoding, and written as DIR-index",
        ),
    ] = None,
    context: Annotated[
        Any,
        typer.Option(
            metavar="CONTEXT",
            parser=one_of(lambda: CONTEXTS),
            help="none leaves documents' vectors untouched; window, document or both mix them",
        ),
    ] = "none",
    layers: Annotated[int, typer.Option(metavar="N", help="route layers of a query")] = 2,
    steps: Annotated[
        int, typer.Option(metavar="N", help="training steps; 0 leaves the routes untrained")
    ] = 2_000,
    max_documents: Annotated[int, typer.Option(metavar="N", help="draw so many of more")] = 50_000,
    batch_size: BatchSize = 32,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on with a run that was stopped")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="run the checkpoint's own code")
    ] = False,
) -> None:
    """Puts routes onto a late-interaction checkpoint."""
    if corpus is None and pairs is None and index is None:
        raise ValueError("there is nothing to train on: give --corpus, --pairs or --index")
    from ..index.storage.manifest import MANIFEST

    folder = Path(out)
    routed_index = folder.with_name(f"{folder.name}-index")
    if index is not None and (routed_index / MANIFEST).exists():
        raise ValueError(f"{routed_index} exists: name another folder with --out")
    from ..data.corpus import read_corpus
    from ..loading import quiet_transformers
    from ..retrofit.queries import read_pairs
    from ..retrofit.retrofit import retrofit as run
    from ..retrofit.training import RouteTraining

    quiet_transformers()
    existing = None if index is None else load_finished(index)
    mixed = None if context == "none" else context
    if existing is not None and resume and folder.exists():  # stopped while it wrote the index
        write_index(existing, folder, routed_index, mixed)
        return
    report = run(
        model,
        folder,
        () if corpus is None else read_corpus(corpus),
        () if pairs is None else read_pairs(pairs),
        index=existing,
        context=mixed,
        num_route_layers=layers,
        training=RouteTraining(steps=steps),
        max_documents=max_documents,
        batch_size=batch_size,
        resume=resume,
        trust_remote_code=trust_remote_code,
        show_progress_bar=True,
    )
    print(report.render())
    print(f"wrote {folder}")
    if existing is not None:
        write_index(existing, folder, routed_index, mixed)


def write_index(
    existing: FastLaneIndex, folder: Path, routed_index: Path, context: Context | None
) -> None:
    """Writes an index of the checkpoint's vectors as one of its retrofit."""
    from ..encoder import FastLaneEncoder
    from ..retrofit.existing import adopt

    adopted = adopt(existing, FastLaneEncoder(folder), context)
    adopted.metadata[CHECKPOINT] = found_anywhere(folder)
    adopted.save(routed_index)
    print(f"wrote {routed_index}: fastlane search {routed_index} QUERY")
