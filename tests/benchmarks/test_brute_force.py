"""Brute force over all views: its scores, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from benchmarks.search.brute_force import Documents
from benchmarks.search.peers.collection import VectorCollection
from tests.support.benchmarks import run_command


def test_brute_force_scores_are_maxsim(collection: VectorCollection) -> None:
    documents = Documents(collection, "cpu")
    queries = np.stack([views[:3] for views in collection.full])
    scores = documents.score(torch.from_numpy(queries))
    expected = [
        [(query @ views.T).max(axis=1).sum() for views in collection.documents()]
        for query in queries
    ]
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_both_ways_are_timed_in_every_round(collection: VectorCollection, tmp_path: Path) -> None:
    sizes = ["--query-views", 4, "--queries", 6, "--batch-size", 4, "--rounds", 2]
    out = tmp_path / "brute_force.json"
    where = ["--collection", collection.folder, "--device", "cpu", "--out", out]
    run_command("search.brute_force", *where, *sizes)
    found = json.loads(out.read_text())
    assert found["comparisons_per_query"] == {
        "summaxsim": 4 * collection.num_vectors,
        "one_route": collection.num_vectors,
    }
    ratios = sorted(one["summaxsim"] / one["one_route"] for one in found["seconds"])
    assert [found["ratio_smallest"], found["ratio_largest"]] == ratios
    assert found["ratio_median"] == sum(ratios) / 2
