"""Encoding of a collection for engines, end to end on a tiny checkpoint."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import numpy as np
import pytest

from benchmarks.search.peers.collection import VectorCollection
from fastlane_st import FastLaneEncoder
from tests.conftest import QUERIES
from tests.support.benchmarks import run_command, write_set


def test_vectors_are_those_of_the_encoder(checkpoint: Path, tmp_path: Path) -> None:
    write_set(tmp_path / "one", 0)
    with lzma.open(tmp_path / "others.jsonl.xz", "wt") as file:
        file.writelines(
            json.dumps({"_id": f"other{n}", "title": "the path", "text": "to a file"}) + "\n"
            for n in range(3)
        )
    folder = tmp_path / "vectors"
    others = ["--others", tmp_path / "others.jsonl.xz", "--num-others", 2]
    options = ["--judged", tmp_path / "one", "--model", checkpoint, "--out", folder, *others]
    run_command("search.vectors", *options)
    collection = VectorCollection(folder)
    encoder = FastLaneEncoder(checkpoint)
    assert sorted(collection.ids) == [*(f"corpus{n}" for n in range(6)), "other0", "other1"]
    assert collection.texts.count("the path to a file") == 2
    expected = encoder.encode_document(collection.texts, num_routes=None)
    for found, views in zip(collection.documents(), expected, strict=True):
        np.testing.assert_allclose(found, views.float().numpy(), atol=0.02)  # bfloat16
    for found, views in zip(
        collection.full, encoder.encode_query(QUERIES, num_routes=None), strict=True
    ):
        np.testing.assert_allclose(found, views.float().numpy(), atol=0.02)
    assert collection.queries[1] == {
        "id": "queries1",
        "text": QUERIES[1],
        "relevant": {"corpus1": 1},
    }
    run_command("search.vectors", *options)  # goes on where it was
    with pytest.raises(SystemExit, match="was begun otherwise"):
        run_command("search.vectors", *options, "--routes", 0.25)
