"""The `serve` command: an index over HTTP."""

from __future__ import annotations

import logging
import sys
from typing import Annotated, Any

import typer

from .display import log_to_stderr, printable
from .index import Folder, Model, load, model_of, sizes, unfinished_note
from .search import garbage_kept


def register(app: typer.Typer) -> None:
    """Adds the command of this module to the application."""
    app.command()(serve)


def serve(
    folder: Folder,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="where to listen; 0.0.0.0 is everywhere")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", help="where to listen; 0 takes a free one")
    ] = 8000,
    model: Model = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="environment variable that holds the API key; default: FASTLANE_API_KEY, if it is set",
        ),
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="refuse changes of the index")
    ] = False,
    memory_map: Annotated[
        bool, typer.Option("--memory-map", help="leave vectors in their files")
    ] = False,
    max_batch: Annotated[
        int, typer.Option(metavar="N", help="queries encoded at once; 1 batches nothing")
    ] = 32,
    max_wait_ms: Annotated[
        float, typer.Option(metavar="MS", help="milliseconds that a query waits for others at most")
    ] = 2.0,
    max_queue: Annotated[int, typer.Option(metavar="N", help="queries that may wait")] = 1024,
    max_body_bytes: Annotated[int, typer.Option(metavar="N", help="size of a request's body")] = 16
    * 2**20,
    max_texts: Annotated[
        int, typer.Option(metavar="N", help="queries, texts, documents or ids in a request")
    ] = 1000,
    max_text_length: Annotated[
        int, typer.Option(metavar="N", help="characters of a text")
    ] = 200_000,
    max_top_k: Annotated[
        int, typer.Option(metavar="N", help="greatest top_k, rerank and candidates")
    ] = 1000,
) -> None:
    """Serves an index over HTTP."""
    from ..serve.installed import SERVER, require
    from ..serve.settings import ServerSettings, key_from_environment

    require("a server", SERVER)
    limits: dict[str, Any] = {
        "max_batch": max_batch,
        "max_wait_ms": max_wait_ms,
        "max_queue": max_queue,
        "max_body_bytes": max_body_bytes,
        "max_texts": max_texts,
        "max_text_length": max_text_length,
        "max_top_k": max_top_k,
    }
    key = key_from_environment(api_key_env)
    try:
        settings = ServerSettings(api_key=key, read_only=read_only, **limits)
    except ValueError as error:
        name, _, rest = str(error).partition(" ")
        raise ValueError(f"--{name.replace('_', '-')} {rest}") from None
    with garbage_kept():
        from ..serve.running import BACKLOG, address_of, bound_socket, is_loopback, run

        bound = bound_socket(host, port)  # a port that is taken is said before the model is loaded
        from ..loading import load_model
        from ..serve.app import create_app

        served = load(folder, memory_map)
        served.encoder = load_model(model or model_of(served))
        app = create_app(served, folder, settings, memory_map=memory_map)
    log_to_stderr()
    logging.getLogger("fastlane_st.serve").setLevel(logging.INFO)  # a line for each request
    if unfinished := unfinished_note(folder, served):
        print(printable(f"fastlane: {folder} is unfinished: {unfinished}"), file=sys.stderr)
    if key is None and not is_loopback(bound):
        message = (
            "fastlane: there is no API key: whoever reaches this address may read and change all"
        )
        print(message, file=sys.stderr)
    bound.listen(BACKLOG)
    print(printable(f"{sizes(served)} of {folder} at {address_of(bound)}"), flush=True)
    run(app, bound)
