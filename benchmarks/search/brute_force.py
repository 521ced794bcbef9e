"""SumMaxSim against one route, brute force both, as in the paper's table of latencies (arXiv 2601.06389).

    python -m benchmarks.search.brute_force --collection runs/peers/vectors \
        --out benchmarks/results/brute_force.json

Every view of a query is compared with every view of every document; the best similarity of each view in
each document is summed. Queries have exactly `--query-views` views, taken from real queries in turn, and
are scored in batches. Documents stay on the device, as float32 on a CPU and float16 on a GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ..common.environment import command, environment
from ..common.results import write_results
from .peers.collection import VectorCollection

BLOCK = 4_096  # documents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--collection", type=Path, required=True)
    parser.add_argument("--query-views", type=int, default=32, help="of a query, as in the paper")
    parser.add_argument("--queries", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=8, help="queries scored together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    collection = VectorCollection(options.collection)
    documents = Documents(collection, options.device)
    views = np.concatenate(collection.full)
    needed = options.queries * options.query_views
    full = np.resize(views, (needed, views.shape[1])).reshape(
        options.queries, options.query_views, -1
    )
    routed = np.resize(collection.routed, (options.queries, 1, views.shape[1]))
    rounds: list[dict[str, float]] = []
    for _ in range(options.rounds):  # in turns, so that the machine's drift hits both
        rounds.append(
            {
                name: scoring_seconds(documents, queries, options.batch_size)
                for name, queries in (("summaxsim", full), ("one_route", routed))
            }
        )
    ratios = [one["summaxsim"] / one["one_route"] for one in rounds]
    num_vectors = collection.num_vectors
    found: dict[str, Any] = {
        "command": command(),
        "environment": environment(),
        "device": torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu",
        "documents": len(collection),
        "vectors": num_vectors,
        "queries": options.queries,
        "query_views": options.query_views,
        "batch_size": options.batch_size,
        "comparisons_per_query": {
            "summaxsim": options.query_views * num_vectors,
            "one_route": num_vectors,
        },
        "seconds": rounds,
        "ratio_median": statistics.median(ratios),
        "ratio_smallest": min(ratios),
        "ratio_largest": max(ratios),
    }
    print(json.dumps(found, indent=2))
    write_results(options.out, found)


class Documents:
    """All views on the device, in blocks of whole documents."""

    def __init__(self, collection: VectorCollection, device: str) -> None:
        self.device = device
        self.dtype = torch.float16 if device.startswith("cuda") else torch.float32
        rows, firsts = collection.read()
        ends = np.append(firsts[1:], len(rows))
        self.blocks = []
        for start in range(0, len(firsts), BLOCK):
            first, last = firsts[start], ends[min(start + BLOCK, len(firsts)) - 1]
            lengths = torch.from_numpy((ends - firsts)[start : start + BLOCK])
            views = torch.from_numpy(rows[first:last])
            self.blocks.append((views.to(device, self.dtype), lengths.to(device)))

    def score(self, queries: torch.Tensor) -> torch.Tensor:
        """Scores `(queries, documents)` float32 of queries `(queries, views, dim)`."""
        count, num_views, dim = queries.shape
        rows = queries.reshape(-1, dim).to(self.device, self.dtype)
        scores = []
        for views, lengths in self.blocks:
            products = (views @ rows.T).float()
            best = torch.segment_reduce(products, "max", lengths=lengths, axis=0)
            scores.append(best.reshape(-1, count, num_views).sum(dim=2).T)
        return torch.cat(scores, dim=1)


@torch.inference_mode()
def scoring_seconds(
    documents: Documents, queries: npt.NDArray[np.float32], batch_size: int
) -> float:
    """How long it takes to score all queries and find the ten best of each."""
    batches = torch.from_numpy(np.ascontiguousarray(queries)).split(batch_size)
    documents.score(batches[0]).topk(10)  # warm up
    started = time.perf_counter()
    for batch in batches:
        documents.score(batch).topk(10).indices.cpu()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
