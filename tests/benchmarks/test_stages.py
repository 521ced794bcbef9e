"""benchmarks.quality.stages: two results of the same queries, compared query by query."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.benchmarks import run_command


def test_a_stage_is_compared_with_the_one_before(
    measure_quality: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    after = measure_quality("one,two:dev")
    results, out = tmp_path / "results", tmp_path / "stages.json"
    where = ["--before", results / "quality.json", "--after", results / "quality.json"]
    run_command("quality.stages", *where, "--out", out)
    found = json.loads(out.read_text())
    assert found["sets"] == ["one", "two:dev"]
    for setting, one in found["settings"].items():
        assert one["before"] == one["after"]
        assert one["after"] == pytest.approx(after["over_sets"]["ndcg@10"][setting])
        assert one["difference"]["mean"] == 0
        assert one["difference"]["num_queries"] == 8
    other = tmp_path / "other"
    other.mkdir()
    for suffix in (".json", ".npz"):
        (results / "quality").with_suffix(suffix).rename((other / "quality").with_suffix(suffix))
    measure_quality("one")
    with pytest.raises(SystemExit, match="has the sets"):
        run_command(
            *("quality.stages", "--before", other / "quality.json"),
            *("--after", results / "quality.json", "--out", out),
        )
