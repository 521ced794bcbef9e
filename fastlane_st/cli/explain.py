"""The command that explains a query and a document."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .arguments import QueryRoutes
from .display import print_json
from .index import DEFAULT_MODEL


def register(app: typer.Typer) -> None:
    """Adds the command of this module to the application."""
    app.command()(explain)


def explain(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="text of the query")],
    document: Annotated[
        str,
        typer.Argument(metavar="DOCUMENT", help="text of the document, or - for standard input"),
    ],
    model: Annotated[
        str, typer.Option(metavar="CHECKPOINT", help="folder or Hub name of the encoder")
    ] = DEFAULT_MODEL,
    routes: QueryRoutes = "default",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write a page (.html) or a picture (.svg)")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Shows which words of a query and a document met."""
    if out is not None and out.suffix not in (".html", ".svg"):
        raise ValueError(f"--out must end in .html or .svg, got {out.name!r}")
    from ..explain import explain_pair
    from ..loading import load_encoder

    text = sys.stdin.read() if document == "-" else document
    found = explain_pair(load_encoder(model), query, text, routes)
    if out is not None:
        found.save(out)
    if as_json:
        print_json(found.to_dict())
    else:
        print(found.to_text())
    if out is not None and not as_json:
        print(f"wrote {out}")
