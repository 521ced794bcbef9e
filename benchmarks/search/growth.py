"""What an index costs besides its vectors: commits of a build, and opening, by number of documents.

    python -m benchmarks.search.growth --scratch runs/growth --out growth.json

Documents have two random vectors, some 400 characters of text and two metadata fields: encoding and
clustering are left out, so that the cost of ids, texts, metadata and commits shows. A build commits every
`--commit-every` documents. Opening is timed in a process of its own, memory-mapped; its memory includes the
pages of mapped files that it has touched.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastlane_st import FastLaneIndex
from fastlane_st.data.corpus import CorpusDocument
from fastlane_st.index.building import build_folder

from ..common.environment import ROOT, command, environment
from ..common.results import write_results

DIM = 16
QUERIES = 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--documents", default="20000,40000,80000,1000000", help="sizes, with commas"
    )
    parser.add_argument(
        "--commit-every", type=int, default=2_000, help="a hundredth, if that is more"
    )
    parser.add_argument("--scratch", type=Path, help="a folder for the indexes")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--open", type=Path, help="only time opening this index, and print JSON")
    options = parser.parse_args()
    if options.open is not None:
        print(json.dumps(time_opening(options.open)))
        return
    if options.scratch is None or options.out is None:
        parser.error("--scratch and --out are needed")
    found: dict[str, Any] = {"command": command(), "environment": environment(), "sizes": {}}
    for count in map(int, options.documents.split(",")):
        folder = options.scratch / str(count)
        every = max(options.commit_every, count // 100)
        started = time.perf_counter()
        build_folder(
            folder,
            RandomEncoder(),
            documents(count),
            count,
            kind="ivf",
            storage="int8",
            commit_every=every,
            batch_size=256,
        )
        seconds = time.perf_counter() - started
        opened = subprocess.run(
            [sys.executable, "-m", "benchmarks.search.growth", "--open", str(folder.resolve())],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        found["sizes"][str(count)] = {
            "commits": -(-count // every),
            "build_seconds": seconds,
            **json.loads(opened.stdout),
        }
        print(count, found["sizes"][str(count)], flush=True)
        write_results(options.out, found)


def documents(count: int) -> Iterator[CorpusDocument]:
    """Documents whose text ends with their number."""
    for number in range(count):
        metadata: dict[str, Any] = {"year": 1990 + number % 30, "source": f"source {number % 1000}"}
        text = f"{'a passage of a manual, of some length, ' * 10}{number}"
        yield CorpusDocument(f"document-{number:07d}", text, metadata=metadata)


class RandomEncoder:
    """Gives each text two random unit vectors."""

    def __init__(self) -> None:
        self._random = torch.Generator().manual_seed(0)

    def get_embedding_dimension(self) -> int:
        return DIM

    def encode_document(self, texts: list[str], /, **options: Any) -> list[dict[str, torch.Tensor]]:
        vectors = torch.randn(len(texts), 2, DIM, generator=self._random)
        mask = torch.ones(2, dtype=torch.bool)
        normalised = torch.nn.functional.normalize(vectors, dim=-1)
        return [{"token_embeddings": each, "attention_mask": mask} for each in normalised]

    encode_query = encode_document


def time_opening(folder: Path) -> dict[str, float]:
    """Seconds and memory of opening an index, and the median of searches with and without a filter."""
    FastLaneIndex.from_embeddings([[[1.0] * DIM]]).search([[[1.0] * DIM]])  # imports FAISS
    before, started = resident_bytes(), time.perf_counter()
    index = FastLaneIndex.load(folder, memory_map=True)
    opened = time.perf_counter() - started
    held = resident_bytes() - before
    queries = np.random.default_rng(1).normal(size=(QUERIES, 1, DIM)).astype(np.float32)
    where = {"year": {"$gte": 2010}, "source": {"$in": [f"source {n}" for n in range(500)]}}
    started = time.perf_counter()
    index.search([queries[0]], where=where)
    first_filter = time.perf_counter() - started
    return {
        "open_seconds": opened,
        "open_bytes": held,
        "first_filtered_seconds": first_filter,
        "search_ms": median_ms(index, queries),
        "filtered_search_ms": median_ms(index, queries, where=where),
    }


def median_ms(index: FastLaneIndex, queries: np.ndarray, **options: Any) -> float:
    """The median time of a search of one query."""
    seconds = []
    for query in queries:
        started = time.perf_counter()
        index.search([query], **options)
        seconds.append(time.perf_counter() - started)
    return 1000 * float(np.median(seconds))


def resident_bytes() -> int:
    """The memory of this process, pages of mapped files included."""
    [line] = [
        line for line in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in line
    ]
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    main()
