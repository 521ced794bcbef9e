"""benchmarks.quality.retrofit: an index, and two retrofits over it, each once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest

from benchmarks.quality import retrofit
from fastlane_st import FastLaneIndex
from tests.support.benchmarks import run_command


def test_a_plain_model_gets_routes_with_and_without_context(
    tmp_path: Path,
    backbone_folder: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = (
        "json loads a string to dict and reads the file in python with list number set sort".split()
    )
    rows = [
        {
            "query": " ".join(words[(3 * n + k) % len(words)] for k in range(4)),
            "positive": " ".join(words[(n * k + k + n) % len(words)] for k in range(1, 15))
            + f" {n}",
        }
        for n in range(140)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = tmp_path / "config.yaml"
    config.write_text(
        f"output_dir: {tmp_path}/run\nbackbone: any\nmax_steps: 1\n"
        f"sources:\n  - {{path: {tmp_path}/pairs.jsonl}}\n"
    )
    backbone = backbone_folder("bert")
    monkeypatch.setattr(retrofit, "base_weights", lambda: backbone)
    out = tmp_path / "retrofit.json"
    options = ["--config", config, "--documents", 130, "--pairs", 40, "--steps", 2]
    options += ["--scratch", tmp_path / "scratch", "--out", out]
    for name, value in (("QUERY_LENGTH", 16), ("DOCUMENT_LENGTH", 32), ("DIM", 8)):
        monkeypatch.setattr(retrofit, name, value)
    monkeypatch.setattr(retrofit, "ENCODED_AT_ONCE", 50)
    with monkeypatch.context() as stopped:
        stopped.setattr(FastLaneIndex, "add", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_command("quality.retrofit", *options)
    assert len(FastLaneIndex.load(tmp_path / "scratch" / "index")) == 50
    run_command("quality.retrofit", *options)
    found = json.loads(out.read_text())
    assert (
        found["encoding"]["documents"]
        == len(FastLaneIndex.load(tmp_path / "scratch" / "index"))
        == 130
    )
    assert [part["documents"] for part in found["encoding"]["parts"]][-1] == 80
    assert list(found["retrofits"]) == ["none", "both"]
    for one in found["retrofits"].values():
        assert {"documents", "queries", "candidates", "training"} <= set(one["seconds"])
        assert one["before"]["all views"] == one["after"]["all views"]
    checkpoints = {path.parent.name for path in (tmp_path / "scratch").glob("*/config.json")}
    assert {"none", "none-untrained", "both", "both-untrained", "untrained"} <= checkpoints
    again = out.read_text()
    run_command("quality.retrofit", *options)  # nothing is left to do
    assert out.read_text() == again
    options[options.index("--pairs") + 1] = 30
    with pytest.raises(SystemExit, match="asked for"):
        run_command("quality.retrofit", *options)
