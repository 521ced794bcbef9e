"""What each kind of index finds, over a small collection of random vectors."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.search.peers.collection import VectorCollection
from tests.benchmarks.conftest import NUM_DOCUMENTS
from tests.support.benchmarks import run_command


def test_every_kind_is_compared_with_exhaustive_search(
    collection: VectorCollection, tmp_path: Path
) -> None:
    out = tmp_path / "recall.json"
    run_command(
        "search.recall",
        "--collection",
        collection.folder,
        "--documents",
        NUM_DOCUMENTS,
        "--out",
        out,
    )
    found = json.loads(out.read_text())
    assert found["documents"] == NUM_DOCUMENTS
    assert found["vectors"] == collection.num_vectors
    assert found["recall"]["flat"]["float32"] == 1.0
    assert all(0 <= share <= 1 for one in found["recall"].values() for share in one.values())
