"""LlamaIndex: retriever, postprocessor and vector store, through LlamaIndex's own classes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_index.core")

from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import (
    Document,
    MetadataMode,
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
)
from llama_index.core.vector_stores.types import BasePydanticVectorStore, VectorStoreQueryMode

from fastlane_st import FastLaneEncoder, FastLaneIndex
from fastlane_st.integrations.llama_index import (
    FastLaneRerank,
    FastLaneRetriever,
    FastLaneVectorStore,
    where_of,
)
from tests.conftest import DOCUMENTS
from tests.integrations.conftest import HashEncoder

LONG = "sort the list of number " * 8 + "open the path to json"


def compared(operator: str, value: Any, key: str = "year") -> MetadataFilter:
    return MetadataFilter(key=key, value=value, operator=FilterOperator(operator))


def filters(*some: Any, condition: str = "and") -> MetadataFilters:
    return MetadataFilters(filters=list(some), condition=FilterCondition(condition))


def test_the_classes_are_llama_indexs() -> None:
    assert issubclass(FastLaneRetriever, BaseRetriever)
    assert issubclass(FastLaneRerank, BaseNodePostprocessor)
    assert issubclass(FastLaneVectorStore, BasePydanticVectorStore)


def test_the_retriever_finds_what_the_index_finds(index: FastLaneIndex) -> None:
    hits = index.search("read a file", 3, num_routes=2)
    found = FastLaneRetriever(index, 3, num_routes=2).retrieve("read a file")
    assert [one.node.node_id for one in found] == [hit.id for hit in hits]
    assert [one.score for one in found] == [hit.score for hit in hits]
    assert [one.node.metadata for one in found] == [hit.metadata for hit in hits]
    reranked = FastLaneRetriever(index, 3, rerank=6).retrieve("read a file")
    expected = index.search("read a file", 3, rerank=6)
    assert [one.node.node_id for one in reranked] == [hit.id for hit in expected]
    later = asyncio.run(FastLaneRetriever(index, 3, num_routes=2).aretrieve("read a file"))
    assert later == found


def test_the_retriever_gives_the_window_of_a_long_document(encoder: FastLaneEncoder) -> None:
    index = FastLaneIndex.build(encoder, [LONG], ids=["long"])
    [whole] = FastLaneRetriever(index).retrieve("json")
    [window] = FastLaneRetriever(index, windows=True).retrieve("json")
    start, end = whole.node.metadata["span"]
    assert whole.node.get_content() == LONG
    assert window.node.get_content() == LONG[start:end] != LONG
    assert "span" not in whole.node.get_content(metadata_mode=MetadataMode.LLM)


def test_a_span_counts_in_the_nodes_own_text(encoder: FastLaneEncoder) -> None:
    store = FastLaneVectorStore(encoder)
    store.add([TextNode(id_="long", text=LONG, metadata={"list": "sort sort sort"})])
    [whole] = FastLaneRetriever(store.client).retrieve("json")
    [window] = FastLaneRetriever(store.client, windows=True).retrieve("json")
    [hit] = store.client.search("json")
    start, end = whole.node.metadata["span"]
    assert hit.text is not None
    assert hit.text[slice(*hit.span)].endswith(LONG[start:end])
    assert window.node.get_content() == LONG[start:end]


@pytest.mark.parametrize(
    ("given", "where"),
    [
        (filters(), None),
        (filters(compared("==", 2020)), {"$and": [{"year": {"$eq": 2020}}]}),
        (
            filters(compared("nin", [2020]), compared("<=", 3.5), condition="or"),
            {"$or": [{"year": {"$nin": [2020]}}, {"year": {"$lte": 3.5}}]},
        ),
        (
            filters(filters(compared("!=", 1)), compared(">", 2), condition="not"),
            {"$not": {"$or": [{"$and": [{"year": {"$ne": 1}}]}, {"year": {"$gt": 2}}]}},
        ),
        ({"year": 2020}, {"year": 2020}),
    ],
)
def test_filters_are_translated(given: Any, where: Any) -> None:
    assert where_of(given) == where


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (filters(compared("is_empty", None)), {"date"}),
        (filters(compared("!=", 2022)), {"loads", "open", "sort", "date"}),
        (filters(compared("<", 2021), compared("==", 2022), condition="not"), {"sort", "date"}),
    ],
)
def test_filters_find_what_llama_index_means(
    index: FastLaneIndex, given: MetadataFilters, expected: set[str]
) -> None:
    found = FastLaneRetriever(index, 9, filters=given).retrieve("json")
    assert {one.node.node_id for one in found} == expected
    store = FastLaneVectorStore(index=index)
    asked = VectorStoreQuery(query_str="json", similarity_top_k=9, filters=given)
    assert set(store.query(asked).ids or []) == expected
    assert {node.node_id for node in store.get_nodes(filters=given)} == expected


@pytest.mark.parametrize(
    "operator", ["any", "all", "contains", "text_match", "text_match_insensitive"]
)
def test_operators_that_cannot_be_are_named(index: FastLaneIndex, operator: str) -> None:
    given = filters(compared(operator, ["2020"] if operator in ("any", "all") else "2020"))
    with pytest.raises(ValueError, match=f"the operator '{operator}' of 'year' can't be"):
        FastLaneRetriever(index, filters=given)
    asked = VectorStoreQuery(query_str="json", filters=given)
    with pytest.raises(ValueError, match=f"the operator '{operator}' of 'year' can't be"):
        FastLaneVectorStore(index=index).query(asked)


def test_other_filters_and_modes_are_errors(index: FastLaneIndex) -> None:
    store = FastLaneVectorStore(index=index)
    with pytest.raises(ValueError, match="no document has the field 'yaer'"):
        store.query(VectorStoreQuery(query_str="json", filters=filters(compared("==", 1, "yaer"))))
    with pytest.raises(ValueError, match="filters must be MetadataFilters"):
        FastLaneRetriever(index, filters=[compared("==", 1)])
    with pytest.raises(ValueError, match="the query mode 'hybrid' isn't there"):
        store.query(VectorStoreQuery(query_str="json", mode=VectorStoreQueryMode.HYBRID))
    with pytest.raises(ValueError, match="a query needs query_str"):
        store.query(VectorStoreQuery())
    with pytest.raises(ValueError, match="index must be a FastLaneIndex"):
        FastLaneRetriever("my-index")
    with pytest.raises(ValueError, match="got neither"):
        FastLaneVectorStore()


def test_the_postprocessor_ranks_by_full_maxsim(encoder: FastLaneEncoder) -> None:
    query = "sort the long list of number and string"
    nodes = [
        NodeWithScore(node=TextNode(id_=str(n), text=text), score=0.5)
        for n, text in enumerate(DOCUMENTS)
    ]
    index = FastLaneIndex.build(encoder, DOCUMENTS, num_routes=None)
    expected = index.search(query, 6, num_routes=None)
    ranked = FastLaneRerank(encoder).postprocess_nodes(nodes, query_str=query)
    assert [(one.node.node_id, one.score) for one in ranked] == [
        (str(h.id), h.score) for h in expected
    ]
    best = FastLaneRerank(encoder, top_n=2, keep_retrieval_score=True)
    kept = best.postprocess_nodes(nodes, QueryBundle(query))
    assert [one.node.node_id for one in kept] == [str(hit.id) for hit in expected[:2]]
    assert [one.node.metadata for one in kept] == [{"retrieval_score": 0.5}] * 2
    assert all(one.score == 0.5 and not one.node.metadata for one in nodes)
    assert FastLaneRerank(encoder).postprocess_nodes([], query_str=query) == []
    with pytest.raises(ValueError, match="ranking needs the query"):
        FastLaneRerank(encoder).postprocess_nodes(nodes)


def test_the_postprocessor_reads_the_metadata_that_it_is_told(words: HashEncoder) -> None:
    nodes = [
        NodeWithScore(node=TextNode(id_="a", text="sky", metadata={"colour": "red"})),
        NodeWithScore(node=TextNode(id_="b", text="red sky")),
    ]
    with_all = FastLaneRerank(words).postprocess_nodes(nodes, query_str="colour: red")
    alone = FastLaneRerank(words, metadata_mode=MetadataMode.NONE)
    assert with_all[0].node.node_id == "a"
    assert alone.postprocess_nodes(nodes, query_str="colour: red")[0].node.node_id == "b"


def test_a_vector_store_index_adds_finds_and_deletes(words: HashEncoder, tmp_path: Path) -> None:
    store = FastLaneVectorStore(words, storage="float16")
    documents = [
        Document(id_="one", text="red car", metadata={"tags": ["x"], "year": 2020}),
        Document(id_="two", text="blue sky", metadata={"year": 2021}),
    ]
    built = VectorStoreIndex.from_documents(
        documents,
        storage_context=StorageContext.from_defaults(vector_store=store),
        embed_model=MockEmbedding(embed_dim=1),
    )
    retriever = built.as_retriever(similarity_top_k=1, vector_store_kwargs={"num_routes": None})
    [found] = retriever.retrieve("blue sky")
    assert (found.node.get_content(), found.node.ref_doc_id) == ("blue sky", "two")
    assert found.score == pytest.approx(2.0, abs=0.01)
    late = built.as_retriever(filters=filters(compared("<", 2021))).retrieve("sky")
    assert [one.node.metadata for one in late] == [{"tags": ["x"], "year": 2020}]
    only = VectorStoreQuery(query_str="sky", similarity_top_k=9, doc_ids=["one"])
    assert [node.ref_doc_id for node in store.query(only).nodes or []] == ["one"]

    store.persist(str(tmp_path / "kept"))
    loaded = FastLaneVectorStore.from_persist_path(str(tmp_path / "kept"), words)
    again = VectorStoreIndex.from_vector_store(loaded, embed_model=MockEmbedding(embed_dim=1))
    assert again.as_retriever().retrieve("sky")[0].node.ref_doc_id == "two"
    again.delete_ref_doc("two")
    again.delete_ref_doc("nobody")
    assert [one.node.ref_doc_id for one in again.as_retriever().retrieve("sky")] == ["one"]
    assert len(store.client) == 2


def test_nodes_come_back_whole(words: HashEncoder) -> None:
    parent = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="doc")}
    node = TextNode(
        id_="n", text="red car", metadata={"a": 1, "b": {"c": [1]}}, relationships=parent,
        start_char_idx=3, excluded_llm_metadata_keys=["a"],
    )  # fmt: skip
    store = FastLaneVectorStore(words)
    assert store.add([node, TextNode(id_="m", text="sky")]) == ["n", "m"]
    assert store.get_nodes(["n", "absent"]) == [node]
    assert [one.node_id for one in store.get_nodes()] == ["n", "m"]
    store.add([TextNode(id_="n", text="blue sky")])
    assert [one.get_content() for one in store.get_nodes(["n"])] == ["blue sky"]


def test_nodes_are_deleted_by_id_and_by_filter(words: HashEncoder) -> None:
    store = FastLaneVectorStore(words)
    assert store.query(VectorStoreQuery(query_str="red")).ids == []
    assert store.get_nodes() == []
    store.delete("doc")
    store.clear()
    store.add([TextNode(id_=id, text=id, metadata={"year": n}) for n, id in enumerate("abcd")])
    store.delete_nodes(["a", "absent"])
    store.delete_nodes(["b", "c"], filters(compared("==", 2)))
    assert [one.node_id for one in store.get_nodes()] == ["b", "d"]
    with pytest.raises(ValueError, match="give node_ids or filters"):
        store.delete_nodes()
    store.clear()
    assert store.get_nodes() == []


def test_a_query_vector_finds_where_there_is_no_text(words: HashEncoder) -> None:
    store = FastLaneVectorStore(words)
    store.add([TextNode(id_="a", text="red car"), TextNode(id_="b", text="blue sky")])
    vector = words.encode_query(["car"])[0]["token_embeddings"][0].tolist()
    found = store.query(VectorStoreQuery(query_embedding=vector, similarity_top_k=1))
    assert (found.ids, found.similarities) == (["a"], [pytest.approx(1.0)])


def test_an_index_is_saved_to_local_folders_alone(words: HashEncoder, tmp_path: Path) -> None:
    store = FastLaneVectorStore(words)
    store.persist(str(tmp_path / "empty"))
    assert not (tmp_path / "empty").exists()
    with pytest.raises(ValueError, match="saved to a local folder"):
        store.persist(str(tmp_path / "far"), fs=object())
