"""Vespa: a schema, documents to feed, query bodies, and hits out of answers.

A document's vectors are one tensor `tokens`, mapped by token position and indexed by HNSW; Vespa finds
documents by the closest vector of each, which is one route, and ranks some again by full MaxSim in its
second phase. Nothing here calls a server: deploy the schema, feed the documents, and post the bodies to
`/search/`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..index.filters import Filter, kind_of
from ..index.windows import best_span
from ..modeling.search_fastlane import Embeddings, Hit, Match, check_counts, given_views, listed
from .filters import translate
from .records import Record, id_of, windows_from_json, windows_to_json

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SIGNS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}

_SCHEMA = """\
schema {name} {{
    document {name} {{
        field key type string {{
            indexing: summary | attribute
        }}
        field text type string {{
            indexing: summary | index
            index: enable-bm25
        }}
        field metadata type string {{
            indexing: summary
        }}
        field windows type string {{
            indexing: summary
        }}
        field facts type array<string> {{
            indexing: attribute
            attribute: fast-search
        }}
        field digest type string {{
            indexing: summary | attribute
        }}
{numbers}        field tokens type tensor<bfloat16>(token{{}}, x[{dim}]) {{
            indexing: attribute | index
            attribute {{
                distance-metric: dotproduct
            }}
            index {{
                hnsw {{
                    max-links-per-node: 16
                    neighbors-to-explore-at-insert: 200
                }}
            }}
        }}
    }}
    rank-profile one_route {{
        inputs {{
            query(route) tensor<float>(x[{dim}])
        }}
        first-phase {{
            expression: reduce(sum(query(route) * attribute(tokens), x), max, token)
        }}
        match-features {{
            closest(tokens)
        }}
    }}
    rank-profile max_sim inherits one_route {{
        inputs {{
            query(route) tensor<float>(x[{dim}])
            query(views) tensor<float>(view{{}}, x[{dim}])
        }}
        second-phase {{
            expression: sum(reduce(sum(query(views) * attribute(tokens), x), max, token), view)
        }}
    }}
}}
"""
_NUMBER = """\
        field number_{field} type double {{
            indexing: attribute
            attribute: fast-search
        }}
"""


@dataclass(frozen=True)
class VespaDialect:
    """Conditions in YQL, where these metadata fields can be compared by order."""

    number_fields: frozenset[str]

    def has(self, facts: Sequence[str]) -> str:
        digests = (f'facts contains "{fact_digest(fact)}"' for fact in facts)
        return f"({' or '.join(digests)})"

    def has_not(self, facts: Sequence[str]) -> str:
        return f"(true and !{self.has(facts)})"

    def compare(self, field: str, operator: str, operand: float | str) -> str:
        if kind_of(operand) != "number":
            raise ValueError(
                f"Vespa has no {operator} of texts, asked of {field!r}: compare numbers, or use $in"
            )
        if field not in self.number_fields:
            raise ValueError(
                f"{operator} of {field!r} needs a field of the schema: name it in number_fields, there are "
                f"{sorted(self.number_fields)}"
            )
        return f"number_{field} {_SIGNS[operator]} {float(operand)!r}"

    def every(self, conditions: Sequence[str]) -> str:
        return f"({' and '.join(conditions)})" if conditions else "true"

    def some(self, conditions: Sequence[str]) -> str:
        return f"({' or '.join(conditions)})" if conditions else "false"


def schema_text(dim: int, name: str = "documents", number_fields: Sequence[str] = ()) -> str:
    """The file `schemas/NAME.sd` of an application package.

    Args:
        dim: Length of a vector.
        name: Of schema and document type.
        number_fields: Metadata fields whose numbers filters compare by order; others by equality alone.

    Raises:
        ValueError: A name isn't an identifier of Vespa.
    """
    check_counts(dim=dim)
    fields = check_names(name, number_fields)
    numbers = "".join(_NUMBER.format(field=field) for field in fields)
    return _SCHEMA.format(name=name, dim=dim, numbers=numbers)


def feed_operations(
    records: Iterable[Record], name: str = "documents", number_fields: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """Yields documents as `vespa feed` and the document API take them; each is a line of JSON.

    Raises:
        ValueError: Two vectors of a document have one position, which names them in the tensor.
    """
    fields = check_names(name, number_fields)
    for record in records:
        document = record.document
        positions = document.views.positions.tolist()
        if len(set(positions)) < len(positions):
            raise ValueError(
                f"document {document.id!r} has two vectors at one position: give each its own"
            )
        vectors = document.views.vectors.tolist()
        content: dict[str, Any] = {
            "key": record.key,
            "text": document.text or "",
            "metadata": json.dumps(dict(document.metadata)),
            "windows": windows_to_json(document.windows) or "",
            "facts": list(map(fact_digest, record.facts)),
            "digest": record.digest,
            "tokens": {"blocks": dict(zip(map(str, positions), vectors, strict=True))},
        }
        for field in fields:
            value = document.metadata.get(field)
            if kind_of(value) == "number":
                content[f"number_{field}"] = value
        yield {"put": f"id:{name}:{name}::{record.key}", "fields": content}


def query_body(
    query: Embeddings,
    top_k: int = 10,
    *,
    where: Filter | None = None,
    rerank: int | None = None,
    views: Embeddings | None = None,
    name: str = "documents",
    number_fields: Sequence[str] = (),
) -> dict[str, Any]:
    """A search, to be posted to `/search/` as JSON.

    Args:
        query: The routed view, `(1, dim)`.
        top_k: Documents to give.
        where: A filter of this library; Vespa applies it before the ranking.
        rerank: Rank so many of the best documents again by full MaxSim, on each content node.
        views: With `rerank`: all views of the query, `(num_vectors, dim)`.
        name: Of the schema.
        number_fields: Those of the schema.

    Raises:
        ValueError: Several views in `query`, `rerank` without `views` or less than `top_k`, or a filter that
            Vespa can't apply.
    """
    check_counts(top_k=top_k)
    fields = check_names(name, number_fields)
    vectors = given_views(query, "the query").vectors
    if len(vectors) != 1:
        raise ValueError(
            f"the query must be one routed view, of shape (1, dim), got {len(vectors)} views: give the "
            "others "
            "as views"
        )
    if (rerank is None) != (views is None):
        raise ValueError("rerank and views belong together: give both or none")
    if rerank is not None and rerank < top_k:
        raise ValueError(f"rerank must be at least top_k={top_k}, got {rerank}")
    found = f"{{targetHits: {rerank or top_k}}}nearestNeighbor(tokens, route)"
    condition = "" if where is None else translate(where, VespaDialect(frozenset(fields)))
    body: dict[str, Any] = {
        "yql": f"select key, text, metadata, windows from {name} where {found}"
        + (f" and {condition}" if condition else ""),
        "hits": top_k,
        "ranking.profile": "one_route" if rerank is None else "max_sim",
        "input.query(route)": vectors[0].tolist(),
    }
    if views is not None:
        rows = given_views(views, "views").vectors
        if rows.shape[1] != vectors.shape[1] or not len(rows):
            raise ValueError(
                f"views must have shape (number, {vectors.shape[1]}), got {rows.shape}"
            )
        body["ranking.rerankCount"] = rerank
        body["input.query(views)"] = {
            "blocks": {str(number): row.tolist() for number, row in enumerate(rows)}
        }
    return body


def read_hits(response: Mapping[str, Any], query_position: int = 0) -> list[Hit]:
    """The hits of an answer to `query_body`, as an index gives them.

    After `rerank` a hit's score is that of all views, and its match still that of the route, without a
    similarity of its own: the score stands there.

    Args:
        response: The answer's JSON.
        query_position: The position of the routed view in the query.
    """
    hits = []
    for found in response["root"].get("children", []):
        fields = found["fields"]
        closest = fields["matchfeatures"]["closest(tokens)"]
        cells = closest.get("cells", closest)
        [position] = cells if isinstance(cells, dict) else [cells[0]["address"]["token"]]
        score = float(found["relevance"])
        matches = (Match(query_position, int(position), score),)
        span = best_span(windows_from_json(fields.get("windows")), matches)
        metadata = json.loads(fields["metadata"])
        hits.append(Hit(id_of(fields["key"]), score, matches, fields.get("text"), metadata, span))
    return hits


def fact_digest(fact: str) -> str:
    """A fact as Vespa keeps it: in hexadecimal digits, since it compares texts without regard to case.

    >>> len(fact_digest("a")), fact_digest("a") == fact_digest("A")
    (32, False)
    """
    return hashlib.blake2b(fact.encode(), digest_size=16).hexdigest()


def check_names(name: str, number_fields: Sequence[str]) -> list[str]:
    """The fields as a list; a ValueError for a name that no schema can have."""
    fields = listed("number_fields", number_fields)
    for one in (name, *fields):
        if not isinstance(one, str) or not NAME.fullmatch(one):
            raise ValueError(f"expected a name of letters, digits and underscores, got {one!r}")
    return fields
