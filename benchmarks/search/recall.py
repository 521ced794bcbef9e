"""The share of the ten best documents that each kind of index finds, at its default effort.

    python -m benchmarks.search.recall --collection runs/peers/vectors --documents 10000 \
        --out benchmarks/results/recall.json

The best are those of exhaustive search in float32 with one route. `VectorSettings.expected_recall` predicts
these shares before an index is built.
"""

from __future__ import annotations

import argparse
import time
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from fastlane_st import FastLaneIndex
from fastlane_st.index.vectors.settings import Kind, Storage

from ..common.environment import command, environment
from ..common.results import write_results
from .engines import overlap
from .peers.collection import VectorCollection


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--collection", type=Path, required=True)
    parser.add_argument("--documents", type=int, required=True, help="the first N")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    collection = VectorCollection(options.collection)
    documents = list(islice(collection.documents(), options.documents))
    queries = list(collection.routed[:, None])
    found: dict[str, Any] = {
        "command": command(),
        "environment": environment(),
        "documents": len(documents),
        "vectors": sum(map(len, documents)),
        "queries": len(queries),
        "recall": {},
    }
    best: list[list[int]] = []
    for kind in get_args(Kind):
        for storage in get_args(Storage):
            started = time.perf_counter()
            index = FastLaneIndex.from_embeddings(documents, kind=kind, storage=storage)
            ranked = [[int(hit.id) for hit in hits] for hits in index.search(queries, top_k=10)]
            best = best or ranked  # flat in float32 comes first
            recall = overlap(ranked, best)
            found["recall"].setdefault(kind, {})[storage] = recall
            print(
                f"{kind} {storage} {recall:.3f} {time.perf_counter() - started:.0f} s", flush=True
            )
            write_results(options.out, found)


if __name__ == "__main__":
    main()
