"""The quality command, and a collection of random vectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.search.peers.collection import VectorCollection
from tests.index.vectors.test_store import units
from tests.support.benchmarks import run_command, write_set

NUM_DOCUMENTS, NUM_QUERIES = 60, 5


@pytest.fixture
def measure_quality(
    tmp_path: Path, checkpoint: Path, backbone_folder: Callable[[str], Path]
) -> Callable[..., dict[str, Any]]:
    """Runs the quality command on some of the sets "one" and "two", and gives the JSON that it writes."""
    write_set(tmp_path / "one", 0)
    write_set(tmp_path / "two", 1)
    out = tmp_path / "results" / "quality.json"
    common = ["--data", tmp_path, "--model", checkpoint, "--out", out]

    def call(sets: str, *options: str) -> dict[str, Any]:
        backbone = ["--backbone", backbone_folder("bert")]
        run_command("quality.quality", "--sets", sets, *common, *backbone, *options)
        found: dict[str, Any] = json.loads(out.read_text())
        return found

    return call


@pytest.fixture
def collection(tmp_path: Path) -> VectorCollection:
    """Sixty documents; each query is one of them, and that is relevant."""
    folder = tmp_path / "vectors"
    folder.mkdir()
    documents = [units(3 + number % 4, number) for number in range(NUM_DOCUMENTS)]
    for number, start in enumerate((0, 40)):
        shard = documents[start : start + 40]
        np.save(folder / f"vectors-{number:04d}.npy", np.concatenate(shard).astype(np.float16))
        np.save(folder / f"counts-{number:04d}.npy", np.array([len(one) for one in shard]))
    ids = [f"d{number}" for number in range(NUM_DOCUMENTS)]
    queries = [documents[10 * number] for number in range(NUM_QUERIES)]
    np.save(folder / "queries-full.npy", np.concatenate(queries))
    np.save(folder / "queries-counts.npy", np.array([len(one) for one in queries]))
    np.save(folder / "queries-routed.npy", np.stack([one[0] for one in queries]))
    for name, content in {
        "ids": ids,
        "texts": [f"text {id}" for id in ids],
        "collection": {"command": "made by a test"},
        "queries": [
            {"id": f"q{n}", "text": "", "relevant": {f"d{10 * n}": 1}} for n in range(NUM_QUERIES)
        ],
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return VectorCollection(folder)
