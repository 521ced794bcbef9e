"""Metrics and comparisons, with values worked out by hand."""

from __future__ import annotations

import sys
from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytrec_eval import RelevanceEvaluator

from fastlane_st.evaluation.metrics import (
    METRICS,
    bootstrap_interval,
    evaluate_rankings,
    macro_difference,
    mean_metrics,
    paired_difference,
    top_documents,
)
from tests.support.collections import collection_of


def test_ties_go_to_the_earlier_document_and_minus_infinity_is_not_retrieved() -> None:
    scores = np.array([1.0, 3.0, 1.0, -np.inf, 3.0, 1.0])
    assert top_documents(scores, 3).tolist() == [1, 4, 0]
    assert top_documents(scores, 99).tolist() == [1, 4, 0, 2, 5]
    assert top_documents(np.full(3, -np.inf), 2).tolist() == []
    with pytest.raises(ValueError, match="a score is NaN"):
        top_documents(np.array([1.0, np.nan]))


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, -2.0]), min_size=1), st.integers(1, 12))
def test_top_documents_is_the_head_of_a_stable_sort(values: list[float], depth: int) -> None:
    scores = np.array(values)
    expected = np.argsort(-scores, kind="stable")[:depth]
    assert top_documents(scores, depth).tolist() == expected.tolist()


def test_metrics_by_hand() -> None:
    collection = collection_of({"q": {"b": 1, "c": 2, "p": 1}})
    # a (0), b (1), c (2), then what isn't judged; p, the last relevant one, isn't found
    metrics = mean_metrics(evaluate_rankings(collection, [np.array([0, 1, 2, 5, 6])]))
    ideal = 2 + 1 / log2(3) + 1 / log2(4)
    assert metrics == pytest.approx(
        {
            "ndcg@10": (1 / log2(3) + 2 / log2(4)) / ideal,
            "mrr@10": 1 / 2,
            "recall@100": 2 / 3,
            "map@100": (1 / 2 + 2 / 3) / 3,
        }
    )


def test_beyond_rank_ten_mrr_and_ndcg_see_nothing() -> None:
    collection = collection_of({"q": {"k": 1}})
    metrics = mean_metrics(evaluate_rankings(collection, [np.arange(11)]))
    assert metrics == {"ndcg@10": 0, "mrr@10": 0, "recall@100": 1, "map@100": pytest.approx(1 / 11)}


def test_queries_without_results_or_without_relevant_documents_count_as_zero() -> None:
    collection = collection_of({"found": {"a": 1}, "nothing": {"a": 1}, "unjudged": {"a": 0}})
    rankings = [np.array([0]), np.array([], dtype=int), np.array([0])]
    metrics = evaluate_rankings(collection, rankings)
    for name in METRICS:
        assert metrics[name].tolist() == [1, 0, 0]


def test_fewer_rankings_than_judged_queries_are_refused() -> None:
    collection = collection_of({"q": {"a": 1}, "r": {"a": 1}})
    with pytest.raises(ValueError, match="tiny judges 2 queries, got 1 rankings"):
        evaluate_rankings(collection, [np.array([0])])


def test_the_names_of_documents_decide_nothing() -> None:
    # Of two equal scores trec_eval ranks "z" before "a", whatever stood first.
    tied = RelevanceEvaluator({"q": {"a": 1}}, {"recip_rank"}).evaluate({"q": {"a": 1.0, "z": 1.0}})
    assert tied["q"]["recip_rank"] == 0.5
    ranking = top_documents(np.array([1.0, 1.0]))
    for documents in ("az", "za"):
        collection = collection_of({"q": {documents[0]: 1}}, documents)
        assert evaluate_rankings(collection, [ranking])["mrr@10"].tolist() == [1]


def test_scores_closer_than_float32_are_still_apart() -> None:
    collection = collection_of({"q": {"b": 1}}, "ab")
    ranking = top_documents(np.array([1.0, 1.0 + 1e-12]))
    assert evaluate_rankings(collection, [ranking])["mrr@10"].tolist() == [1]


def test_without_pytrec_eval_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytrec_eval", None)
    with pytest.raises(ImportError, match=r"fastlane-st\[eval\]"):
        evaluate_rankings(collection_of({"q": {"a": 1}}), [np.array([0])])


def test_the_same_values_differ_by_nothing() -> None:
    values = np.array([0.2, 0.7, 1.0])
    found = paired_difference(values, values)
    assert (found.mean, found.low, found.high, found.p_value) == (0, 0, 0, 1)
    assert found.num_queries == 3


def test_a_constant_difference_is_its_own_interval() -> None:
    found = paired_difference(np.full(4, 0.75), np.full(4, 0.5))
    assert (found.mean, found.low, found.high) == (0.25, 0.25, 0.25)
    # Of the 16 ways to flip four signs, all plus and all minus are as large.
    assert found.p_value == pytest.approx(2 / 16, abs=0.01)


def test_the_interval_is_close_to_the_normal_one_and_repeats_with_the_seed() -> None:
    differences = np.random.default_rng(3).normal(0.1, 0.5, 400)
    found = paired_difference(differences, np.zeros(400), seed=7)
    spread = 1.96 * differences.std() / 20
    assert found.low == pytest.approx(differences.mean() - spread, abs=0.005)
    assert found.high == pytest.approx(differences.mean() + spread, abs=0.005)
    assert found.p_value < 0.01
    assert found == paired_difference(differences, np.zeros(400), seed=7)
    assert found != paired_difference(differences, np.zeros(400), seed=8)
    low, high = bootstrap_interval(differences, seed=7)
    assert (low, high) == (found.low, found.high)


def test_collections_count_alike_whatever_their_size() -> None:
    pairs = [(np.ones(2), np.zeros(2)), (np.zeros(50), np.zeros(50))]
    found = macro_difference(pairs)
    assert (found.mean, found.num_queries) == (0.5, 52)
    assert (found.low, found.high) == (0.5, 0.5)


def test_values_that_are_not_paired_are_refused() -> None:
    with pytest.raises(ValueError, match="expected two values a query"):
        paired_difference(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="at least one collection to compare on, got none"):
        macro_difference([])
