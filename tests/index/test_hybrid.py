"""Hybrid search: reciprocal ranks by hand, filters, and changes of the index."""

from __future__ import annotations

from typing import Any

import pytest

from fastlane_st import FastLaneIndex
from fastlane_st.index.hybrid import FusedHit, HybridSearch
from fastlane_st.modeling.search_fastlane import Hit, Match
from tests.support.encoders import WordEncoder

TEXTS = {"a": "red car", "b": "blue sky", "c": "bus bus", "d": "sky"}


@pytest.fixture
def index() -> FastLaneIndex:
    years = [{"year": year} for year in (1, 2, 3, 4)]
    return FastLaneIndex.build(WordEncoder(), list(TEXTS.values()), list(TEXTS), metadata=years)


def test_scores_are_sums_of_reciprocal_ranks(index: FastLaneIndex) -> None:
    # One route, car: a 1, c 0.75, b and d 0. BM25 finds only a.
    [found] = HybridSearch(index).search(["red car"], num_routes=1)
    assert [(one.id, one.score, one.bm25_rank) for one in found] == [
        ("a", 1 / 61 + 1 / 61, 1),
        ("c", 1 / 62, None),
        ("b", 1 / 63, None),
        ("d", 1 / 64, None),
    ]
    assert found[0].hit == Hit("a", 1.0, (Match(2, 2, 1.0),), "red car", {"year": 1})
    assert found[0].text == "red car"


def test_a_document_that_only_bm25_finds_is_found(index: FastLaneIndex) -> None:
    # One route, sky: b and d 1, c 0.5, a 0. BM25: a for the rarer word, then d, the shorter one, and b.
    [found] = HybridSearch(index).search(["sky red"], top_k=3, depth=3, num_routes=1)
    assert [(one.id, one.score, one.bm25_rank) for one in found] == [
        ("b", 1 / 61 + 1 / 63, 3),
        ("d", 1 / 62 + 1 / 62, 2),
        ("a", 1 / 61, 1),
    ]
    assert found[2].hit is None
    assert found[2].text == "red car"


def test_a_document_without_a_text_is_found_by_the_index_alone(index: FastLaneIndex) -> None:
    index.add([[[0.0, 0.75, 0.5]]], ids=["vectors"])  # equal to bus, and without a text
    [found] = HybridSearch(index).search(["car"], top_k=3, depth=3, ids=["vectors", "c", "a"])
    assert [(one.id, one.bm25_rank) for one in found] == [("a", 1), ("c", None), ("vectors", None)]
    assert found[2].text is None


def test_filters_hold_for_both_rankings(index: FastLaneIndex) -> None:
    search = HybridSearch(index)
    [found] = search.search(["sky"], where={"year": {"$lt": 4}})
    assert {one.id for one in found} == {"a", "b", "c"}
    assert {one.id: one.bm25_rank for one in found}["b"] == 1
    [found] = search.search(["sky"], ids=["d"], where={"year": {"$gt": 1}})
    assert [one.id for one in found] == ["d"]


def test_a_change_is_seen_by_both_rankings(index: FastLaneIndex) -> None:
    search = HybridSearch(index)
    assert search.search(["car"])[0][0].id == "a"
    index.delete(["a"])
    index.update(["red car"], ids=["d"])
    [found] = search.search(["car"])
    assert [(one.id, one.bm25_rank) for one in found[:2]] == [("d", 1), ("c", None)]
    assert "a" not in {one.id for one in found}


def test_words_that_no_text_has_leave_the_index_alone(index: FastLaneIndex) -> None:
    index.delete(["a", "b", "c"])
    [found] = HybridSearch(index).search(["red"])
    assert found == [FusedHit("d", 1 / 61, "sky", index.search("red")[0], None)]
    index.delete(["d"])
    assert HybridSearch(index).search(["red"]) == [[]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 10, "depth": 9}, "depth must be at least top_k=10, got 9"),
        ({"where": {"month": 1}}, "no document has the field 'month'"),
        ({"num_routes": 0}, "num_routes must be a positive integer"),
    ],
)
def test_wrong_searches_are_refused(index: FastLaneIndex, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HybridSearch(index).search(["red"], **options)
