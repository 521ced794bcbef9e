"""Fewer vectors a document: our document router beside token pooling, over the same views.

    python benchmarks/pooling.py --data data/eval --sets cranfield,wikiqa:test --dtype bfloat16 \\
        --out benchmarks/results/pooling.json

Pooling is Sentence Transformers' `HierarchicalTokenPooling` (Ward clusters, arXiv 2409.14683) of all of a
document's views, by the factor that leaves as many as routing keeps. nDCG@10, brute force; a set that the
JSON holds already isn't measured again.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import Any

import numpy as np
import torch
from judged import autocast, describe_checkpoint, encode_set, limits, read_set, sets_parser
from machine import environment
from quality_summary import load_results, load_rows, save
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

from fastlane_st import FastLaneEncoder
from fastlane_st.evaluation.metrics import macro_difference
from fastlane_st.evaluation.routes import OVER_DOCUMENTS, measure_routes
from fastlane_st.evaluation.scoring import BlockStore, DocumentViews, encode_queries
from fastlane_st.hub import DEFAULT_CHECKPOINT

FRACTIONS = (0.25, 0.125)
SETTINGS = ("full", "router_1")


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    encoder = FastLaneEncoder(options.model)
    settings = {
        "model": describe_checkpoint(options.model, encoder),
        **limits(options),
    }
    found, rows = load_results(options.out, settings), load_rows(options.out)
    for name in options.sets.split(","):
        if name in found["sets"]:
            continue
        rows[name], vectors = measure_set(name, encoder, options)
        found["sets"][name] = {
            "command": shlex.join(["python", *sys.argv]),
            "environment": environment(),
            "vectors_per_document": vectors,
            "ndcg@10": compare({name: rows[name]}),
        }
        found["over_sets"] = compare(rows)
        save(options.out, found, rows)
        for setting, one in found["sets"][name]["ndcg@10"].items():
            print(name, setting, one)


def parse() -> argparse.Namespace:
    parser = sets_parser(__doc__)
    parser.add_argument("--model", default=DEFAULT_CHECKPOINT)
    return parser.parse_args()


def measure_set(
    name: str, encoder: FastLaneEncoder, options: argparse.Namespace
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, float]]]:
    """nDCG@10 a query by `way setting`, and how many vectors a document has by way and fraction."""
    collection = read_set(name, options)
    with autocast(options, encoder.device.type):
        queries = encode_queries(encoder, list(collection.queries.values()), num_routes=())
    routed = encode_set(collection, encoder, options, np.float16, FRACTIONS)
    ways = {"routed": routed, "pooled": with_pooled(routed)}
    rows, vectors = {}, {}
    for way, documents in ways.items():
        asked = [f"{one}{OVER_DOCUMENTS}{fraction}" for one in SETTINGS for fraction in FRACTIONS]
        measured = measure_routes(collection, queries, documents, asked)
        for setting, metrics in measured.items():
            rows[f"{way} {setting}"] = metrics["ndcg@10"].astype(np.float32)
        vectors[way] = {
            str(fraction): float(kept.num_views.mean())
            for fraction, kept in documents.routed.items()
        }
    for setting, metrics in measure_routes(collection, queries, routed, SETTINGS).items():
        rows[f"all {setting}"] = metrics["ndcg@10"].astype(np.float32)
    return rows, vectors


def with_pooled(documents: DocumentViews) -> DocumentViews:
    """All views, and in place of the routed ones those that pooling leaves."""
    pooled = {}
    for fraction in FRACTIONS:
        pooling = HierarchicalTokenPooling(1 / fraction, num_protected_tokens=0)
        store = BlockStore(np.float16)
        for block, counts in zip(documents.blocks, documents.counts, strict=True):
            views = torch.from_numpy(block.astype(np.float32))
            for one in pooling.pool(list(views.split(counts.tolist()))):
                store.add(one.numpy())
        pooled[fraction] = store.documents()
    return DocumentViews(documents.blocks, documents.counts, routed=pooled)


def compare(rows: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """Means over the sets, each of which counts alike, and routing less pooling."""
    found: dict[str, Any] = {}
    for one in SETTINGS:
        found[one] = {"all": mean(rows, f"all {one}")}
        for fraction in FRACTIONS:
            setting = f"{one}{OVER_DOCUMENTS}{fraction}"
            pairs = [
                (row[f"routed {setting}"].astype(float), row[f"pooled {setting}"].astype(float))
                for row in rows.values()
            ]
            found[setting] = {
                "routed": mean(rows, f"routed {setting}"),
                "pooled": mean(rows, f"pooled {setting}"),
                "difference": macro_difference(pairs).to_dict(),
            }
    return found


def mean(rows: dict[str, dict[str, np.ndarray]], key: str) -> float:
    return float(np.mean([row[key].mean(dtype=float) for row in rows.values()]))


if __name__ == "__main__":
    main()
