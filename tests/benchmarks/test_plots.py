"""Every plot is drawn from the JSON of a command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastlane_st.diagnostics.diagnose import run_diagnose
from tests.support.benchmarks import run_command


@pytest.mark.slow
def test_every_plot_is_drawn_from_json(
    measure_quality: Callable[..., dict[str, Any]],
    tmp_path: Path,
    checkpoint: Path,
) -> None:
    measure_quality("one,two")
    diagnostics = run_diagnose(checkpoint, tmp_path / "one").to_dict()
    (tmp_path / "diagnostics.json").write_text(json.dumps(diagnostics))
    (tmp_path / "log.jsonl").write_text('{"step": 1, "router_entropy": 2.0}\n{"step": 2}\n')
    sources = {
        "logits": "diagnostics.json",
        "routes": "results/quality.json",
        "lengths": "results/quality.json",
        "entropy": "log.jsonl",
    }
    for plot, source in sources.items():
        out = tmp_path / f"{plot}.svg"
        run_command("report.plots", plot, tmp_path / source, "--out", out)
        assert "<svg" in out.read_text()
