"""Stores beside FastLaneIndex, over a small collection of random vectors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.search.peers.collection import VectorCollection
from tests.benchmarks.conftest import NUM_DOCUMENTS
from tests.support.benchmarks import run_command


def test_stores_are_compared_at_equal_overlap(
    collection: VectorCollection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lancedb")
    pytest.importorskip("qdrant_client")
    from benchmarks.search import stores

    monkeypatch.setattr(stores, "PROBES", (2,))
    monkeypatch.setattr(stores, "REFINES", (10,))
    out = tmp_path / "stores.json"
    arguments = {
        "--collection": collection.folder,
        "--documents": NUM_DOCUMENTS,
        "--stores": "lancedb,qdrant",
        "--partitions": 2,
        "--rounds": 1,
        "--scratch": tmp_path / "scratch",
        "--out": out,
    }
    run_command("search.stores", *(part for pair in arguments.items() for part in pair))
    found = json.loads(out.read_text())
    assert found["documents"] == NUM_DOCUMENTS
    settings = {(one["engine"], json.dumps(one["options"])): one for one in found["settings"]}
    assert settings["fastlane", '{"kind": "flat", "effort": 1}']["overlap"] == 1
    for engine in ("lancedb", "qdrant"):
        exact = settings[engine, '{"exact": true}']
        assert exact["overlap"] == 1
        assert exact["ratio"] > 0
    kinds = {one["options"].get("kind") for one in found["settings"] if one["engine"] == "lancedb"}
    assert {"IVF_RQ", "IVF_SQ", "IVF_FLAT"} <= kinds
    assert all(0 < one["overlap"] <= 1 for one in found["settings"])
