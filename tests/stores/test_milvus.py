"""Milvus alone: documents that crowd others out, half-written ones, limits, servers that are down."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlane_st import FastLaneIndex
from fastlane_st.stores.settings import StoreSettings
from tests.support.vectors import DIM, units

pytest.importorskip("milvus_lite")

from fastlane_st.stores import milvus
from fastlane_st.stores.milvus import MilvusStore, primary_key


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MilvusStore]:
    made = MilvusStore.create(str(tmp_path / "m.db"), DIM)
    yield made
    made.close()


@pytest.mark.parametrize("largest", [milvus.LARGEST_FETCH, 64])
def test_long_documents_crowd_no_other_out(
    store: MilvusStore, monkeypatch: pytest.MonkeyPatch, largest: int
) -> None:
    """Three documents hold the 600 best vectors; the others are found all the same."""
    query = units(1, 1)
    near = [query + 0.01 * units(200, n) for n in range(3)]
    far = [units(2, 50 + n) for n in range(20)]
    store.upsert([*near, *far], range(23))
    monkeypatch.setattr(milvus, "LARGEST_FETCH", largest)
    index = FastLaneIndex.from_embeddings([*near, *far])
    for top_k in (3, 5, 23):
        expected = [hit.id for hit in index.search([query], top_k)[0]]
        assert [hit.id for hit in store.search([query], top_k)[0]] == expected
        whole = [one.id for one in store._nearest(query[0], top_k, None, True)]
        assert whole == expected
    assert [len(one.views.vectors) for one in store._read([0, 22])] == [200, 2]


def test_a_document_without_its_row_0_is_not_there(store: MilvusStore) -> None:
    store.upsert([units(3, 1), units(2, 2)], ["half", "whole"])
    store.client.delete(store.name, ids=[primary_key("half", 0)])
    assert store.count() == 1
    assert [hit.id for hit in store.search([units(1, 1)])[0]] == ["whole"]
    assert store.digests(["half", "whole"]).keys() == {"whole"}
    store.upsert([units(1, 5)], ["half"])
    assert [len(one.views.vectors) for one in store._read(["half", "whole"])] == [1, 2]


def test_a_file_is_opened_after_its_process_ended(tmp_path: Path) -> None:
    """The engine of a process keeps a file, and what is loaded, until it ends."""
    file = str(tmp_path / "m.db")
    begin = "from fastlane_st.stores import MilvusStore; import numpy as np; "
    write = f"MilvusStore.create({file!r}, 2).upsert([np.eye(2), np.eye(2)], ['a', 'b'])"
    read = f"print(MilvusStore.open({file!r}).count())"
    for code, printed in ((write, ""), (read, "2")):
        process = [sys.executable, "-c", begin + code]
        done = subprocess.run(process, capture_output=True, text=True, check=False)
        assert done.stdout.strip() == printed, done.stderr


def test_old_rows_go_whatever_a_call_may_give(
    store: MilvusStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(milvus, "LARGEST_FETCH", 64)
    sizes = (200, 40, 40, 3, 64)
    store.upsert([units(size, size) for size in sizes], range(len(sizes)))
    store.upsert([units(2, size) for size in sizes], range(len(sizes)))
    [counted] = store.client.query(store.name, filter="row >= 0", output_fields=["count(*)"])
    assert counted["count(*)"] == 2 * len(sizes)


def test_new_documents_are_looked_for_together(
    store: MilvusStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call for each document makes an export's time grow with the square of its size in milvus-lite."""
    asked: list[str] = []
    query = store._query

    def counting(condition: str, fields: list[str]) -> list[dict[str, Any]]:
        asked.append(condition)
        return query(condition, fields)

    monkeypatch.setattr(store, "_query", counting)
    store.upsert([units(2, seed) for seed in range(100)], range(100))
    assert len(asked) <= 4


def test_a_write_that_is_cut_short_leaves_the_old_digest(
    store: MilvusStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.upsert([units(4, 1)], ["x"])
    before = store.digests(["x"])
    delete = store.client.delete

    def killed(*args: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(store.client, "delete", killed)
    with pytest.raises(KeyboardInterrupt):
        store.upsert([units(2, 2)], ["x"])
    assert store.digests(["x"]) == before
    monkeypatch.setattr(store.client, "delete", delete)
    store.upsert([units(2, 2)], ["x"])
    [document] = store._read(["x"])
    np.testing.assert_array_equal(document.views.vectors, units(2, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ids": ["x" * 501]}, "an id beyond the 500 bytes"),
        (
            {"ids": ["x"], "texts": ["é" * 40_000]},
            "'x' has a text of 80,000 bytes, and Milvus takes 65,535",
        ),
        ({"ids": ["x"], "metadata": [{"a": "b" * 70_000}]}, "'x' has metadata of 70,"),
    ],
)
def test_what_milvus_can_not_hold_is_refused(
    store: MilvusStore, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        store.upsert([units(1, 1)], **options)
    assert store.count() == 0


def test_another_storage_or_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="storage must be 'float32' for Milvus, got 'float16'"):
        MilvusStore.create(str(tmp_path / "m.db"), StoreSettings(DIM))
    with pytest.raises(ValueError, match=r"a file that ends in \.db, got '.*folder'"):
        MilvusStore.create(str(tmp_path / "folder"), DIM)


def test_a_server_that_is_down_is_named_after_retries(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fastlane_st.stores.base.FIRST_WAIT", 0.0)
    with pytest.raises(
        ConnectionError,
        match=r"milvus:http://127.0.0.1:9 \(collection documents\) can't be reached",
    ):
        MilvusStore.open("http://127.0.0.1:9", retries=1)
    assert "again in 0 s" in caplog.text
