"""The rules that choose hard negatives, and the draw that fills a row."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from training.negatives import MiningConfig, Row, choose_negatives, draw_negatives, normalise

RANKED = [("a", 4.0), ("b", 3.0), ("c", 2.0), ("d", 1.0), ("e", 0.0), ("f", -1.0)]


@pytest.mark.parametrize(
    ("settings", "positive_score", "expected", "dropped"),
    [
        ({"max_relative_score": 1}, 4.0, ["b", "c"], {"positive": 1}),
        (
            {"max_relative_score": 0.5},
            4.0,
            ["c", "d"],
            {"positive": 1, "score": 1},
        ),  # 2 isn't above
        ({"max_relative_score": 0.25}, 3.8, ["e", "f"], {"positive": 1, "score": 3}),
        ({"max_relative_score": 1.5}, 2.0, ["b", "c"], {"positive": 1}),
        ({"max_relative_score": 1, "skip": 2}, 4.0, ["d", "e"], {"positive": 1, "skipped": 2}),
        ({"max_relative_score": 1, "skip": 4}, 4.0, ["f"], {"positive": 1, "skipped": 4}),
        ({"skip": 4}, 0.0, [], {"positive": 1, "score": 3, "skipped": 2}),
        ({"max_relative_score": 0.5}, 0.0, ["e", "f"], {"positive": 1, "score": 3}),
        ({"max_relative_score": 0.5}, -0.5, ["f"], {"positive": 1, "score": 4}),  # at most -0.75
        ({"max_relative_score": 0.5}, -1.0, [], {"positive": 1, "score": 5}),  # at most -1.5
    ],
)
def test_negatives_are_the_best_that_no_rule_drops(
    settings: dict[str, Any], positive_score: float, expected: list[str], dropped: dict[str, int]
) -> None:
    config = MiningConfig(num_negatives=2, **settings)
    chosen, counted = choose_negatives(RANKED, {"a"}, positive_score, config)
    assert chosen == expected
    assert +counted == Counter(dropped)


def test_rules_on_texts_come_before_scores_and_see_through_case_and_blanks() -> None:
    positives = {"straße nach rom", "b"}
    ranked = [("STRASSE  nach\nRom", 1.0), ("Nach ROM", 1.0), ("ab", 0.5), ("B", 0.5), ("y", 0.1)]
    config = MiningConfig()
    chosen, counted = choose_negatives(ranked, {normalise(each) for each in positives}, 0.2, config)
    assert chosen == ["y"]
    assert +counted == Counter(positive=2, overlap=2)


def test_draws_take_each_document_once_and_found_ones_last() -> None:
    documents = ["a", "B", "c", "d", "e", "bb"]

    def draw(count: int, seed: int = 0, query: str = "q", **found: Any) -> list[str]:
        drawn: list[str] = draw_negatives(
            Row("x:1", query, "b", {"b"}), documents, count, seed, **found
        )
        return drawn

    assert sorted(draw(9)) == ["a", "c", "d", "e"]
    assert draw(4) == draw(4)
    assert draw(2) == draw(4)[:2]
    assert len({tuple(draw(4, seed=seed)) for seed in range(9)}) > 1
    assert len({tuple(draw(4, query=query)) for query in "qrstuvw"}) > 1
    assert {draw(1, seed=seed)[0] for seed in range(99)} == {"a", "c", "d", "e"}
    for seed in range(9):
        assert sorted(draw(2, seed, found=["a", "c"])) == ["d", "e"]
        assert draw(9, seed, found=["a", "c"], chosen=["c"])[2:] == ["a"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_negatives": 0}, "num_negatives must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"skip": -1}, "skip must be at least 0, got -1"),
        ({"num_negatives": 3, "skip": 8, "depth": 10}, "depth must be at least 11, got 10"),
        ({"max_relative_score": 0}, "max_relative_score must be finite and above 0, got 0"),
        ({"max_relative_score": float("nan")}, "max_relative_score must be finite and above 0"),
        ({"num_routes": 0.5}, "num_routes must be a positive integer or None, got 0.5"),
        ({"document_routes": 2.0}, r"a fraction in \(0, 1\] or None, got 2.0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MiningConfig(**settings)
