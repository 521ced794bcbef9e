"""Quality and latency by the number of routes, end to end on a tiny checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastlane_st import FastLaneEncoder, FastLaneIndex
from fastlane_st.data.collection import read_collection
from tests.conftest import DOCUMENTS
from tests.support.benchmarks import run_on_one_set


def test_as_many_routes_as_views_are_all_views(checkpoint: Path, tmp_path: Path) -> None:
    encoder = FastLaneEncoder(checkpoint)
    FastLaneIndex.build(encoder, DOCUMENTS).save(tmp_path / "index")
    options = ["--index", str(tmp_path / "index")]
    found = run_on_one_set("quality.routes", checkpoint, tmp_path, *options)
    one = found["sets"]["one"]
    assert one["ndcg@10"]["router_64"] == one["ndcg@10"]["full"]
    texts = list(read_collection(tmp_path / "one").queries.values())
    lengths = [len(views) for views in encoder.encode_query(texts, num_routes=None)]
    for count in (1, 4, 64):
        views = one["latency"][f"router_{count}"]["views"]
        assert views == pytest.approx(sum(min(count, length) for length in lengths) / len(lengths))
    assert all(latency["p50_ms"] <= latency["p95_ms"] for latency in one["latency"].values())
    assert found["over_sets"]["full"]["ndcg@10"] == one["ndcg@10"]["full"]
