"""The memory of a server over some minutes of searches, with documents that come and go.

    python -m benchmarks.serve.memory --index guide-index --queries queries.txt --minutes 10 \
        --out benchmarks/results/serve_memory.json

Each writer adds documents, replaces some of them and deletes all of them again, so that the index is as large
at the end as at the start. The index is copied first, and the server writes to the copy. Memory is Linux's
`VmRSS`, at the end of each of twenty parts of the time.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from fastlane_st.serve import AsyncFastLaneClient

from ..common.environment import command, environment
from ..common.results import write_results
from .load import server

PARTS = 20
READERS, WRITERS = 4, 2
ADDED = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--queries", type=Path, required=True, help="one a line")
    parser.add_argument("--model", help="default: the one that indexed")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    queries = [line for line in options.queries.read_text("utf-8").splitlines() if line.strip()]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "index"
        shutil.copytree(options.index, folder)
        with server(folder, options.model) as (url, process):
            done, memory = asyncio.run(run(url, process, queries, 60 * options.minutes))
    write_results(
        options.out,
        {
            "command": command(),
            "environment": environment(),
            "minutes": options.minutes,
            "done": done,
            "resident_bytes": memory,
            # The first fifth warms caches up.
            "growth": memory[-1] / memory[PARTS // 5] - 1,
        },
    )
    print(f"{done}; {memory[0] / 1e6:.0f} MB at first, {memory[-1] / 1e6:.0f} MB at last")


async def run(
    url: str, process: int, queries: Sequence[str], seconds: float
) -> tuple[dict[str, int], list[int]]:
    """How often each call was made, and the server's memory in bytes after each part of the time."""
    done: Counter[str] = Counter()
    end = time.perf_counter() + seconds
    numbers = count()

    async def read() -> None:
        async with AsyncFastLaneClient(url) as client:
            while time.perf_counter() < end:
                await client.search([queries[next(numbers) % len(queries)]])
                done["search"] += 1

    async def write(writer: int) -> None:
        async with AsyncFastLaneClient(url) as client:
            while time.perf_counter() < end:
                ids = [f"writer-{writer}-{n}" for n in range(ADDED)]
                texts = [f"{queries[next(numbers) % len(queries)]} and more" for _ in ids]
                await client.add(texts, ids)
                await client.upsert(texts[: ADDED // 2], ids[: ADDED // 2])
                await client.delete(ids)
                done["add, upsert, delete"] += 1

    async def watch() -> list[int]:
        found = [resident_bytes(process)]
        for part in range(1, PARTS + 1):
            await asyncio.sleep(max(0.0, end - seconds * (1 - part / PARTS) - time.perf_counter()))
            found.append(resident_bytes(process))
        return found

    watched = asyncio.ensure_future(watch())
    await asyncio.gather(*(read() for _ in range(READERS)), *(write(n) for n in range(WRITERS)))
    return dict(done), await watched


def resident_bytes(process: int) -> int:
    """A process's memory, as Linux counts it."""
    found = re.search(
        r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE
    )
    assert found is not None
    return 1024 * int(found[1])


if __name__ == "__main__":
    main()
