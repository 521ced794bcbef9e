"""Reads judged collections and encodes them as the options say."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fastlane_st import FastLaneEncoder
from fastlane_st.data.collection import Collection, read_collection
from fastlane_st.data.json_lines import read_json_lines
from fastlane_st.evaluation.metrics import Metrics, macro_difference
from fastlane_st.evaluation.routes import measure_routes
from fastlane_st.evaluation.scoring import (
    NUM_ROUTES,
    DocumentViews,
    encode_documents,
    encode_queries,
)
from fastlane_st.modeling.fingerprint_fastlane import base_digest
from fastlane_st.modeling.modeling_fastlane import FastLaneModel
from fastlane_st.modeling.st_fastlane import FastLaneTransformer

from .results import Facts, Rows, Values

ROUTES_AND_ALL = ("full", *(f"router_{k}" for k in NUM_ROUTES))
"""All views of a query, and each number of routes that is measured by default."""
PAIRS = ".jsonl.gz"
"""The ending of a file of pairs, in place of a collection's folder."""


def fastlane_model(encoder: FastLaneEncoder) -> FastLaneModel:
    """The Hugging Face model inside an encoder."""
    module = encoder[0]
    assert isinstance(module, FastLaneTransformer)
    return module.model


def describe_checkpoint(name: str, model: nn.Module) -> dict[str, str]:
    """What identifies a checkpoint: its folder's name, and the digest of its weights as float32.

    Adapters don't count.
    """
    return {"name": Path(name).name, "sha256": base_digest(model, torch.float32)[:16]}


def read_set(name: str, options: argparse.Namespace) -> Collection:
    """The collection `name`, or `name:split` where it has several splits, or that of a file of pairs."""
    folder, _, split = name.partition(":")
    if folder.endswith(PAIRS):
        collection = collection_of_pairs(options.data / folder)
    else:
        collection = read_collection(options.data / folder, split or None)
    return collection.limit(options.limit_queries, options.limit_documents)


def collection_of_pairs(path: Path) -> Collection:
    """A judged collection of training pairs that no recipe trains on: a query's positives are relevant.

    Args:
        path: JSON Lines of `{"query", "positive"}`.
    """
    documents: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for _, row in read_json_lines(path):
        id = documents.setdefault(row["positive"], str(len(documents)))
        qrels.setdefault(row["query"], {})[id] = 1
    return Collection(
        name=path.name.removesuffix(PAIRS),
        split="pairs",
        documents={id: text for text, id in documents.items()},
        queries={query: query for query in qrels},
        qrels=qrels,
    )


def autocast(options: argparse.Namespace, device: str) -> torch.autocast:
    """Computes in bfloat16 where `--dtype` says so."""
    return torch.autocast(device, torch.bfloat16, enabled=options.dtype == "bfloat16")


def encode_set(
    collection: Collection,
    encoder: FastLaneEncoder,
    options: argparse.Namespace,
    storage: npt.DTypeLike,
    fractions: Sequence[float] = (),
) -> DocumentViews:
    """The views of a collection's documents: all of them, and pooled to each of `fractions`."""
    with autocast(options, encoder.device.type):
        return encode_documents(
            encoder,
            list(collection.documents.values()),
            batch_size=options.batch_size,
            fractions=fractions,
            dtype=storage,
            show_progress=True,
        )


def measure_router(
    collection: Collection,
    encoder: FastLaneEncoder,
    options: argparse.Namespace,
    settings: Iterable[str],
    num_routes: Sequence[int] = NUM_ROUTES,
    document_encoder: FastLaneEncoder | None = None,
) -> dict[str, Metrics]:
    """Encodes a collection and measures some settings of the router (see `measure_routes`).

    Args:
        collection: The judged set.
        encoder: Encodes queries, and documents unless they have an encoder of their own.
        options: Of `collection_parser`.
        settings: Names as in `measure_routes`.
        num_routes: The numbers of routes that the settings name.
        document_encoder: Encodes the documents in place of `encoder`.
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


def ndcg_by_query(measured: Mapping[str, Metrics]) -> dict[str, Values]:
    """nDCG@10 of every query, by setting."""
    return {setting: metrics["ndcg@10"].astype(np.float32) for setting, metrics in measured.items()}


def rows_of_all_sets(
    encoder: FastLaneEncoder,
    options: argparse.Namespace,
    document_encoder: FastLaneEncoder | None = None,
) -> Rows:
    """nDCG@10 per query, by `set setting`; documents have an encoder of their own if one is given."""
    rows: Rows = {}
    for name in options.sets.split(","):
        measured = measure_router(
            read_set(name, options),
            encoder,
            options,
            ROUTES_AND_ALL,
            document_encoder=document_encoder,
        )
        rows |= {f"{name} {setting}": row for setting, row in ndcg_by_query(measured).items()}
    return rows


def encoder_by(name: str, checkpoint: str) -> FastLaneEncoder:
    """A checkpoint's encoder on the CPU, by a backend and its numbers: `torch:float32`, `onnx:int8`, …"""
    backend, _, dtype = name.partition(":")
    return FastLaneEncoder(checkpoint, backend=backend, dtype=dtype, device="cpu")  # type: ignore[arg-type]


def gains_over_control(rows: Rows, control: Rows) -> Facts:
    """Means over sets, each with the same weight, their ratios to `full`, and gains on the control."""
    found: Facts = {"ndcg@10": {}, "ratio_to_full": {}, "gain": {}}
    for setting in ROUTES_AND_ALL:
        pairs = [
            (rows[key].astype(float), control[key].astype(float))
            for key in rows
            if key.endswith(f" {setting}")
        ]
        found["ndcg@10"][setting] = mean = float(np.mean([ours.mean() for ours, _ in pairs]))
        found["ratio_to_full"][setting] = mean / found["ndcg@10"]["full"]
        found["gain"][setting] = macro_difference(pairs).to_dict()
    return found
