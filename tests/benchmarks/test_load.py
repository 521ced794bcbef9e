"""The server under a load of some clients, and with documents that come and go, for a moment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastlane_st import FastLaneIndex, FastLaneModel
from tests.conftest import DOCUMENTS, QUERIES
from tests.support.benchmarks import run_command

pytest.importorskip("httpx")
pytest.importorskip("fastapi")


@pytest.mark.slow
def test_every_setting_is_measured(model: FastLaneModel, checkpoint: Path, tmp_path: Path) -> None:
    FastLaneIndex.build(model, DOCUMENTS).save(tmp_path / "index")
    (tmp_path / "queries.txt").write_text("\n".join(QUERIES))
    out = tmp_path / "serve.json"
    where = ["--index", tmp_path / "index", "--queries", tmp_path / "queries.txt", "--out", out]
    options = ["--model", checkpoint, "--seconds", 2, "--rounds", 1, "--clients", 1, 4]
    run_command("serve.load", *where, *options)
    found = json.loads(out.read_text())
    [measured] = found["rounds"]
    for load in (one for each in measured["server"].values() for one in each.values()):
        assert 0 < load["p50_ms"] <= load["p95_ms"] <= load["p99_ms"]
        assert load["per_second"] > 0
    gain = measured["server"]["batches of 32"]["4"]["per_second"]
    gain /= measured["server"]["no batches"]["4"]["per_second"]
    assert found["ratios"]["throughput_of_batches"]["4"]["median"] == pytest.approx(gain)
    assert measured["pairs"]["library_ms"] > 0
    assert measured["pairs"]["server_ms"] > 0
    assert found["ratios"]["ms_over_library"]["median"] == measured["pairs"]["added_ms"]


@pytest.mark.slow
def test_memory_is_watched_while_documents_come_and_go(
    model: FastLaneModel, checkpoint: Path, tmp_path: Path
) -> None:
    FastLaneIndex.build(model, DOCUMENTS).save(tmp_path / "index")
    (tmp_path / "queries.txt").write_text("\n".join(QUERIES))
    out = tmp_path / "memory.json"
    where = ["--index", tmp_path / "index", "--queries", tmp_path / "queries.txt", "--out", out]
    run_command("serve.memory", *where, "--model", checkpoint, "--minutes", 0.05)
    found = json.loads(out.read_text())
    assert found["done"]["search"] > 10
    assert found["done"]["add, upsert, delete"] > 1
    assert len(found["resident_bytes"]) == 21
    assert all(size > 50e6 for size in found["resident_bytes"])
    assert len(FastLaneIndex.load(tmp_path / "index")) == len(DOCUMENTS)  # the copy was written to
