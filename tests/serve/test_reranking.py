"""/rerank: full MaxSim in the shapes of Cohere and Jina."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fastlane_st import FastLaneModel
from tests.conftest import DOCUMENTS
from tests.serve.conftest import Served, post

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

from fastlane_st.serve import FastLaneClient  # noqa: E402

QUERY = "sort a list ?"


def brute_force(model: FastLaneModel) -> list[tuple[int, float]]:
    """Places of `DOCUMENTS` and their mean similarities, best first, by the model alone."""
    query = model.encode_query(QUERY, num_routes=None)
    documents = model.encode_document(DOCUMENTS, num_routes=None)
    [scores] = model.similarity([query], documents).tolist()
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    return [(place, scores[place] / len(query)) for place in order]


def test_texts_are_ranked_by_full_maxsim(
    serve: Callable[..., Served], model: FastLaneModel
) -> None:
    served = serve()
    with FastLaneClient(served.url) as client:
        ranked = client.rerank(QUERY, DOCUMENTS)
        best = client.rerank(QUERY, DOCUMENTS, top_n=2)
    expected = brute_force(model)
    assert [one.index for one in ranked] == [place for place, _ in expected]
    assert [one.relevance for one in ranked] == pytest.approx([score for _, score in expected])
    assert best == ranked[:2]


def test_a_long_text_counts_by_all_of_it(serve: Callable[..., Served]) -> None:
    """The encoder reads 12 tokens; the word stands far behind."""
    served = serve()
    long = " ".join(["python"] * 30) + " sort a list"
    with FastLaneClient(served.url) as client:
        [first, second] = client.rerank("sort a list", [" ".join(["python"] * 30), long])
    assert (first.index, second.index) == (1, 0)
    assert first.relevance > second.relevance


def test_jinas_request_gets_jinas_answer(serve: Callable[..., Served]) -> None:
    served = serve()
    body = {
        "model": "jina-reranker-v2-base-multilingual",
        "query": QUERY,
        "documents": ["read a file", {"text": "sort a list"}],
        "top_n": 2,
        "truncation": True,  # of Jina's later models
    }
    answer = post(f"{served.url}/v1/rerank", json=body).json()
    assert answer["model"] == "jina-reranker-v2-base-multilingual"
    assert answer["object"] == "list"
    assert answer["usage"]["total_tokens"] > 0
    by_place = {one["index"]: one["document"]["text"] for one in answer["results"]}
    assert by_place == {0: "read a file", 1: "sort a list"}
    scores = [one["relevance_score"] for one in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    short = post(f"{served.url}/rerank", json=body | {"return_documents": False}).json()
    assert all(set(one) == {"index", "relevance_score"} for one in short["results"])


def test_coheres_second_version_gives_no_texts(serve: Callable[..., Served]) -> None:
    served = serve()
    body = {"model": "rerank-v3.5", "query": QUERY, "documents": DOCUMENTS, "max_tokens_per_doc": 9}
    answer = post(f"{served.url}/v2/rerank", json=body).json()
    assert answer["meta"]["api_version"]["version"] == "2"
    assert len(answer["results"]) == len(DOCUMENTS)
    assert all(set(one) == {"index", "relevance_score"} for one in answer["results"])
    assert answer["id"]


@pytest.mark.parametrize("version", [1, 2])
def test_coheres_own_client_works(
    serve: Callable[..., Served], model: FastLaneModel, version: int
) -> None:
    cohere: Any = pytest.importorskip("cohere")
    key = "correct-horse-battery-staple"
    served = serve(api_key=key)
    client = (cohere.Client if version == 1 else cohere.ClientV2)(key, base_url=served.url)
    answer = client.rerank(model="fastlane", query=QUERY, documents=DOCUMENTS, top_n=3)
    expected = brute_force(model)[:3]
    assert [one.index for one in answer.results] == [place for place, _ in expected]
    assert [one.relevance_score for one in answer.results] == pytest.approx(
        [score for _, score in expected]
    )
    with pytest.raises(cohere.UnauthorizedError):
        (cohere.Client if version == 1 else cohere.ClientV2)("wrong", base_url=served.url).rerank(
            model="fastlane", query=QUERY, documents=DOCUMENTS
        )
