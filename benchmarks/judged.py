"""What the commands that judge a checkpoint on collections share: their options, sets and files."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fastlane_st import FastLaneEncoder
from fastlane_st.data.collection import Collection, read_collection
from fastlane_st.evaluation.metrics import Metrics
from fastlane_st.evaluation.routes import measure_routes
from fastlane_st.evaluation.scoring import (
    NUM_ROUTES,
    DocumentViews,
    encode_documents,
    encode_queries,
)
from fastlane_st.modeling.fingerprint_fastlane import base_digest


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options by which the functions here read and encode a set."""
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


def sets_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with those options, for a command that takes any number of sets."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--sets", required=True, help="name or name:split, with commas")
    return parser


def limits(options: argparse.Namespace) -> dict[str, Any]:
    """Of those options what the numbers depend on, but for the sets."""
    return {name: getattr(options, name) for name in ("dtype", "limit_queries", "limit_documents")}


def read_set(name: str, options: argparse.Namespace) -> Collection:
    """The collection `name`, or `name:split` where its judgements are several."""
    folder, _, split = name.partition(":")
    collection = read_collection(options.data / folder, split or None)
    return collection.limit(options.limit_queries, options.limit_documents)


def autocast(options: argparse.Namespace, device: str) -> torch.autocast:
    return torch.autocast(device, torch.bfloat16, enabled=options.dtype == "bfloat16")


def encode_set(
    collection: Collection,
    encoder: FastLaneEncoder,
    options: argparse.Namespace,
    storage: npt.DTypeLike,
    fractions: Sequence[float] = (),
) -> DocumentViews:
    """The views of a collection's documents, whole and with each of `fractions` kept."""
    with autocast(options, encoder.device.type):
        return encode_documents(
            encoder,
            list(collection.documents.values()),
            batch_size=options.batch_size,
            fractions=fractions,
            dtype=storage,
            show_progress=True,
        )


def measure(
    collection: Collection,
    encoder: FastLaneEncoder,
    options: argparse.Namespace,
    settings: Iterable[str],
    num_routes: Sequence[int] = NUM_ROUTES,
    document_encoder: FastLaneEncoder | None = None,
) -> dict[str, Metrics]:
    """Encodes a collection and measures some settings of the router (see `measure_routes`).

    The documents may have an encoder of their own.
    """
    with autocast(options, encoder.device.type):
        queries = encode_queries(
            encoder,
            list(collection.queries.values()),
            num_routes=num_routes,
            batch_size=options.batch_size,
        )
    documents = encode_set(collection, document_encoder or encoder, options, np.float16)
    return measure_routes(collection, queries, documents, settings)


def describe_checkpoint(name: str, encoder: FastLaneEncoder) -> dict[str, str]:
    """The name of the folder, and what the weights below all adapters are."""
    digest = base_digest(encoder[0].model, torch.float32)
    return {"name": Path(name).name, "sha256": digest[:16]}


def write_json(path: Path, found: dict[str, Any]) -> None:
    """All of it or nothing: a command that is stopped leaves the file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp.json")
    scratch.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n")
    os.replace(scratch, path)
