"""What a server refuses: a status of 4xx, and a JSON error that names the field."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fastlane_st.index.encoding import Encoding
from tests.serve.conftest import PATIENCE, Served

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

JSON = {"content-type": "application/json"}


@pytest.fixture
def http(serve: Callable[..., Served]) -> Iterator[Any]:
    served = serve(
        max_body_bytes=100_000, max_texts=5, max_text_length=50, max_top_k=20, max_queue=50
    )
    with httpx.Client(base_url=served.url, timeout=PATIENCE) as client:
        yield client


def error_of(response: Any) -> tuple[int, str | None, str]:
    """Status, field and message of an error, which has nothing else."""
    assert response.headers["content-type"] == "application/json"
    [(name, error)] = response.json().items()
    assert name == "error"
    assert set(error) == {"message", "field"}
    return response.status_code, error["field"], error["message"]


SEARCHES: list[tuple[dict[str, Any], str | None, str]] = [
    ({}, "query", "query is missing"),
    ({"query": ""}, "query", "query is empty, got ''"),
    ({"query": ["set", " \n"]}, "query.1", "query.1 is empty"),
    ({"query": []}, "query", "query is an empty list"),
    ({"query": 3}, "query", "should be a valid string"),
    ({"query": ["set", None]}, "query.1", "should be a valid string, got None"),
    ({"query": "a" * 51}, "query", "query may have 50 characters, got 51"),
    ({"query": ["a"] * 6}, "query", "query may be 5, got 6"),
    ({"query": "set", "top_k": 0}, "top_k", "greater than or equal to 1, got 0"),
    ({"query": "set", "top_k": True}, "top_k", "valid integer, got True"),
    ({"query": "set", "top_k": 2.5}, "top_k", "valid integer"),
    ({"query": "set", "top_k": "7"}, "top_k", "valid integer"),
    ({"query": "set", "top_k": 21}, "top_k", "top_k may be 20, got 21"),
    ({"query": "set", "top_k": 10, "rerank": 9}, "rerank", "rerank must be at least top_k=10"),
    ({"query": "set", "rerank": 21}, "rerank", "rerank may be 20"),
    ({"query": "set", "num_routes": None}, "num_routes", "num_routes"),
    ({"query": "set", "num_routes": "many"}, "num_routes", "num_routes"),
    ({"query": "set", "num_routes": 1, "candidates": 20}, "candidates", "several routes"),
    ({"query": "set", "num_routes": "all", "rerank": 10}, "rerank", "routed searches"),
    ({"query": "set", "where": "year"}, "where", "valid dictionary"),
    ({"query": "set", "where": {"$nor": []}}, "where", "a filter has fields"),
    ({"query": "set", "where": {"year": {"$gt": []}}}, "where", "takes a number or a text"),
    ({"query": "set", "where": {"month": 3}}, "where", "no document has the field 'month'"),
    ({"query": "set", "where": {"year": {"$gt": "x"}}}, "where", "compares with 'x'"),
    ({"query": "set", "ids": [1.5]}, "ids.0", "ids.0"),
    ({"query": "set", "ids": [True]}, "ids.0", "ids.0"),
    ({"query": "set", "ids": ["a"] * 6}, "ids", "ids may be 5, got 6"),
    ({"query": "set", "topk": 3}, "topk", "there is no field 'topk'"),
    ({"query": "set", "explain": 1}, "explain", "valid boolean"),
]


@pytest.mark.parametrize(("body", "field", "message"), SEARCHES, ids=lambda one: str(one)[:60])
def test_a_wrong_search_names_its_field(
    http: Any, body: dict[str, Any], field: str, message: str
) -> None:
    status, named, said = error_of(http.post("/search", json=body))
    assert (status, named) == (422, field)
    assert message in said


OTHERS: list[tuple[str, str, Any, int, str | None]] = [
    ("POST", "/encode", {"texts": ["set", ""]}, 422, "texts.1"),
    ("POST", "/encode", {"texts": "set", "num_routes": 0.5}, 422, "num_routes"),
    ("POST", "/encode", {"texts": "set", "side": "document", "num_routes": 1.5}, 422, "num_routes"),
    ("POST", "/encode", {"texts": "set", "side": "title"}, 422, "side"),
    ("POST", "/rerank", {"query": "set", "documents": []}, 422, "documents"),
    ("POST", "/rerank", {"query": " ", "documents": ["a"]}, 422, "query"),
    (
        "POST",
        "/rerank",
        {"query": "set", "documents": ["a", {"image": "x"}]},
        422,
        "documents.1.text",
    ),
    ("POST", "/v2/rerank", {"query": "set", "documents": ["a"], "top_n": 0}, 422, "top_n"),
    ("POST", "/v1/rerank", {"query": "set", "documents": ["a"] * 6}, 422, "documents"),
    ("POST", "/documents", {"documents": []}, 422, "documents"),
    ("POST", "/documents", {"documents": [{"id": "x"}]}, 422, "documents.0.text"),
    (
        "POST",
        "/documents",
        {"documents": [{"id": "x", "text": "a"}, {"text": "b"}]},
        422,
        "documents.1.id",
    ),
    ("POST", "/documents", {"documents": [{"id": "d1", "text": "a"}]}, 409, "documents"),
    ("POST", "/documents", {"documents": [{"id": "x", "text": "a"}] * 2}, 422, "documents"),
    (
        "POST",
        "/documents",
        {"documents": [{"text": "a", "metadata": {"$x": 1}}]},
        422,
        "documents.0.metadata",
    ),
    (
        "POST",
        "/documents",
        {"documents": [{"text": "a", "metadata": {"x": [1]}}]},
        422,
        "documents.0.metadata.x",
    ),
    ("POST", "/documents", {"documents": [{"text": "a" * 51}]}, 422, "documents.0"),
    ("POST", "/documents", {"documents": [{"id": 2**70, "text": "a"}]}, 422, "documents.0.id"),
    ("PUT", "/documents", {"documents": [{"text": "a"}]}, 422, "documents.0.id"),
    ("POST", "/documents/delete", {"ids": []}, 422, "ids"),
    ("POST", "/documents/delete", {"ids": ["d1", "nobody"]}, 404, "ids"),
    ("POST", "/documents/delete", {"ids": [1]}, 404, "ids"),
    ("POST", "/documents/get", {"ids": ["d1", "nobody"]}, 404, "ids"),
    ("GET", "/nothing", None, 404, None),
    ("GET", "/page/../../pyproject.toml", None, 404, None),
    ("GET", "/page/%2e%2e/%2e%2e/app.py", None, 404, None),
    ("GET", "/search", None, 405, None),
    ("DELETE", "/documents", None, 405, None),
]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "field"), OTHERS, ids=lambda one: str(one)[:50]
)
def test_other_wrong_requests_name_their_field_and_change_nothing(
    http: Any, method: str, path: str, body: Any, status: int, field: str | None
) -> None:
    before = http.get("/index").json()
    assert error_of(http.request(method, path, json=body))[:2] == (status, field)
    assert http.get("/index").json() == before


@pytest.mark.parametrize("id", ["a:b", "a", ": ", 7])
def test_a_missing_document_is_named_by_its_whole_id(http: Any, id: Any) -> None:
    expected = (404, "ids", f"no document has the id {id!r}")
    for path in ("/documents/get", "/documents/delete"):
        assert error_of(http.post(path, json={"ids": ["d1", id]})) == expected


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"", 422, "the body is empty"),
        (b"{", 400, "the body must be JSON"),
        (b"query=set", 400, "the body must be JSON"),
        (b'{"query": "\xff"}', 400, "invalid UTF-8 at byte 11"),
        (b'{"query": "\\ud800"}', 422, "query"),
        (b'{"query": "set", "where": {"a\\udfff": 1}}', 422, "no document has the field"),
        (b'{"query": "set", "top_k": NaN}', 422, "top_k"),
        (b'{"query": "set", "top_k": ' + b"9" * 5000 + b"}", 400, "a number in it is too long"),
        (b'{"query": "set", "where": ' + b'{"$not": ' * 40 + b"{}" + b"}" * 41, 422, "32 levels"),
        (b"[" * 50_000 + b"]" * 50_000, 400, "nested too deeply"),
        (b"[]", 422, "the body"),
        (b"null", 422, "the body"),
        (b'"set"', 422, "the body"),
    ],
    ids=lambda one: str(one)[:40],
)
def test_a_malformed_body_is_refused(http: Any, content: bytes, status: int, message: str) -> None:
    found, _, said = error_of(http.post("/search", content=content, headers=JSON))
    assert found == status
    assert message in said


def test_a_models_name_that_no_answer_could_hold_is_refused(http: Any) -> None:
    content = b'{"query": "set", "documents": ["a"], "model": "\\ud800"}'
    status, field, message = error_of(http.post("/rerank", content=content, headers=JSON))
    assert (status, field) == (422, "model")
    assert "no valid Unicode" in message


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_a_form_of_another_site_can_send_nothing(http: Any, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    content = b'{"documents": [{"text": "a"}]}'
    assert error_of(http.post("/documents", content=content, headers=headers))[0] == 415
    assert error_of(http.post("/documents", content=iter([content]), headers=headers))[0] == 415


def test_a_body_may_have_so_many_bytes_whether_or_not_it_says_how_many(http: Any) -> None:
    body = b'{"query": "set"}'
    fits = body + b" " * (100_000 - len(body))
    assert http.post("/search", content=fits, headers=JSON).status_code == 200
    message = "the body may have 100,000 bytes: send less at a time"
    too_large = fits + b" "
    assert error_of(http.post("/search", content=too_large, headers=JSON)) == (413, None, message)
    parts = iter([fits, b" "])
    assert error_of(http.post("/search", content=parts, headers=JSON)) == (413, None, message)


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
def test_an_encoding_may_answer_with_so_many_numbers(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch, encoding_format: str
) -> None:
    """A token has a vector of 4 numbers: 3 of 5 texts are encoded, one at a time, before it is too much."""
    served = serve(max_body_bytes=400)
    encoded: list[int] = []
    encode = Encoding.encoded

    def counted(self: Any, texts: list[str], ids: Any) -> Any:
        for one in encode(self, texts, ids):
            encoded.append(one.views.vectors.size)
            yield one

    monkeypatch.setattr(Encoding, "encoded", counted)
    with httpx.Client(base_url=served.url, timeout=PATIENCE) as client:
        assert client.get("/index").json()["limits"]["max_encoded"] == 100
        body = {"side": "document", "num_routes": "all", "encoding_format": encoding_format}
        most = {**body, "texts": ["a a a a a a a a a a"] * 2}
        assert client.post("/encode", json=most).status_code == 200
        assert encoded == [40, 40]
        encoded.clear()
        more = {**body, "texts": ["a a a a a a a a a a"] * 5}
        status, field, message = error_of(client.post("/encode", json=more))
        assert (status, field) == (422, "texts")
        assert message.startswith("the vectors of all texts may hold 100 numbers, got more")
        assert encoded == [40, 40, 40]
        assert client.post("/encode", json={**more, "num_routes": 1}).status_code == 200
        queries = {"texts": ["a a a a a"] * 7, "num_routes": "all"}
        status, field, message = error_of(client.post("/encode", json=queries))
        assert (status, field) == (422, "texts")
        assert message.startswith("the vectors of all texts may hold 100 numbers, got more")
        assert client.post("/encode", json={**queries, "num_routes": 1}).status_code == 200
        encoded.clear()
        long = {**body, "texts": ["a" * 60, "a" * 41], "num_routes": 1}
        assert error_of(client.post("/encode", json=long)) == (
            422,
            "texts",
            "texts may have 100 characters together, got 101",
        )
        assert encoded == []


def test_an_error_never_repeats_much_of_what_was_sent(http: Any) -> None:
    body = {"query": "set", "where": {"year": {"$between": "x" * 5000}}}
    assert len(http.post("/search", json=body).text) < 700
    assert len(http.post("/search", json={"query": ["x" * 40] * 5, "top_k": "x" * 5000}).text) < 300
