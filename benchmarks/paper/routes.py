"""Quality and latency by the number of routes, from one to all views of a query.

    python benchmarks/paper/routes.py --data data/eval --sets cranfield,wikiqa:test,stackexchange:test \\
        --dtype bfloat16 --index runs/scale/100000 --out benchmarks/results/by_routes.json

nDCG@10 is by brute force over each set. Latencies are of searches in `--index`, whose documents may be of
another collection, by the same queries, one at a time on one thread; encoding isn't in them. Queries
shorter than a number of routes have all their views.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

sys.path.append(str(Path(__file__).parents[1]))

from judged import autocast, describe_checkpoint, limits, measure, read_set, sets_parser
from machine import environment
from quality_summary import load_results, load_rows, save

from fastlane_st import FastLaneEncoder, FastLaneIndex
from fastlane_st.data.collection import Collection
from fastlane_st.hub import DEFAULT_CHECKPOINT

NUM_ROUTES = (1, 2, 4, 8, 16, 32, 64)
SETTINGS = (*(f"router_{k}" for k in NUM_ROUTES), "full")
WARM_UP = 10  # queries
QUERIES = 200  # of a set, whose latencies are measured


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    encoder = FastLaneEncoder(options.model)
    index = FastLaneIndex.load(options.index)
    settings = {
        "model": describe_checkpoint(options.model, encoder),
        "documents": len(index),
        "vectors": index.num_vectors,
        **limits(options),
    }
    found, rows = load_results(options.out, settings), load_rows(options.out)
    for name in options.sets.split(","):
        if name in found["sets"]:
            continue
        collection = read_set(name, options)
        measured = measure(collection, encoder, options, SETTINGS, NUM_ROUTES)
        rows[name] = {
            setting: metrics["ndcg@10"].astype(np.float32) for setting, metrics in measured.items()
        }
        found["sets"][name] = {
            "command": shlex.join(["python", *sys.argv]),
            "environment": environment(),
            "queries": len(collection.queries),
            "ndcg@10": {
                setting: float(row.mean(dtype=float)) for setting, row in rows[name].items()
            },
            "latency": latencies(collection, encoder, index, options),
        }
        found["over_sets"] = over_sets(found["sets"])
        save(options.out, found, rows)
        print(name, found["sets"][name]["ndcg@10"], found["sets"][name]["latency"], flush=True)


def parse() -> argparse.Namespace:
    parser = sets_parser(__doc__)
    parser.add_argument("--model", default=DEFAULT_CHECKPOINT)
    parser.add_argument("--index", type=Path, required=True, help="a folder of this checkpoint")
    return parser.parse_args()


def latencies(
    collection: Collection,
    encoder: FastLaneEncoder,
    index: FastLaneIndex,
    options: argparse.Namespace,
) -> dict[str, dict[str, float]]:
    """Milliseconds a search by the setting of the router, and the views that a query has on average."""
    texts = list(collection.queries.values())[:QUERIES]
    found = {}
    for setting, count in zip(SETTINGS, (*NUM_ROUTES, None), strict=True):
        with autocast(options, encoder.device.type):
            encoded = encoder.encode_query(texts, num_routes=count, show_progress_bar=False)
        queries = [views.float().numpy() for views in encoded]
        times = []
        with threadpool_limits(1):
            warm_up = queries[:WARM_UP]
            for query in [*warm_up, *queries]:
                started = time.perf_counter()
                index.search([query], top_k=10)
                times.append(1000 * (time.perf_counter() - started))
        found[setting] = {
            "views": float(np.mean(list(map(len, queries)))),
            **{f"p{p}_ms": float(np.percentile(times[len(warm_up) :], p)) for p in (50, 95)},
        }
    return found


def over_sets(sets: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Means over the sets, each of which counts alike."""
    return {
        setting: {
            "ndcg@10": float(np.mean([one["ndcg@10"][setting] for one in sets.values()])),
            **{
                name: float(np.mean([one["latency"][setting][name] for one in sets.values()]))
                for name in ("views", "p50_ms", "p95_ms")
            },
        }
        for setting in SETTINGS
    }


if __name__ == "__main__":
    main()
