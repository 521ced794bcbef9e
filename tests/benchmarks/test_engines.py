"""The comparison of engines, over a small collection of random vectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.report import plots, tables
from benchmarks.search import engines
from benchmarks.search.peers.collection import VectorCollection
from tests.benchmarks.conftest import NUM_DOCUMENTS
from tests.support.benchmarks import run_command


@pytest.mark.slow
def test_engines_are_measured_alike(
    collection: VectorCollection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    backbone_folder: Callable[[str], Path],
) -> None:
    runs = (
        engines.Run("exhaustive", search=({}, {"one_route": True})),
        engines.Run("fastlane", {"kind": "flat", "storage": "float32"}, ({}, {"rerank": 60})),
        engines.Run("muvera", {"codec": "IVF2,SQ8"}, ({"nprobe": 2, "rerank": 60},)),
        engines.Run("maxsim"),
        engines.Run("dense", {"codec": "Flat", "model": str(backbone_folder("bert"))}),
        engines.Run("missing"),
    )
    monkeypatch.setattr(engines, "RUNS", runs)
    out = tmp_path / "engines.json"
    where = ["--collection", collection.folder, "--scratch", tmp_path]
    run_command("search.engines", *where, "--out", out)
    exhaustive, fastlane, fixed, scored, dense, missing = json.loads(out.read_text())["runs"]
    assert "returned non-zero exit status" in missing["failed"]
    for one in (exhaustive, fastlane):
        assert one["threads"] == 1
        assert [setting["ndcg@10"] for setting in one["settings"]] == [1.0, 1.0]
        assert all(setting["p50_ms"] <= setting["p99_ms"] for setting in one["settings"])
        assert all(setting["queries_per_second_callers"] > 0 for setting in one["settings"])
    full, one_route = exhaustive["settings"]
    assert full["ndcg@10_less_one_route"]["mean"] == 0.0
    assert full["overlap_maxsim"] == one_route["overlap_one_route"] == 1.0
    assert full["overlap_one_route"] < 1.0
    one_route, cascade = fastlane["settings"]
    assert one_route["overlap_one_route"] == cascade["overlap_maxsim"] == 1.0
    assert fixed["settings"][0]["overlap_maxsim"] == 1.0  # as good as what is ranked again
    assert scored["settings"][0]["overlap_maxsim"] == 1.0
    assert dense["bytes"] > 4 * 8 * NUM_DOCUMENTS
    assert fastlane["bytes_per_document"] > 4 * 16 * 3
    assert list(tables.curves(fastlane)) == [
        "fastlane flat float32",
        "fastlane flat float32 rerank",
    ]
    head, _, *rows = tables.engines_table(json.loads(out.read_text())).splitlines()
    assert [row.count("|") for row in rows] == [head.count("|")] * 8
    assert rows[3].startswith("| fastlane flat float32 rerank (rerank 60) | 1.0000 | 100.0% | ")
    assert rows[7].startswith("| missing | did not run: ")
    pytest.importorskip("matplotlib")
    plots.plot_engines(out).savefig(tmp_path / "engines.svg")
    assert "fastlane flat float32" in (tmp_path / "engines.svg").read_text()


def test_an_index_of_a_dense_model_is_named_by_its_folder() -> None:
    run = engines.Run("dense", {"codec": "Flat"}).with_model(Path("runs/twin"))
    assert run.build == {"codec": "Flat", "model": "runs/twin"}
    assert run.name == "dense-Flat-twin"
