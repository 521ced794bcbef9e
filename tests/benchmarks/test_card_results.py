"""The results that a model card shows."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.benchmarks import BENCHMARKS, ROOT, run_command


def test_the_released_card_has_the_committed_results(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    results = BENCHMARKS / "results"
    encoding = ("--encoding", results / "backends.json")
    run_command("report.card_results", results / "quality.json", out, *encoding)
    released = ROOT / "fastlane_st" / "weights" / "fastlane-minilm" / "results.json"
    assert json.loads(out.read_text()) == json.loads(released.read_text())
