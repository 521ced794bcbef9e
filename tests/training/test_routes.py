"""training.routes: pairs of a configuration's sources, and the second stage over them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fastlane_st import FastLaneModel
from fastlane_st.hub import apply_delta
from tests.conftest import DOCUMENTS, QUERIES
from tests.retrofit.test_retrofit import corpus, pairs
from tests.support.training import write_pairs, write_rows
from training.routes import drawn_pairs, main
from training.training_config import Source


def test_pairs_are_drawn_from_each_file_once(tmp_path: Path) -> None:
    paths = [str(write_pairs(tmp_path / f"{name}.jsonl", 10, n)) for n, name in enumerate("ab")]
    sources = [
        Source(path=paths[0]),
        Source(path=paths[0], name="again", join=2),
        Source(path=paths[1]),
    ]
    rows = [
        [
            (row["query"], row["positive"])
            for row in map(json.loads, Path(path).read_text().splitlines())
        ]
        for path in paths
    ]
    assert list(drawn_pairs(sources, 100)) == [*rows[0], *rows[1]]
    few = list(drawn_pairs(sources, 4))
    assert len(few) == 8
    assert set(few[:4]) <= set(rows[0])
    assert set(few[4:]) <= set(rows[1])
    assert few == list(drawn_pairs(sources, 4))


def test_the_second_stage_leaves_documents_as_they_are(
    checkpoint: Path,
    tmp_path: Path,
    backbone_folder: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    backbone = backbone_folder("bert")
    rows = [{"query": query, "positive": text} for query, text in pairs(corpus(150))]
    path = write_rows(tmp_path / "pairs.jsonl", rows)
    config = tmp_path / "config.yaml"
    settings = {"output_dir": "x", "backbone": str(backbone), "max_steps": 1, "delta": True}
    config.write_text(json.dumps({**settings, "sources": [{"path": str(path)}]}))
    command = ["--model", str(checkpoint), "--config", str(config), "--out", str(tmp_path / "out")]
    assert main([*command, "stepz=3"]) == 1
    assert "stepz" in capsys.readouterr().err
    assert main([*command, "steps=3"]) == 0
    assert "1 route" in capsys.readouterr().out
    before, after = map(FastLaneModel.from_pretrained, (checkpoint, tmp_path / "out"))
    for one, other in zip(
        before.encode_document(DOCUMENTS), after.encode_document(DOCUMENTS), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)
    one, other = (
        np.concatenate(model.encode_query(QUERIES, num_routes=1, convert_to_numpy=True))
        for model in (before, after)
    )
    assert not np.allclose(one, other, atol=1e-6)
    rebuilt = apply_delta(tmp_path / "out" / "delta", backbone)
    for views, expected in zip(
        rebuilt.encode_query(QUERIES), after.encode_query(QUERIES), strict=True
    ):
        torch.testing.assert_close(views, expected, rtol=0, atol=1e-3)  # in half precision
    assert main(command) == 1
    assert "exists: name a new folder" in capsys.readouterr().err
