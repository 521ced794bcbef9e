"""/documents: changes are in the folder before they are acknowledged, and searches go on."""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlane_st import FastLaneIndex, FastLaneModel
from fastlane_st.index.index import FastLaneIndex as Index
from fastlane_st.index.unfinished import UNFINISHED, Unfinished
from tests.conftest import DOCUMENTS, QUERIES
from tests.serve.conftest import IDS, METADATA, PATIENCE, Served

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")

from fastlane_st.serve import FastLaneClient, ServerError  # noqa: E402


def test_an_acknowledged_change_is_in_the_folder(
    serve: Callable[..., Served], model: FastLaneModel
) -> None:
    served = serve()
    with FastLaneClient(served.url) as client:
        added = client.add(["dumps a dict", "sort a set"], ["new", 7], [{"year": 2030}, {}])
        assert added == ["new", 7]
        saved = FastLaneIndex.load(served.folder, model)
        assert saved.ids == [*IDS, "new", 7]
        client.upsert(["read a path", "join a dict"], ["d1", "newer"])
        saved = FastLaneIndex.load(served.folder, model)
        assert [one.text for one in saved.get(["d1", "newer"])] == ["read a path", "join a dict"]
        client.delete(["d0", 7, 7])
        saved = FastLaneIndex.load(served.folder, model)
        assert saved.ids == [*IDS[1:], "new", "newer"]
        assert client.search(QUERIES) == saved.search(QUERIES)
        assert client.describe()["documents"] == 7


def test_documents_without_ids_are_numbered_and_can_be_read(serve: Callable[..., Served]) -> None:
    served = serve()
    with FastLaneClient(served.url) as client:
        assert client.add(["dumps a dict", "sort a set"]) == [0, 1]
        assert client.add(["open a file"], metadata=[{"year": 1999, "open": True}]) == [2]
        found = client.get([2, "d0"])
    assert [(one.id, one.text, one.metadata) for one in found] == [
        (2, "open a file", {"year": 1999, "open": True}),
        ("d0", DOCUMENTS[0], METADATA[0]),
    ]


@pytest.mark.parametrize("metadata", ['{"k": "\\ud800"}', '{"\\ud800": 1}'], ids=["value", "field"])
def test_metadata_that_no_answer_could_hold_is_refused(
    serve: Callable[..., Served], metadata: str
) -> None:
    """A lone surrogate can't be sent back: each search that found the document would fail."""
    served = serve()
    with httpx.Client(base_url=served.url, timeout=PATIENCE) as http:
        refused = http.post(
            "/documents",
            content=f'{{"documents": [{{"text": "sort a set", "metadata": {metadata}}}]}}',
            headers={"content-type": "application/json"},
        )
        assert refused.status_code == 422
        error = refused.json()["error"]
        assert error["field"] == "documents.0.metadata"
        assert "0 is no valid Unicode: surrogates not allowed at 0" in error["message"]
        assert http.post("/search", json={"query": "set", "top_k": 100}).status_code == 200
        assert http.get("/index").json()["metadata_fields"] == ["year"]
    assert served.index.ids == IDS


def test_a_client_takes_ids_and_metadata_of_numpy_as_the_index_does(
    serve: Callable[..., Served],
) -> None:
    served = serve()
    ids = np.array([7, 8])
    metadata = [{"year": np.int64(2031), "open": np.bool_(True)}, {"score": np.float32(0.5)}]
    with FastLaneClient(served.url) as client:
        assert client.add(["dumps a dict", "sort a set"], ids, metadata) == [7, 8]
        client.upsert(["sort a set of dict"], ids[1:], metadata[1:])
        assert [one.metadata for one in client.get(ids)] == [
            {"year": 2031, "open": True},
            {"score": 0.5},
        ]
        for where, found in (
            ({"year": {"$in": np.array([2031, 2032])}}, [7]),
            ({"$or": [{"open": np.bool_(True)}, {"$not": {"score": {"$lt": np.float32(1)}}}]}, [7]),
            ({"score": {"$in": {0.5}}}, [8]),
        ):
            hits = client.search("sort", top_k=np.int64(5), where=where, ids=ids)
            assert [hit.id for hit in hits] == found
        assert client.rerank("set", ["a set", "a file"], np.int64(1))[0].index == 0
        assert len(client.encode_query(["sort a list"], np.int64(2))[0]) == 2
        client.delete(ids)
    assert served.index.ids == IDS


def test_all_documents_may_be_deleted_and_others_added(serve: Callable[..., Served]) -> None:
    served = serve()
    with FastLaneClient(served.url) as client:
        client.delete(IDS)
        assert client.search(QUERIES) == [[]] * len(QUERIES)
        assert client.search(QUERIES[0], rerank=10) == []
        client.add(["sort a set"], ["new"])
        assert [hit.id for hit in client.search("set")] == ["new"]


def test_a_refused_change_changes_nothing(serve: Callable[..., Served]) -> None:
    served = serve()
    with FastLaneClient(served.url) as client:
        for change, field, status in (
            (lambda: client.add(["a", "b"], ["new", "d1"]), "documents", 409),
            (lambda: client.delete(["d0", "nobody"]), "ids", 404),
            (lambda: client.upsert(["a", "b"], ["new", "new"]), "documents", 422),
        ):
            with pytest.raises(ServerError) as caught:
                change()
            assert (caught.value.field, caught.value.status) == (field, status)
        assert client.describe()["documents"] == len(IDS)
    assert served.index.ids == IDS


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "couldn't be saved and was undone"),
        (BlockingIOError("someone else is writing"), "another process is writing"),
    ],
)
def test_a_change_that_cannot_be_saved_is_undone(
    serve: Callable[..., Served],
    model: FastLaneModel,
    monkeypatch: pytest.MonkeyPatch,
    error: OSError,
    message: str,
) -> None:
    served = serve()

    def fail(self: Any, directory: Any) -> None:
        raise error

    with FastLaneClient(served.url) as client:
        with monkeypatch.context() as patched:
            patched.setattr(Index, "save", fail)
            with pytest.raises(ServerError, match=message) as caught:
                client.upsert(["sort a set", "x"], ["d1", "new"])
            assert caught.value.status == 503
            with pytest.raises(ServerError, match=message):
                client.delete(["d0"])
        assert served.index.ids == IDS
        assert served.index.text("d1") == DOCUMENTS[1]
        client.add(["dumps a dict"], ["new"])
    assert FastLaneIndex.load(served.folder, model).ids == [*IDS, "new"]


def test_what_another_process_has_changed_is_kept(
    serve: Callable[..., Served], model: FastLaneModel
) -> None:
    served = serve()
    other = FastLaneIndex.load(served.folder, model)
    other.add(["open a file"], ["other"])
    other.save(served.folder)
    with FastLaneClient(served.url) as client:
        client.add(["dumps a dict"], ["new"])
        assert [one.text for one in client.get(["other", "new"])] == ["open a file", "dumps a dict"]
    assert FastLaneIndex.load(served.folder, model).ids == [*IDS, "other", "new"]


def test_an_index_that_was_built_anew_is_not_mixed_with_the_one_before(
    serve: Callable[..., Served], model: FastLaneModel
) -> None:
    served = serve()
    shutil.rmtree(served.folder)
    FastLaneIndex.build(model, ["open a file"], ids=["other"]).save(served.folder)
    with FastLaneClient(served.url) as client:
        client.add(["dumps a dict"], ["new"])
    assert FastLaneIndex.load(served.folder, model).ids == ["other", "new"]


def test_an_unfinished_index_takes_changes_once_it_is_finished_in_the_folder(
    folder: Path, serve: Callable[..., Served], model: FastLaneModel
) -> None:
    unfinished = FastLaneIndex.load(folder, model)
    state = Unfinished(len(IDS) + 1, "default", "auto", "float32", len(IDS))
    unfinished.metadata[UNFINISHED] = state.to_dict()
    unfinished.save(folder)
    served = serve()
    with FastLaneClient(served.url) as client:
        for change in (lambda: client.add(["a"], ["new"]), lambda: client.delete(["d0"])):
            with pytest.raises(ServerError, match="the index is unfinished") as caught:
                change()
            assert caught.value.status == 409
        resumed = FastLaneIndex.load(folder, model)
        resumed.add(["open a file"], ["last"])
        del resumed.metadata[UNFINISHED]
        resumed.save(folder)
        assert client.add(["dumps a dict"], ["new"]) == ["new"]
    assert FastLaneIndex.load(folder, model).ids == [*IDS, "last", "new"]


def test_a_server_may_be_read_only(serve: Callable[..., Served]) -> None:
    served = serve(read_only=True)
    with FastLaneClient(served.url) as client:
        for change in (
            lambda: client.add(["a"]),
            lambda: client.upsert(["a"], ["d1"]),
            lambda: client.delete(["d1"]),
        ):
            with pytest.raises(ServerError, match="read-only") as caught:
                change()
            assert caught.value.status == 403
        assert client.describe()["read_only"] is True
    assert served.index.ids == IDS


def test_searches_go_on_during_concurrent_changes(
    serve: Callable[..., Served], model: FastLaneModel
) -> None:
    """Documents that stay are found in every search, whatever else comes and goes."""
    served = serve()
    expected = {hit.id for hit in served.index.search(QUERIES[0], 6)}
    is_over = threading.Event()

    def write(writer: int) -> list[str]:
        kept = []
        with FastLaneClient(served.url) as client:
            for number in range(6):
                ids = [f"{writer}-{number}-{place}" for place in range(2)]
                client.upsert(["sort the list", "read a path"], ids)
                client.delete(ids[:1])
                kept.append(ids[1])
        return kept

    def search() -> int:
        count = 0
        with FastLaneClient(served.url) as client:
            while not is_over.is_set():
                assert expected <= {hit.id for hit in client.search(QUERIES[0], top_k=100)}
                explained = client.search_explained("sort the list", top_k=20)
                assert all(hit.id == explanation.id for hit, explanation in explained)
                count += 1
        return count

    with ThreadPoolExecutor(5) as threads:
        searches = [threads.submit(search) for _ in range(2)]
        writes = [threads.submit(write, writer) for writer in range(3)]
        kept = [id for one in writes for id in one.result()]
        is_over.set()
        assert all(one.result() > 0 for one in searches)
    saved = FastLaneIndex.load(served.folder, model)
    assert set(saved.ids) == {*IDS, *kept}
    assert len(kept) == 18
