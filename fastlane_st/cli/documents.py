"""The commands that show an index's documents without a model: `list` and `show`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from .display import print_json, printable
from .index import Folder, Json, as_indexed, load


def register(app: typer.Typer) -> None:
    """Adds the commands of this module to the application."""
    app.command("list")(list_documents)
    app.command(context_settings={"ignore_unknown_options": True})(show)  # an id may be -2


def list_documents(folder: Folder, as_json: Json = False) -> None:
    """Lists the ids of an index's documents, one a line."""
    for id in load(folder, memory_map=True):
        if as_json:
            print_json({"id": id})
        else:
            print(printable(str(id)))


def show(
    folder: Folder,
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="of the documents to show")],
    as_json: Json = False,
) -> None:
    """Shows the text and metadata of documents."""
    loaded = load(folder, memory_map=True)
    wanted = [as_indexed(loaded, id) for id in ids]
    found = {one.id: one for one in loaded.get(wanted)}
    for id in wanted:
        stored = found[id]
        if as_json:
            print_json({"id": stored.id, "text": stored.text, "metadata": stored.metadata})
        else:
            print("\n".join(described(stored.id, stored.text, stored.metadata)) + "\n")


def described(id: object, text: str | None, metadata: Mapping[str, Any]) -> list[str]:
    """The lines that show a document: its id, its metadata, and the lines of its text."""
    lines = [printable(str(id))]
    lines += [
        f"  {printable(name)}: {printable(json.dumps(value, ensure_ascii=False))}"
        for name, value in metadata.items()
    ]
    return lines + [f"    {printable(line)}" for line in (text or "").splitlines()]
