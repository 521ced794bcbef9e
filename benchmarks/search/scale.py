"""How an index grows: time and memory of building, bytes and latencies, up to a million documents.

    python -m benchmarks.search.scale --collection runs/peers/vectors --scratch runs/scale --queries 300 \
        --out benchmarks/results/scale.json

`build_folder` builds the index, as `fastlane index` does, from vectors that are given instead of encoded:
real ones, and beyond those real ones with noise. Each size runs in a process of its own, whose peak memory
is without the pages of mapped files. Searches are of one route, one at a time on one thread, over the
memory-mapped index; `overlap` is the share that they find of the ten best documents of exhaustive search
over the same stored vectors. A size in --out isn't measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from fastlane_st import FastLaneIndex
from fastlane_st.data.corpus import CorpusDocument
from fastlane_st.index.building import build_folder
from fastlane_st.index.scoring import PartScorer

from ..common.environment import ROOT, command, environment
from ..common.results import write_results
from .engines import overlap
from .peers.collection import VectorCollection
from .peers.engines.fastlane import PrecomputedEncoder
from .peers.measure import measure_searches

NOISE = 0.5  # the expected length of the noise; vectors have length 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--collection", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True, help="for the indexes")
    parser.add_argument("--sizes", default="10000,100000,1000000")
    parser.add_argument("--storage", default="int8")
    parser.add_argument("--efforts", default="0.5,1,2,4", help="with which to search")
    parser.add_argument("--queries", type=int, help="the first N")
    parser.add_argument("--commit-every", type=int, default=50_000, help="documents")
    parser.add_argument("--only", type=int, help="the one size, in this process")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.only is not None:
        write_results(options.out, measure_size(options.only, options))
        return
    found: dict[str, Any] = {"sizes": {}}
    if options.out.exists():
        found = json.loads(options.out.read_text("utf-8"))
    found |= {
        "command": command(),
        "environment": environment(),
        "collection": VectorCollection(options.collection).facts,
    }
    for size in map(int, options.sizes.split(",")):
        if str(size) in found["sizes"]:
            continue
        out = options.scratch / f"{size}.json"
        module = [sys.executable, "-m", "benchmarks.search.scale", *sys.argv[1:]]
        subprocess.run([*module, "--only", str(size), "--out", str(out)], check=True, cwd=ROOT)
        found["sizes"][str(size)] = json.loads(out.read_text("utf-8"))
        write_results(options.out, found)


def measure_size(size: int, options: argparse.Namespace) -> dict[str, Any]:
    """Builds an index of `size` documents unless its folder is there, and searches it."""
    collection = VectorCollection(options.collection)
    folder = options.scratch / str(size)
    if not (folder / "built.json").exists():
        memory, started = Memory(), time.perf_counter()
        encoder = SimulatedEncoder(collection)
        documents = (CorpusDocument(str(number), str(number)) for number in range(size))
        index = build_folder(
            folder,
            encoder,
            documents,
            size,
            kind="auto",
            storage=options.storage,
            commit_every=options.commit_every,
            resume=folder.exists(),
            show_progress_bar=True,
        )
        facts = {
            "build_seconds": time.perf_counter() - started,
            "build_peak_bytes": memory.peak(),
            "vectors": index.num_vectors,
            "kind": index.vectors.kind,
            "bytes": sum(path.stat().st_size for path in folder.iterdir()),
        }
        (folder / "built.json").write_text(json.dumps(facts), "utf-8")
        del index
    built: dict[str, Any] = json.loads((folder / "built.json").read_text("utf-8"))
    memory = Memory()
    searched = FastLaneIndex.load(folder, PrecomputedEncoder(collection), memory_map=True)
    count = min(options.queries or len(collection.queries), len(collection.queries))
    best = exhaustive(searched, collection.routed[:count])
    original, found = searched.vectors, []
    for effort in map(float, options.efforts.split(",")):
        searched.vectors = replace(original, effort=effort)
        with threadpool_limits(1):
            one = measure_searches(
                lambda query: [int(hit.id) for hit in searched.search(str(query), top_k=10)],
                {},
                count,
            )
        rankings = one.pop("rankings")
        found.append({"effort": effort, "overlap": overlap(rankings, best), **one})
    return {**built, "search_peak_bytes": memory.peak(), "searches": found}


def exhaustive(index: FastLaneIndex, queries: np.ndarray) -> list[list[int]]:
    """The ten best documents of each query `(n, dim)`, over the vectors as they are stored."""
    scores, ids = [], []
    for scorer in map(PartScorer, index.parts):
        similarities = scorer.scan(queries, scorer.documents)
        best = np.argpartition(similarities, -10, axis=0)[-10:]
        scores.append(np.take_along_axis(similarities, best, axis=0))
        numbers = scorer.documents[best]
        stored = scorer.segment.documents.read(numbers.ravel().tolist())
        ids.append(np.array([int(one.id) for one in stored]).reshape(numbers.shape))
    joined, named = np.concatenate(scores), np.concatenate(ids)
    best = np.argpartition(joined, -10, axis=0)[-10:]
    found: list[list[int]] = np.take_along_axis(named, best, axis=0).T.tolist()
    return found


class SimulatedEncoder(PrecomputedEncoder):
    """Gives document `n` the vectors of the collection's n-th, with noise beyond the last."""

    def __init__(self, collection: VectorCollection) -> None:
        super().__init__(collection)
        self.counts = [counts for _, counts in collection.shards]
        self.shards = [vectors for vectors, _ in collection.shards]
        self.starts = np.cumsum([0, *(len(counts) for counts in self.counts)])
        self.offsets = [np.cumsum([0, *counts]) for counts in self.counts]

    def encode_document(self, texts: list[str], /, **options: Any) -> list[dict[str, torch.Tensor]]:
        return list(map(self.features_of, map(int, texts)))

    def features_of(self, number: int) -> dict[str, torch.Tensor]:
        round_, place = divmod(number, int(self.starts[-1]))
        shard = int(np.searchsorted(self.starts, place, side="right")) - 1
        first, last = self.offsets[shard][place - self.starts[shard] :][:2]
        views = np.asarray(self.shards[shard][first:last], dtype=np.float32)
        if round_:
            noise = np.random.default_rng(number).normal(size=views.shape).astype(np.float32)
            views = views + NOISE * noise / views.shape[1] ** 0.5
            views /= np.linalg.norm(views, axis=1, keepdims=True)
        return {
            "token_embeddings": torch.from_numpy(views),
            "attention_mask": torch.ones(len(views), dtype=torch.bool),
        }


class Memory:
    """Watches the anonymous memory of this process: pages of mapped files don't count."""

    def __init__(self) -> None:
        self._most = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def peak(self) -> int:
        """Stops watching and returns the peak in bytes."""
        self._done.set()
        self._thread.join()
        return self._most

    def _watch(self) -> None:
        is_over = False
        while not is_over:
            is_over = self._done.wait(0.2)
            lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
            [held] = [line.split()[1] for line in lines if line.startswith("RssAnon")]
            self._most = max(self._most, 1024 * int(held))


if __name__ == "__main__":
    main()
