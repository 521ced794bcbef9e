"""What the commands share: results that go on, one identity of a checkpoint, and `python -m`."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.common.encoding import describe_checkpoint
from benchmarks.common.results import Facts, Rows, SetResults, measure_sets
from fastlane_st import FastLaneEncoder, FastLaneModel
from tests.support.benchmarks import ROOT


def facts_and_rows(name: str) -> tuple[Facts, Rows]:
    """A set whose one value is the length of its name."""
    return {"ndcg@10": {"full": len(name)}}, {"full": np.array([len(name)], dtype=np.float32)}


def total(results: SetResults) -> Facts:
    return {"total": sum(float(rows["full"].sum()) for rows in results.rows.values())}


@pytest.fixture(autouse=True)
def command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `python -m benchmarks.quality.routes --seed 1` has it."""
    script = ROOT / "benchmarks" / "quality" / "routes.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--seed", "1"])


def test_a_set_is_measured_once_and_the_summary_counts_all(tmp_path: Path) -> None:
    out = tmp_path / "results" / "found.json"
    measure_sets(SetResults(out, {"k": 1}), ["one"], facts_and_rows, total)
    again = SetResults(out, {"k": 1})
    measured: list[str] = []

    def measure(name: str) -> tuple[Facts, Rows]:
        measured.append(name)
        return facts_and_rows(name)

    measure_sets(again, ["one", "three"], measure, total)
    assert measured == ["three"]
    stored = SetResults(out, {"k": 1})
    assert stored.over_sets == {"total": 8.0}
    assert list(stored.sets) == list(stored.rows) == ["one", "three"]
    assert stored.sets["one"]["command"] == "python -m benchmarks.quality.routes --seed 1"
    assert stored.sets["one"]["environment"]["versions"]["torch"]


def test_a_set_that_is_not_whole_is_measured_again_and_keeps_its_command(tmp_path: Path) -> None:
    results = SetResults(tmp_path / "found.json", {})
    measure_sets(results, ["one"], facts_and_rows)

    def add(name: str) -> tuple[Facts, Rows]:
        return results.sets[name] | {"command": "the first"}, results.rows[name]

    measure_sets(results, ["one"], add, is_whole=lambda name: False)
    assert results.sets["one"]["command"] == "the first"


def test_results_of_other_settings_are_refused_unless_they_may_come_later(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    measure_sets(SetResults(out, {"k": 1, "dense": None}), ["one"], facts_and_rows)
    later = {"k": 1, "dense": "twin"}
    assert SetResults(out, later, may_come_later=["dense"]).settings == later
    with pytest.raises(SystemExit, match=r"'dense': None.*asked for.*'twin'"):
        SetResults(out, later)
    with pytest.raises(SystemExit, match=r"'k': 1.*asked for.*'k': 2"):
        SetResults(out, {"k": 2, "dense": None})


def test_a_checkpoint_is_identified_by_its_weights(checkpoint: Path, tmp_path: Path) -> None:
    model = FastLaneModel.from_pretrained(checkpoint)
    found = describe_checkpoint(str(checkpoint), model)
    assert found["name"] == checkpoint.name
    encoder = FastLaneEncoder(checkpoint)
    assert describe_checkpoint(str(checkpoint), encoder[0].model) == found
    other = copy.deepcopy(model)
    assert describe_checkpoint("elsewhere", other)["sha256"] == found["sha256"]
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1
    assert describe_checkpoint(str(checkpoint), other)["sha256"] != found["sha256"]


@pytest.mark.parametrize(
    "name", [pytest.param("quality.routes", marks=pytest.mark.slow), "report.tables"]
)
def test_commands_run_from_the_root_without_a_python_path(name: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--help"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"python -m benchmarks.{name}" in done.stdout
