"""ExactIndex, which travels with a checkpoint: brute force, and what FastLaneIndex finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlane_st import FastLaneIndex
from fastlane_st.modeling import search_fastlane
from fastlane_st.modeling.search_fastlane import (
    ExactIndex,
    exact_matches,
    faiss_threads,
    inner_products,
)
from tests.index.test_ranking import Matrix, brute_force, collections, matrices, pairs
from tests.support.encoders import WordEncoder

TEXTS = ["red car", "blue bus sky", "sky"]


@pytest.fixture
def index() -> ExactIndex:
    return ExactIndex.build(WordEncoder(), TEXTS, ids=["r", "b", "s"])


@given(collections(max_views=4), st.integers(1, 80))
def test_it_finds_what_brute_force_and_the_engine_find(
    collection: tuple[list[Matrix], list[Matrix]], top_k: int
) -> None:
    queries, documents = collection
    found = ExactIndex.from_embeddings(documents).search(queries, top_k)
    engine = FastLaneIndex.from_embeddings(documents)
    assert found == engine.search(queries, top_k, candidates=max(top_k, len(engine)))
    for query, hits in zip(queries, found, strict=True):
        assert pairs(hits) == brute_force(query, documents, top_k)


@given(st.lists(matrices(2, 0, 3), min_size=1, max_size=20), matrices(2, 1, 3), st.integers(1, 25))
def test_documents_without_vectors_are_never_found(
    documents: list[Matrix], query: Matrix, top_k: int
) -> None:
    hits = ExactIndex.from_embeddings(documents).search([query], top_k)[0]
    assert pairs(hits) == brute_force(query, documents, top_k)


def test_memory_is_bounded_by_blocks_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [np.random.default_rng(n).normal(size=(1 + n % 5, 3)) for n in range(60)]
    queries = [np.random.default_rng(99 + n).normal(size=(n, 3)) for n in (1, 2, 4)]
    index = ExactIndex.from_embeddings(documents)
    expected = index.search(queries)
    monkeypatch.setattr(search_fastlane, "BLOCK_VECTORS", 4)
    monkeypatch.setattr(search_fastlane, "FETCHED", 1)
    assert index.search(queries) == expected


@pytest.mark.parametrize("num_routes", ["default", 1, 2, None])
def test_texts_are_found_as_by_the_engine(index: ExactIndex, num_routes: Any) -> None:
    engine = FastLaneIndex.build(WordEncoder(), TEXTS, ids=["r", "b", "s"])
    queries = ["red car bus", "sky", "blue"]
    found = index.search(queries, num_routes=num_routes, batch_size=2)
    assert found == engine.search(queries, num_routes=num_routes)
    assert index.search("sky", top_k=1, num_routes=num_routes) == found[1][:1]
    assert [hit.text for hit in found[1]][:1] == ["blue bus sky"]


def test_documents_keep_as_many_views_as_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_fastlane, "CHUNK", 2)
    encoder = WordEncoder()
    index = ExactIndex.build(encoder, TEXTS, num_routes=1, batch_size=2)
    assert [call["texts"] for call in encoder.calls] == [TEXTS[:2], TEXTS[2:]]
    assert index.ids == [0, 1, 2]
    # Each keeps its view of the highest logit: car, sky, sky.
    assert [hit.id for hit in index.search("sky", top_k=2)] == [1, 2]
    assert index.search("sky", top_k=1)[0].matches[0].document_position == 3


def test_matches_and_positions_are_those_of_the_texts() -> None:
    index = ExactIndex.from_embeddings(
        [[[1.0, 0.0], [0.0, 1.0]]], ids=[7], positions=[[3, 9]], texts=["a text"]
    )
    [hit] = index.search([[[0.0, 1.0], [1.0, 0.0]]])[0]
    assert hit.matches == ((0, 9, 1.0), (1, 3, 1.0))
    assert (hit.id, hit.score, hit.text, hit.route) == (7, 2.0, "a text", 0)


def test_equal_vectors_tie_wherever_they_lie() -> None:
    vectors = np.float32([[0.1, 0.7], [0.2, 0.2], [0.1, 0.7]])
    scores, rows, similarities = exact_matches(
        vectors, np.array([0, 1]), np.float32([[0.3, 0.9], [1.0, 0.0]])
    )
    assert rows.tolist() == [[0, 0], [2, 1]]
    assert similarities[0, 0] == similarities[1, 0]
    assert scores.tolist() == similarities.sum(axis=1, dtype=np.float64).tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("json",), "documents must be several, got one str, .json.: put it into a list"),
        (([],), "there are no documents: an index needs at least one"),
        ((["a", 5],), "document 1 must be a str, got int"),
        ((["red", "car"], ["x"]), "ids must be 2, one a document: got 1"),
        ((["red", "car"], ["x", "x"]), "ids must all be different, got 'x' twice"),
        ((["red"], [True]), "an id must be a str or an int, got True"),
    ],
)
def test_documents_that_do_not_fit_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExactIndex.build(WordEncoder(), *arguments)


@pytest.mark.parametrize(
    ("embeddings", "options", "message"),
    [
        ([], {}, "there are no documents"),
        ([[[1.0]], [[1.0, 2.0]]], {}, r"vectors of \[1, 2\] dimensions: all must be alike"),
        ([[[1.0]]], {"texts": ["a", "b"]}, "texts must be 1, one a document: got 2"),
        ([[[1.0]]], {"positions": [[0, 1]]}, "document 0 has 1 vectors, got 2 positions"),
        ([[[np.nan]]], {}, "document 0 has a vector with NaN or infinity"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(embeddings: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExactIndex.from_embeddings(embeddings, **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["sky", ""],), "query 1 is empty, got '': leave it out"),
        ((["sky", [[1.0, 0.0, 0.0]]],), "query 1 must be a str as others are"),
        ((["sky"], 0), "top_k must be a positive integer, got 0"),
        ((["sky"], 1, 0), "num_routes must be a positive integer or None, got 0"),
        (([[[1.0]]],), "query 0 gives 1-dimensional vectors, the index holds 3"),
    ],
)
def test_searches_that_cannot_be_are_refused(
    index: ExactIndex, arguments: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        index.search(*arguments)


def test_texts_need_an_encoder() -> None:
    with pytest.raises(ValueError, match="text queries need an encoder"):
        ExactIndex.from_embeddings([[[1.0]]]).search("sky")


def test_faiss_has_fewer_threads_for_a_while() -> None:
    faiss = pytest.importorskip("faiss")
    before = faiss.omp_get_max_threads()
    with faiss_threads(0) as module:
        assert module.omp_get_max_threads() == 1
        with faiss_threads(before + 1):  # no more than there were
            assert module.omp_get_max_threads() == 1
    assert faiss.omp_get_max_threads() == before
    with pytest.raises(KeyError), faiss_threads(1):
        raise KeyError
    assert faiss.omp_get_max_threads() == before


def test_products_take_vectors_that_can_not_be_written() -> None:
    vectors = np.float32([[1, 0], [0, 2]])
    vectors.flags.writeable = False
    products = inner_products(vectors, vectors[:1])
    assert products.tolist() == [[1], [0]]
    assert products.dtype == np.float32
