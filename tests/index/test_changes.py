"""An index that changes: it always finds what one finds that was built at once."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastlane_st.index import scoring
from fastlane_st.index.index import FastLaneIndex
from fastlane_st.modeling.search_fastlane import Hit
from tests.support.encoders import WordEncoder

Matrix = npt.NDArray[np.float32]
ALL_YEARS = (2020, 2021, None)
TWO = [[[1.0]], [[2.0]]]


def vectors(*values: float) -> list[list[float]]:
    """One vector of one dimension for each value."""
    return [[value] for value in values]


def found(index: FastLaneIndex, *values: float, **options: Any) -> list[tuple[Any, float]]:
    [hits] = index.search([vectors(*values)], **options)
    return [(hit.id, hit.score) for hit in hits]


@pytest.fixture
def index() -> FastLaneIndex:
    return FastLaneIndex.from_embeddings(
        [vectors(1.0), vectors(0.5, 2.0), vectors(0.25)],
        ids=["a", "b", 7],
        texts=["one", "two", "three"],
        metadata=[{"year": 2020}, {"year": 2021, "draft": True}, {}],
    )


# Changes


def test_added_documents_come_last_among_equals(index: FastLaneIndex) -> None:
    assert index.add([vectors(1.0), vectors(3.0)], ids=["c", "d"], texts=["four", "five"]) == [
        "c",
        "d",
    ]
    assert found(index, 1.0) == [("d", 3.0), ("b", 2.0), ("a", 1.0), ("c", 1.0), (7, 0.25)]
    assert index.ids == ["a", "b", 7, "c", "d"]
    assert (len(index), index.num_vectors, index.text("d")) == (5, 6, "five")


def test_ids_that_are_not_given_are_above_all_that_were_used(index: FastLaneIndex) -> None:
    assert index.add([vectors(4.0)]) == [8]
    index.delete([8])
    assert index.add([vectors(4.0), vectors(5.0)]) == [9, 10]
    index.add([vectors(6.0)], ids=[20])
    assert index.add([vectors(7.0)]) == [21]


def test_a_replaced_document_keeps_its_place(index: FastLaneIndex) -> None:
    index.update([vectors(0.25)], ids=["a"], texts=["new"], metadata=[{"year": 1999}])
    assert found(index, 1.0) == [("b", 2.0), ("a", 0.25), (7, 0.25)]
    [hit] = index.search([vectors(1.0)], ids=["a"])[0]
    assert (hit.text, hit.metadata) == ("new", {"year": 1999})
    assert index.ids == ["a", "b", 7]


def test_upsert_replaces_and_adds(index: FastLaneIndex) -> None:
    index.upsert([vectors(0.5), vectors(9.0)], ids=["new", "b"])
    assert found(index, 1.0) == [("b", 9.0), ("a", 1.0), ("new", 0.5), (7, 0.25)]


def test_a_deleted_document_is_gone_and_may_come_back_at_the_end(index: FastLaneIndex) -> None:
    index.delete(["a", "a"])
    assert "a" not in index
    assert found(index, 1.0) == [("b", 2.0), (7, 0.25)]
    index.add([vectors(0.25)], ids=["a"])
    assert found(index, 1.0) == [("b", 2.0), (7, 0.25), ("a", 0.25)]


def test_an_index_may_become_empty_and_grow_again(index: FastLaneIndex) -> None:
    index.delete(index.ids)
    assert (len(index), index.num_vectors, index.dim, index.ids) == (0, 0, 1, [])
    assert found(index, 1.0) == []
    assert index.search([vectors(1.0)], ids=["a"]) == [[]]
    index.compact()
    index.add([vectors(1.0)], ids=["a"])
    assert found(index, 2.0) == [("a", 2.0)]


def test_nothing_may_be_added_and_deleted(index: FastLaneIndex) -> None:
    assert index.add([]) == []
    index.upsert([], ids=[])
    index.delete([])
    assert len(index) == 3


def test_many_small_changes_leave_few_segments() -> None:
    index = FastLaneIndex.from_embeddings([vectors(0.0)])
    for number in range(1, 300):
        index.add([vectors(number / 8)])
    sizes = [part.num_vectors for part in index._contents.parts]
    assert sum(sizes) == 300
    assert all(large > 2 * small for large, small in pairwise(sizes))
    index.delete(range(1, 300, 2))
    index.delete(range(2, 290, 2))
    for part in index._contents.parts:
        assert 2 * part.num_vectors >= len(part.segment.vectors)
    index.compact()
    [part] = index._contents.parts
    assert [one.id for one in part.stored()] == index.ids == [0, 290, 292, 294, 296, 298]
    assert len(part.segment.vectors) == 6


def test_texts_are_encoded_as_when_the_index_was_built() -> None:
    encoder = WordEncoder()
    index = FastLaneIndex.build(encoder, ["red car"], ["r"], num_routes=1)
    index.add(["blue bus sky"], metadata=[{"n": 1}], batch_size=5)
    index.update(["blue car"], ids=["r"])
    options = {"side": "document", "num_routes": 1, "show_progress_bar": False}
    assert encoder.calls == [
        {**options, "texts": ["red car"], "batch_size": 32},
        {**options, "texts": ["blue bus sky"], "batch_size": 5},
        {**options, "texts": ["blue car"], "batch_size": 32},
    ]
    assert index.text("r") == "blue car"
    index.encoder = None
    with pytest.raises(ValueError, match="texts need an encoder"):
        index.add(["sky"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i.add(TWO, ids=["x", "b"]), "1 of the ids are there already, the first 'b'"),
        (lambda i: i.update(TWO, ids=["b", "x"]), "no document has the id 'x'"),
        (lambda i: i.delete(["b", "x", "1"]), "no document has 2 of the ids, the first 'x'"),
        (lambda i: i.delete("b"), "ids must be several, got one str, 'b'"),
        (lambda i: i.delete([1.5]), "an id must be a str or an int, got 1.5"),
        (lambda i: i.add(TWO, ids=["x", "x"]), "ids must all be different, got 'x' twice"),
        (lambda i: i.add([[[1.0, 2.0]]]), "has 2-dimensional vectors, the index has 1-dimensional"),
        (lambda i: i.add([vectors(np.nan)]), "has a vector with NaN or infinity"),
        (lambda i: i.add(TWO, metadata=[{}, {"$a": 1}]), r"document 1 has the field '\$a'"),
        (lambda i: i.add(TWO, metadata=[{}, {"a": [1]}]), "a of document 1 must be a text"),
        (lambda i: i.add(TWO, metadata=[{"a": np.inf}, {}]), "a of document 0 must be a text"),
        (lambda i: i.add(TWO, metadata=[{}]), "metadata must be 2, one a document: got 1"),
        (lambda i: i.add(["text"], texts=["text"]), "texts and positions belong to vectors"),
        (lambda i: i.add(["text"]), "texts need an encoder"),
    ],
)
def test_a_change_that_is_refused_changes_nothing(
    index: FastLaneIndex, change: Any, message: str
) -> None:
    parts = index._contents.parts
    with pytest.raises(ValueError, match=message):
        change(index)
    assert index._contents.parts is parts
    assert index.ids == ["a", "b", 7]


def test_a_change_that_fails_half_way_changes_nothing(
    index: FastLaneIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(type(index._contents), "_merge", fail)
    changes: list[Callable[[], object]] = [
        lambda: index.add([vectors(1.0, 2.0, 3.0)], ids=["x"]),
        lambda: index.update([vectors(1.0, 2.0, 3.0)], ids=["b"]),
        lambda: index.delete(["a", "b"]),
    ]
    for change in changes:
        with pytest.raises(MemoryError):
            change()
        assert index.ids == ["a", "b", 7]
        assert found(index, 1.0) == [("b", 2.0), ("a", 1.0), (7, 0.25)]
    assert "x" not in index
    assert index.text("a") == "one"


# Against a dictionary, whose order is that of the places


def eighths(rows: int) -> st.SearchStrategy[list[list[float]]]:
    row = st.lists(st.integers(-8, 8).map(lambda n: n / 8), min_size=2, max_size=2)
    return st.lists(row, min_size=rows, max_size=4)


IDS = st.sampled_from([0, 1, 2, "0", "1", "a", "b", "c"])
DOCUMENTS = st.tuples(eighths(0), st.sampled_from(ALL_YEARS))


class ChangingIndex(RuleBasedStateMachine):
    """Changes of an index and of a dictionary, and what searches of both find."""

    @initialize(documents=st.lists(DOCUMENTS, min_size=1, max_size=5))
    def build(self, documents: list[Any]) -> None:
        self.model: dict[Any, Any] = dict(enumerate(documents))
        self.index = FastLaneIndex.from_embeddings(
            *self.arguments(self.model), **self.metadata(self.model)
        )
        self.folder = tempfile.TemporaryDirectory()
        self.saved: dict[Any, Any] | None = None

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    @staticmethod
    def arguments(documents: dict[Any, Any]) -> tuple[Any, list[Any]]:
        rows = [
            np.array(vectors, dtype=np.float32).reshape(-1, 2) for vectors, _ in documents.values()
        ]
        return rows, list(documents)

    @staticmethod
    def metadata(documents: dict[Any, Any]) -> dict[str, Any]:
        years = [year for _, year in documents.values()]
        return {"metadata": [{} if year is None else {"year": year} for year in years]}

    @rule(documents=st.dictionaries(IDS, DOCUMENTS, max_size=4))
    def add(self, documents: dict[Any, Any]) -> None:
        if documents.keys() & self.model.keys():
            with pytest.raises(ValueError, match="are there already"):
                self.index.add(*self.arguments(documents), **self.metadata(documents))
        else:
            self.index.add(*self.arguments(documents), **self.metadata(documents))
            self.model |= documents

    @rule(documents=st.dictionaries(IDS, DOCUMENTS, max_size=4))
    def upsert(self, documents: dict[Any, Any]) -> None:
        self.index.upsert(*self.arguments(documents), **self.metadata(documents))
        self.model |= documents

    @rule(documents=st.dictionaries(IDS, DOCUMENTS, min_size=1, max_size=4))
    def update(self, documents: dict[Any, Any]) -> None:
        if documents.keys() <= self.model.keys():
            self.index.update(*self.arguments(documents), **self.metadata(documents))
            self.model |= documents
        else:
            with pytest.raises(ValueError, match="no document has"):
                self.index.update(*self.arguments(documents), **self.metadata(documents))

    @rule(ids=st.sets(IDS, max_size=4))
    def delete(self, ids: set[Any]) -> None:
        if ids <= self.model.keys():
            self.index.delete(ids)
            self.model = {id: one for id, one in self.model.items() if id not in ids}
        else:
            with pytest.raises(ValueError, match="no document has"):
                self.index.delete(ids)

    @rule()
    def compact(self) -> None:
        self.index.compact()

    @rule()
    def save(self) -> None:
        self.index.save(self.folder.name)
        self.saved = dict(self.model)

    @rule()
    def reopen(self) -> None:
        if self.saved is not None:
            self.index = FastLaneIndex.load(self.folder.name)
            self.model = dict(self.saved)

    @rule(query=eighths(1), top_k=st.integers(1, 9))
    def search(self, query: list[list[float]], top_k: int) -> None:
        options: dict[str, Any] = {"candidates": 100} if len(query) > 1 else {}
        hits = self.index.search([query], top_k, **options)[0]
        assert self.pairs(hits) == self.expected(query, top_k, self.model)

    @rule(query=eighths(1), top_k=st.integers(1, 9), ids=st.sets(IDS, max_size=4))
    def search_ids(self, query: list[list[float]], top_k: int, ids: set[Any]) -> None:
        hits = self.index.search([query], top_k, ids=ids)[0]
        allowed = {id: one for id, one in self.model.items() if id in ids}
        assert self.pairs(hits) == self.expected(query, top_k, allowed)

    @rule(query=eighths(1), top_k=st.integers(1, 9), year=st.sampled_from(ALL_YEARS[:2]))
    def search_years(self, query: list[list[float]], top_k: int, year: int) -> None:
        if any(year is not None for _, year in self.model.values()):
            hits = self.index.search([query], top_k, where={"year": {"$ne": year}})[0]
            allowed = {id: one for id, one in self.model.items() if one[1] != year}
            assert self.pairs(hits) == self.expected(query, top_k, allowed)

    @staticmethod
    def pairs(hits: list[Hit]) -> list[tuple[Any, float]]:
        return [(hit.id, hit.score) for hit in hits]

    @staticmethod
    def expected(query: Any, top_k: int, documents: dict[Any, Any]) -> list[tuple[Any, float]]:
        scored = [
            (id, float((np.array(query) @ np.array(vectors).T).max(axis=1).sum()))
            for id, (vectors, _) in documents.items()
            if vectors
        ]
        return sorted(scored, key=lambda pair: -pair[1])[:top_k]

    @invariant()
    def sizes_and_ids_are_those_of_the_dictionary(self) -> None:
        if hasattr(self, "model"):
            assert self.index.ids == list(self.model)
            assert len(self.index) == len(self.model)
            assert self.index.num_vectors == sum(len(one) for one, _ in self.model.values())


ChangingIndex.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
test_an_index_is_a_dictionary_that_can_be_searched = ChangingIndex.TestCase


@pytest.fixture(autouse=True)
def small_scans(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Indexes here are so small that FAISS would hardly be asked."""
    monkeypatch.setattr(scoring, "SCAN_FRACTION", 0.0)
    return None


# Threads


def test_a_search_sees_the_index_as_it_was_when_it_began() -> None:
    # Each change replaces all documents with ones of a new score: a search must never see two.
    ids = list(range(20))
    index = FastLaneIndex.from_embeddings([vectors(0.0)] * 20)
    stop, seen = threading.Event(), set()

    def read() -> None:
        while not stop.is_set():
            scores = [hit.score for hit in index.search([vectors(1.0)], top_k=20)[0]]
            assert scores == [scores[0]] * 20
            seen.add(scores[0])

    with ThreadPoolExecutor() as pool:
        readers = [pool.submit(read) for _ in range(3)]
        step = 0
        while (step < 150 or len(seen) < 3) and not any(reader.done() for reader in readers):
            step += 1
            index.upsert([vectors(float(step))] * 20, ids)
            if step % 40 == 0:
                index.compact()
        stop.set()
        for reader in readers:
            reader.result()


def test_two_threads_may_change_one_index() -> None:
    index = FastLaneIndex.from_embeddings([vectors(0.0)])

    def write() -> None:
        for _ in range(50):
            [id] = index.add([vectors(1.0)])
            index.upsert([vectors(2.0)], ids=[id])
            if isinstance(id, int) and id % 2:
                index.delete([id])

    with ThreadPoolExecutor() as pool:
        for writer in [pool.submit(write) for _ in range(4)]:
            writer.result()
    assert sorted(map(int, index.ids)) == [0, *range(2, 201, 2)]
    assert len(found(index, 1.0, top_k=200)) == 101
