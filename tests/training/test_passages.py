"""Sources whose near positives are joined: every text in one passage, near ones together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from fastlane_st import FastLaneEncoder
from tests.conftest import DOCUMENTS
from training.passages import group_near, join_positives
from training.train import load_dataset
from training.training_config import TrainingConfig


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_every_row_is_in_one_group_of_at_most_the_size(size: int) -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    groups = group_near(vectors, size)
    assert sorted(row for group in groups for row in group) == list(range(20))
    assert max(map(len, groups)) == min(size, 20)
    assert group_near(vectors, size) == groups


def test_near_rows_make_a_group() -> None:
    topics = np.eye(4, dtype=np.float32)[np.arange(12) % 4]
    for seed in range(3):
        groups = group_near(topics, 3, seed)
        assert sorted(map(sorted, groups)) == [[n, n + 4, n + 8] for n in range(4)]
    assert group_near(topics, 3, seed=1) != group_near(topics, 3, seed=2)


def test_a_positive_becomes_the_passage_that_holds_it(checkpoint: Path) -> None:
    texts = DOCUMENTS[:5]
    rows = Dataset.from_dict(
        {
            "query": [f"query {n}" for n in range(7)],
            "positive": [*texts, *texts[:2]],  # two texts answer two queries each
            "origin": ["file:1"] * 7,
        }
    )
    joined = join_positives(rows, FastLaneEncoder(checkpoint), size=2)
    assert joined.remove_columns("positive").to_dict() == rows.remove_columns("positive").to_dict()
    passages = joined["positive"]
    assert all(text in passage for text, passage in zip(rows["positive"], passages, strict=True))
    assert len(set(passages)) >= 3  # of five texts, two in each
    assert sum(len(passage) for passage in set(passages)) <= sum(map(len, texts)) + 2
    assert passages[5:] == passages[:2]


def test_hard_negatives_are_refused(checkpoint: Path) -> None:
    rows = Dataset.from_dict({"query": ["a"], "positive": ["b"], "negative_1": ["c"]})
    with pytest.raises(ValueError, match="join is for pairs"):
        join_positives(rows, FastLaneEncoder(checkpoint), size=2)


def test_a_run_joins_the_sources_that_say_so(checkpoint: Path, tmp_path: Path) -> None:
    lines = [
        f'{{"query": "query {n}", "positive": "{text}"}}\n' for n, text in enumerate(DOCUMENTS)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(lines), "utf-8")
    sources: list[dict[str, Any]] = [
        {"path": str(path)},
        {"path": str(path), "name": "joined", "join": 2},
    ]
    settings = {"output_dir": "run", "model": str(checkpoint), "max_steps": 1, "batch_size": 2}
    config = TrainingConfig.from_dict({**settings, "sources": sources})
    found = load_dataset(config, FastLaneEncoder(checkpoint))
    assert found["pairs"]["positive"] == DOCUMENTS
    assert len(set(found["joined"]["positive"])) < len(DOCUMENTS)
    with pytest.raises(ValueError, match="joined has only 3 rows that share no query"):
        load_dataset(
            TrainingConfig.from_dict({**settings, "batch_size": 5, "sources": sources}),
            FastLaneEncoder(checkpoint),
        )
