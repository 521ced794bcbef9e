"""/search and /encode: the library's hits over HTTP, in batches or not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from fastlane_st import FastLaneModel, Hit
from fastlane_st.index.index import FastLaneIndex as Index
from fastlane_st.serve import searching
from tests.conftest import QUERIES
from tests.serve.conftest import PATIENCE, Served, get

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

from fastlane_st.serve import FastLaneClient  # noqa: E402

OPTIONS: list[dict[str, Any]] = [
    {},
    {"top_k": 2, "num_routes": 2},
    {"num_routes": None},
    {"top_k": 3, "num_routes": 1, "rerank": 4},
    {"num_routes": 2, "candidates": 50, "where": {"year": {"$gte": 2002}}},
    {"ids": ["d1", "d3", "nobody"]},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_client_gets_the_hits_of_the_library(
    serve: Callable[..., Served], options: dict[str, Any]
) -> None:
    served = serve()
    with FastLaneClient(served.url) as client:
        assert client.search(QUERIES, **options) == served.index.search(QUERIES, **options)
        assert client.search(QUERIES[0], **options) == served.index.search(QUERIES[0], **options)


@pytest.mark.parametrize("max_batch", [1, 3, 32])
def test_concurrent_queries_get_the_hits_of_the_library(
    serve: Callable[..., Served], max_batch: int
) -> None:
    served = serve(max_batch=max_batch)
    asked = [(query, options) for options in OPTIONS for query in QUERIES] * 3
    with FastLaneClient(served.url) as client, ThreadPoolExecutor(16) as threads:
        found = list(threads.map(lambda one: client.search(one[0], **one[1]), asked))
    for (query, options), hits in zip(asked, found, strict=True):
        assert_same_hits(hits, served.index.search(query, **options))


def assert_same_hits(hits: list[Hit], expected: list[Hit]) -> None:
    """The same hits, their scores up to rounding: a query that is padded in a batch rounds otherwise."""
    assert [(hit.id, hit.text, hit.metadata, hit.span) for hit in hits] == [
        (hit.id, hit.text, hit.metadata, hit.span) for hit in expected
    ]
    for hit, one in zip(hits, expected, strict=True):
        assert hit.score == pytest.approx(one.score, abs=1e-5)
        assert [match[:2] for match in hit.matches] == [match[:2] for match in one.matches]
        assert [match.similarity for match in hit.matches] == pytest.approx(
            [match.similarity for match in one.matches], abs=1e-5
        )


def test_queries_that_come_while_a_batch_runs_become_one_batch(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()
    go_on, has_begun = threading.Event(), threading.Event()
    sizes: list[int] = []
    search = searching.Searcher.search

    def held(self: Any, options: Any, queries: list[str]) -> Any:
        sizes.append(len(queries))
        has_begun.set()
        assert go_on.wait(60)
        return search(self, options, queries)

    monkeypatch.setattr(searching.Searcher, "search", held)
    with FastLaneClient(served.url) as client, ThreadPoolExecutor(8) as threads:
        first = threads.submit(client.search, QUERIES[0])
        assert has_begun.wait(60)
        others = [threads.submit(client.search, query) for query in QUERIES]
        metrics = get(f"{served.url}/metrics").text
        while "fastlane_queue 4.0" not in metrics:
            metrics = get(f"{served.url}/metrics").text
        go_on.set()
        assert first.result() == served.index.search(QUERIES[0])
        for one, hits in zip(others, served.index.search(QUERIES), strict=True):
            assert_same_hits(one.result(), hits)
    assert sizes == [1, 4]


def test_an_explanation_is_the_librarys_in_characters(serve: Callable[..., Served]) -> None:
    served = serve()
    query = QUERIES[0]
    with FastLaneClient(served.url) as client:
        found = client.search_explained(query, top_k=3)
    hits = served.index.search(query, 3)
    assert [hit for hit, _ in found] == hits
    assert [explanation for _, explanation in found] == served.index.explain(query, hits)
    body = {"query": query, "top_k": 3, "explain": True}
    answer = httpx.post(timeout=PATIENCE, url=f"{served.url}/search", json=body).json()
    for hit, explanation in zip(
        answer["results"][0]["hits"], [one for _, one in found], strict=True
    ):
        strong = [word for word in hit["explanation"]["words"] if word["strong"]]
        assert {tuple(word["query_span"]) for word in strong} == {
            match.query_span for match in explanation.strong
        }
        for word in strong:
            start, end = word["document_span"]
            assert hit["text"][start:end] == word["document_word"]


def change_after_search(monkeypatch: pytest.MonkeyPatch, change: Callable[[Index], None]) -> None:
    """Changes the index as another request may: after the next search, before its hits are explained."""
    search = Index.search

    def searched(self: Index, *arguments: Any, **options: Any) -> Any:
        hits = search(self, *arguments, **options)
        monkeypatch.setattr(Index, "search", search)
        change(self)
        return hits

    monkeypatch.setattr(Index, "search", searched)


def test_a_document_that_is_replaced_during_a_search_is_not_explained_by_its_new_text(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()
    query = QUERIES[0]
    replaced, deleted, *others = served.index.search(query)
    expected = served.index.explain(query, others)

    def change(index: Index) -> None:
        index.upsert(["a b c list"], [replaced.id])
        index.delete([deleted.id])

    change_after_search(monkeypatch, change)
    body = {"query": query, "explain": True}
    answer = httpx.post(timeout=PATIENCE, url=f"{served.url}/search", json=body)
    assert answer.status_code == 200
    [first, *rest] = answer.json()["results"][0]["hits"]
    assert (first["id"], first["text"]) == (replaced.id, replaced.text)
    assert first["explanation"] is None
    assert [hit["id"] for hit in rest] == [hit.id for hit in others]
    told = [
        one.to_dict(query, hit.text)["words"] for hit, one in zip(others, expected, strict=True)
    ]
    assert [[word["document_word"] for word in hit["explanation"]["words"]] for hit in rest] == [
        [word["document_word"] for word in words] for words in told
    ]
    with FastLaneClient(served.url) as client:
        change_after_search(monkeypatch, lambda index: index.upsert(["x"], [replaced.id]))
        found = [hit.id for hit, _ in client.search_explained(query)]
    assert replaced.id not in found
    assert set(found) == {hit.id for hit in others}


def test_all_documents_may_be_deleted_during_a_search(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()
    expected = served.index.search(QUERIES[0], 2, rerank=4)
    change_after_search(monkeypatch, lambda index: index.delete(index.ids))
    body = {"query": QUERIES[0], "top_k": 2, "rerank": 4}
    answer = httpx.post(timeout=PATIENCE, url=f"{served.url}/search", json=body)
    assert answer.status_code == 200
    [result] = answer.json()["results"]
    assert [hit["id"] for hit in result["hits"]] == [hit.id for hit in expected]
    assert result["comparisons"] == 0


def test_an_answer_says_what_the_search_took(serve: Callable[..., Served]) -> None:
    served = serve()
    post = httpx.Client(base_url=served.url, timeout=PATIENCE).post
    total = served.index.num_vectors
    one = post("/search", json={"query": "sort a list", "num_routes": 1}).json()
    assert one["results"][0]["comparisons"] == total
    two = post("/search", json={"query": ["sort a list", "read a file"], "num_routes": 2}).json()
    assert [result["comparisons"] for result in two["results"]] == [2 * total, 2 * total]
    took = two["took"]
    assert took["encode_ms"] > 0
    assert took["search_ms"] > 0
    assert took["explain_ms"] == 0
    assert took["batch_size"] == 2
    again = post("/search", json={"query": "set", "num_routes": 1, "rerank": 6, "top_k": 2}).json()
    [result] = again["results"]
    tokens = len(result["hits"][0]["matches"])
    assert result["comparisons"] == total + tokens * total


@pytest.mark.parametrize("num_routes", [1, 2, None, "default"])
def test_queries_are_encoded_as_the_model_does(
    serve: Callable[..., Served], model: FastLaneModel, num_routes: Any
) -> None:
    served = serve()
    with FastLaneClient(served.url) as client:
        found = client.encode_query(QUERIES, num_routes)
    expected = model.encode_query(QUERIES, num_routes=num_routes, convert_to_numpy=True)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_documents_are_encoded_as_the_index_does(
    serve: Callable[..., Served], model: FastLaneModel
) -> None:
    served = serve()
    texts = ["join a path to the file", "sort a list of number in time"]
    with FastLaneClient(served.url) as client:
        whole, half = client.encode_document(texts), client.encode_document(texts, 0.5)
        long = client.encode_document([" ".join(["read the file"] * 20)])
    expected = model.encode_document(texts, num_routes=None, convert_to_numpy=True)
    for one, other, pooled in zip(whole, expected, half, strict=True):
        np.testing.assert_array_equal(one, other)
        assert len(pooled) == len(other) // 2
    assert len(long[0]) == 60  # in windows, not cut at 12 tokens
    body = {"texts": texts[0], "side": "document"}
    answer = httpx.post(timeout=PATIENCE, url=f"{served.url}/encode", json=body).json()
    np.testing.assert_array_equal(np.float32(answer["embeddings"][0]), expected[0])
    assert answer["positions"] == [[1, 2, 3, 4, 5, 6]]  # of the words, not of [CLS]
    assert answer["dim"] == 4
