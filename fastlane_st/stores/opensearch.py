"""OpenSearch and Elasticsearch: index settings, documents, query bodies, and hits out of answers.

Token vectors are nested objects of a document, and both engines rank a document by the nearest of them,
which is one route. Nothing here calls a server: pass the bodies to its client. The shapes are those of the
published API specifications (OpenSearch 3, Elasticsearch 9).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from ..index.filters import Filter, kind_of
from ..index.windows import best_span
from ..modeling.search_fastlane import Embeddings, Hit, Match, check_counts, given_views
from .arrow import range_column
from .filters import translate
from .records import Record, id_of, windows_from_json, windows_to_json

Engine: TypeAlias = Literal["opensearch", "elasticsearch"]

LONGEST_KEYWORD = (
    8_191  # characters: Lucene's terms have 32,766 bytes, and a character has at most 4
)
MOST_NESTED = 10_000  # of a document, as both engines set index.mapping.nested_objects.limit


class LuceneDialect:
    """Conditions of both engines' query language."""

    def has(self, facts: Sequence[str]) -> dict[str, Any]:
        return {"terms": {"facts": list(facts)}}

    def has_not(self, facts: Sequence[str]) -> dict[str, Any]:
        return {"bool": {"must_not": [self.has(facts)]}}

    def compare(self, field: str, operator: str, operand: float | str) -> dict[str, Any]:
        name = range_field(field, kind_of(operand))
        return {"range": {name: {operator.removeprefix("$"): operand}}}

    def every(self, conditions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {"bool": {"filter": list(conditions)}} if conditions else {"match_all": {}}

    def some(self, conditions: Sequence[dict[str, Any]]) -> dict[str, Any]:
        if not conditions:
            return {"match_none": {}}
        return {"bool": {"should": list(conditions), "minimum_should_match": 1}}


def index_body(
    engine: Engine, dim: int, *, m: int = 16, ef_construction: int = 100
) -> dict[str, Any]:
    """The settings and mappings of an index, for `client.indices.create(index=…, body=…)`.

    Args:
        engine: "opensearch" or "elasticsearch".
        dim: Length of a vector.
        m, ef_construction: Of the graph (HNSW).
    """
    check_engine(engine)
    check_counts(dim=dim, m=m, ef_construction=ef_construction)
    if engine == "opensearch":
        method = {
            "name": "hnsw",
            "engine": "faiss",
            "space_type": "innerproduct",
            "parameters": {"m": m, "ef_construction": ef_construction},
        }
        vector: dict[str, Any] = {"type": "knn_vector", "dimension": dim, "method": method}
        settings: dict[str, Any] = {"index": {"knn": True}}
    else:
        graph = {"type": "hnsw", "m": m, "ef_construction": ef_construction}
        vector = {"type": "dense_vector", "dims": dim, "index": True, "index_options": graph}
        vector["similarity"] = "max_inner_product"
        settings = {}
    tokens = {"position": {"type": "integer"}, "vector": vector}
    unread = {"type": "keyword", "index": False, "doc_values": False}
    return {
        "settings": settings,
        "mappings": {
            "dynamic_templates": [
                {"numbers": {"path_match": "number.*", "mapping": {"type": "double"}}},
                {"texts": {"path_match": "words.*", "mapping": {"type": "keyword"}}},
            ],
            "properties": {
                "text": {"type": "text"},
                "metadata": unread,
                "windows": unread,
                "facts": {"type": "keyword"},
                "digest": {"type": "keyword"},
                "tokens": {"type": "nested", "properties": tokens},
            },
        },
    }


def bulk_actions(records: Iterable[Record], index: str) -> Iterator[dict[str, Any]]:
    """Yields documents for the bulk helper of either client; the document's id is its key.

    Raises:
        ValueError: A document has more vectors than an index takes nested objects, or a text to filter by
            that is too long.
    """
    for record in records:
        document = record.document
        if len(document.views.vectors) > MOST_NESTED:
            raise ValueError(
                f"document {document.id!r} has {len(document.views.vectors):,} vectors, an index takes "
                f"{MOST_NESTED:,} nested objects a document: split it, or keep fewer vectors"
            )
        ranges: dict[str, dict[str, Any]] = {"number": {}, "words": {}}
        for field, value in document.metadata.items():
            kind = kind_of(value)
            if kind == "text" and len(str(value)) > LONGEST_KEYWORD:
                raise ValueError(
                    f"{field!r} of document {document.id!r} has {len(str(value)):,} characters, a keyword "
                    "has "
                    f"{LONGEST_KEYWORD:,}: leave it out of the metadata"
                )
            if kind in ("number", "text"):
                group, _, name = range_field(field, kind).partition(".")
                ranges[group][name] = value
        source = {
            "text": document.text,
            "metadata": json.dumps(dict(document.metadata)),
            "windows": windows_to_json(document.windows),
            "facts": record.facts,
            "digest": record.digest,
            **ranges,
            "tokens": [
                {"position": int(position), "vector": vector.tolist()}
                for vector, position in zip(*document.views, strict=True)
            ],
        }
        yield {"_op_type": "index", "_index": index, "_id": record.key, "_source": source}


def query_body(
    engine: Engine,
    query: Embeddings,
    top_k: int = 10,
    *,
    where: Filter | None = None,
    candidates: int | None = None,
) -> dict[str, Any]:
    """A one-route search, for `client.search(index=…, body=…)`.

    Args:
        engine: "opensearch" or "elasticsearch".
        query: The routed view, `(1, dim)`.
        top_k: Documents to give.
        where: A filter of this library; it is applied before the ranking.
        candidates: Of Elasticsearch: vectors looked at on each shard, at least `top_k`; max(100, 10 * top_k)
            by default.

    Raises:
        ValueError: Several views, or `candidates` for OpenSearch.
    """
    check_engine(engine)
    check_counts(top_k=top_k)
    views = given_views(query, "the query").vectors
    if len(views) != 1:
        raise ValueError(
            f"the query must be one routed view, of shape (1, dim), got {len(views)} views"
        )
    inner = {"size": 1, "_source": ["tokens.position"]}
    body: dict[str, Any] = {"size": top_k, "_source": {"excludes": ["tokens"]}}
    condition = None if where is None else translate(where, LuceneDialect())
    if engine == "opensearch":
        if candidates is not None:
            raise ValueError(f"candidates applies to Elasticsearch, got {candidates}: leave it out")
        knn: dict[str, Any] = {"vector": views[0].tolist(), "k": top_k}
        nested = {
            "path": "tokens",
            "score_mode": "max",
            "query": {"knn": {"tokens.vector": knn}},
            "inner_hits": inner,
        }
        body["query"] = {"nested": nested}
    else:
        chosen = max(100, 10 * top_k) if candidates is None else candidates
        if chosen < top_k:
            raise ValueError(f"candidates must be at least top_k={top_k}, got {chosen}")
        knn = {
            "field": "tokens.vector",
            "query_vector": views[0].tolist(),
            "k": top_k,
            "num_candidates": chosen,
            "inner_hits": inner,
        }
        body["knn"] = knn
    if condition is not None:
        knn["filter"] = condition
    return body


def read_hits(response: Mapping[str, Any], query_position: int = 0) -> list[Hit]:
    """The hits of an answer to `query_body`, as an index gives them.

    Args:
        response: The answer's JSON.
        query_position: The position of the routed view in the query.
    """
    hits = []
    for found in response["hits"]["hits"]:
        source = found["_source"]
        [inner] = found["inner_hits"].values()
        [nearest] = inner["hits"]["hits"]
        position = int(nearest["_source"]["position"])
        similarity = similarity_of(float(found["_score"]))
        matches = (Match(query_position, position, similarity),)
        span = best_span(windows_from_json(source["windows"]), matches)
        metadata = json.loads(source["metadata"])
        hits.append(Hit(id_of(found["_id"]), similarity, matches, source["text"], metadata, span))
    return hits


def similarity_of(score: float) -> float:
    """The inner product that both engines made a positive score of.

    >>> similarity_of(1.75), similarity_of(0.5)
    (0.75, -1.0)
    """
    return float(np.float64(score) - 1 if score >= 1 else 1 - 1 / np.float64(score))


def range_field(field: str, kind: str) -> str:
    """The field of an index that holds the numbers or texts of a metadata field; dots are escaped."""
    name = range_column(field, kind).partition(":")[2]
    return f"{'number' if kind == 'number' else 'words'}.{name}"


def check_engine(engine: str) -> None:
    """Raises a ValueError unless it is one of the two."""
    if engine not in get_args(Engine):
        raise ValueError(
            f"engine must be {' or '.join(map(repr, get_args(Engine)))}, got {engine!r}"
        )
