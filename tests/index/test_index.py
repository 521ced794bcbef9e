"""FastLaneIndex on vectors and texts whose scores are worked out by hand."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers.util import maxsim

from fastlane_st.index import scoring
from fastlane_st.index.index import FastLaneIndex
from fastlane_st.index.vectors.store import VectorStore
from fastlane_st.modeling.search_fastlane import Hit, Match
from tests.support.encoders import WordEncoder


def scores(hits: list[Hit]) -> list[tuple[str | int, float]]:
    return [(hit.id, hit.score) for hit in hits]


@pytest.fixture
def index() -> FastLaneIndex:
    texts = ["red car", "blue bus sky", "sky"]
    return FastLaneIndex.build(WordEncoder(), texts, ids=["r", "b", "s"])


# One route


def test_one_route_scores_a_document_by_its_best_token(index: FastLaneIndex) -> None:
    # "car" has the higher logit: car·car = 1, car·bus = 0.75, car·sky = 0.
    hits = index.search("red car")
    assert hits == [
        Hit("r", 1.0, (Match(2, 2, 1.0),), "red car"),
        Hit("b", 0.75, (Match(2, 2, 0.75),), "blue bus sky"),
        Hit("s", 0.0, (Match(2, 1, 0.0),), "sky"),
    ]


def test_scores_and_positions_are_plain_python_numbers(index: FastLaneIndex) -> None:
    hit = index.search("red car", num_routes=2)[0]
    assert type(hit.score) is float
    assert [type(part) for match in hit.matches for part in match] == [int, int, float] * 2
    assert type(hit.route) is int


def test_a_negative_best_similarity_is_the_score() -> None:
    index = FastLaneIndex.from_embeddings([[[-0.5, 0.0], [-1.0, 0.0]], [[-0.25, 0.0]]])
    assert scores(index.search([[[1.0, 0.0]]])[0]) == [(1, -0.25), (0, -0.5)]


def test_equal_scores_come_in_the_order_of_the_documents() -> None:
    vectors = [[[0.5]], [[1.0]], [[0.5], [0.25]], [[1.0]], [[0.25], [0.5]]]
    index = FastLaneIndex.from_embeddings(vectors, ids=["e", "d", "c", "b", "a"])
    expected = [("d", 1.0), ("b", 1.0), ("e", 0.5), ("c", 0.5), ("a", 0.5)]
    for top_k in range(1, 6):
        assert scores(index.search([[[1.0]]], top_k)[0]) == expected[:top_k]


def test_the_first_of_equal_tokens_is_the_match() -> None:
    index = FastLaneIndex.from_embeddings([[[0.5], [1.0], [1.0]]], positions=[[3, 5, 8]])
    assert index.search([[[1.0]]])[0][0].matches == (Match(0, 5, 1.0),)


def test_one_document_that_fills_the_vector_list_does_not_hide_the_others() -> None:
    # 500 vectors of document 0 come before the best vector of any other.
    vectors = [np.full((500, 1), 1.0), *(np.full((1, 1), 1 / 2**n) for n in range(1, 6))]
    index = FastLaneIndex.from_embeddings(vectors)
    expected = [(0, 1.0), (1, 0.5), (2, 0.25)]
    assert scores(index.search([[[1.0]]], top_k=3)[0]) == expected


def test_a_tie_longer_than_the_first_fetch_is_not_cut() -> None:
    # FAISS may give any of the 1,000 equal vectors; the first documents must win.
    index = FastLaneIndex.from_embeddings([[[1.0]]] * 1000)
    assert [hit.id for hit in index.search([[[1.0]]], top_k=3)[0]] == [0, 1, 2]


def test_only_unfinished_queries_are_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = [np.eye(2)[[0] * 100], *([[0.5, 1 / 2**n]] for n in range(60))]
    index = FastLaneIndex.from_embeddings(vectors)
    search, asked = VectorStore.search, []

    def counted(self: VectorStore, views: Any, count: int) -> Any:
        asked.append((views.tolist(), count))
        return search(self, views, count)

    monkeypatch.setattr(VectorStore, "search", counted)
    first, second = index.search([[[1.0, 0.0]], [[0.0, 1.0]]], top_k=2)
    assert scores(first) == [(0, 1.0), (1, 0.5)]
    assert scores(second) == [(1, 1.0), (2, 0.5)]
    assert asked == [([[1.0, 0.0], [0.0, 1.0]], 128), ([[1.0, 0.0]], 160)]


def test_top_k_beyond_the_index_gives_every_document_that_has_vectors() -> None:
    empty = np.empty((0, 1), dtype=np.float32)
    index = FastLaneIndex.from_embeddings([empty, [[0.5]], empty, [[1.0]], empty])
    for num_views in (1, 2):
        hits = index.search([np.ones((num_views, 1))], top_k=100)[0]
        assert scores(hits) == [(3, 1.0 * num_views), (1, 0.5 * num_views)]
    assert len(index) == 5


def test_an_index_without_any_vectors_finds_nothing() -> None:
    index = FastLaneIndex.from_embeddings([np.empty((0, 4))])
    assert (len(index), index.num_vectors, index.dim) == (1, 0, 4)
    assert index.search([np.ones((1, 4)), np.ones((2, 4))]) == [[], []]


def test_real_vectors_give_the_scores_and_order_of_maxsim() -> None:
    generator = np.random.default_rng(0)
    documents = [generator.normal(size=(n, 24)).astype("f4") for n in generator.integers(1, 30, 80)]
    for views in (1, 3):
        queries = [generator.normal(size=(views, 24)).astype("f4") for _ in range(25)]
        expected = maxsim(queries, documents)
        found = FastLaneIndex.from_embeddings(documents).search(queries, top_k=7, batch_size=10)
        for hits, row in zip(found, expected, strict=True):
            best = row.argsort(descending=True)[:7]
            assert [hit.id for hit in hits] == best.tolist()
            assert [hit.score for hit in hits] == pytest.approx(row[best].tolist(), rel=1e-5)


def test_scores_a_rounding_apart_are_ordered_by_their_exact_values() -> None:
    # FAISS adds up in float32, so its order of these 400 documents is not the exact one.
    generator = np.random.default_rng(0)
    base = generator.normal(size=100)
    vectors = (base + generator.normal(size=(400, 100)) * 1e-7).astype("f4")
    queries = generator.normal(size=(30, 1, 100)).astype("f4")
    index = FastLaneIndex.from_embeddings(vectors[:, None])
    together = index.search(queries, top_k=10)
    for query, hits in zip(queries, together, strict=True):
        exact = (vectors.astype(float) @ query[0].astype(float)).astype("f4")
        best = np.argsort(-exact, kind="stable")[:10]
        assert scores(hits) == [(int(number), float(exact[number])) for number in best]
        assert index.search([query], top_k=10) == [hits]


# Several routes


def test_several_routes_add_up_and_every_match_is_kept(index: FastLaneIndex) -> None:
    # sky + car: "blue bus sky" has 1 + 0.75, "red car" 0 + 1, "sky" 1 + 0.
    hits = index.search("car red sky", num_routes=2)
    assert scores(hits) == [("b", 1.75), ("r", 1.0), ("s", 1.0)]
    assert hits[0].matches == (Match(1, 2, 0.75), Match(3, 3, 1.0))
    assert hits[1].matches == (Match(1, 2, 1.0), Match(3, 1, 0.0))


def test_no_limit_of_routes_gives_every_token(index: FastLaneIndex) -> None:
    # red + car + sky: red·red = 1, red·bus = 0, red·sky = 0.
    hits = index.search("red car sky", num_routes=None)
    assert scores(hits) == [("r", 2.0), ("b", 1.75), ("s", 1.0)]
    assert [match.query_position for match in hits[0].matches] == [1, 2, 3]


def test_the_route_is_the_best_match_and_the_first_of_equals(index: FastLaneIndex) -> None:
    assert index.search("car red sky", num_routes=2)[0].route == 3
    assert Hit("a", 1.0, (Match(4, 0, 0.5), Match(7, 1, 0.5)), None).route == 4
    assert Hit("a", -1.0, (Match(4, 0, -0.75), Match(7, 1, -0.25)), None).route == 7


def test_few_candidates_may_miss_a_document_that_no_route_proposes() -> None:
    # "both" is second for each route and the best for both: 0.75 + 0.75 against 1 + 0.
    documents = [[[1.0, 0.0]], [[0.0, 1.0]], [[0.75, 0.75]], [[0.0, 0.0]]]
    index = FastLaneIndex.from_embeddings(documents, ids=["x", "y", "both", "none"])
    assert scores(index.search([np.eye(2)], top_k=1, candidates=1)[0]) == [("x", 1.0)]
    assert scores(index.search([np.eye(2)], top_k=1, candidates=2)[0]) == [("both", 1.5)]
    assert scores(index.search([np.eye(2)], top_k=1)[0]) == [("both", 1.5)]


def test_by_default_each_route_proposes_a_hundred_documents_or_four_times_top_k() -> None:
    # Document 150 is 151st for each route, but good for both: 0.5 + 0.5 against 0.75.
    first = [[[0.75, -1.0]]] * 150
    index = FastLaneIndex.from_embeddings([*first, [[0.5, 0.5]], *([[[-1.0, 0.75]]] * 150)])
    assert index.search([np.eye(2)], top_k=1)[0][0].score == -0.25
    assert index.search([np.eye(2)], top_k=38)[0][0].score == 1.0
    assert index.search([np.eye(2)], top_k=1, candidates=151)[0][0].score == 1.0


@pytest.mark.parametrize("block_vectors", [1, 7, 100_000])
def test_scores_of_several_views_are_exact_whatever_the_block(
    block_vectors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 200 documents of 1 to 9 vectors, all but equal: float32 sums would order them otherwise.
    monkeypatch.setattr(scoring, "BLOCK_VECTORS", block_vectors)
    generator = np.random.default_rng(0)
    base = generator.normal(size=100)
    documents = [
        (base + generator.normal(size=(count, 100)) * 1e-7).astype("f4")
        for count in generator.integers(1, 10, 200)
    ]
    query = generator.normal(size=(3, 100)).astype("f4")
    exact = [
        (document.astype(float) @ query.astype(float).T).astype("f4").max(axis=0).sum(dtype=float)
        for document in documents
    ]
    best = np.argsort(np.negative(exact), kind="stable")[:10]
    hits = FastLaneIndex.from_embeddings(documents).search([query], candidates=200)[0]
    assert scores(hits) == [(number, exact[number]) for number in best]


def test_queries_of_one_and_of_several_views_share_a_batch(index: FastLaneIndex) -> None:
    alone = [index.search(text, num_routes=2) for text in ("sky", "red car", "blue")]
    assert index.search(["sky", "red car", "blue"], num_routes=2) == alone
    assert [len(hits[0].matches) for hits in alone] == [1, 2, 1]


# Cascade


def test_a_cascade_ranks_the_best_of_one_route_again_by_all_tokens(index: FastLaneIndex) -> None:
    # By "sky" alone b and s have 1, r 0. By all tokens, halved: r 2 / 2, b 1.75 / 2, s 1 / 2.
    query = "car red sky"
    assert scores(index.search(query)) == [("b", 1.0), ("s", 1.0), ("r", 0.0)]
    assert scores(index.search(query, top_k=2, rerank=2)) == [("b", 0.875), ("s", 0.5)]
    assert scores(index.search(query, top_k=2, rerank=3)) == [("r", 1.0), ("b", 0.875)]
    assert scores(index.search(query, rerank=100)) == [("r", 1.0), ("b", 0.875), ("s", 0.5)]
    hit = index.search([query], top_k=1, rerank=3)[0][0]
    assert hit.matches == (Match(1, 2, 0.5), Match(2, 1, 0.5), Match(3, 1, 0.0))
    assert hit.text == "red car"


def test_a_cascade_starts_from_any_number_of_routes(index: FastLaneIndex) -> None:
    # sky + car: b 1.75, r 1, s 1.
    query = "car red sky"
    hits = index.search(query, top_k=1, num_routes=2, rerank=1, candidates=3)
    assert scores(hits) == [("b", 0.875)]
    assert scores(index.search(query, top_k=1, num_routes=2, rerank=2)) == [("r", 1.0)]


def test_a_cascade_respects_a_filter(index: FastLaneIndex) -> None:
    hits = index.search("car red sky", rerank=20, ids=["s", "b"])
    assert scores(hits) == [("b", 0.875), ("s", 0.5)]


def test_an_encoder_without_all_tokens_cannot_rank_again(index: FastLaneIndex) -> None:
    class Plain(WordEncoder):
        def _features(self, *arguments: Any) -> dict[str, torch.Tensor]:
            features = super()._features(*arguments)
            return {name: features[name] for name in ("token_embeddings", "attention_mask")}

    index.encoder = Plain()
    assert scores(index.search("car", top_k=1)) == [("r", 1.0)]
    with pytest.raises(ValueError, match="doesn't give all tokens beside the routed ones"):
        index.search("car", rerank=10)


@pytest.mark.parametrize("num_routes", ["auto", "all", 0, 2.5])
def test_what_is_no_number_of_routes_is_refused(index: FastLaneIndex, num_routes: Any) -> None:
    with pytest.raises(ValueError, match=f"num_routes must be a .* or None, got {num_routes!r}"):
        index.search("red car", num_routes=num_routes)


# Building and looking up


def test_documents_are_encoded_chunk_by_chunk_with_the_callers_options() -> None:
    encoder = WordEncoder()
    index = FastLaneIndex.build(
        encoder, iter(["red", "car", "sky"]), batch_size=7, chunk_size=2, show_progress_bar=True
    )
    options = {"num_routes": None, "batch_size": 7, "show_progress_bar": False}
    assert encoder.calls == [
        {"side": "document", "texts": ["red", "car"], **options},
        {"side": "document", "texts": ["sky"], **options},
    ]
    assert index.ids == [0, 1, 2]
    assert [index.text(id) for id in index.ids] == ["red", "car", "sky"]
    assert repr(index) == "FastLaneIndex(3 documents, 3 vectors of 3 dimensions)"


@pytest.mark.parametrize(("num_routes", "kept"), [(1, 2), (2, 3), (0.5, 3), (None, 5), (1.0, 5)])
def test_documents_keep_their_routed_views_only(num_routes: Any, kept: int) -> None:
    # "red car blue bus" and "sky" have 4 + 1 words.
    index = FastLaneIndex.build(WordEncoder(), ["red car blue bus", "sky"], num_routes=num_routes)
    assert index.num_vectors == kept
    assert index.search("car")[0].matches == (Match(1, 2, 1.0),)


def test_an_empty_document_goes_to_the_encoder_and_is_never_found() -> None:
    index = FastLaneIndex.build(WordEncoder(), ["", "red"])
    assert (len(index), index.num_vectors) == (2, 1)
    assert [hit.id for hit in index.search("blue")] == [1]


def test_tensors_arrays_and_half_precision_give_the_same_index() -> None:
    values = [[0.5, -0.25], [1.0, 0.75]]
    for given in (
        values,
        np.array(values),
        np.asfortranarray(values, dtype=np.float32),
        torch.tensor(values, dtype=torch.bfloat16, requires_grad=True),
    ):
        index = FastLaneIndex.from_embeddings([given])
        assert index.search([given])[0][0].score == 0.3125 + 1.5625
    stacked = FastLaneIndex.from_embeddings(np.array([values, values]))
    assert [hit.id for hit in stacked.search(torch.tensor([values]))[0]] == [0, 1]


def test_an_int_and_a_str_are_two_ids() -> None:
    index = FastLaneIndex.from_embeddings([[[1.0]], [[0.5]]], ids=[1, "1"], texts=["int", "str"])
    assert [hit.id for hit in index.search([[[1.0]]])[0]] == [1, "1"]
    assert (index.text(1), index.text("1")) == ("int", "str")
    assert 1 in index
    assert "1" in index
    assert 2 not in index
    assert True not in index
    assert [1] not in index


def test_an_index_of_vectors_alone_has_no_texts() -> None:
    index = FastLaneIndex.from_embeddings([[[1.0]]], ids=["a"])
    assert index.text("a") is None
    assert index.search([[[1.0]]])[0][0].text is None


def test_one_str_gives_its_hits_and_a_list_gives_lists(index: FastLaneIndex) -> None:
    assert index.search(["car"]) == [index.search("car")]
    assert index.search([]) == []
    assert index.search([], num_routes=2) == []


def test_queries_are_encoded_in_batches_with_one_route_by_default() -> None:
    encoder = WordEncoder()
    index = FastLaneIndex.from_embeddings([[[1.0, 0.0, 0.0]]], encoder=encoder)
    index.search(["red", "car", "sky"], batch_size=2)
    assert [(call["texts"], call["num_routes"]) for call in encoder.calls] == [
        (["red", "car"], 1),
        (["sky"], 1),
    ]


# Errors


@pytest.mark.parametrize(
    ("documents", "ids", "message"),
    [
        ([], None, "there are no documents: an index needs at least one"),
        ("red car", None, "documents must be several, got one str"),
        (["red", 7], None, "document 1 must be a text, or an array of its vectors, got 7"),
        (["red", "car"], ["a"], "ids must be 2, one a document: got 1"),
        (["red", "car", "sky"], ["a", "b", "a"], "ids must all be different, got 'a' twice"),
        (["red", "car"], ["a", 1.5], r"an id must be a str or an int, got 1.5 \(float\)"),
        (["red", "car"], ["a", True], r"an id must be a str or an int, got True \(bool\)"),
        (["red"], np.array([4.5]), r"an id must be a str or an int, got 4\.5 \(float\)"),
        (["red", "car"], ["a", "\ud83d"], "id 1 is no valid Unicode: surrogates not allowed at 0"),
        (["red"], 7, r"ids must be several, in a list, got 7 \(int\)"),
    ],
)
def test_wrong_documents_and_ids_are_refused(documents: Any, ids: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FastLaneIndex.build(WordEncoder(), documents, ids)


@pytest.mark.parametrize("num_routes", [0, -1, True, 1.5, 0.0, "all", float("nan")])
def test_documents_take_a_number_a_fraction_or_none(num_routes: Any) -> None:
    message = r"num_routes must be a positive integer, a fraction in \(0, 1\] or None, got"
    with pytest.raises(ValueError, match=message):
        FastLaneIndex.build(WordEncoder(), ["red"], num_routes=num_routes)


@pytest.mark.parametrize("name", ["batch_size", "chunk_size"])
def test_building_sizes_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a positive integer, got 0"):
        FastLaneIndex.build(WordEncoder(), ["red"], **{name: 0})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_a_vector_that_is_not_finite_float32_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="document 'b' has a vector with NaN or infinity"):
        FastLaneIndex.from_embeddings([[[1.0]], [[1.0], [value]]], ids=["a", "b"])
    index = FastLaneIndex.from_embeddings([[[1.0]]])
    with pytest.raises(ValueError, match="query 1 has a vector with NaN or infinity"):
        index.search([[[1.0]], [[value]]])


@pytest.mark.parametrize(
    ("embeddings", "options", "message"),
    [
        ([[[1.0]], [[1.0, 2.0]]], {}, "document 1 has 2-dimensional vectors, the first document"),
        ([[1.0, 2.0]], {}, r"document 0 must be vectors of shape \(number, dim\), got \(2,\)"),
        ([[[1.0]]], {"positions": [[0, 1]]}, "document 0 has 1 vectors, got 2 positions"),
        ([[[1.0]]], {"positions": [[0], [0]]}, "positions must be 1, one a document: got 2"),
        ([[[1.0]]], {"texts": ["a", "b"]}, "texts must be 1, one a document: got 2"),
        ([[[1.0]]], {"texts": "a"}, "got one str"),
        ([], {}, "there are no documents"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(
    embeddings: Any, options: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        FastLaneIndex.from_embeddings(embeddings, **options)


def test_the_encoders_dimension_must_be_the_indexs() -> None:
    message = "the encoder gives 128-dimensional vectors, the index holds 3"
    with pytest.raises(ValueError, match=message):
        FastLaneIndex.build(WordEncoder(dim=128), ["red"])
    index = FastLaneIndex.from_embeddings([[[1.0]]], encoder=WordEncoder(dim=None))
    with pytest.raises(
        ValueError, match="the encoder gives 3-dimensional vectors, the index holds 1"
    ):
        index.search("red")
    with pytest.raises(ValueError, match="query 1 gives 2-dimensional vectors, the index holds 1"):
        index.search([[[1.0]], [[1.0, 2.0]]])


def test_an_encoder_set_later_must_have_the_indexs_dimension() -> None:
    index = FastLaneIndex.from_embeddings([[[1.0, 0.0, 0.0]]], ids=["a"])
    index.encoder = encoder = WordEncoder()
    assert scores(index.search("red")) == [("a", 1.0)]
    message = "the encoder gives 128-dimensional vectors, the index holds 3: use the checkpoint"
    with pytest.raises(ValueError, match=message):
        index.encoder = WordEncoder(dim=128)
    assert index.encoder is encoder
    index.encoder = None
    assert index.encoder is None


@pytest.mark.parametrize(
    ("queries", "options", "message"),
    [
        ("red", {"top_k": 0}, "top_k must be a positive integer, got 0"),
        ("red", {"top_k": True}, "top_k must be a positive integer, got True"),
        ("red", {"batch_size": 1.0}, "batch_size must be a positive integer, got 1.0"),
        ("red", {"num_routes": 0}, "num_routes must be a positive integer or None, got 0"),
        ("red", {"num_routes": True}, "num_routes must be a positive integer or None, got True"),
        ("red", {"num_routes": 0.5}, "num_routes must be a positive integer or None, got 0.5"),
        (
            "red",
            {"candidates": 50},
            "candidates applies to several routes, got 50 with num_routes=1",
        ),
        ("red", {"candidates": 0, "num_routes": 2}, "candidates must be a positive integer, got 0"),
        ("red", {"candidates": 9, "num_routes": 2}, "candidates must be at least top_k=10, got 9"),
        ("red", {"rerank": 9}, "rerank must be at least top_k=10, got 9"),
        ("red", {"rerank": True}, "rerank must be a positive integer, got True"),
        (
            "red",
            {"rerank": 20, "candidates": 19, "num_routes": 2},
            "candidates must be at least rerank=20, got 19",
        ),
        ("red", {"rerank": 20, "num_routes": None}, "rerank applies to routed searches, got 20"),
        ([np.ones((1, 3))], {"rerank": 20}, "rerank applies to texts, got 20 with vectors"),
        (["red", "", "car"], {}, "query 1 is empty, got ''"),
        (["red", " \n"], {}, r"query 1 is empty, got ' \\n'"),
        (["red", np.ones((1, 3))], {}, "query 1 must be a str as others are, got ndarray"),
        ([np.ones((1, 3))], {"num_routes": 1}, "num_routes applies to texts, got 1 with vectors"),
        ([np.ones((1, 3))], {"num_routes": None}, "num_routes applies to texts, got None with"),
        ([np.ones((1, 3)), np.ones((0, 3))], {}, "query 1 has no views"),
        (np.ones((2, 3)), {}, r"query 0 must be vectors of shape \(number, dim\), got \(3,\)"),
    ],
)
def test_wrong_searches_are_refused(
    index: FastLaneIndex, queries: Any, options: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        index.search(queries, **options)


def test_texts_need_an_encoder() -> None:
    index = FastLaneIndex.from_embeddings([[[1.0]]])
    with pytest.raises(ValueError, match=r"text queries need an encoder: pass one to .*load"):
        index.search("red")


def test_an_unknown_id_has_no_text(index: FastLaneIndex) -> None:
    with pytest.raises(ValueError, match="no document has the id 'x'"):
        index.text("x")


def test_a_missing_faiss_is_named_only_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r'pip install "fastlane-st\[cpu\]"'):
        FastLaneIndex.from_embeddings([[[1.0]]])
