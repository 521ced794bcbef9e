"""LangChain's own suites, and what they don't ask: scores, spans, filters, full MaxSim, errors."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

pytest.importorskip("langchain_core")
pytest.importorskip("langchain_tests")

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.indexing import InMemoryRecordManager
from langchain_core.indexing import index as index_documents
from langchain_core.structured_query import (
    Comparator,
    Comparison,
    Operation,
    Operator,
    StructuredQuery,
)
from langchain_tests.integration_tests import (
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)

from fastlane_st import FastLaneEncoder, FastLaneIndex
from fastlane_st.integrations.collection import diversified
from fastlane_st.integrations.langchain import (
    FastLaneReranker,
    FastLaneRetriever,
    FastLaneTranslator,
    FastLaneVectorStore,
)
from fastlane_st.modeling.search_fastlane import Hit, Match
from tests.conftest import DOCUMENTS
from tests.integrations.conftest import HashEncoder

LONG = "sort the list of number " * 8 + "open the path to json"


class TestRetrieverSuite(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _take_index(self, index: FastLaneIndex) -> None:
        self.index = index

    @property
    def retriever_constructor(self) -> type[FastLaneRetriever]:
        return FastLaneRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"index": self.index}

    @property
    def retriever_query_example(self) -> str:
        return "how do i parse json ?"


class TestVectorStoreSuite(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, words: HashEncoder) -> FastLaneVectorStore:
        return FastLaneVectorStore(words)


class TestVectorStoreSuiteOverAnIndexThatIsThere(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, words: HashEncoder) -> FastLaneVectorStore:
        index = FastLaneIndex.build(words, ["old"], ids=[7])
        store = FastLaneVectorStore(index=index)
        store.delete()
        return store


def test_the_retriever_finds_what_the_index_finds(index: FastLaneIndex) -> None:
    retriever = FastLaneRetriever(index=index, k=3, num_routes=2)
    hits = index.search("read a file", 3, num_routes=2)
    found = retriever.invoke("read a file")
    assert [document.id for document in found] == [hit.id for hit in hits]
    assert [document.metadata["relevance_score"] for document in found] == [h.score for h in hits]
    assert [document.page_content for document in found] == [hit.text for hit in hits]
    assert "span" not in found[0].metadata


@pytest.mark.parametrize(
    "options", [{"num_routes": None}, {"rerank": 5}, {"num_routes": 2, "candidates": 6}]
)
def test_search_options_are_fields_of_the_retriever_or_arguments_of_a_call(
    index: FastLaneIndex, options: dict[str, Any]
) -> None:
    expected = [hit.id for hit in index.search("sort the long list", 4, **options)]
    of_field = FastLaneRetriever(index=index, **options).invoke("sort the long list")
    of_call = FastLaneRetriever(index=index).invoke("sort the long list", **options)
    assert [document.id for document in of_field] == expected
    assert [document.id for document in of_call] == expected


def test_the_retriever_gives_the_window_of_a_long_document(encoder: FastLaneEncoder) -> None:
    index = FastLaneIndex.build(encoder, [LONG], ids=["long"])
    [whole] = FastLaneRetriever(index=index).invoke("json")
    [window] = FastLaneRetriever(index=index, windows=True).invoke("json")
    start, end = whole.metadata["span"]
    assert whole.page_content == LONG
    assert window.page_content == LONG[start:end] != LONG


def test_the_retriever_refuses_what_is_no_index_and_unknown_arguments(
    index: FastLaneIndex,
) -> None:
    with pytest.raises(ValueError, match=r"index must be a FastLaneIndex, got 'my-index' \(str\)"):
        FastLaneRetriever(index="my-index")
    with pytest.raises(ValueError, match="top_k"):
        FastLaneRetriever(index=index, top_k=3)
    with pytest.raises(TypeError, match=r"the retriever takes k, .* got 'where'"):
        FastLaneRetriever(index=index).invoke("json", where={})
    with pytest.raises(ValueError, match="query 0 is empty"):
        FastLaneRetriever(index=index).invoke("  ")


def test_a_document_without_text_is_an_error_that_names_it() -> None:
    index = FastLaneIndex.from_embeddings([[[1.0] * 16]], ids=["bare"], encoder=HashEncoder())
    with pytest.raises(ValueError, match="document 'bare' has no text"):
        FastLaneRetriever(index=index).invoke("json")


def compared(name: str, attribute: str, value: Any) -> Comparison:
    return Comparison(Comparator(name), attribute, value)


@pytest.mark.parametrize(
    ("directive", "where"),
    [
        (compared("eq", "year", 2020), {"year": {"$eq": 2020}}),
        (compared("nin", "year", [2020]), {"year": {"$nin": [2020]}}),
        (compared("gte", "day", {"date": "2024-01-01", "type": "date"}), {"day": {"$gte": "2024-01-01"}}),
        (
            Operation(
                Operator.OR,
                [
                    Operation(Operator.NOT, [compared("lt", "year", 2021)]),
                    compared("in", "year", [2019]),
                ],
            ),
            {"$or": [{"$not": {"year": {"$lt": 2021}}}, {"year": {"$in": [2019]}}]},
        ),
    ],
)  # fmt: skip
def test_structured_queries_are_translated(directive: Any, where: dict[str, Any]) -> None:
    translated = FastLaneTranslator().visit_structured_query(StructuredQuery("json", directive))
    assert translated == ("json", {"filter": where})


def test_filters_take_part_in_every_search(index: FastLaneIndex) -> None:
    directive = Operation(Operator.NOT, [compared("lt", "year", 2021)])
    store = FastLaneVectorStore(index=index)
    expected = {"sort", "join", "date", "set"}
    for filter in (directive, {"$not": {"year": {"$lt": 2021}}}):
        found = store.similarity_search("json", k=9, filter=filter)
        assert {document.id for document in found} == expected
        found = FastLaneRetriever(index=index, k=9, filter=filter).invoke("json")
        assert {document.id for document in found} == expected
        found = store.as_retriever(search_kwargs={"k": 9, "filter": filter}).invoke("json")
        assert {document.id for document in found} == expected


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        (compared("like", "year", "20%"), "the comparator 'like' of 'year' can't be translated"),
        (compared("contain", "tags", "a"), "the comparator 'contain' of 'tags' can't be translated"),
        ({"year": {"$regex": "20"}}, r"'year' has the operator '\$regex'"),
        (lambda document: True, "a function can't be a filter"),
        ({"yaer": 2020}, "no document has the field 'yaer'"),
    ],
)  # fmt: skip
def test_filters_that_cannot_be_are_errors(index: FastLaneIndex, filter: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FastLaneVectorStore(index=index).similarity_search("json", filter=filter)
    with pytest.raises(ValueError, match=message):
        FastLaneRetriever(index=index, filter=filter).invoke("json")


def test_the_reranker_ranks_by_full_maxsim(encoder: FastLaneEncoder) -> None:
    query = "sort the long list of number and string"
    documents = [Document(text, id=text[:3], metadata={"n": n}) for n, text in enumerate(DOCUMENTS)]
    index = FastLaneIndex.build(encoder, DOCUMENTS, num_routes=None)
    expected = index.search(query, 6, num_routes=None)
    ranked = FastLaneReranker(encoder=encoder).compress_documents(documents, query)
    assert [one.metadata["n"] for one in ranked] == [hit.id for hit in expected]
    assert [one.metadata["relevance_score"] for one in ranked] == [hit.score for hit in expected]
    assert [one.id for one in ranked] == [DOCUMENTS[int(hit.id)][:3] for hit in expected]
    assert all("relevance_score" not in one.metadata for one in documents)
    [best] = FastLaneReranker(encoder=encoder, top_n=1).compress_documents(documents, query)
    assert best == ranked[0]


def test_the_reranker_takes_long_equal_and_no_documents(encoder: FastLaneEncoder) -> None:
    reranker = FastLaneReranker(encoder=encoder)
    assert reranker.compress_documents([], "json") == []
    first, second = reranker.compress_documents(
        [Document(LONG, id="a"), Document(LONG, id="b")], "json"
    )
    assert (first.id, second.id) == ("a", "b")
    start, end = first.metadata["span"]
    assert 0 <= start < end <= len(LONG)


def test_the_reranker_loads_a_checkpoint_and_refuses_another_encoder(checkpoint: Any) -> None:
    [best] = FastLaneReranker(encoder=str(checkpoint)).compress_documents([Document("set")], "set")
    assert best.page_content == "set"
    with pytest.raises(ValueError, match="encoder must be a FastLaneEncoder"):
        FastLaneReranker(encoder=DeterministicFakeEmbedding(size=6))
    with pytest.raises(ValueError, match="top_k must be a positive integer, got 0"):
        FastLaneReranker(encoder=str(checkpoint), top_n=0).compress_documents([Document("a")], "b")


def test_metadata_may_be_nested(words: HashEncoder) -> None:
    metadata = {"page": 3, "loc": {"lines": [1, 2]}, "tags": ["a"], "none": None}
    store = FastLaneVectorStore.from_texts(["json"], words, [metadata], ids=["a"])
    [document] = store.similarity_search("json", filter={"page": 3})
    assert document.metadata == metadata
    with pytest.raises(ValueError, match="the field 'tags' can't be filtered by"):
        store.similarity_search("json", filter={"tags": "a"})
    with pytest.raises(ValueError, match="when of document 'b' must be JSON"):
        store.add_texts(["set"], [{"when": object()}], ids=["b"])
    with pytest.raises(ValueError, match="'_json:a' of document 'b' begins with '_json:'"):
        store.add_texts(["set"], [{"_json:a": "{}"}], ids=["b"])
    assert len(store.index) == 1


def test_numbers_of_an_index_are_texts_here(words: HashEncoder) -> None:
    store = FastLaneVectorStore(index=FastLaneIndex.build(words, ["red", "blue", "sky"]))
    assert [document.page_content for document in store.get_by_ids(["2", "02", "0"])] == [
        "sky",
        "red",
    ]
    store.add_texts(["green", "black"], ids=["0", "new"])
    assert store.index.ids == [0, 1, 2, "new"]
    assert [one.id for one in store.get_by_ids(["1", "new", "0"])] == ["1", "new", "0"]
    store.delete(["1", "9", "x"])
    assert store.index.ids == [0, 2, "new"]
    assert store.similarity_search("green", k=1)[0].id == "0"


def test_scores_come_beside_documents(words: HashEncoder) -> None:
    store = FastLaneVectorStore.from_texts(["red car", "blue sky"], words, ids=["a", "b"])
    [(document, score), (_, other)] = store.similarity_search_with_score("blue sky")
    assert (document.id, score) == ("b", pytest.approx(1.0))
    relevant = store.similarity_search_with_relevance_scores("blue sky")
    assert [value for _, value in relevant] == pytest.approx([1.0, (1 + other) / 2])
    both = store.similarity_search_with_relevance_scores("blue sky", num_routes=None)
    assert both[0][1] == pytest.approx(1.0)
    certain = store.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.99}
    )
    assert [one.id for one in certain.invoke("blue sky")] == ["b"]


@pytest.mark.parametrize("options", [{}, {"num_routes": None}, {"num_routes": 2, "rerank": 4}])
def test_relevance_is_the_same_asynchronously(words: HashEncoder, options: dict[str, Any]) -> None:
    store = FastLaneVectorStore.from_texts(["red car", "blue sky"], words, ids=["a", "b"])
    found = store.similarity_search_with_relevance_scores("blue car", **options)
    later = asyncio.run(store.asimilarity_search_with_relevance_scores("blue car", **options))
    assert [(one.id, score) for one, score in later] == [(one.id, score) for one, score in found]


def test_a_vector_finds_the_document_with_the_nearest_one(words: HashEncoder) -> None:
    store = FastLaneVectorStore.from_texts(["red car", "blue sky"], words, ids=["a", "b"])
    vector = words.encode_query(["car"])[0]["token_embeddings"][0].tolist()
    assert [one.id for one in store.similarity_search_by_vector(vector, k=1)] == ["a"]


def test_marginal_relevance_leaves_out_what_was_said(words: HashEncoder) -> None:
    texts = ["read a file", "read a file again", "read a sorted list", "write bytes"]
    years = [{"year": year} for year in (1, 1, 1, 2)]
    store = FastLaneVectorStore.from_texts(texts, words, years, ids=["a", "a2", "b", "c"])

    def found(lambda_mult: float, **options: Any) -> list[str | None]:
        documents = store.max_marginal_relevance_search(
            "read a file", k=2, lambda_mult=lambda_mult, **options
        )
        return [one.id for one in documents]

    best = [one.id for one in store.similarity_search("read a file", k=2)]
    assert found(1.0) == best
    assert found(0.0)[0] == best[0]
    assert found(0.0)[1] == "c"  # of all the least like the first
    assert found(0.0, fetch_k=1) == best  # no fewer are fetched than asked for
    assert found(0.0, filter={"year": 1}) == [best[0], "b"]
    retriever = store.as_retriever(search_type="mmr", search_kwargs={"k": 3})
    assert len({one.id for one in retriever.invoke("read a file")}) == 3
    with pytest.raises(ValueError, match=r"the weight of relevance must be in \[0, 1\], got 2"):
        found(2)


def test_marginal_relevance_worked_out_by_hand() -> None:
    def hit(id: str, score: float) -> Hit:
        return Hit(id, score, (Match(1, 1, score / 2), Match(2, 1, score / 2)), None)

    hits = [hit("a", 1.6), hit("b", 1.4), hit("c", 0.8)]  # similarities of .8, .7 and .4
    means = [np.float32(one) for one in ([1, 0], [0.8, 0.6], [0, 1])]
    # Beside a: b has .5 · .7 - .5 · .8 = -.05, c has .5 · .4 - .5 · 0 = .2.
    assert [one.id for one in diversified(hits, means, 2, 0.5)] == ["a", "c"]
    # With .9: b has .63 - .08, c has .36.
    assert [one.id for one in diversified(hits, means, 3, 0.9)] == ["a", "b", "c"]
    assert diversified([], [], 2, 0.5) == []


def test_a_saved_store_is_loaded_as_an_index(words: HashEncoder, tmp_path: Any) -> None:
    store = FastLaneVectorStore.from_texts(
        ["json"], words, [{"a": [1]}], ids=["x"], storage="float16"
    )
    store.index.save(tmp_path / "kept")
    loaded = FastLaneVectorStore(index=FastLaneIndex.load(tmp_path / "kept", words))
    assert loaded.similarity_search("json") == [Document("json", id="x", metadata={"a": [1]})]
    assert loaded.index.vectors.storage == "float16"


def test_langchains_indexing_adds_skips_and_cleans_up(words: HashEncoder) -> None:
    store = FastLaneVectorStore(words)
    records = InMemoryRecordManager("fastlane")
    records.create_schema()
    options: dict[str, Any] = {
        "cleanup": "full", "source_id_key": "source", "key_encoder": "sha256",
    }  # fmt: skip
    first = [
        Document("red car", metadata={"source": "a"}),
        Document("sky", metadata={"source": "b"}),
    ]
    assert index_documents(first, records, store, **options)["num_added"] == 2
    again = index_documents(first[:1], records, store, **options)
    assert (again["num_skipped"], again["num_deleted"]) == (1, 1)
    assert [one.page_content for one in store.similarity_search("sky")] == ["red car"]


def test_a_store_takes_one_of_index_and_encoder(words: HashEncoder, index: FastLaneIndex) -> None:
    with pytest.raises(ValueError, match="got neither"):
        FastLaneVectorStore()
    with pytest.raises(ValueError, match="got both"):
        FastLaneVectorStore(words, index=index)
    with pytest.raises(ValueError, match="storage is for an index to be built"):
        FastLaneVectorStore(index=index, storage="int8")
    with pytest.raises(ValueError, match="encoder must be a FastLaneEncoder"):
        FastLaneVectorStore.from_texts(["a"], DeterministicFakeEmbedding(size=6))
    with pytest.raises(ValueError, match="no index before the first documents"):
        _ = FastLaneVectorStore(words).index
    with pytest.raises(ValueError, match="metadata must be 1, one a document: got 2"):
        FastLaneVectorStore(words).add_texts(["a"], [{}, {}])
    with pytest.raises(TypeError, match="speed"):
        FastLaneVectorStore.from_texts(["a"], words, speed=2)
