"""Haystack's own suite for document stores, pipelines, serialisation, filters and errors."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("haystack")

from haystack import Document, Pipeline
from haystack.dataclasses import ByteStream
from haystack.document_stores.errors import DuplicateDocumentError
from haystack.document_stores.types import DuplicatePolicy
from haystack.errors import FilterError
from haystack.testing.document_store import (
    CountDocumentsByFilterTest,
    DeleteAllTest,
    DeleteByFilterTest,
    DocumentStoreBaseTests,
)

from fastlane_st import FastLaneEncoder, FastLaneIndex
from fastlane_st.integrations.haystack import (
    FastLaneDocumentStore,
    FastLaneRanker,
    FastLaneRetriever,
)
from tests.conftest import DOCUMENTS
from tests.integrations.conftest import IDS, HashEncoder

LONG = "sort the list of number " * 8 + "open the path to json"


class TestDocumentStoreSuite(
    DocumentStoreBaseTests, DeleteAllTest, DeleteByFilterTest, CountDocumentsByFilterTest
):
    @pytest.fixture
    def document_store(self, words: HashEncoder) -> FastLaneDocumentStore:
        return FastLaneDocumentStore(words)

    def test_write_documents(self, document_store: FastLaneDocumentStore) -> None:
        """Without a policy a document that is there is an error."""
        document = Document(content="test doc")
        assert document_store.write_documents([document]) == 1
        with pytest.raises(DuplicateDocumentError, match="already"):
            document_store.write_documents([document])
        assert document_store.filter_documents() == [document]


@pytest.fixture
def store(index: FastLaneIndex) -> FastLaneDocumentStore:
    return FastLaneDocumentStore(index=index)


def test_the_retriever_finds_what_the_index_finds(store: FastLaneDocumentStore) -> None:
    hits = store.index.search("read a file", 3, num_routes=2)
    found = FastLaneRetriever(store, top_k=3, num_routes=2).run("read a file")["documents"]
    assert [document.id for document in found] == [hit.id for hit in hits]
    assert [document.score for document in found] == [hit.score for hit in hits]
    assert [document.meta for document in found] == [hit.metadata for hit in hits]
    again = FastLaneRetriever(store).run("read a file", top_k=3, num_routes=2)["documents"]
    assert again == found
    reranked = FastLaneRetriever(store, rerank=6, top_k=6).run("read a file")["documents"]
    assert [one.id for one in reranked] == [
        h.id for h in store.index.search("read a file", 6, rerank=6)
    ]


def test_the_retriever_gives_the_window_of_a_long_document(encoder: FastLaneEncoder) -> None:
    store = FastLaneDocumentStore(encoder)
    store.write_documents([Document(id="long", content=LONG, meta={"tags": ["a"]})])
    [whole] = FastLaneRetriever(store).run("json")["documents"]
    [window] = FastLaneRetriever(store, windows=True).run("json")["documents"]
    start, end = whole.meta["span"]
    assert (whole.content, whole.meta["tags"]) == (LONG, ["a"])
    assert window.content == LONG[start:end] != LONG


def test_filters_of_a_run_replace_or_join_those_of_the_component(
    store: FastLaneDocumentStore,
) -> None:
    late = {"field": "meta.year", "operator": ">=", "value": 2021}
    other = {"field": "meta.year", "operator": "!=", "value": 2022}
    found = FastLaneRetriever(store, filters=late).run("json")["documents"]
    assert {one.id for one in found} == {"sort", "join", "set"}
    found = FastLaneRetriever(store, filters=late).run("json", filters=other)["documents"]
    assert {one.id for one in found} == {"loads", "open", "sort", "date"}
    both = {"operator": "AND", "conditions": [late]}
    retriever = FastLaneRetriever(store, filters=both, filter_policy="merge")
    found = retriever.run("json", filters={"operator": "AND", "conditions": [other]})["documents"]
    assert {one.id for one in found} == {"sort"}


def compared(field: str, operator: str, value: Any) -> dict[str, Any]:
    return {"field": field, "operator": operator, "value": value}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (compared("meta.year", "in", [2019, None]), ["loads", "date"]),
        (compared("year", "not in", [2019, None]), ["open", "sort", "join", "set"]),
        (compared("meta.absent", "==", None), IDS),
        (compared("meta.absent", "!=", 3), IDS),
        (compared("meta.absent", "in", [3]), []),
        (compared("meta.absent", "<", 3), []),
        (compared("meta.absent", ">", "2024-01-01"), []),
        ({"operator": "NOT", "conditions": [compared("meta.year", ">", 2019)]}, ["loads", "date"]),
        (
            {
                "operator": "OR",
                "conditions": [compared("meta.absent", "==", 3), compared("meta.year", "==", 2020)],
            },
            ["open"],
        ),
    ],
)
def test_filters_are_haystacks(
    store: FastLaneDocumentStore, filters: dict[str, Any], expected: list[str]
) -> None:
    assert [one.id for one in store.filter_documents(filters)] == expected


def test_dates_are_compared_as_dates(words: HashEncoder) -> None:
    store = FastLaneDocumentStore(words)
    days = ["2024-01-02T00:00:00", "2024-01-02 00:00:00", "2024-01-01T23:30:00-02:00", "2023-12-31"]
    store.write_documents(
        [Document(id=str(n), content="a", meta={"day": day}) for n, day in enumerate(days)]
    )
    after = store.filter_documents(compared("meta.day", ">", "2024-01-02T00:00:00+00:00"))
    assert [one.id for one in after] == ["2"]
    same = store.filter_documents(compared("meta.day", "==", "2024-01-02T00:00:00"))
    assert [one.id for one in same] == ["0", "1"]
    before = store.filter_documents(compared("meta.day", "<", datetime(2024, 1, 1)))
    assert [one.id for one in before] == ["3"]


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (compared("meta.year", "like", "20%"), "the operator 'like' of 'year' isn't known"),
        ({"operator": "XOR", "conditions": [compared("a", "==", 1)]}, "the operator 'XOR'"),
        ({"operator": "AND", "conditions": []}, "AND takes a list of conditions"),
        (compared("content", "==", "set"), "the field 'content' can't be filtered by"),
        (compared("meta.year", "==", [2020]), "values are JSON scalars"),
        (compared("meta.year", ">", "old"), "texts have no order"),
        (compared("meta.year", ">", True), "takes a number or an ISO date, got True"),
    ],
)
def test_filters_that_cannot_be_are_errors(
    store: FastLaneDocumentStore, filters: dict[str, Any], message: str
) -> None:
    with pytest.raises(FilterError, match=message):
        store.filter_documents(filters)
    with pytest.raises(FilterError, match=message):
        FastLaneRetriever(store, filters=filters).run("json")


def test_lists_of_a_document_cannot_be_filtered_by(words: HashEncoder) -> None:
    store = FastLaneDocumentStore(words)
    store.write_documents([Document(content="a", meta={"tags": ["x"]}), Document(content="b")])
    with pytest.raises(FilterError, match="the field 'tags' can't be filtered by"):
        store.filter_documents(compared("meta.tags", "==", None))


def test_documents_come_back_whole(words: HashEncoder) -> None:
    document = Document(
        content="red car",
        meta={"page": 3, "loc": {"from": 1}, "score": "high"},
        embedding=[0.5, 1.0],
        blob=ByteStream(b"abc", meta={"k": "v"}, mime_type="text/plain"),
    )
    store = FastLaneDocumentStore(words)
    store.write_documents([document])
    assert store.filter_documents() == [document]
    [found] = FastLaneRetriever(store).run("red")["documents"]
    assert (found.embedding, found.blob) == (document.embedding, document.blob)
    assert found.score == pytest.approx(1.0)


def test_policies_hold_for_ids_that_come_twice_in_one_list(words: HashEncoder) -> None:
    twice = [Document(id="1", content="first"), Document(id="1", content="second")]
    for policy, kept, written in (
        (DuplicatePolicy.SKIP, "first", 1),
        (DuplicatePolicy.OVERWRITE, "second", 2),
    ):
        store = FastLaneDocumentStore(words)
        assert store.write_documents(twice, policy) == written
        assert [one.content for one in store.filter_documents()] == [kept]
    store = FastLaneDocumentStore(words)
    with pytest.raises(DuplicateDocumentError, match="'1'"):
        store.write_documents(twice, DuplicatePolicy.FAIL)
    assert store.count_documents() == 0


def test_a_document_without_content_is_an_error(words: HashEncoder) -> None:
    with pytest.raises(ValueError, match="document 'x' has no content"):
        FastLaneDocumentStore(words).write_documents([Document(id="x", embedding=[1.0])])
    with pytest.raises(ValueError, match="document 'x' has no content"):
        FastLaneRanker(words).run("a", [Document(id="x", embedding=[1.0])])


def test_the_ranker_ranks_by_full_maxsim(encoder: FastLaneEncoder) -> None:
    query = "sort the long list of number and string"
    documents = [Document(id=id, content=text) for id, text in zip(IDS, DOCUMENTS, strict=True)]
    index = FastLaneIndex.build(encoder, DOCUMENTS, IDS, num_routes=None)
    expected = index.search(query, 6, num_routes=None)
    ranked = FastLaneRanker(encoder).run(query, documents)["documents"]
    assert [(one.id, one.score) for one in ranked] == [(hit.id, hit.score) for hit in expected]
    assert FastLaneRanker(encoder, top_k=2).run(query, documents)["documents"] == ranked[:2]
    assert FastLaneRanker(encoder).run(query, documents, top_k=1)["documents"] == ranked[:1]
    assert FastLaneRanker(encoder).run(query, []) == {"documents": []}
    [long] = FastLaneRanker(encoder).run("json", [Document(content=LONG)])["documents"]
    assert 0 <= long.meta["span"][0] < long.meta["span"][1] <= len(LONG)


def test_a_pipeline_is_serialised_and_finds_the_same(checkpoint: Path, tmp_path: Path) -> None:
    store = FastLaneDocumentStore(
        str(checkpoint), folder=str(tmp_path / "index"), build={"storage": "float16"}
    )
    store.write_documents(
        [Document(id=id, content=t) for id, t in zip(IDS, DOCUMENTS, strict=True)]
    )
    pipeline = Pipeline()
    pipeline.add_component("retriever", FastLaneRetriever(store, top_k=4, rerank=5, windows=True))
    pipeline.add_component("ranker", FastLaneRanker(str(checkpoint), top_k=2))
    pipeline.connect("retriever.documents", "ranker.documents")
    asked = {"retriever": {"query": "read a file"}, "ranker": {"query": "read a file"}}
    found = pipeline.run(asked)["ranker"]["documents"]
    assert len(found) == 2
    allowed = ["fastlane_st.integrations.haystack"]
    loaded = Pipeline.loads(pipeline.dumps(), allowed_modules=allowed)
    assert loaded.run(asked)["ranker"]["documents"] == found
    assert loaded.to_dict() == pipeline.to_dict()
    loaded.get_component("retriever").document_store.delete_documents(["set"])
    kept = FastLaneDocumentStore(str(checkpoint), folder=str(tmp_path / "index"))
    assert kept.count_documents() == 5
    assert kept.index.vectors.storage == "float16"
    kept.delete_all_documents()
    emptied = FastLaneDocumentStore(str(checkpoint), folder=str(tmp_path / "index"))
    assert emptied.count_documents() == 0
    assert FastLaneRetriever(emptied).run("read a file") == {"documents": []}


def test_what_cannot_be_serialised_says_so(index: FastLaneIndex, words: HashEncoder) -> None:
    for store in (FastLaneDocumentStore(index=index), FastLaneDocumentStore(words)):
        with pytest.raises(ValueError, match="only a store of a checkpoint's name and a folder"):
            FastLaneRetriever(store).to_dict()
    with pytest.raises(ValueError, match="only a ranker of a checkpoint's name"):
        FastLaneRanker(words).to_dict()


def test_arguments_that_cannot_be_are_errors(index: FastLaneIndex, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got neither"):
        FastLaneDocumentStore()
    with pytest.raises(ValueError, match="an index, or the folder of one"):
        FastLaneDocumentStore(index=index, folder=str(tmp_path))
    with pytest.raises(ValueError, match="must be a FastLaneDocumentStore, got FastLaneIndex"):
        FastLaneRetriever(index)
    with pytest.raises(ValueError, match="top_k must be a positive integer, got 0"):
        FastLaneRanker(top_k=0)
    with pytest.raises(ValueError, match="query 0 is empty"):
        FastLaneRetriever(FastLaneDocumentStore(index=index)).run(" ")
