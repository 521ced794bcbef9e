"""The benchmark of long documents, end to end on a tiny checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality.long_documents import joined
from fastlane_st import FastLaneEncoder, FastLaneIndex
from fastlane_st.data.collection import read_collection
from fastlane_st.evaluation.metrics import evaluate_rankings
from tests.support.benchmarks import run_on_one_set
from tests.support.collections import collection_of


def test_joined_documents_keep_the_best_grade_of_their_parts() -> None:
    collection = collection_of({"q": {"a": 1, "c": 2, "d": 0}, "r": {"e": 1}}, "abcde")
    found = joined(collection, 2)
    assert found.documents == {
        "joined-0": "text of a\n\ntext of b",
        "joined-1": "text of c\n\ntext of d",
        "joined-2": "text of e",
    }
    assert found.qrels == {"q": {"joined-0": 1, "joined-1": 2}, "r": {"joined-2": 1}}


def test_both_ways_rank_as_an_index_of_the_joined_documents(
    checkpoint: Path, tmp_path: Path
) -> None:
    command = ("quality.long_documents", checkpoint, tmp_path, "--join", 3)
    found = run_on_one_set(*command)
    assert found["settings"]["join"] == 3
    one = found["sets"]["one"]
    assert (one["documents"], one["long"]) == (2, 2)

    collection = joined(read_collection(tmp_path / "one"), 3)
    for way in ("cut", "window"):
        index = FastLaneIndex.build(
            FastLaneEncoder(checkpoint),
            list(collection.documents.values()),
            num_routes=None,
            long_texts=way,  # type: ignore[arg-type]
        )
        assert one[f"vectors_per_document_{way}"] == index.num_vectors / 2
        for setting, num_routes in (("router_1", 1), ("full", None)):
            hits = index.search(list(collection.queries.values()), num_routes=num_routes)
            rankings = [np.array([hit.id for hit in each]) for each in hits]
            expected = evaluate_rankings(collection, rankings)["ndcg@10"].mean()
            assert one["ndcg@10"][setting][way] == pytest.approx(expected)
