"""What the commands of this package share: options of a run, messages and exit statuses."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

HOW_TO_RESUME = "with --resume it goes on from the newest checkpoint, if one was saved"
PROBLEMS = (
    *(ValueError, OSError, ImportError),  # settings, files, packages
    *(StrictDataclassError, SafetensorError),  # settings and weights of a model
    *(FloatingPointError, MemoryError),  # a run that can't go on
)
"""Errors that a user can solve without a traceback."""


def exit_status(program: str, command: Callable[[], object], how_to_go_on: str) -> int:
    """Runs a command and returns its exit status.

    A problem that the user can solve is 1 and Ctrl-C is 130; each prints one message on standard
    error and no traceback.

    Args:
        program: The name that the message starts with.
        command: What to run.
        how_to_go_on: What the message says after Ctrl-C.
    """
    try:
        command()
    except PROBLEMS as error:
        print(f"{program}: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        end_of_bar = "\n" if sys.stderr.isatty() else ""
        print(f"{end_of_bar}{program}: interrupted; {how_to_go_on}", file=sys.stderr)
        return 130
    return 0


def announce(message: str) -> None:
    """Prints what a run does now; of several processes only the first prints."""
    if os.environ.get("RANK", "0") == "0":
        print(message, flush=True)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a command that trains."""
    parser.add_argument("--config", required=True, help="YAML file; see training_config.py")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="replaces a value of the file"
    )
