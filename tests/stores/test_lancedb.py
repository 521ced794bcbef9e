"""LanceDB alone: its indexes, commits, columns and storages."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlane_st import FastLaneIndex
from fastlane_st.stores.settings import StoreSettings
from tests.support.vectors import DIM, units

lancedb = pytest.importorskip("lancedb")

from fastlane_st.stores.lancedb import LanceSearch, LanceStore  # noqa: E402

DOCUMENTS = [units(1 + n % 7, n) for n in range(600)]
QUERIES = list(units(20, 5_000)[:, None])


@pytest.fixture
def store(tmp_path: Path) -> LanceStore:
    made = LanceStore.create(str(tmp_path), DIM)
    made.upsert(DOCUMENTS, range(len(DOCUMENTS)), metadata=[{"n": n % 10} for n in range(600)])
    return made


@pytest.fixture(scope="module")
def best() -> list[list[Any]]:
    index = FastLaneIndex.from_embeddings([one.astype(np.float16) for one in DOCUMENTS])
    return [[hit.id for hit in hits] for hits in index.search(QUERIES, 10)]


def recall(store: LanceStore, best: list[list[Any]]) -> float:
    found = [[hit.id for hit in hits] for hits in store.search(QUERIES, 10)]
    assert all(len(ids) == 10 for ids in found)
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, best, strict=True)]))


@pytest.mark.parametrize("kind", ["IVF_RQ", "IVF_SQ", "IVF_FLAT", "IVF_HNSW_SQ"])
def test_an_index_finds_nearly_all_and_exact_search_all(
    store: LanceStore, best: list[list[Any]], kind: Any
) -> None:
    assert not store.is_indexed
    assert recall(store, best) == 1
    store.create_index(kind, num_partitions=4)
    assert store.is_indexed
    store.how = LanceSearch(nprobes=4)
    assert recall(store, best) >= (0.85 if kind == "IVF_RQ" else 0.95)  # one bit a dimension, of 16
    store.how = LanceSearch(exact=True)
    assert recall(store, best) == 1


def test_an_index_covers_what_comes_later_and_filters(store: LanceStore) -> None:
    store.create_index("IVF_FLAT", num_partitions=2)
    store.upsert([units(1, 9_000)], ["late"], metadata=[{"n": 3}])
    query = units(1, 9_000)
    assert store.search([query], 1)[0][0].id == "late"
    store.finish()
    store.delete([0, 13])
    found = store.search([query], 100, where={"n": 3})[0]
    assert found[0].id == "late"
    assert {hit.id for hit in found} == {"late", *range(3, 600, 10)} - {13}


def test_finish_indexes_ids_and_facts_and_many_vectors(
    store: LanceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.finish()
    assert {tuple(one.columns) for one in store.table.list_indices()} == {("id",), ("facts",)}
    assert store.count({"n": {"$in": [1, 2]}}) == 120
    monkeypatch.setattr("fastlane_st.stores.lancedb.EXACT_UP_TO", store.num_vectors() - 1)
    store.finish()
    assert store.is_indexed
    store.finish()


def test_num_vectors_counts_all(store: LanceStore) -> None:
    assert store.num_vectors() == sum(map(len, DOCUMENTS))


def test_a_write_is_one_commit_and_versions_are_lancedbs_own(store: LanceStore) -> None:
    before = store.table.version
    store.upsert([units(1, 1), units(1, 2)], [0, "new"], metadata=[{"n": 1}, {"n": 2}])
    assert store.table.version == before + 1
    assert store.count() == 601
    store.table.checkout(before)
    assert store.count() == 600
    store.table.checkout_latest()


def test_a_field_gets_columns_of_its_kinds(tmp_path: Path) -> None:
    store = LanceStore.create(str(tmp_path), 1)
    one = [[1.0]]
    store.upsert([one, one], ["a", "b"], metadata=[{"x.y`": 1, "X.y`": 2}, {"x.y`": "t"}])
    names = [name for name in store.table.schema.names if ":" in name]
    assert sorted(names) == ["number:X%2Ey%60", "number:x%2Ey%60", "text:x%2Ey%60"]
    assert store.count({"x.y`": {"$lt": 2}}) == 1
    assert store.count({"X.y`": {"$lt": 2}}) == 0
    store.upsert([one], ["c"], metadata=[{"new": 3}])
    assert store.count({"new": {"$gte": 3}}) == 1
    assert [one.metadata for one in store.get(["a", "c"])] == [{"x.y`": 1, "X.y`": 2}, {"new": 3}]


def test_another_process_sees_commits(store: LanceStore, tmp_path: Path) -> None:
    other = LanceStore.open(str(tmp_path))
    store.upsert([units(1, 1)], ["new"], metadata=[{"later": 1}])
    assert other.count() == 601
    assert other.count({"later": {"$gte": 1}}) == 1


def test_writers_at_once_lose_nothing(store: LanceStore, tmp_path: Path) -> None:
    def write(start: int) -> None:
        mine = LanceStore.open(str(tmp_path))
        for n in range(start, start + 5):
            mine.upsert([units(1, n)], [f"new{n}"], metadata=[{f"field{n % 3}": n}])

    threads = [threading.Thread(target=write, args=(5 * n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.count() == 615
    assert store.count({"field1": {"$gte": 0}}) == 5


def test_vectors_of_any_length_need_dot_and_have_no_index(tmp_path: Path) -> None:
    store = LanceStore.create(str(tmp_path), DIM)
    with pytest.raises(
        ValueError, match="'long' has a vector of length 3, and the store compares by cosine"
    ):
        store.upsert([3 * units(2, 1)], ["long"])
    assert store.count() == 0
    settings = StoreSettings(DIM, distance="dot")
    other = LanceStore.create(str(tmp_path), settings, "dot")
    other.upsert([units(1, 1), 3 * units(1, 1)], ["short", "long"])
    assert [hit.id for hit in other.search([units(1, 1)])[0]] == ["long", "short"]
    with pytest.raises(ValueError, match="by cosine only, and this store compares by dot"):
        other.create_index()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "IVF_PQ"}, "kind must be one of 'IVF_RQ'"),
        ({"kind": "IVF_SQ", "num_bits": 2}, "num_bits applies to IVF_RQ"),
        ({"num_partitions": 0}, "num_partitions must be a positive integer"),
    ],
)
def test_a_wrong_index_is_refused(store: LanceStore, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        store.create_index(**options)


def test_vectors_beyond_float16_are_refused(tmp_path: Path) -> None:
    store = LanceStore.create(str(tmp_path), StoreSettings(2, distance="dot"))
    with pytest.raises(ValueError, match="'x' has a vector that float16 can't hold"):
        store.upsert([[[1e6, 0.0]]], ["x"])


def test_a_table_of_someone_else_is_refused(tmp_path: Path) -> None:
    lancedb.connect(tmp_path).create_table("theirs", [{"vector": [1.0], "id": 1}])
    with pytest.raises(ValueError, match=r"\(table theirs\) wasn't made by fastlane_st"):
        LanceStore.open(str(tmp_path), "theirs")


def test_a_storage_that_is_down_is_named_after_retries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fastlane_st.stores.base.FIRST_WAIT", 0.0)
    down = {
        "aws_endpoint": "http://127.0.0.1:9",
        "allow_http": "true",
        "aws_access_key_id": "a",
        "aws_secret_access_key": "b",
        "aws_region": "x",
        "client_max_retries": "0",
        "timeout": "1s",
    }
    with pytest.raises(
        ConnectionError, match=r"lancedb:s3://bucket/x \(table documents\) can't be reached"
    ):
        LanceStore.open("s3://bucket/x", retries=1, storage_options=down)
    assert "again in 0 s" in caplog.text
