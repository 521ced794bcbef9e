"""The commands for checkpoints on the Hub: `push` and `inspect`."""

from __future__ import annotations

from typing import Annotated

import typer

from .display import print_json, printable
from .index import Json


def register(app: typer.Typer) -> None:
    """Adds the commands of this module to the application."""
    app.command()(push)
    app.command()(inspect)


def push(
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="checkpoint or adapter that was saved")
    ],
    repository: Annotated[str, typer.Argument(metavar="REPO", help="owner/name on the Hub")],
    private: Annotated[
        bool, typer.Option("--private", help="if the repository is new, only you see it")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(metavar="BRANCH", help="default: main; made if it isn't there")
    ] = None,
    message: Annotated[str | None, typer.Option(metavar="TEXT", help="of the commit")] = None,
) -> None:
    """Pushes a checkpoint to the Hub, as one commit."""
    from ..loading import quiet_transformers
    from ..publish.push import push as push_folder

    quiet_transformers()
    url = push_folder(directory, repository, private=private, revision=revision, message=message)
    print(f"pushed {directory}: {url}")


def inspect(
    checkpoint: Annotated[
        str, typer.Argument(metavar="REPO|DIR", help="name on the Hub, or a folder")
    ],
    revision: Annotated[
        str | None, typer.Option(metavar="REVISION", help="branch, tag or commit")
    ] = None,
    as_json: Json = False,
) -> None:
    """Shows a checkpoint's code, weights and card; runs nothing of it."""
    from ..publish.inspect import inspect as look_into

    found = look_into(checkpoint, revision)
    if as_json:
        print_json(found.to_dict())
        return
    for line in found.render().splitlines():
        print(printable(line))
