"""A server under load: throughput and latency by number of clients, with batches and without.

    python -m benchmarks.serve.load --index guide-index --queries queries.txt \
        --out benchmarks/results/serve.json

Each setting has a server of its own. Clients ask one query after another over kept connections, on
loopback, and share the processor with the server, which a server elsewhere has for itself. What a server
adds to the library's call is measured query by query: this process asks the server and then searches
itself, or the other way round, so that both meet the same load of the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from fastlane_st import FastLaneIndex
from fastlane_st.loading import load_model
from fastlane_st.serve import AsyncFastLaneClient, FastLaneClient

from ..common.environment import command, environment
from ..common.results import write_results

CLIENTS = (1, 8, 32, 128)
BATCHES = {"batches of 32": 32, "no batches": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--queries", type=Path, required=True, help="one a line")
    parser.add_argument("--model", help="default: the one that indexed")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="of each setting, after a tenth more"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--pairs", type=int, default=200, help="queries that the library and the server answer"
    )
    parser.add_argument("--clients", type=int, nargs="+", default=list(CLIENTS))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    queries = [line for line in options.queries.read_text("utf-8").splitlines() if line.strip()]
    index = FastLaneIndex.load(options.index, memory_map=True)
    index.encoder = load_model(options.model or str(index.metadata["checkpoint"]))
    found: dict[str, Any] = {
        "command": command(),
        "environment": environment(),
        "documents": len(index),
        "queries": len(queries),
        "rounds": [],
    }
    for number in range(options.rounds):
        measured: dict[str, Any] = {"server": {}}
        for name, size in BATCHES.items():
            measured["server"][name] = {}
            with server(options.index, options.model, "--read-only", "--max-batch", size) as (
                url,
                _,
            ):
                if size > 1:
                    measured["pairs"] = pairs(index, url, queries[: options.pairs])
                    print(f"round {number}, pairs: {measured['pairs']}", flush=True)
                for clients in options.clients:
                    load = asyncio.run(measure(url, queries, clients, options.seconds))
                    measured["server"][name][str(clients)] = load
                    print(f"round {number}, {name}, {clients} clients: {load}", flush=True)
        found["rounds"].append(measured)
        found["ratios"] = ratios(found["rounds"])
        write_results(options.out, found)


def pairs(index: FastLaneIndex, url: str, queries: Sequence[str]) -> dict[str, float]:
    """Medians over queries, once warm: of the library's call, of the server's, and of their difference."""
    warm_up = queries[:20]
    taken = []
    with FastLaneClient(url) as client:
        ways = (index.search, client.search)
        for number, query in enumerate([*warm_up, *queries]):
            seconds = [0.0, 0.0]
            for way in (number % 2, 1 - number % 2):  # each goes first every other time
                begun = time.perf_counter()
                ways[way](query)
                seconds[way] = time.perf_counter() - begun
            taken.append(seconds)
    library, server = 1e3 * np.array(taken[len(warm_up) :]).T
    return {
        "library_ms": float(np.median(library)),
        "server_ms": float(np.median(server)),
        "added_ms": float(np.median(server - library)),
    }


@contextmanager
def server(index: Path, model: str | None, *more: object) -> Iterator[tuple[str, int]]:
    """`fastlane serve` with more options in a process of its own; gives its address and its number."""
    options = ["--port", "0", *map(str, more), *([] if model is None else ["--model", model])]
    started = [sys.executable, "-m", "fastlane_st.cli", "serve", str(index), *options]
    with subprocess.Popen(
        started, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            address = re.search(r"http://\S+", process.stdout.readline())
            if address is None:
                raise SystemExit(f"the server didn't start: {' '.join(started)} says why")
            yield address[0], process.pid
        finally:
            process.terminate()


async def measure(
    url: str, queries: Sequence[str], num_clients: int, seconds: float
) -> dict[str, float]:
    """Queries a second and quantiles of their milliseconds, of so many clients at once."""
    taken: list[float] = []
    numbers = count()
    begun = time.perf_counter() + seconds / 10  # what ends before is warm-up
    end = begun + seconds

    async def ask() -> None:
        async with AsyncFastLaneClient(url) as client:
            while (start := time.perf_counter()) < end:
                await client.search([queries[next(numbers) % len(queries)]])
                if start >= begun:
                    taken.append(time.perf_counter() - start)

    await asyncio.gather(*(ask() for _ in range(num_clients)))
    p50, p95, p99 = (1e3 * np.quantile(taken, [0.5, 0.95, 0.99])).tolist()
    per_second = len(taken) / (time.perf_counter() - begun)
    return {"per_second": per_second, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99}


def ratios(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the server adds to the library's call, and what batches gain, over the rounds."""
    batched, single = BATCHES
    clients = list(rounds[0]["server"][batched])
    gains = {
        number: [
            one["server"][batched][number]["per_second"]
            / one["server"][single][number]["per_second"]
            for one in rounds
        ]
        for number in clients
    }
    return {
        "ms_over_library": spread([one["pairs"]["added_ms"] for one in rounds]),
        "throughput_of_batches": {number: spread(values) for number, values in gains.items()},
    }


def spread(values: Sequence[Any]) -> dict[str, float]:
    """Median, least and greatest of some values."""
    numbers = [float(value) for value in values]
    return {"median": float(np.median(numbers)), "least": min(numbers), "greatest": max(numbers)}


if __name__ == "__main__":
    main()
