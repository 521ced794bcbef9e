"""The `fastlane` command: its subcommands, and the exit codes of their errors."""

from __future__ import annotations

import logging
import os
import select
import shutil
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from . import (
    adapt,
    documents,
    encode,
    explain,
    export_vectors,
    index,
    measure,
    publish,
    retrofit,
    search,
    serve,
)
from .arguments import QueryRoutes, TopK
from .choices import Backend, Dtype, one_of
from .display import log_to_stderr, printable
from .words import in_options

PROBLEM = 1
WRONG_USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT
CLOSED_PIPE = 141  # 128 + SIGPIPE


class Commands(TyperGroup):
    """The command group: an error of a command becomes one line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> None:
        try:
            super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except (ValueError, OSError, ImportError) as error:
            if isinstance(error, BrokenPipeError) and is_stdout_closed():
                raise typer.Exit(CLOSED_PIPE) from None
            said = in_options(str(error), ctx.invoked_subcommand)
            message = "\n".join(map(printable, said.splitlines()))
            print(f"fastlane: {message}", file=sys.stderr)
            raise typer.Exit(PROBLEM) from None


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command that the arguments name; without arguments, those of the process.

    Returns:
        The exit code: 0, 1 for a problem that the message names, 130 after Ctrl-C, 141 if the reader
        of the output has closed the pipe.

    Raises:
        SystemExit: The arguments are wrong; the code is 2.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")  # print what an encoding lacks as escapes
    columns = min(shutil.get_terminal_size().columns, 100)
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        app(given, prog_name="fastlane", terminal_width=max(columns - 2, 30))
    except SystemExit as end:
        if end.code == WRONG_USAGE:
            raise
        return int(end.code or 0)
    return 0


def is_stdout_closed() -> bool:
    """Whether the reader of stdout has closed the pipe; if so, sends the rest to /dev/null."""
    try:
        sys.stdout.flush()
        if not hasattr(select, "poll"):  # Windows
            return False
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        is_closed = any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
    except BrokenPipeError:
        is_closed = True
    except (OSError, ValueError):  # stdout has no file descriptor, as in a test
        return False
    if is_closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return is_closed


def print_version(is_asked: bool) -> None:
    """Prints the version and exits if `--version` was given."""
    if is_asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def fastlane(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="print the version"),
    ] = False,
) -> None:
    """Routed late-interaction search."""


@app.command()
def export(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="a new or empty folder")],
    code_from: Annotated[
        str | None,
        typer.Option(
            metavar="REPO@COMMIT",
            help="use the source files of owner/repo at a commit; default: write copies",
        ),
    ] = None,
    onnx: Annotated[
        bool,
        typer.Option(
            "--onnx", help="write the model as one graph too; DIR may be a checkpoint then"
        ),
    ] = False,
    quantize: Annotated[
        Any,
        typer.Option(
            metavar="DTYPE", parser=one_of(lambda: ("int8",)), help="of the graph; default: float32"
        ),
    ] = None,
) -> None:
    """Writes the model of this package as a Hub folder."""
    from .. import hub
    from ..loading import is_fastlane, quiet_transformers

    quiet_transformers()
    if quantize is not None and not onnx:
        raise ValueError("--quantize is for a graph: give --onnx as well")
    is_there = onnx and is_fastlane(Path(directory) / "config.json")
    if is_there and code_from is not None:
        raise ValueError(f"--code-from is for a new folder, and {directory} holds a checkpoint")
    if not is_there:
        try:
            hub.export(directory, code_from)
        except OSError as error:
            # Not the name of a scratch folder beside it.
            named = str(error.filename).startswith(str(Path(directory).parent))
            if error.errno is None or not named:
                raise
            raise OSError(f"{directory} can't be written: {error.strerror}") from error
        print(f"wrote {directory}")
    if onnx:
        from ..loading import load_model
        from ..onnx.backend import FOLDER
        from ..onnx.graph import FILES, export_graph

        path = Path(directory) / FOLDER / FILES[quantize or "float32"]
        export_graph(load_model(Path(directory), "float32"), path, quantize or "float32")
        print(f"wrote {path}")


index.register(app)
documents.register(app)
search.register(app)
explain.register(app)
serve.register(app)
measure.register(app)
encode.register(app)
export_vectors.register(app)
adapt.register(app)
retrofit.register(app)
publish.register(app)


@app.command()
def demo(
    question: Annotated[
        str | None,
        typer.Argument(metavar="QUESTION", show_default=False, help="default: a few of ours"),
    ] = None,
    top_k: TopK = 3,
    routes: QueryRoutes = "default",
    backend: Backend = "torch",
    dtype: Dtype = "auto",
) -> None:
    """Answers questions from Python's own documentation."""
    from ..demo.index import demo_index
    from ..demo.python_docs import DEMO_QUESTIONS
    from ..loading import load_encoder
    from ..onnx import backend as backends

    log_to_stderr()
    backends.logger.setLevel(logging.INFO)  # it logs what encodes
    encoder = load_encoder("fastlane-minilm", backend, dtype)
    questions = DEMO_QUESTIONS if question is None else [question]
    model: Any = encoder[0].model
    search.answer(demo_index(encoder), model, questions, routes, top_k=top_k)
