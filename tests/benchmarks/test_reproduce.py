"""Another run of a training beside the released one, end to end on a tiny checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.benchmarks import run_command


@pytest.mark.slow
def test_another_run_is_compared_with_the_released_one_query_by_query(
    measure_quality: Callable[..., dict[str, Any]],
    tmp_path: Path,
    checkpoint: Path,
) -> None:
    released = measure_quality("one,two:dev", "--storage", "float16")
    results = tmp_path / "results"

    def compare(sets: str) -> dict[str, Any]:
        command = [
            *("--data", tmp_path, "--model", checkpoint, "--sets", sets),
            *("--released", results / "quality.json", "--out", results / "seed.json"),
        ]
        run_command("quality.reproduce", *command)
        found: dict[str, Any] = json.loads((results / "seed.json").read_text())
        return found

    same = compare("one")
    assert same["settings"]["model"] == same["settings"]["released"]  # the same weights
    both = compare("one,two:dev")
    assert both["sets"]["one"] == same["sets"]["one"]
    for setting, one in both["over_sets"].items():
        assert one["released"] == pytest.approx(released["over_sets"]["ndcg@10"][setting])
        assert one["other"] == pytest.approx(one["released"])  # the same checkpoint
        assert one["difference"]["mean"] == pytest.approx(0, abs=1e-6)
        assert one["difference"]["num_queries"] == 8

    with np.load(results / "quality.npz") as stored:
        rows = dict(stored)
    rows["one/full"] = rows["one/full"] - 0.5  # as if the released run were worse
    np.savez(results / "quality.npz", **rows)
    (results / "seed.json").unlink()
    worse = compare("one,two:dev")["over_sets"]
    assert worse["full"]["difference"]["mean"] == pytest.approx(0.25)
    assert worse["router_1"]["difference"]["mean"] == pytest.approx(0, abs=1e-6)
