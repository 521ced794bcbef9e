"""Router diagnostics: numbers by hand, and an alarm for every way to stop choosing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from math import e, log, log2
from pathlib import Path

import numpy as np
import pytest
import torch

from fastlane_st import FastLaneEncoder
from fastlane_st.data.collection import Collection
from fastlane_st.diagnostics.collapse import CollapseThresholds, find_alarms
from fastlane_st.diagnostics.diagnose import RouterDiagnostics, diagnose, run_diagnose, summarise
from fastlane_st.diagnostics.routed_query import RoutedQuery, mean_rank_correlation, spearman
from fastlane_st.diagnostics.token_kinds import token_kind, token_kinds
from tests.conftest import WORDS


class ByPosition(torch.nn.Module):
    """A router that looks at nothing but where a token stands."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return (self.slope * torch.arange(float(states.shape[1]))).expand(states.shape[:2])


@pytest.fixture
def encoder(checkpoint: Path) -> FastLaneEncoder:
    return FastLaneEncoder(checkpoint)


def random_collection(num_queries: int) -> Collection:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(3, 8))) for _ in range(2 * num_queries)]
    return Collection(
        name="random",
        split="test",
        documents={f"d{n}": text for n, text in enumerate(texts[num_queries:])},
        queries={f"q{n}": text for n, text in enumerate(texts[:num_queries])},
        qrels={f"q{n}": {f"d{n}": 1} for n in range(num_queries)},
    )


def query_of(
    tokens: str,
    logits: Sequence[float],
    margins: Sequence[float] | None = None,
    ndcg: Sequence[float] | None = None,
) -> RoutedQuery:
    words = tokens.split()
    return RoutedQuery(
        query=tokens,
        tokens=words,
        kinds=token_kinds(words, range(len(words)), []),
        logits=np.array(logits, dtype=float),
        margins=None if margins is None else np.array(margins, dtype=float),
        view_ndcg=np.array(ndcg or [0.0] * len(words)),
        full_ndcg=1.0,
    )


def names(found: RouterDiagnostics) -> list[str]:
    return [alarm.name for alarm in found.alarms]


def test_a_router_that_takes_the_first_token_is_named(encoder: FastLaneEncoder) -> None:
    encoder[0].model.router = ByPosition(-1)
    found = diagnose(encoder, random_collection(30))
    assert (found.first_share, found.last_share) == (1, 0)
    assert (found.common_position.value, found.common_position.share) == (0, 1)
    assert found.position_histogram == (1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    assert "always the first position" in names(found)
    assert "ALARM always the first position: 100% of the routes" in found.render()


def test_a_router_that_takes_the_last_token_is_named(encoder: FastLaneEncoder) -> None:
    encoder[0].model.router = ByPosition(1)
    found = diagnose(encoder, random_collection(30))
    assert (found.first_share, found.last_share) == (0, 1)
    assert "always the last position" in names(found)


def test_a_router_that_prefers_nothing_is_named(encoder: FastLaneEncoder) -> None:
    encoder[0].model.router = ByPosition(0)
    found = diagnose(encoder, random_collection(30))
    assert found.normalised_entropy == pytest.approx(1)
    assert "uniform choice" in names(found)


def test_a_router_that_takes_the_third_view_is_named() -> None:
    words = ["alpha beta gamma delta", "one two three four five"]
    queries = [query_of(text, [0, 1, 9, 0, 0][: len(text.split())]) for text in words] * 12
    queries = [
        replace(query, tokens=[f"{token}{n}" for token in query.tokens])
        for n, query in enumerate(queries)
    ]
    found = summarise("built", queries)
    assert names(found) == ["always the same position"]
    assert "are view 2 of their query" in found.alarms[0].reason


def test_a_router_that_takes_one_word_is_named() -> None:
    texts = ["json of words", "parse some json", "write json now", "dumps json twice again"]
    queries = [
        query_of(text, [9.0 * (word == "json") for word in text.split()]) for text in texts
    ] * 6
    found = summarise("built", queries)
    assert (found.common_token.value, found.common_token.share) == ("json", 1)
    assert names(found) == ["always the same token"]


def test_a_router_that_takes_punctuation_and_function_words_is_named() -> None:
    texts = ["parse json ? now", "the parser reads", "sort lists of numbers", "files and folders"]
    marks = ("?", "the", "of", "and")
    queries = [
        query_of(text, [9.0 * (word in marks) for word in text.split()]) for text in texts
    ] * 6
    found = summarise("built", queries)
    assert names(found) == ["punctuation and function words"]
    assert found.kinds == {"special": 0, "punctuation": 0.25, "stop_word": 0.75, "content": 0}
    chance = {"special": 0, "punctuation": 1 / 16, "stop_word": (1 / 3 + 1 / 4 + 1 / 3) / 4}
    chance["content"] = 1 - sum(chance.values())
    # "now" and the nouns are content
    assert found.kinds_by_chance == pytest.approx(chance)


def test_function_words_as_frequent_as_by_chance_raise_no_alarm() -> None:
    words = ["how", "do", "i", "?"]
    queries = [query_of("how do i ?", [9.0 * (word == one) for word in words]) for one in words] * 6
    found = summarise("built", queries)
    assert (found.kinds["content"], found.kinds_by_chance["content"]) == (0, 0)
    assert found.alarms == ()
    strict = CollapseThresholds(function_excess=0)
    assert [alarm.name for alarm in find_alarms(found, strict)] == [
        "punctuation and function words"
    ]


def test_a_few_queries_raise_no_alarm() -> None:
    queries = [query_of("json parse now", [9, 0, 0])] * 19
    assert summarise("built", queries).alarms == ()
    assert names(summarise("built", [*queries, queries[0]])) == [
        "always the first position",
        "always the same token",
    ]


def test_a_router_that_chooses_raises_no_alarm() -> None:
    rng = np.random.default_rng(0)
    queries = [
        query_of(" ".join(f"word{n}x{m}" for m in range(8)), rng.normal(0, 3, 8)) for n in range(50)
    ]
    found = summarise("built", queries)
    assert found.alarms == ()
    assert found.render().endswith("no alarm")


def test_numbers_by_hand() -> None:
    queries = [
        query_of("json parse now", [0, 2, 1], [0.1, 0.3, 0.2], [0.0, 1.0, 1.0]),
        query_of("sort list", [log(3), 0], [0.5, 0.1], [0.5, 1.0]),
        query_of("set", [1], None, [1.0]),
    ]
    found = summarise("built", queries)
    assert (found.num_queries, found.num_choices) == (3, 2)
    total = 1 + e + e**2
    first = sum(share * -log(share) for share in (1 / total, e / total, e**2 / total))
    second = -0.75 * log(0.75) - 0.25 * log(0.25)
    assert found.entropy == pytest.approx((first + second) / 2)
    assert found.normalised_entropy == pytest.approx((first / log(3) + second / log(2)) / 2)
    assert found.position_histogram[5] == found.position_histogram[0] == 0.5
    assert (found.first_share, found.last_share) == (0.5, 0)
    assert found.oracle_agreement == 0.5
    assert found.oracle_agreement_by_chance == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found.rank_correlation is not None
    assert (found.rank_correlation.mean, found.rank_correlation.num_queries) == (1, 1)
    assert found.ndcg == pytest.approx(
        {
            "router": (1 + 0.5 + 1) / 3,
            "random": (2 / 3 + 0.75 + 1) / 3,
            "oracle": 1,
            "full": 1,
        }
    )


def as_one_route(encoder: FastLaneEncoder, text: str) -> torch.Tensor:
    """The view of each token if it is the one route, e_i + c m by its definition: (V, D)."""
    model = encoder[0].model
    with torch.inference_mode():
        output = model(**model.tokenize([text], "query"))
        states = output.last_hidden_state[0, 1:-1]
        projected = states @ model.projection.linear.weight.T
        embeddings = projected / projected.norm(dim=-1, keepdim=True)
        total = states.norm(dim=-1) ** model.config.query_length_power @ embeddings
        views = embeddings + model.config.route_context_weight * total / total.norm()
        return views / views.norm(dim=-1, keepdim=True)


def test_usefulness_is_of_the_token_as_the_one_route_and_full_of_each_for_itself(
    encoder: FastLaneEncoder,
) -> None:
    collection = replace(
        random_collection(5), qrels={f"q{n}": {"d0": 1, "d1": 2, "d2": 0} for n in range(5)}
    )
    found = diagnose(encoder, collection, num_examples=5)
    documents = encoder.encode_document(list(collection.documents.values()), num_routes=None)
    ideal = 2 + 1 / log2(3)

    def ndcg(scores: torch.Tensor) -> float:
        places = scores.argsort(descending=True).argsort()[:2].tolist()  # of grades 1 and 2
        return sum(grade / log2(2 + place) for grade, place in enumerate(places, 1)) / ideal

    for example in found.examples:
        views = as_one_route(encoder, example.query)
        scores = torch.stack([(views @ document.T).amax(1) for document in documents], dim=1)
        expected = scores[:, :2].amax(1) - scores[:, 2:].amax(1)
        np.testing.assert_allclose(example.margins, expected, atol=1e-6)
        assert example.view_ndcg == pytest.approx([ndcg(row) for row in scores])
        everything = encoder.encode_query(example.query, num_routes=None)
        maxsim = [float((everything @ document.T).amax(1).sum()) for document in documents]
        assert example.full_ndcg == pytest.approx(ndcg(torch.tensor(maxsim)))


def test_queries_without_a_relevant_document_tell_nothing_of_usefulness(
    encoder: FastLaneEncoder,
) -> None:
    collection = random_collection(5)
    nothing = replace(collection, qrels={id: {"d0": 0} for id in collection.queries})
    found = diagnose(encoder, nothing)
    assert found.rank_correlation is None
    assert "rank correlation of logits with usefulness: no query tells" in found.render()


def test_equal_values_share_their_mean_rank() -> None:
    def ranks(values: np.ndarray) -> list[float]:
        return [np.mean([(values < one).sum() + 1, (values <= one).sum()]) for one in values]

    rng = np.random.default_rng(0)
    for _ in range(30):
        one, other = rng.integers(0, 4, (2, 9)).astype(float)
        expected = np.corrcoef(ranks(one), ranks(other))[0, 1]
        assert spearman(one, other) == pytest.approx(expected)


def test_queries_whose_values_are_all_equal_have_no_correlation() -> None:
    assert spearman(np.zeros(3), np.arange(3.0)) is None
    assert spearman(np.arange(3.0), np.zeros(3)) is None
    found = mean_rank_correlation([(np.zeros(3), np.arange(3.0)), (np.arange(3.0), np.arange(3.0))])
    assert found is not None
    assert (found.mean, found.num_queries) == (1, 1)


def test_queries_of_one_view_leave_nothing_to_choose() -> None:
    with pytest.raises(ValueError, match="built: no query has two views"):
        summarise("built", [query_of("set", [1])])


@pytest.mark.parametrize(
    ("token", "kind"),
    [
        ("the", "stop_word"),
        ("What", "stop_word"),
        ("Ġof", "stop_word"),
        ("▁?", "punctuation"),
        ("…", "punctuation"),
        ("##a", "content"),
        ("json", "content"),
        ("42", "content"),
        ("été", "content"),
    ],
)
def test_kinds_of_tokens(token: str, kind: str) -> None:
    assert token_kind(token) == kind
    assert token_kinds([token], [7], [7]) == ["special"]


def test_a_folder_is_diagnosed_and_the_result_is_plain_json(
    checkpoint: Path, tmp_path: Path
) -> None:
    collection = random_collection(6)
    (tmp_path / "qrels").mkdir()
    for name, texts in (("corpus", collection.documents), ("queries", collection.queries)):
        rows = [json.dumps({"_id": id, "text": text}) for id, text in texts.items()]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    judged = [f"{query}\t{id}\t1" for query, found in collection.qrels.items() for id in found]
    (tmp_path / "qrels" / "dev.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))
    found = run_diagnose(checkpoint, tmp_path, limit_queries=4)
    assert found.num_queries == 4
    assert found.collection == f"{tmp_path.name}:dev"
    written = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    [example, *others] = written["examples"]
    assert len(others) == 3
    assert example["route"] == int(np.argmax(example["logits"]))
    assert len(example["tokens"]) == len(example["margins"]) == len(example["kinds"])
    assert written["alarms"] == []
