"""Qdrant alone: its limit, requests, servers that are down or not ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlane_st.modeling.search_fastlane import given_views
from fastlane_st.stores.base import Asked
from fastlane_st.stores.settings import StoreSettings
from tests.support.vectors import DIM, units

qdrant_client = pytest.importorskip("qdrant_client")

from fastlane_st.stores import qdrant  # noqa: E402
from fastlane_st.stores.qdrant import QdrantStore  # noqa: E402


def test_a_document_beyond_qdrants_limit_is_refused_and_nothing_written() -> None:
    store = QdrantStore.create(":memory:", StoreSettings(1024))
    most = np.zeros((1_048_576 // 1024, 1024), dtype=np.float32)
    with pytest.raises(
        ValueError,
        match=r"'long' has 1,024 vectors .* 1,048,576 numbers, and Qdrant takes fewer than 1,048,576",
    ):
        store.upsert([most[:2], most], ["short", "long"])
    assert store.count() == 0
    store.upsert([most[1:]], ["fits"])
    assert store.count() == 1


def test_many_documents_are_several_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qdrant, "NUMBERS_AT_ONCE", 5 * DIM)
    store = QdrantStore.create(":memory:", DIM)
    sizes = []
    upsert = store.client.upsert

    def counted(name: str, points: list[Any], **options: Any) -> Any:
        sizes.append(len(points))
        return upsert(name, points, **options)

    monkeypatch.setattr(store.client, "upsert", counted)
    store.upsert([units(n, n) for n in (2, 2, 1, 9, 3)], range(5))
    assert sizes == [3, 1, 1]
    assert store.count() == 5


def test_a_rerank_is_one_call_whose_limit_holds() -> None:
    store = QdrantStore.create(":memory:", DIM)
    documents = [units(3, n) for n in range(40)]
    store.upsert(documents, range(40))
    full = given_views(units(4, 99), "q")
    routed = given_views(units(1, 99), "q")
    stored = [one.astype(np.float16).astype(np.float32) for one in documents]
    by_route = sorted(range(40), key=lambda n: -(stored[n] @ routed.vectors[0]).max())[:10]
    sums = {n: float((stored[n] @ full.vectors.T).max(axis=0).sum()) for n in by_route}
    expected = sorted(by_route, key=lambda n: -sums[n])[:4]
    hits = store._find(Asked(routed, full), 4, 10, None)
    assert [hit.id for hit in hits] == expected
    assert [hit.score for hit in hits] == pytest.approx([sums[n] for n in expected], abs=1e-5)
    assert len(hits[0].matches) == 4


def test_a_server_that_is_down_is_named_after_retries(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fastlane_st.stores.base.FIRST_WAIT", 0.0)
    with pytest.raises(
        ConnectionError,
        match=r"qdrant:http://127.0.0.1:9 \(collection documents\) can't be reached: .*refused",
    ):
        QdrantStore.open("http://127.0.0.1:9", retries=2)
    assert caplog.text.count("again in 0 s") == 2
    with pytest.raises(ConnectionError, match="can't be reached"):
        QdrantStore.create("http://127.0.0.1:9", DIM, retries=0)


def test_a_folder_that_is_in_use_is_named(tmp_path: Path) -> None:
    store = QdrantStore.create(str(tmp_path / "q"), DIM)
    with pytest.raises(
        ConnectionError, match=r"q \(collection documents\) can't be reached: .*already"
    ):
        QdrantStore.open(str(tmp_path / "q"), retries=0)
    store.close()


def test_a_collection_of_someone_else_is_refused(tmp_path: Path) -> None:
    client = qdrant_client.QdrantClient(path=str(tmp_path / "q"))
    params = qdrant_client.models.VectorParams(size=4, distance=qdrant_client.models.Distance.DOT)
    client.create_collection("theirs", vectors_config=params)
    client.close()
    with pytest.raises(ValueError, match=r"\(collection theirs\) wasn't made by fastlane_st"):
        QdrantStore.open(str(tmp_path / "q"), "theirs")


def test_a_call_that_fails_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastlane_st.stores.base.FIRST_WAIT", 0.0)
    store = QdrantStore.create(":memory:", DIM)
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    upsert, answers = store.client.upsert, iter([ResponseHandlingException(OSError("gone")), None])

    def unreliable(*args: Any, **options: Any) -> Any:
        if (error := next(answers)) is not None:
            raise error
        return upsert(*args, **options)

    monkeypatch.setattr(store.client, "upsert", unreliable)
    store.upsert([units(1, 1)], ["x"])
    assert store.count() == 1

    def refused(*args: Any, **options: Any) -> Any:
        import httpx

        raise UnexpectedResponse(401, "Unauthorized", b"no key", httpx.Headers())

    monkeypatch.setattr(store.client, "count", refused)
    with pytest.raises(ValueError, match=r"qdrant::memory: .* refuses: .*401"):
        store.count()
