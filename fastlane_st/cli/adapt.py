"""The command that adapts a checkpoint to a collection without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .arguments import BatchSize


def register(app: typer.Typer) -> None:
    """Adds the command of this module to the application."""
    app.command()(adapt)


def adapt(
    corpus: Annotated[
        str, typer.Argument(metavar="CORPUS", help="documents of your collection, as for 'index'")
    ],
    out: Annotated[str, typer.Option(metavar="DIR", help="folder of the new adapter")],
    model: Annotated[
        str, typer.Option(metavar="NAME", help="folder or name of the checkpoint to adapt")
    ] = "fastlane-minilm",
    other: Annotated[
        str | None,
        typer.Option(
            metavar="CORPUS",
            help="documents of another collection, to tell what was forgotten; default: Python's "
            "own documentation",
        ),
    ] = None,
    steps: Annotated[int, typer.Option(metavar="N", help="training steps")] = 150,
    max_documents: Annotated[int, typer.Option(metavar="N", help="draw so many of more")] = 2_000,
    seed: Annotated[int, typer.Option(metavar="N", help="of all draws")] = 0,
    batch_size: BatchSize = 32,
) -> None:
    """Trains an adapter for a collection of documents, without labels."""
    if Path(out).exists():
        raise ValueError(f"{out} exists: name another folder with --out")
    from ..adapt.adapt import AdaptSettings
    from ..adapt.adapt import adapt as run
    from ..data.corpus import read_corpus
    from ..loading import quiet_transformers

    quiet_transformers()
    report = run(
        model,
        read_corpus(corpus),
        out,
        other=None if other is None else read_corpus(other),
        settings=AdaptSettings(steps=steps, max_documents=max_documents, seed=seed),
        batch_size=batch_size,
        show_progress_bar=True,
    )
    print(report.render())
    print(f"wrote {out}: FastLaneEncoder({out!r}) loads it with its base")
