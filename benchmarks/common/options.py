"""Options of the commands that encode judged collections."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch


def collection_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options by which `common.encoding` reads and encodes collections."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="holds a BEIR folder for each set")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit-queries", type=int, help="for a trial: the first N of each set")
    parser.add_argument("--limit-documents", type=int, help="for a trial: the judged ones, up to N")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument(
        "--threads",
        type=int,
        default=torch.get_num_threads(),
        help="of encoding; OMP_NUM_THREADS limits those of scoring",
    )
    return parser


def sets_parser(description: str | None) -> argparse.ArgumentParser:
    """`collection_parser`, for a command that measures one set after another."""
    parser = collection_parser(description)
    parser.add_argument("--sets", required=True, help="name or name:split, with commas")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parses the command line, and sets the number of threads."""
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def limits(options: argparse.Namespace) -> dict[str, Any]:
    """The options that a set's numbers depend on."""
    return {name: getattr(options, name) for name in ("dtype", "limit_queries", "limit_documents")}
