"""The application around its routes: logs, metrics, failures, the page, OpenAPI."""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastlane_st import FastLaneIndex, FastLaneModel, cli
from fastlane_st import serve as serve_package
from fastlane_st.serve.settings import ServerSettings
from tests.conftest import QUERIES
from tests.serve.conftest import PATIENCE, Served, get

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

from fastlane_st.serve import (  # noqa: E402
    AsyncFastLaneClient,
    FastLaneClient,
    ServerError,
    app,
    create_app,
    endpoints,
    searching,
    writing,
)

SECRET = "swordfish"


def test_metrics_count_requests_batches_and_changes(serve: Callable[..., Served]) -> None:
    served = serve()
    with FastLaneClient(served.url) as client:
        client.search(QUERIES)
        client.add(["sort a set"])
        client.delete([0])
        with pytest.raises(ServerError):
            client.search("")
    get(f"{served.url}/{SECRET}")
    for method in (SECRET.upper(), "TRACE", "PATCH"):
        assert httpx.request(method, f"{served.url}/index", timeout=PATIENCE).status_code == 405
    response = get(f"{served.url}/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = response.text.splitlines()
    for line in (
        'fastlane_requests_total{method="POST",path="/search",status="200"} 1.0',
        'fastlane_requests_total{method="POST",path="/search",status="422"} 1.0',
        'fastlane_requests_total{method="GET",path="other",status="404"} 1.0',
        'fastlane_requests_total{method="other",path="/index",status="405"} 2.0',
        'fastlane_requests_total{method="PATCH",path="/index",status="405"} 1.0',
        "fastlane_batch_size_sum 4.0",
        'fastlane_stage_seconds_count{stage="encode"} 4.0',
        'fastlane_documents_changed_total{change="add"} 1.0',
        'fastlane_documents_changed_total{change="delete"} 1.0',
        "fastlane_documents 6.0",
        "fastlane_queue 0.0",
    ):
        assert line in lines
    assert SECRET not in response.text.lower()


def test_logs_have_no_texts_even_of_a_failure(
    serve: Callable[..., Served],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    served = serve()

    def fail(self: Any, options: Any, queries: list[str]) -> None:
        raise RuntimeError(f"can't search for {queries}")

    with (
        caplog.at_level(logging.DEBUG),
        httpx.Client(base_url=served.url, timeout=PATIENCE) as client,
    ):
        client.post("/search", json={"query": SECRET})
        client.post("/documents", json={"documents": [{"id": SECRET, "text": SECRET}]})
        client.post("/rerank", json={"query": SECRET, "documents": [SECRET]})
        client.post(f"/{SECRET}", content=SECRET)
        client.request(SECRET.upper(), "/index")
        client.post("/search", json={"query": SECRET, "where": {SECRET: SECRET}})
        monkeypatch.setattr(searching.Searcher, "search", fail)
        failed = client.post("/search", json={"query": SECRET})
    assert failed.status_code == 500
    assert failed.json()["error"] == {
        "message": "the server failed: its log says where",
        "field": None,
    }
    ours = [one for one in caplog.records if one.name.startswith(("fastlane_st", "uvicorn"))]
    said = "\n".join(one.getMessage() for one in ours)
    assert re.search(r"^POST /search 200 \d+\.\d ms$", said, re.MULTILINE)
    assert "POST other 404" in said
    assert "other /index 405" in said
    assert re.search(r"RuntimeError in\n.*test_app\.py:\d+ in fail", said, re.DOTALL)
    assert SECRET not in said.lower()
    assert not any(one.exc_info for one in ours)


def test_one_query_that_fails_spoils_no_other(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()
    search = searching.Searcher.search

    def fail_for_sets(self: Any, options: Any, queries: list[str]) -> Any:
        if "set" in queries:
            raise ValueError("query 0 has no views: none of its tokens can be routed")
        return search(self, options, queries)

    monkeypatch.setattr(searching.Searcher, "search", fail_for_sets)

    async def ask() -> list[Any]:
        async with AsyncFastLaneClient(served.url) as client:
            asked = (client.search(query) for query in QUERIES)
            return await asyncio.gather(*asked, return_exceptions=True)

    *found, failed = asyncio.run(ask())
    assert found == served.index.search(QUERIES[:-1])
    assert isinstance(failed, ServerError)
    assert (failed.status, failed.field) == (422, "query")


def test_the_page_is_served_with_a_strict_policy_if_it_is_there(
    serve: Callable[..., Served], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "page"
    monkeypatch.setattr(app, "PAGE", folder)
    bare = serve()
    assert get(bare.url).status_code == 404
    assert get(f"{bare.url}/page/page.js").status_code == 404
    folder.mkdir()
    served = serve()
    assert get(served.url).status_code == 404
    (folder / "index.html").write_text("<!doctype html>")
    (folder / "page.js").write_text("1")
    (tmp_path / "secret.txt").write_text(SECRET)
    page = get(served.url)
    assert page.text == "<!doctype html>"
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    script = get(f"{served.url}/page/page.js")
    assert (script.text, "javascript" in script.headers["content-type"]) == ("1", True)
    for path in ("/page/../secret.txt", "/page/%2e%2e/secret.txt", "/page/..%2fsecret.txt"):
        assert get(served.url + path).status_code == 404


def test_openapi_describes_every_route_and_its_errors(serve: Callable[..., Served]) -> None:
    served = serve()
    described = get(f"{served.url}/openapi.json").json()
    routes = {(method, path) for path, methods in described["paths"].items() for method in methods}
    assert routes == {
        ("post", "/search"),
        ("post", "/encode"),
        ("post", "/rerank"),
        ("post", "/v1/rerank"),
        ("post", "/v2/rerank"),
        ("post", "/documents"),
        ("put", "/documents"),
        ("post", "/documents/delete"),
        ("post", "/documents/get"),
        ("get", "/index"),
        ("get", "/health"),
        ("get", "/metrics"),
    }
    for path, methods in described["paths"].items():
        for operation in methods.values():
            errors = {status for status in operation["responses"] if status >= "400"}
            assert ("422" in errors) == ("requestBody" in operation)
            for status in errors:
                content = operation["responses"][status]["content"]["application/json"]
                assert content["schema"]["$ref"].endswith("/ErrorAnswer"), path
    assert get(f"{served.url}/docs").status_code == 404  # it would load scripts from elsewhere


@pytest.mark.slow
def test_requests_made_from_the_openapi_document_never_fail_the_server(
    serve: Callable[..., Served],
) -> None:
    schemathesis: Any = pytest.importorskip("schemathesis")
    hypothesis: Any = pytest.importorskip("hypothesis")
    served = serve(max_texts=4)
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    seen: set[int] = set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @hypothesis.given(case=operation.as_strategy())
        @hypothesis.settings(
            max_examples=10,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        def ask(case: Any) -> None:
            response = case.call(timeout=PATIENCE)
            seen.add(response.status_code)
            assert response.status_code < 500, (case.path, case.body, response.text)
            if response.status_code >= 400:
                assert set(response.json()["error"]) == {"message", "field"}

        ask()
    assert 200 in seen


def test_the_application_runs_without_a_socket_and_counts_what_waits(
    folder: Path, model: FastLaneModel
) -> None:
    """As ASGI servers and tests call it; without a lifespan."""
    index = FastLaneIndex.load(folder, model)
    transport = httpx.ASGITransport(create_app(index, folder))

    async def ask() -> list[Any]:
        async with AsyncFastLaneClient("http://served", transport=transport) as client:
            first = await client.search(QUERIES)
            await client.upsert(["sort a set"], ["new"])
            second = await client.search(QUERIES[0])
            explained = await client.search_explained(QUERIES[0], top_k=1)
            assert await client.is_healthy()
            assert (await client.rerank("set", ["set", "file"]))[0].index in (0, 1)
            assert [one.id for one in await client.get(["new"])] == ["new"]
            assert len((await client.encode_query(["sort a list"], None))[0]) == 3
            assert len(await client.encode_document(["set"])) == 1
            assert await client.add(["x"], ["other"]) == ["other"]
            await client.delete(["other"])
            assert (await client.describe())["documents"] == 7
            return [first, second, explained]

    before = index.search(QUERIES)
    first, second, [(hit, explanation)] = asyncio.run(ask())
    assert first == before
    assert second == index.search(QUERIES[0])
    assert [explanation] == index.explain(QUERIES[0], [hit])


def test_an_application_answers_in_one_event_loop_after_another(
    folder: Path, model: FastLaneModel
) -> None:
    from starlette.testclient import TestClient

    index = FastLaneIndex.load(folder, model)
    app = create_app(index, folder)
    transport = httpx.ASGITransport(app)

    async def ask() -> list[Any]:
        async with AsyncFastLaneClient("http://served", transport=transport) as client:
            found = await asyncio.wait_for(client.search("set"), PATIENCE)
            await client.upsert(["sort a set"], ["d1"])
            return [hit.id for hit in found]

    first = asyncio.run(ask())
    assert first == [hit.id for hit in index.search("set")]
    assert asyncio.run(ask()) == [hit.id for hit in index.search("set")]
    outside = TestClient(app)  # without `with` each request has a loop of its own
    for _ in range(2):
        assert outside.post("/search", json={"query": "set"}).status_code == 200
    with TestClient(app) as inside:
        assert inside.post("/search", json={"query": "set"}).status_code == 200


def test_too_many_waiting_queries_are_refused(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve(max_queue=2)
    go_on, has_begun = threading.Event(), threading.Event()
    search = searching.Searcher.search

    def held(self: Any, options: Any, queries: list[str]) -> Any:
        has_begun.set()
        assert go_on.wait(60)
        return search(self, options, queries)

    monkeypatch.setattr(searching.Searcher, "search", held)

    async def ask() -> None:
        async with AsyncFastLaneClient(served.url) as client:
            first = asyncio.create_task(client.search("set"))
            await asyncio.to_thread(has_begun.wait, 60)
            second = asyncio.create_task(client.search(["set", "file"]))
            async with httpx.AsyncClient(base_url=served.url, timeout=PATIENCE) as plain:
                while "fastlane_queue 2.0" not in (await plain.get("/metrics")).text:
                    pass
                refused = await plain.post("/search", json={"query": "list"})
                assert refused.status_code == 503
                assert refused.headers["retry-after"] == "1"
                assert "2 queries are waiting" in refused.json()["error"]["message"]
            go_on.set()
            assert await first == served.index.search("set")
            assert await second == served.index.search(["set", "file"])

    asyncio.run(ask())


def test_too_many_waiting_rankings_encodings_and_changes_are_refused(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve(max_queue=2)
    go_on = threading.Event()
    rerank, changed = endpoints.rerank, writing.IndexWriter._changed

    def held_rerank(*arguments: Any) -> Any:
        assert go_on.wait(60)
        return rerank(*arguments)

    def held_change(*arguments: Any) -> Any:
        assert go_on.wait(60)
        return changed(*arguments)

    monkeypatch.setattr(endpoints, "rerank", held_rerank)
    monkeypatch.setattr(writing.IndexWriter, "_changed", held_change)
    ranking = ("/rerank", {"query": "set", "documents": ["a set"]})
    encoding = ("/encode", {"texts": ["set"], "side": "document"})
    adding = ("/documents", {"documents": [{"text": "a set"}]})
    deleting = ("/documents/delete", {"ids": ["d1"]})

    async def ask() -> None:
        async with httpx.AsyncClient(base_url=served.url, timeout=PATIENCE) as http:

            async def post(request: tuple[str, Any]) -> Any:
                return await http.post(request[0], json=request[1])

            accepted = []
            for name, request in (("long_running", ranking), ("changes_running", adding)):
                accepted += [asyncio.create_task(post(request)) for _ in range(3)]
                while f"fastlane_{name} 3.0" not in (await http.get("/metrics")).text:
                    pass
            for request in (ranking, encoding, adding, deleting):
                refused = await post(request)
                assert refused.status_code == 503
                assert refused.headers["retry-after"] == "1"
                assert "2 requests of this kind are waiting" in refused.json()["error"]["message"]
            assert (await post(("/search", {"query": "set"}))).status_code == 200
            go_on.set()
            assert {one.status_code for one in await asyncio.gather(*accepted)} == {200}
            assert (await post(encoding)).status_code == 200

    asyncio.run(ask())
    assert len(served.index) == 9


def test_an_application_needs_an_encoder(folder: Path) -> None:
    with pytest.raises(ValueError, match="load the index with an encoder"):
        create_app(FastLaneIndex.load(folder), folder)


@pytest.mark.parametrize("missing", ["fastapi", "prometheus_client", "uvicorn"])
def test_a_package_that_the_server_misses_is_named_with_its_extra(
    missing: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert cli.main(["serve", str(tmp_path)]) == 1
    expected = f'a server needs {missing}: pip install "fastlane-st[serve]"'
    assert expected in capsys.readouterr().err
    with pytest.raises(ImportError, match=re.escape(expected)):
        serve_package.create_app  # noqa: B018


def test_a_client_without_httpx_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(
        ImportError, match=r'a client needs httpx: pip install "fastlane-st\[serve\]"'
    ):
        FastLaneClient("http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_batch": 0}, "max_batch must be a positive integer, got 0"),
        ({"max_top_k": 2.5}, "max_top_k must be a positive integer, got 2.5"),
        ({"max_wait_ms": -1}, "max_wait_ms must be between 0 and 1000"),
        ({"max_wait_ms": float("nan")}, "max_wait_ms must be between 0 and 1000"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServerSettings(**settings)


def test_a_client_says_that_something_else_answers(serve: Callable[..., Served]) -> None:
    def other(request: Any) -> Any:
        return httpx.Response(200 if request.url.path == "/search" else 502, text="<html>")

    with FastLaneClient("http://other", transport=httpx.MockTransport(other)) as client:
        with pytest.raises(ServerError, match="gave no answer of a FastLane server"):
            client.search("set")
        with pytest.raises(ServerError, match="answered with status 502") as caught:
            client.describe()
        assert caught.value.status == 502
        with pytest.raises(ValueError, match="ids must be 1, one a document: got 2"):
            client.add(["a"], ["x", "y"])


def test_a_client_names_the_server_that_is_not_there() -> None:
    url = "http://127.0.0.1:1"  # nobody listens at this port

    async def ask() -> None:
        async with AsyncFastLaneClient(url) as client:
            await client.search("set")

    with pytest.raises(httpx.ConnectError, match=rf"^{url}/?: .+"), FastLaneClient(url) as client:
        client.search("set")
    with pytest.raises(httpx.ConnectError, match=rf"^{url}/?: .+"):
        asyncio.run(ask())
