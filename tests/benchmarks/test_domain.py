"""The domain benchmark, end to end on a tiny checkpoint and adapters made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.quality.domain import verdict_on
from fastlane_st import FastLaneEncoder, FastLaneModel
from fastlane_st.adapters import lora_config
from fastlane_st.data.collection import read_collection
from fastlane_st.evaluation.metrics import paired_difference
from fastlane_st.evaluation.routes import measure_routes
from fastlane_st.evaluation.scoring import encode_documents, encode_queries
from tests.conftest import DOCUMENTS, QUERIES
from tests.support.benchmarks import run_command, write_set

Benchmark = Callable[..., dict[str, Any]]


@pytest.fixture
def benchmark(tmp_path: Path, checkpoint: Path) -> Benchmark:
    """Measures an adapter whose projection is turned by noise, and gives the JSON of the command."""
    for shift, name in enumerate(("target", "other")):
        write_set(tmp_path / "sets" / name, shift)

    def call(noise: float, *options: str) -> dict[str, Any]:
        model = FastLaneModel.from_pretrained(checkpoint)
        model.add_adapter(lora_config(model))
        torch.manual_seed(0)
        weight = model.projection.linear.weight
        weight.data += noise * torch.randn_like(weight)
        model.save_pretrained(tmp_path / "adapter")
        out = tmp_path / "results" / "domain.json"
        where = ["--base", str(checkpoint), "--adapter", str(tmp_path / "adapter")]
        sets = ["--data", str(tmp_path / "sets"), "--target", "target", "--others", "other"]
        run_command("quality.domain", *where, *sets, "--out", out, *options)
        found: dict[str, Any] = json.loads(out.read_text())
        return found

    return call


def test_before_and_after_are_the_librarys_numbers(
    benchmark: Benchmark, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = benchmark(3.0)
    encoders = {
        "before": FastLaneEncoder(checkpoint),
        "after": FastLaneEncoder(tmp_path / "adapter"),
    }
    for name in ("target", "other"):
        collection = read_collection(tmp_path / "sets" / name)
        results = {
            when: measure_routes(
                collection,
                encode_queries(encoder, QUERIES),
                encode_documents(encoder, DOCUMENTS, dtype=np.float16),
                ["router_1", "full"],
            )
            for when, encoder in encoders.items()
        }
        for setting in ("router_1", "full"):
            row = found["sets"][name]["ndcg@10"][setting]
            before, after = (results[when][setting]["ndcg@10"] for when in ("before", "after"))
            assert row["before"] == pytest.approx(before.mean())
            assert row["after"] == pytest.approx(after.mean())
            assert row["difference"] == paired_difference(after, before).to_dict()
            assert row["relative"] == pytest.approx((after.mean() - before.mean()) / before.mean())
    one_route = found["sets"]["target"]["ndcg@10"]["router_1"]
    assert one_route["before"] != one_route["after"]
    printed = capsys.readouterr().out
    assert "target: 4 queries, 6 documents, nDCG@10" in printed
    assert f"one route: {one_route['before']:.4f} → {one_route['after']:.4f}" in printed


def test_an_adapter_that_changes_nothing_gains_and_forgets_nothing(benchmark: Benchmark) -> None:
    found = benchmark(0.0)
    for each in found["sets"].values():
        for row in each["ndcg@10"].values():
            assert row["difference"]["mean"] == row["relative"] == 0
    assert found["verdict"] == {"gained": False, "kept": {"other": True}}
    assert found["settings"]["adapter"]["megabytes"] > 0
    assert found["environment"]["versions"]["torch"]


@pytest.mark.parametrize(
    ("low", "relative", "verdict"),
    [
        (0.01, -0.02, {"gained": True, "kept": {"other": True}}),
        (0.0, -0.021, {"gained": False, "kept": {"other": False}}),
    ],
)
def test_the_verdict_is_on_one_route(low: float, relative: float, verdict: dict[str, Any]) -> None:
    rows = {
        "target": {"difference": {"low": low}, "relative": 1.0},
        "other": {"difference": {"low": -1.0}, "relative": relative},
    }
    sets = {name: {"ndcg@10": {"router_1": row}} for name, row in rows.items()}
    found = {"target": "target", "allowed_loss": 0.02, "sets": sets}
    assert verdict_on(found, ["other"]) == verdict


def test_a_trial_takes_fewer_queries_and_documents(benchmark: Benchmark) -> None:
    found = benchmark(1.0, "--limit-queries", "2", "--limit-documents", "4", "--dtype", "bfloat16")
    assert [each["queries"] for each in found["sets"].values()] == [2, 2]
    assert [each["documents"] for each in found["sets"].values()] == [4, 4]
    assert found["settings"]["limit_queries"] == 2


def test_an_adapter_of_another_base_is_not_measured(
    benchmark: Benchmark, checkpoint: Path, tmp_path: Path
) -> None:
    other = FastLaneModel.from_pretrained(checkpoint)
    other.projection.linear.weight.data *= 2
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"was made for the base"):
        benchmark(0.0, "--base", str(tmp_path / "other"))
