"""Topic-aware batches: near queries together, every row once, no text twice in a batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset

from fastlane_st import FastLaneEncoder
from tests.conftest import QUERIES
from training.topics import TopicBatchSampler, add_topics


def rows(topics: list[int], shared: dict[int, str] | None = None) -> Dataset:
    """Rows whose documents are their own, but for those that `shared` names."""
    numbers = range(len(topics))
    documents = [(shared or {}).get(n, f"document {n}") for n in numbers]
    return Dataset.from_dict(
        {
            "query": [f"query {n}" for n in numbers],
            "positive": documents,
            "origin": ["file:1"] * len(topics),
            "topic": topics,
        }
    )


def sampler(dataset: Dataset, batch_size: int) -> TopicBatchSampler:
    generator = torch.Generator()
    return TopicBatchSampler(dataset, batch_size, drop_last=True, generator=generator, seed=4)


def test_batches_are_of_one_topic_where_a_topic_fills_them() -> None:
    topics = [0, 1, 2] * 8
    batches = list(sampler(rows(topics), 4))
    assert len(batches) == 6
    assert sorted(row for batch in batches for row in batch) == list(range(24))
    assert all(len({topics[row] for row in batch}) == 1 for batch in batches)


def test_what_topics_leave_over_fills_batches_too() -> None:
    batches = list(sampler(rows([0, 0, 0, 1, 1, 1, 2, 2, 2]), 4))
    assert [len(batch) for batch in batches] == [4, 4]
    assert len({row for batch in batches for row in batch}) == 8


def test_rows_that_share_a_text_are_never_in_one_batch() -> None:
    dataset = rows([0] * 12, shared=dict.fromkeys((1, 5, 7), "the same"))
    for epoch in range(5):
        drawn = sampler(dataset, 4)
        drawn.set_epoch(epoch)
        batches = list(drawn)
        assert len(batches) == len(drawn) == 3
        assert all(len({1, 5, 7} & set(batch)) <= 1 for batch in batches)


def test_a_pass_is_made_up_to_its_length_if_shared_texts_leave_rows_over() -> None:
    dataset = rows([0] * 8, shared=dict.fromkeys(range(1, 8), "the same"))
    drawn = sampler(dataset, 2)
    assert [sorted(batch)[0] for batch in drawn] == [0] * len(drawn)


def test_epochs_differ_and_come_back() -> None:
    drawn = sampler(rows([0, 1] * 10), 5)
    first = list(drawn)
    drawn.set_epoch(1)
    second = list(drawn)
    drawn.set_epoch(0)
    assert list(drawn) == first != second


def test_topics_are_clusters_of_near_queries(checkpoint: Path) -> None:
    encoder = FastLaneEncoder(checkpoint)
    repeated = [QUERIES[n % 2] for n in range(20)]  # two points in all
    dataset = Dataset.from_dict({"query": repeated, "positive": [f"text {n}" for n in range(20)]})
    topics = add_topics(dataset, encoder, topic_size=10)["topic"]
    assert set(topics) == {0, 1}
    assert all(topics[n] == topics[n % 2] for n in range(20))
    assert topics[0] != topics[1]
    assert set(add_topics(dataset, encoder, topic_size=100)["topic"]) == {0}


@pytest.mark.parametrize("count", [1, 3])
def test_a_source_that_cannot_fill_a_batch_gives_none(count: int) -> None:
    assert list(sampler(rows([0] * count), 4)) == []
