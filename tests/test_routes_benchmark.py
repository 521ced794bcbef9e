"""Quality and latency by the number of routes, end to end on a tiny checkpoint."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from conftest import DOCUMENTS
from test_quality_benchmark import BENCHMARKS, write_set

from fastlane_st import FastLaneEncoder, FastLaneIndex
from fastlane_st.evaluation.collection import read_collection


def test_as_many_routes_as_views_are_all_views(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path / "one", 0)
    encoder = FastLaneEncoder(checkpoint)
    FastLaneIndex.build(encoder, DOCUMENTS).save(tmp_path / "index")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    out = tmp_path / "results" / "by_routes.json"
    where = ["--data", str(tmp_path), "--model", str(checkpoint), "--out", str(out)]
    options = ["--index", str(tmp_path / "index"), "--sets", "one"]
    monkeypatch.setattr(sys, "argv", ["routes.py", *options, *where])
    runpy.run_path(str(BENCHMARKS / "paper" / "routes.py"), run_name="__main__")
    found = json.loads(out.read_text())
    one = found["sets"]["one"]
    assert one["ndcg@10"]["router_64"] == one["ndcg@10"]["full"]
    texts = list(read_collection(tmp_path / "one").queries.values())
    lengths = [len(views) for views in encoder.encode_query(texts, num_routes=None)]
    for count in (1, 4, 64):
        views = one["latency"][f"router_{count}"]["views"]
        assert views == pytest.approx(sum(min(count, length) for length in lengths) / len(lengths))
    assert all(latency["p50_ms"] <= latency["p95_ms"] for latency in one["latency"].values())
    assert found["over_sets"]["full"]["ndcg@10"] == one["ndcg@10"]["full"]
