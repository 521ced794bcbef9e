"""Filters: what each operator lets through, by hand, and that search ranks exactly the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlane_st.index import scoring
from fastlane_st.index.index import FastLaneIndex

DOCUMENTS: dict[str, dict[str, Any]] = {
    "one": {"year": 1, "language": "de"},
    "float": {"year": 1.0, "language": "fr"},
    "true": {"year": True},
    "text": {"year": "1"},
    "none": {"year": None},
    "absent": {},
    "three": {"year": 3, "language": "de"},
}


@pytest.fixture(scope="module")
def index() -> FastLaneIndex:
    return FastLaneIndex.from_embeddings(
        [[[1.0]]] * len(DOCUMENTS), ids=list(DOCUMENTS), metadata=list(DOCUMENTS.values())
    )


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"year": 1}, "one float"),
        ({"year": True}, "true"),
        ({"year": "1"}, "text"),
        ({"year": None}, "none"),
        ({"year": {"$eq": 1.0}}, "one float"),
        ({"year": {"$ne": 1}}, "true text none absent three"),
        ({"year": {"$gt": 1}}, "three"),
        ({"year": {"$gte": 1}}, "one float three"),
        ({"year": {"$lt": 3}}, "one float"),
        ({"year": {"$lte": 3, "$gt": 1}}, "three"),
        ({"year": {"$gte": "0"}}, "text"),
        ({"year": {"$in": [1, "1", 7]}}, "one float text"),
        ({"year": {"$in": (True, None)}}, "true none"),
        ({"year": {"$in": []}}, ""),
        ({"year": {"$nin": [1, None]}}, "true text absent three"),
        ({"year": {"$exists": False}}, "absent"),
        ({"year": {"$exists": True}}, "one float true text none three"),
        ({"year": 1, "language": "de"}, "one"),
        ({"$and": [{"year": 1}, {"language": "de"}]}, "one"),
        ({"$or": [{"year": True}, {"language": "fr"}]}, "float true"),
        ({"$not": {"language": "de"}}, "float true text none absent"),
        ({"$not": {"$or": [{"year": {"$exists": False}}, {"year": {"$in": [1, 3]}}]}}, "true text none"),
        ({"language": "de", "$not": {"year": 1}}, "three"),
        ({"language": "it"}, ""),
        ({}, "one float true text none absent three"),
    ],
)  # fmt: skip
def test_what_a_filter_lets_through(index: FastLaneIndex, where: Any, expected: str) -> None:
    hits = index.search([[[1.0]]], where=where)[0]
    assert [hit.id for hit in hits] == expected.split()
    assert [hit.metadata for hit in hits] == [DOCUMENTS[str(hit.id)] for hit in hits]


def test_ids_and_metadata_filter_together(index: FastLaneIndex) -> None:
    hits = index.search([[[1.0]]], where={"year": 1}, ids=["three", "one", "nobody", "one"])[0]
    assert [hit.id for hit in hits] == ["one"]
    assert index.search([[[1.0]]], ids=[]) == [[]]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("year", "a filter must be an object such as"),
        ({"$and": []}, r"\$and takes a list of filters, got \[\]"),
        ({"$or": {"year": 1}}, r"\$or takes a list of filters"),
        ({"$not": 1}, "a filter must be an object"),
        ({"$xor": []}, r"a filter has fields, \$and, \$or and \$not, got '\$xor'"),
        ({1: 2}, r"a filter has fields, \$and, \$or and \$not, got 1"),
        ({"year": {}}, "the filter on 'year' is empty"),
        ({"year": {"gte": 1}}, r"'year' has the operator 'gte', there are \$eq, \$ne, \$gt"),
        ({"year": {"$gte": None}}, r"\$gte of 'year' takes a number or a text, got None"),
        ({"year": {"$lt": True}}, r"\$lt of 'year' takes a number or a text, got True"),
        ({"year": [1]}, r"\$eq of 'year' takes a text, a finite number, True, False or None, got \[1\]"),
        ({"year": float("nan")}, r"\$eq of 'year' takes a text, a finite number"),
        ({"year": {"$in": "abc"}}, r"\$in of 'year' takes a list of values, got 'abc'"),
        ({"year": {"$in": [[1]]}}, r"\$in of 'year' takes a list of values"),
        ({"year": {"$exists": 1}}, r"\$exists of 'year' takes True or False, got 1"),
        ({"month": 1}, r"no document has the field 'month'; there are \['language', 'year'\]"),
        ({"$or": [{"year": 1}, {"$not": {"month": 1}}]}, "no document has the field 'month'"),
    ],
)  # fmt: skip
def test_a_filter_that_is_none_is_refused(index: FastLaneIndex, where: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        index.search([[[1.0]]], where=where)


def test_a_field_of_deleted_documents_alone_is_unknown() -> None:
    index = FastLaneIndex.from_embeddings(
        [[[1.0]]] * 4, ids=list("abcd"), metadata=[{"old": 1}, {"new": 1}, {"new": 2}, {}]
    )
    index.delete(["a"])
    with pytest.raises(ValueError, match=r"no document has the field 'old'; there are \['new'\]"):
        index.search([[[1.0]]], where={"old": 1})


def test_what_was_searched_before_a_change_is_not_what_is_found_after(index: FastLaneIndex) -> None:
    other = FastLaneIndex.from_embeddings([[[1.0]]], metadata=[{"year": 1}])
    assert len(other.search([[[1.0]]], where={"year": 1})[0]) == 1
    other.update([[[1.0]]], ids=[0], metadata=[{"year": 2}])
    assert other.search([[[1.0]]], where={"year": 1}) == [[]]


@given(
    years=st.lists(st.integers(0, 30), min_size=1, max_size=120),
    limit=st.integers(-1, 31),
    top_k=st.integers(1, 10),
    scan=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_search_is_exact_whatever_the_selectivity(
    years: list[int], limit: int, top_k: int, scan: float
) -> None:
    rng = np.random.default_rng(len(years))
    documents = [rng.integers(-4, 5, size=(rng.integers(1, 5), 2)) / 4 for _ in years]
    query = rng.integers(-4, 5, size=(1, 2)) / 4
    index = FastLaneIndex.from_embeddings(documents, metadata=[{"year": year} for year in years])
    scores = [float((document @ query[0]).max()) for document in documents]
    left = [number for number, year in enumerate(years) if year < limit]
    best = sorted(left, key=lambda number: -scores[number])[:top_k]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "SCAN_FRACTION", scan)
        [hits] = index.search([query], top_k, where={"year": {"$lt": limit}})
    assert [(hit.id, hit.score) for hit in hits] == [(number, scores[number]) for number in best]
