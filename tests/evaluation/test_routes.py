"""Routes, their controls and baselines against a slow double loop, on the encodings of a tiny model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoModel, AutoTokenizer

from fastlane_st import FastLaneEncoder
from fastlane_st.data.collection import Collection
from fastlane_st.evaluation import scoring
from fastlane_st.evaluation.baselines import Backbone, rank_by_bm25, rank_by_dense_encoder
from fastlane_st.evaluation.metrics import evaluate_rankings, top_documents
from fastlane_st.evaluation.routes import choose_routes, measure_routes
from fastlane_st.evaluation.scored_query import ndcg_at_10, score_queries
from fastlane_st.evaluation.scoring import (
    DocumentViews,
    QueryViews,
    TextViews,
    best_similarities,
    encode_documents,
    encode_queries,
    factorise,
)
from tests.conftest import DOCUMENTS, QUERIES

COLLECTION = Collection(
    name="tiny",
    split="test",
    documents={f"d{n}": text for n, text in enumerate(DOCUMENTS)},
    queries={f"q{n}": text for n, text in enumerate(QUERIES)},
    qrels={
        "q0": {"d0": 2, "d1": 1},
        "q1": {"d1": 1, "d3": 0},
        "q2": {"d2": 1},
        "q3": {"d4": 0},  # nothing relevant
    },
)

SETTINGS = (
    *("full", "router_1", "router_2", "router_4", "router_8"),
    *("first", "random", "idf", "mean_view"),
    *(
        f"{name}_documents_{fraction}"
        for name in ("full", "router_1", "router_2", "router_4")
        for fraction in (0.2, 0.25)
    ),
)


class Picks(torch.nn.Module):
    """A router that prefers one position of the text."""

    def __init__(self, position: int) -> None:
        super().__init__()
        self.position = position

    def forward(self, states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        chosen = torch.arange(states.shape[1]) == self.position
        return chosen.float().expand(states.shape[:2])


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> FastLaneEncoder:
    return FastLaneEncoder(checkpoint)


@pytest.fixture(scope="module")
def queries(encoder: FastLaneEncoder) -> list[QueryViews]:
    return encode_queries(encoder, QUERIES, batch_size=2)


@pytest.fixture(scope="module")
def documents(encoder: FastLaneEncoder) -> DocumentViews:
    return encode_documents(encoder, DOCUMENTS, fractions=(0.2, 0.25), batch_size=2)


@pytest.fixture(scope="module")
def one_routes(checkpoint: Path) -> list[list[torch.Tensor]]:
    """Of each query the view of each token, (1, D), where a router has chosen that token."""
    encoder = FastLaneEncoder(checkpoint)
    found = []
    for text in QUERIES:
        num_tokens = len(encoder.encode_query(text, num_routes=None))
        views = []
        for position in range(1, num_tokens + 1):  # after [CLS]
            encoder[0].model.router = Picks(position)
            views.append(encoder.encode_query(text, num_routes=1))
        found.append(views)
    return found


def maxsim(query: torch.Tensor, document: torch.Tensor) -> float:
    return sum(max(float(view @ other) for other in document) for view in query)


def rank(encoder: FastLaneEncoder, kept: list[torch.Tensor], **routing: float) -> list[list[int]]:
    """The order of the documents for query views, by double loops over the encoder's own."""
    stored = encoder.encode_document(DOCUMENTS, **(routing or {"num_routes": None}))
    scores = [[maxsim(query, document) for document in stored] for query in kept]
    return [top_documents(np.array(row)).tolist() for row in scores]


def expected(rankings: Sequence[Sequence[int]]) -> dict[str, list[float]]:
    metrics = evaluate_rankings(COLLECTION, [np.array(ranking) for ranking in rankings])
    return {name: values.tolist() for name, values in metrics.items()}


def as_lists(metrics: dict[str, npt.NDArray[np.float64]]) -> dict[str, list[float]]:
    return {name: values.tolist() for name, values in metrics.items()}


def test_routes_measured_one_by_one_are_those_of_all_settings_together(
    queries: list[QueryViews], documents: DocumentViews
) -> None:
    together = measure_routes(COLLECTION, queries, documents, SETTINGS)
    assert list(together) == list(SETTINGS)
    for setting, metrics in together.items():
        alone = measure_routes(COLLECTION, queries, documents, [setting])
        assert as_lists(alone[setting]) == as_lists(metrics), setting
    for missing in ("router_3", "full_documents_0.5"):
        with pytest.raises(KeyError):
            measure_routes(COLLECTION, queries, documents, [missing])


def test_all_views_together_score_as_similarity_does(
    encoder: FastLaneEncoder, queries: list[QueryViews], documents: DocumentViews
) -> None:
    scores = encoder.similarity(
        encoder.encode_query(QUERIES, num_routes=None),
        encoder.encode_document(DOCUMENTS, num_routes=None),
    )
    scored = score_queries(COLLECTION, queries, documents)
    for row, one in zip(scores, scored, strict=True):
        np.testing.assert_allclose(one.full.sum(0), row, atol=1e-5)


@pytest.mark.parametrize("chunk", [3, 512])
def test_views_of_queries_are_those_of_the_encoder_for_each_number_of_routes(
    encoder: FastLaneEncoder,
    one_routes: list[list[torch.Tensor]],
    monkeypatch: pytest.MonkeyPatch,
    chunk: int,
) -> None:
    monkeypatch.setattr(scoring, "_TEXTS", chunk)
    found = encode_queries(encoder, QUERIES, num_routes=(4, 1, 2), batch_size=2)
    assert [len(query.logits) for query in found] == [6, 3, 8, 1]
    for text, query, alone in zip(QUERIES, found, one_routes, strict=True):
        tokens = encoder.tokenizer.convert_ids_to_tokens(query.token_ids.tolist())
        assert tokens == text.split()
        assert query.positions.tolist() == list(range(1, len(tokens) + 1))
        everything = encoder.encode_query(text, num_routes=None)
        np.testing.assert_allclose(query.vectors, everything, atol=1e-6)
        np.testing.assert_allclose(query.alone, torch.cat(alone), atol=1e-6)
        assert list(query.routed) == [2, 4]
        for k, views in query.routed.items():
            assert len(views) == min(k, len(tokens))
            np.testing.assert_allclose(views, encoder.encode_query(text, num_routes=k), atol=1e-6)
            # A route is as long as the tokens it stands for are many, 1 on average.
            assert np.linalg.norm(views, axis=1).sum() == pytest.approx(len(views), abs=1e-5)


def test_the_first_without_a_view_is_named(
    encoder: FastLaneEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_TEXTS", 3)
    model = encoder[0].model
    route = model.route

    def route_no_single_token(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        views, kept = route(*arguments)
        return views, kept & (kept.sum(dim=1, keepdim=True) > 1)

    monkeypatch.setattr(model, "route", route_no_single_token)
    for encode, owner in ((encode_queries, "query"), (encode_documents, "document")):
        with pytest.raises(ValueError, match=f"{owner} 3 has no view"):
            encode(encoder, QUERIES)


@pytest.mark.parametrize("query_views", [1, 40, 512])
def test_every_part_of_a_scored_query_is_that_of_its_views(
    queries: list[QueryViews],
    documents: DocumentViews,
    monkeypatch: pytest.MonkeyPatch,
    query_views: int,
) -> None:
    monkeypatch.setattr(scoring, "QUERY_VIEWS", query_views)

    def slow(views: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        [found] = best_similarities([views], documents)
        return found[-1]

    scored = score_queries(COLLECTION, queries, documents)
    for query, found in zip(queries, scored, strict=True):
        np.testing.assert_allclose(found.full, slow(query.vectors), atol=1e-6)
        np.testing.assert_allclose(found.alone, slow(query.alone), atol=1e-6)
        ndcg = [ndcg_at_10(scores, found.grades) for scores in slow(query.alone)]
        assert found.view_ndcg.tolist() == ndcg


@pytest.mark.parametrize("block_views", [1, 10, 8192])
@pytest.mark.parametrize("query_views", [1, 5, 512])
def test_best_similarities_are_those_of_a_double_loop(
    encoder: FastLaneEncoder,
    queries: list[QueryViews],
    monkeypatch: pytest.MonkeyPatch,
    block_views: int,
    query_views: int,
) -> None:
    monkeypatch.setattr(scoring, "BLOCK_VIEWS", block_views)
    monkeypatch.setattr(scoring, "QUERY_VIEWS", query_views)
    fractions = (0.2, 0.25, 0.5)
    documents = encode_documents(encoder, DOCUMENTS, fractions=fractions, batch_size=4)
    assert documents.num_views.tolist() == [7, 7, 7, 6, 5, 1]
    found = list(best_similarities([query.vectors for query in queries], documents))
    assert len(found) == len(queries)
    for index, share in enumerate([*fractions, None]):
        stored = encoder.encode_document(DOCUMENTS, num_routes=share)
        for query, similarities in zip(queries, found, strict=True):
            slow = [
                [max(float(view @ other.numpy()) for other in one) for one in stored]
                for view in query.vectors
            ]
            np.testing.assert_allclose(similarities[index], slow, atol=1e-6)


@pytest.mark.parametrize(("tokens", "views", "rank"), [(3, 9, 3), (9, 9, 9), (8, 9, 9), (1, 2, 1)])
def test_views_that_are_sums_of_few_are_factorised(tokens: int, views: int, rank: int) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(views, tokens)) @ rng.normal(size=(tokens, 16))
    mix, basis = factorise(rows)
    assert mix.dtype == basis.dtype == np.float32
    if rank == views:
        assert mix is basis
        np.testing.assert_array_equal(basis, rows.astype(np.float32))
    else:
        assert basis.shape == (rank, 16)
        np.testing.assert_allclose(mix @ basis, rows, atol=1e-5)


def test_sums_of_few_views_score_as_they_would_each(documents: DocumentViews) -> None:
    rng = np.random.default_rng(1)
    tokens = rng.normal(size=(2, documents.blocks[0].shape[1])).astype(np.float32)
    many = [rng.normal(size=(count, 2)).astype(np.float32) @ tokens for count in (12, 1, 7)]
    found = best_similarities(many, documents)
    for views, similarities in zip(many, found, strict=True):
        alone = [next(best_similarities([row], documents)) for row in views[:, None]]
        np.testing.assert_allclose(similarities, np.concatenate(alone, axis=1), atol=1e-5)


def test_float16_storage_moves_scores_by_less_than_a_thousandth(
    encoder: FastLaneEncoder, queries: list[QueryViews], documents: DocumentViews
) -> None:
    half = encode_documents(encoder, DOCUMENTS, fractions=(0.2, 0.25), dtype=np.float16)
    assert {block.dtype for block in half.blocks} == {np.dtype(np.float16)}
    views = [query.vectors for query in queries]
    pairs = zip(best_similarities(views, half), best_similarities(views, documents), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_a_fraction_is_between_nothing_and_everything(encoder: FastLaneEncoder) -> None:
    with pytest.raises(ValueError, match=r"a fraction in \(0, 1\] or None, got 1.5"):
        encode_documents(encoder, DOCUMENTS, fractions=(1.5,))


def test_routed_settings_are_what_the_encoder_routes(
    encoder: FastLaneEncoder, queries: list[QueryViews], documents: DocumentViews
) -> None:
    results = measure_routes(COLLECTION, queries, documents, SETTINGS)
    for k in (1, 2, 4, 8):
        kept = encoder.encode_query(QUERIES, num_routes=k)
        assert as_lists(results[f"router_{k}"]) == expected(rank(encoder, kept)), k
    everything = encoder.encode_query(QUERIES, num_routes=None)
    assert as_lists(results["full"]) == expected(rank(encoder, everything))
    routed = {f"router_{k}": encoder.encode_query(QUERIES, num_routes=k) for k in (1, 2, 4)}
    for fraction in (0.2, 0.25):
        for name, kept in {"full": everything, **routed}.items():
            ranking = rank(encoder, kept, num_routes=fraction)
            assert as_lists(results[f"{name}_documents_{fraction}"]) == expected(ranking)


def test_as_many_routes_as_views_are_full(
    encoder: FastLaneEncoder, documents: DocumentViews
) -> None:
    longest = 8
    queries = encode_queries(encoder, QUERIES, num_routes=(longest, 99))
    assert max(len(query.logits) for query in queries) == longest
    settings = ["full", f"router_{longest}", "router_99"]
    results = measure_routes(COLLECTION, queries, documents, settings)
    for k in (longest, 99):
        for query in queries:
            np.testing.assert_allclose(query.routed[k], query.vectors, atol=1e-6)
        assert as_lists(results[f"router_{k}"]) == as_lists(results["full"])


def test_first_and_mean_view_are_what_they_say(
    encoder: FastLaneEncoder,
    one_routes: list[list[torch.Tensor]],
    queries: list[QueryViews],
    documents: DocumentViews,
) -> None:
    results = measure_routes(COLLECTION, queries, documents, ["first", "mean_view"])
    first = rank(encoder, [alone[0] for alone in one_routes])
    assert as_lists(results["first"]) == expected(first)
    views = encoder.encode_query(QUERIES, num_routes=None)
    means = [torch.nn.functional.normalize(one.sum(0, keepdim=True), dim=-1) for one in views]
    assert as_lists(results["mean_view"]) == expected(rank(encoder, means))


def test_random_is_the_mean_over_draws_that_repeat(
    encoder: FastLaneEncoder,
    one_routes: list[list[torch.Tensor]],
    queries: list[QueryViews],
    documents: DocumentViews,
) -> None:
    results, again = (measure_routes(COLLECTION, queries, documents, ["random"]) for _ in range(2))
    assert as_lists(results["random"]) == as_lists(again["random"])
    draws = []
    for draw in range(5):
        places = [
            choose_routes(query, {}, seed=number)[f"random_{draw}"]
            for number, query in enumerate(queries)
        ]
        kept = [alone[place] for alone, place in zip(one_routes, places, strict=True)]
        draws.append(expected(rank(encoder, kept)))
    for name, values in results["random"].items():
        np.testing.assert_allclose(values, np.mean([draw[name] for draw in draws], axis=0))


def test_the_oracle_is_the_token_that_does_best_as_the_one_route(
    encoder: FastLaneEncoder,
    one_routes: list[list[torch.Tensor]],
    queries: list[QueryViews],
    documents: DocumentViews,
) -> None:
    scored = score_queries(COLLECTION, queries, documents)
    best = np.array([one.view_ndcg.max() for one in scored])
    settings = ("router_1", "first", "idf", "random")
    for name, metrics in measure_routes(COLLECTION, queries, documents, settings).items():
        assert (best >= metrics["ndcg@10"]).all(), name
    for number, alone in enumerate(one_routes):
        values = []
        for view in alone:
            rankings = rank(encoder, [view] * len(QUERIES))
            values.append(expected(rankings)["ndcg@10"][number])
        assert best[number] == max(values)


def test_the_rarest_token_of_the_corpus_is_chosen_the_earlier_of_equals(
    encoder: FastLaneEncoder,
    one_routes: list[list[torch.Tensor]],
    queries: list[QueryViews],
    documents: DocumentViews,
) -> None:
    query = TextViews(
        vectors=np.eye(4, dtype=np.float32),
        logits=np.zeros(4, dtype=np.float32),
        token_ids=np.array([7, 8, 9, 8]),
        positions=np.arange(1, 5),
    )
    assert choose_routes(query, {7: 5, 8: 2, 9: 3})["idf"] == 1
    assert choose_routes(query, {7: 5, 8: 2})["idf"] == 2  # 9 is in no document
    results = measure_routes(COLLECTION, queries, documents, ["idf"])
    rarest = [0, 0, 2, 0]  # "how", "read" (1 document, "file" has 2), "long", "set"
    kept = [alone[place] for alone, place in zip(one_routes, rarest, strict=True)]
    assert as_lists(results["idf"]) == expected(rank(encoder, kept))


def test_document_frequency_counts_documents_not_tokens(encoder: FastLaneEncoder) -> None:
    documents = encode_documents(encoder, ["set set set", "a set", "a file"])
    ids = {word: encoder.tokenizer.convert_tokens_to_ids(word) for word in ("set", "a", "file")}
    found = {word: documents.document_frequency[id] for word, id in ids.items()}
    assert found == {"set": 2, "a": 2, "file": 1}
    assert documents.document_frequency.total() == 5  # no special token


def test_equal_logits_route_to_the_earlier_view() -> None:
    query = TextViews(
        vectors=np.eye(4, dtype=np.float32),
        logits=np.array([1, 3, 2, 3], dtype=np.float32),
        token_ids=np.arange(4),
        positions=np.arange(4),
    )
    assert choose_routes(query, {})["router_1"] == 1


def test_our_ndcg_is_that_of_pytrec_eval() -> None:
    rng = np.random.default_rng(0)
    ids = [f"d{n}" for n in range(30)]
    for trial in range(50):
        scores = rng.integers(0, 6, 30).astype(np.float32)  # many ties
        grades = rng.choice([-1, 0, 0, 0, 1, 2, 3], 30) if trial else np.zeros(30, dtype=int)
        collection = Collection(
            name="random",
            split="test",
            documents=dict.fromkeys(ids, "text"),
            queries={"q": "text"},
            qrels={"q": {id: int(grade) for id, grade in zip(ids, grades, strict=True)}},
        )
        [value] = evaluate_rankings(collection, [top_documents(scores)])["ndcg@10"]
        assert ndcg_at_10(scores, grades) == pytest.approx(value, abs=1e-12)


def test_views_of_another_collection_are_refused(
    queries: list[QueryViews], documents: DocumentViews
) -> None:
    with pytest.raises(ValueError, match="tiny has 4 queries, got the views of 3"):
        next(score_queries(COLLECTION, queries[:3], documents))
    small = COLLECTION.limit(num_queries=1, num_documents=2)
    with pytest.raises(ValueError, match="tiny has 2 documents, got the views of 6"):
        next(score_queries(small, queries[:1], documents))


def test_bm25_finds_shared_words_and_nothing_else() -> None:
    collection = Collection(
        name="words",
        split="test",
        documents={"a": "a red apple", "b": "the green pear", "c": "green green apple pie"},
        queries={"q": "green pear", "r": "the", "s": "banana", "t": ""},
        qrels={"q": {"b": 1}, "r": {"b": 1}, "s": {"b": 1}, "t": {"b": 1}},
    )
    assert [ranking.tolist() for ranking in rank_by_bm25(collection)] == [[1, 2], [], [], []]


def test_without_bm25s_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ImportError, match=r"fastlane-st\[eval\]"):
        rank_by_bm25(COLLECTION)


def test_the_backbone_ranks_by_mean_vector_and_by_token_states(
    backbone_folder: Callable[[str], Path],
) -> None:
    folder = backbone_folder("bert")
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)

    def states(text: str, length: int) -> torch.Tensor:
        features = tokenizer(text, truncation=True, max_length=length, return_tensors="pt")
        with torch.no_grad():
            return model(**features).last_hidden_state[0]

    backbone = Backbone(folder, query_length=5, document_length=7)
    found = backbone.rank(COLLECTION, batch_size=4)
    asked = [states(text, 5) for text in QUERIES]
    stored = [states(text, 7) for text in DOCUMENTS]
    unit = torch.nn.functional.normalize
    dense = [
        [float(unit(one.mean(0), dim=0) @ unit(other.mean(0), dim=0)) for other in stored]
        for one in asked
    ]
    late = [[maxsim(unit(one), unit(other)) for other in stored] for one in asked]
    for name, scores in (("dense_backbone", dense), ("maxsim_backbone", late)):
        rankings = [top_documents(np.array(row)).tolist() for row in scores]
        assert [ranking.tolist() for ranking in found[name]] == rankings, name


def test_a_dense_checkpoint_that_pools_the_backbone_is_its_dense_twin(
    backbone_folder: Callable[[str], Path],
) -> None:
    folder = backbone_folder("bert")
    dense = SentenceTransformer(modules=[Transformer(str(folder)), Pooling(8)], device="cpu")
    twin = Backbone(folder, query_length=32, document_length=32).rank(COLLECTION)["dense_backbone"]
    rankings = rank_by_dense_encoder(COLLECTION, dense)
    assert [one.tolist() for one in rankings] == [one.tolist() for one in twin]
