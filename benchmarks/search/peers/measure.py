"""Builds one engine's index over a collection of vectors and measures its searches.

    python -m benchmarks.search.peers.measure plaid --collection runs/peers/vectors \
        --index runs/peers/plaid-4 --build '{"nbits": 4}' \
        --search '[{"n_ivf_probe": 8, "n_full_scores": 4096}]' --out out.json

Runs in the engine's own environment, which holds the engine, torch and numpy, from the repository root. An
index is built on all cores. It is searched on one thread, one query at a time; then by as many such callers
at once as there are cores.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from .collection import VectorCollection

TOP_K = 10
WARM_UP = 10  # queries
ROUNDS = 3
LONG_S = 60  # a round that takes longer isn't repeated
CONCURRENT_S = 30  # about how long a round with several callers takes
THREADS = [f"{name}_NUM_THREADS" for name in ("OMP", "MKL", "OPENBLAS", "RAYON")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", help="a module of benchmarks/search/peers/engines")
    parser.add_argument("--collection", type=Path, required=True)
    parser.add_argument("--index", type=Path, required=True, help="a folder, kept for later calls")
    parser.add_argument("--build", type=json.loads, default={})
    parser.add_argument("--search", type=json.loads, default=[{}], help="a list of settings")
    parser.add_argument("--queries", type=int, help="for a trial: the first N")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    engine = importlib.import_module(f".engines.{options.engine}", __package__)
    collection = VectorCollection(options.collection)
    built = options.index / "built.json"
    if not built.exists():
        options.index.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        engine.build(collection, options.index, **options.build)
        facts = {
            "build": options.build,
            "build_seconds": time.perf_counter() - started,
            "build_peak_bytes": peak_bytes(),
            "bytes": sum(
                file.stat().st_size for file in options.index.rglob("*") if file.is_file()
            ),
        }
        built.write_text(json.dumps(facts), "utf-8")
    if os.environ.get(THREADS[0]) != "1":
        # Libraries read this when they are loaded, and memory left from building isn't part of what
        # searching takes: the process starts again.
        limited = os.environ | dict.fromkeys(THREADS, "1")
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], limited)
    facts = json.loads(built.read_text("utf-8"))
    if facts["build"] != options.build:
        raise SystemExit(f"{options.index} was built with {facts['build']}: delete it first")
    search = engine.load(collection, options.index)
    count = min(options.queries or len(collection.queries), len(collection.queries))
    found = {
        "engine": options.engine,
        "threads": 1,
        "queries": count,
        **facts,
        "settings": [],
    }
    for setting in options.search:
        measured = measure_searches(search, setting, count)
        at_once = int(CONCURRENT_S * measured["queries_per_second_median"])
        if not getattr(engine, "BOUND_TO_ONE_THREAD", False):
            measured |= measure_callers(search, setting, min(count, max(WARM_UP, at_once)))
        found["settings"].append(measured)
    found["search_peak_bytes"] = peak_bytes()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found), "utf-8")


def measure_searches(
    search: Callable[..., list[int]], setting: dict[str, Any], count: int
) -> dict[str, Any]:
    """Latencies of `count` queries over some rounds, and the rankings by document number."""
    for query in range(min(WARM_UP, count)):
        search(query, **setting)
    rounds = []
    for _ in range(ROUNDS):
        latencies: list[float] = []
        rankings: list[list[int]] = []
        for query in range(count):
            started = time.perf_counter()
            ranking = search(query, **setting)
            latencies.append(time.perf_counter() - started)
            rankings.append([int(document) for document in ranking[:TOP_K]])
        rounds.append(latencies)
        if sum(latencies) > LONG_S:
            break
    middle = sorted(rounds, key=sum)[len(rounds) // 2]
    return {
        "search": setting,
        "queries_per_second": [count / sum(latencies) for latencies in rounds],
        "queries_per_second_median": statistics.median(count / sum(one) for one in rounds),
        **{f"p{p}_ms": 1000 * float(np.percentile(middle, p)) for p in (50, 95, 99)},
        "rankings": rankings,
    }


def measure_callers(
    search: Callable[..., list[int]], setting: dict[str, Any], count: int
) -> dict[str, Any]:
    """Searches per second by one caller per core, each on a thread of its own."""
    callers = os.cpu_count() or 1
    with ThreadPoolExecutor(callers) as pool:
        started = time.perf_counter()
        list(pool.map(lambda query: search(query, **setting), range(count)))
    return {
        "callers": callers,
        "queries_per_second_callers": count / (time.perf_counter() - started),
    }


def peak_bytes() -> int:
    """The peak resident memory of this program, pages of mapped files included."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    # Unlike ru_maxrss, VmHWM starts again after execve.
    [most] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(most.split()[1]) * 1024


if __name__ == "__main__":
    main()
