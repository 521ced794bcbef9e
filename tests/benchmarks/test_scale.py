"""Growth of an index, over a small collection of random vectors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.report import plots, tables
from benchmarks.search.peers.collection import VectorCollection
from tests.support.benchmarks import run_command


@pytest.mark.slow
def test_an_index_grows_beyond_the_real_documents(
    collection: VectorCollection, tmp_path: Path
) -> None:
    out = tmp_path / "scale.json"
    (tmp_path / "indexes").mkdir()
    where = ["--collection", collection.folder, "--scratch", tmp_path / "indexes"]
    sizes = ["--sizes", "50,150", "--commit-every", "40"]
    run_command("search.scale", *where, *sizes, "--out", out)
    small, large = json.loads(out.read_text())["sizes"].values()
    assert small["vectors"] == sum(3 + number % 4 for number in range(50))
    assert large["vectors"] == 2 * collection.num_vectors + sum(3 + n % 4 for n in range(30))
    assert small["bytes"] < large["bytes"]
    for size in (small, large):
        assert [one["effort"] for one in size["searches"]] == [0.5, 1, 2, 4]
        assert size["searches"][-1]["overlap"] == 1.0  # int8 is compared with int8
    pytest.importorskip("matplotlib")
    plots.plot_scale(out).savefig(tmp_path / "scale.svg")
    assert "documents" in (tmp_path / "scale.svg").read_text()
    columns, _, *rows = tables.scale_table(json.loads(out.read_text())).splitlines()
    assert [row.count("|") for row in rows] == [columns.count("|")] * 2
