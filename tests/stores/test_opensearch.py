"""Bodies for OpenSearch and Elasticsearch: their shape, filters, and hits out of answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastlane_st.index.segment import Document
from fastlane_st.modeling.search_fastlane import Match, Views
from fastlane_st.stores import opensearch
from fastlane_st.stores.opensearch import bulk_actions, index_body, query_body, read_hits
from fastlane_st.stores.records import Record
from fastlane_st.stores.settings import StoreSettings

# The properties that the published specifications give these objects.
KNN_SEARCH = """field query_vector query_vector_builder k num_candidates boost filter similarity inner_hits
rescore_vector""".split()
OPENSEARCH_KNN = """vector k min_score max_distance filter boost _name method_parameters rescore
expand_nested_docs""".split()
NESTED = "ignore_unmapped inner_hits path query score_mode boost _name".split()


def record(metadata: dict[str, Any] | None = None, rows: int = 2) -> Record:
    views = Views(np.eye(3, dtype=np.float32)[np.arange(rows) % 3], np.arange(rows, dtype=np.int32))
    return Record.of(Document(7, views, "a text", metadata or {}, 0), StoreSettings(3))


def test_the_mappings_take_vectors_as_nested_objects() -> None:
    ours = index_body("opensearch", 3)
    assert ours["settings"] == {"index": {"knn": True}}
    tokens = ours["mappings"]["properties"]["tokens"]
    assert tokens["type"] == "nested"
    vector = tokens["properties"]["vector"]
    assert (vector["type"], vector["dimension"]) == ("knn_vector", 3)
    assert vector["method"]["space_type"] == "innerproduct"
    theirs = index_body("elasticsearch", 3, m=8)
    vector = theirs["mappings"]["properties"]["tokens"]["properties"]["vector"]
    assert vector == {
        "type": "dense_vector",
        "dims": 3,
        "index": True,
        "similarity": "max_inner_product",
        "index_options": {"type": "hnsw", "m": 8, "ef_construction": 100},
    }


def test_a_document_has_its_vectors_facts_and_what_is_compared() -> None:
    metadata = {"year": 2024, "a.b": "x", "draft": True, "none": None}
    [action] = bulk_actions([record(metadata)], "documents")
    source = action["_source"]
    assert (action["_index"], action["_id"], action["_op_type"]) == ("documents", "int:7", "index")
    assert source["number"] == {"year": 2024}
    assert source["words"] == {"a%2Eb": "x"}
    assert '{"draft": true}' in source["facts"]
    assert source["tokens"] == [
        {"position": 0, "vector": [1.0, 0.0, 0.0]},
        {"position": 1, "vector": [0.0, 1.0, 0.0]},
    ]
    properties = index_body("opensearch", 3)["mappings"]["properties"]
    assert set(source) <= {*properties, "number", "words"}


def test_documents_beyond_the_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="document 7 has 10,001 vectors, an index takes 10,000"):
        list(bulk_actions([record(rows=10_001)], "documents"))
    with pytest.raises(ValueError, match="'a' of document 7 has 9,000 characters"):
        list(bulk_actions([record({"a": "x" * 9_000})], "documents"))


WHERE = {"year": {"$gte": 2020}, "$not": {"language": {"$in": ["de", "fr"]}}}
CONDITION = {
    "bool": {
        "filter": [
            {"range": {"number.year": {"gte": 2020}}},
            {
                "bool": {
                    "must_not": [{"terms": {"facts": ['{"language": "de"}', '{"language": "fr"}']}}]
                }
            },
        ]
    }
}


def test_a_query_of_opensearch_is_a_nested_one() -> None:
    body = query_body("opensearch", [[0.5, 0.0, 1.0]], 4, where=WHERE)
    nested = body["query"]["nested"]
    assert set(nested) <= set(NESTED)
    assert (nested["path"], nested["score_mode"]) == ("tokens", "max")
    knn = nested["query"]["knn"]["tokens.vector"]
    assert knn == {"vector": [0.5, 0.0, 1.0], "k": 4, "filter": CONDITION}
    assert set(knn) <= set(OPENSEARCH_KNN)
    assert body["size"] == 4


def test_a_query_of_elasticsearch_is_a_knn_search() -> None:
    body = query_body("elasticsearch", [[0.5, 0.0, 1.0]], 4, where=WHERE)
    knn = body["knn"]
    assert set(knn) <= set(KNN_SEARCH)
    assert (knn["field"], knn["k"], knn["num_candidates"]) == ("tokens.vector", 4, 100)
    assert knn["filter"] == CONDITION
    assert query_body("elasticsearch", [[1.0]], 4, candidates=9)["knn"]["num_candidates"] == 9


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({}, {"match_all": {}}),
        ({"a": {"$in": []}}, {"match_none": {}}),
        ({"a": {"$nin": []}}, {"match_all": {}}),
        ({"a": {"$lt": "m"}}, {"range": {"words.a": {"lt": "m"}}}),
        (
            {"$not": {"a": {"$lt": 1}}},
            {
                "bool": {
                    "should": [
                        {
                            "bool": {
                                "must_not": [{"terms": {"facts": ['{"a": {"$kind": "number"}}']}}]
                            }
                        },
                        {"range": {"number.a": {"gte": 1}}},
                    ],
                    "minimum_should_match": 1,
                }
            },
        ),
    ],
    ids=str,
)
def test_filters_are_bool_queries(where: dict[str, Any], expected: dict[str, Any]) -> None:
    assert query_body("elasticsearch", [[1.0]], where=where)["knn"]["filter"] == expected


@pytest.mark.parametrize("similarity", [0.75, 0.0, -0.5])
def test_hits_have_the_inner_product_and_the_token(similarity: float) -> None:
    score = similarity + 1 if similarity >= 0 else 1 / (1 - similarity)
    [action] = bulk_actions([record({"year": 2024})], "documents")
    inner = {"hits": {"hits": [{"_source": {"position": 1}}]}}
    found = {**action, "_score": score, "inner_hits": {"tokens": inner}}
    [hit] = read_hits({"hits": {"hits": [found]}}, query_position=3)
    assert (hit.id, hit.text, hit.metadata) == (7, "a text", {"year": 2024})
    assert hit.score == pytest.approx(similarity)
    assert hit.matches == (Match(3, 1, hit.score),)
    assert read_hits({"hits": {"hits": []}}) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("solr", [[1.0]]), "engine must be 'opensearch' or 'elasticsearch', got 'solr'"),
        (("opensearch", [[1.0], [2.0]]), "must be one routed view"),
        (("opensearch", [[1.0]], 0), "top_k must be a positive integer"),
    ],
)
def test_bad_input_is_named(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        query_body(*arguments)


def test_candidates_are_elasticsearchs() -> None:
    with pytest.raises(ValueError, match="candidates applies to Elasticsearch"):
        query_body("opensearch", [[1.0]], candidates=100)
    with pytest.raises(ValueError, match="candidates must be at least top_k=10, got 9"):
        query_body("elasticsearch", [[1.0]], candidates=9)


def test_limits_leave_room_for_four_bytes_a_character() -> None:
    assert opensearch.LONGEST_KEYWORD * 4 <= 32_766
