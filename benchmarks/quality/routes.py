"""Quality and latency by the number of routes, from one to all views of a query.

    python -m benchmarks.quality.routes --data data/eval --sets cranfield,wikiqa:test,stackexchange:test \\
        --dtype bfloat16 --index runs/scale/100000 --out benchmarks/results/by_routes.json

nDCG@10 is by brute force over each set. Latencies are of searches in `--index`, whose documents may be of
another collection, by the same queries, one at a time on one thread, without encoding. Queries shorter
than a number of routes have all their views.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from fastlane_st import FastLaneEncoder, FastLaneIndex
from fastlane_st.data.collection import Collection
from fastlane_st.hub import DEFAULT_CHECKPOINT

from ..common.encoding import (
    autocast,
    describe_checkpoint,
    fastlane_model,
    measure_router,
    ndcg_by_query,
    read_set,
)
from ..common.options import limits, parse, sets_parser
from ..common.results import Facts, Rows, SetResults, measure_sets

NUM_ROUTES = (1, 2, 4, 8, 16, 32, 64)
SETTINGS = (*(f"router_{k}" for k in NUM_ROUTES), "full")
WARM_UP = 10  # queries
QUERIES = 200  # per set, whose latencies are measured


def main() -> None:
    parser = sets_parser(__doc__)
    parser.add_argument("--model", default=DEFAULT_CHECKPOINT)
    parser.add_argument("--index", type=Path, required=True, help="a folder of this checkpoint")
    options = parse(parser)
    encoder = FastLaneEncoder(options.model)
    index = FastLaneIndex.load(options.index)
    settings = {
        "model": describe_checkpoint(options.model, fastlane_model(encoder)),
        "documents": len(index),
        "vectors": index.num_vectors,
        **limits(options),
    }

    def measure(name: str) -> tuple[Facts, Rows]:
        collection = read_set(name, options)
        rows = ndcg_by_query(
            measure_router(collection, encoder, options, SETTINGS, num_routes=NUM_ROUTES)
        )
        facts = {
            "queries": len(collection.queries),
            "ndcg@10": {setting: float(row.mean(dtype=float)) for setting, row in rows.items()},
            "latency": latencies(collection, encoder, index, options),
        }
        return facts, rows

    measure_sets(
        SetResults(options.out, settings),
        options.sets.split(","),
        measure,
        lambda found: mean_over_sets(found.sets),
    )


def latencies(
    collection: Collection,
    encoder: FastLaneEncoder,
    index: FastLaneIndex,
    options: argparse.Namespace,
) -> dict[str, dict[str, float]]:
    """Milliseconds per search by the number of routes, and the mean number of views of a query."""
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


def mean_over_sets(sets: dict[str, Facts]) -> Facts:
    """Means over sets, each with the same weight."""
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
