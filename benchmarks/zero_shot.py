"""What the design starts from: an untrained model at several context weights and dimensions.

    python benchmarks/zero_shot.py --data data/eval --out benchmarks/results/zero_shot.json

nDCG@10 on dev queries. The router is untrained: it takes the least central token. Running it again goes
on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from machine import environment

from fastlane_st import FastLaneModel
from fastlane_st.data.collection import Collection, read_collection
from fastlane_st.evaluation.controls import measure_controls
from fastlane_st.evaluation.metrics import mean_metrics
from fastlane_st.evaluation.scoring import NUM_ROUTES, encode_documents, encode_queries
from fastlane_st.hub import base_weights
from fastlane_st.modeling.projection_fastlane import default_calibration_texts

SETS = ("mlquestions", "wikiqa", "stackexchange", "scitldr")
SETTINGS = ("full", *(f"router_{k}" for k in NUM_ROUTES), "first", "random", "mean_view", "oracle")
VARIANTS: list[dict[str, Any]] = [
    {
        "embedding_dim": dim,
        "route_context_weight": route,
        "window_context_weight": window,
        "document_context_weight": document,
        "use_special_tokens": special,
    }
    for dim, route, window, document, special in (
        (384, 0.0, 0.0, 0.0, False),  # ColBERT over the untouched backbone
        (384, 0.0, 0.0, 0.0, True),
        (384, 4.0, 0.0, 0.0, False),
        (384, 4.0, 0.0, 1.0, False),
        (384, 4.0, 1.0, 0.0, False),
        (384, 4.0, 1.0, 1.0, False),
        (384, 1.0, 1.0, 1.0, False),
        (384, 8.0, 1.0, 1.0, False),
        (128, 4.0, 1.0, 1.0, False),
    )
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--documents", type=int, default=400)
    options = parser.parse_args()

    collections = [
        read_collection(options.data / name, "dev").limit(options.queries, options.documents)
        for name in SETS
    ]
    found: dict[str, Any] = {
        "command": "python benchmarks/zero_shot.py --data data/eval --out " + str(options.out),
        "environment": environment(),
        "queries": [len(collection.queries) for collection in collections],
        "documents": [len(collection.documents) for collection in collections],
        "sets": SETS,
        "rows": [],
    }
    if options.out.exists():
        stored = json.loads(options.out.read_text())["rows"]
        found["rows"] = [row for row in stored if variant_of(row) in VARIANTS]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    measured = [variant_of(row) for row in found["rows"]]
    for variant in [variant for variant in VARIANTS if variant not in measured]:
        torch.manual_seed(0)
        texts = default_calibration_texts()[:150]
        model = FastLaneModel.from_backbone(base_weights(), calibration_texts=texts, **variant)
        rows = [measure(model, collection) for collection in collections]
        means = {name: sum(row[name] for row in rows) / len(rows) for name in SETTINGS}
        found["rows"].append({**variant, "mean": means, "by_set": rows})
        options.out.write_text(json.dumps(found, indent=2) + "\n")
        print(variant, {name: round(value, 4) for name, value in means.items()}, flush=True)


def variant_of(row: dict[str, Any]) -> dict[str, Any]:
    """The settings of a row; one of other fields, from before, is none of `VARIANTS`."""
    return {name: row.get(name) for name in VARIANTS[0]}


def measure(model: FastLaneModel, collection: Collection) -> dict[str, float]:
    """nDCG@10 of each setting."""
    queries = encode_queries(model, list(collection.queries.values()))
    documents = encode_documents(model, list(collection.documents.values()))
    results = measure_controls(collection, queries, documents)
    return {name: mean_metrics(results[name])["ndcg@10"] for name in SETTINGS}


if __name__ == "__main__":
    main()
