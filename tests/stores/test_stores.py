"""What every store does, on the real engines: results equal FastLaneIndex's, changes, errors."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlane_st import FastLaneEncoder, FastLaneIndex, FastLaneModel, Hit
from fastlane_st.index.context import ContextMixing
from fastlane_st.index.identity import encoder_digests
from fastlane_st.stores import Store, open_store
from tests.conftest import DOCUMENTS
from tests.support.encoders import WordEncoder
from tests.support.vectors import DIM, units

from .conftest import Corpus, Create

QUERIES = list(units(12, 999)[:, None])


def assert_same(found: list[list[Hit]], expected: list[list[Hit]]) -> None:
    assert [[hit.id for hit in hits] for hits in found] == [
        [hit.id for hit in hits] for hits in expected
    ]
    for ours, theirs in zip(chain(*found), chain(*expected), strict=True):
        assert (ours.text, ours.metadata) == (theirs.text, theirs.metadata)
        assert ours.score == pytest.approx(theirs.score, abs=1e-6)
        assert [match[:2] for match in ours.matches] == [match[:2] for match in theirs.matches]


@pytest.fixture
def store(create: Create, corpus: Corpus) -> Store:
    return corpus.fill(create())


@pytest.mark.parametrize("top_k", [1, 10, 60, 100])
def test_one_route_finds_what_the_exact_index_finds(
    store: Store, exact: FastLaneIndex, top_k: int
) -> None:
    assert_same(store.search(QUERIES, top_k), exact.search(QUERIES, top_k))


@pytest.mark.parametrize(
    "where",
    [
        {"year": 2001},
        {"year": 2001.0},
        {"year": "2001"},
        {"year": True},
        {"year": None},
        {"year": {"$ne": True}},
        {"year": {"$gt": 2001}},
        {"year": {"$lte": 2002.5, "$gte": 2001}},
        {"$not": {"year": {"$gte": 2002}}},
        {"$not": {"year": {"$lt": 2002, "$gt": 2000}}},
        {"year": {"$in": [2001, "2001", 7, None]}},
        {"year": {"$nin": [2001, None]}},
        {"year": {"$in": []}},
        {"year": {"$nin": []}},
        {"year": {"$exists": False}},
        {"year": {"$exists": True}},
        {"language": "it's \"é\\"},
        {"a.b c": {"$gt": 30}, "language": "fr"},
        {"$or": [{"a.b c": 1}, {"$and": [{"language": "de"}, {"year": {"$lt": 2002}}]}]},
        {"$not": {"$or": [{"year": {"$exists": False}}, {"language": {"$in": ["de", "fr"]}}]}},
        {"$not": {"$not": {"$and": [{"year": 2001}, {"language": "de"}]}}},
        {},
    ],
    ids=str,
)
def test_filters_let_through_what_the_index_lets_through(
    store: Store, exact: FastLaneIndex, where: dict[str, Any]
) -> None:
    assert_same(
        store.search(QUERIES[:2], 60, where=where), exact.search(QUERIES[:2], 60, where=where)
    )
    assert store.count(where) == len(exact.select(where))


def test_texts_are_compared_by_order_or_the_operator_is_named(
    store: Store, exact: FastLaneIndex, engine: str
) -> None:
    where = {"language": {"$gte": "fr"}}
    if engine == "qdrant":
        with pytest.raises(ValueError, match=r"Qdrant has no \$gte of texts, asked of 'language'"):
            store.search(QUERIES, where=where)
        return
    for one in (where, {"$not": where}):
        assert_same(store.search(QUERIES, 60, where=one), exact.search(QUERIES, 60, where=one))


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"yaer": 1}, "has the field 'yaer'"),
        ({"language": {"$gt": 1}}, "compares 'language' with a number"),
        ({"year": {"$near": 1}}, "has the operator '\\$near'"),
        ({"year": {"$gt": 2**53 + 1}}, "beyond the integers that stores compare exactly"),
        ({"$nor": []}, "a filter has fields"),
    ],
)
def test_a_filter_that_can_not_be_is_named(
    store: Store, where: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        store.search(QUERIES[:1], where=where)


def test_documents_are_replaced_deleted_counted_and_given_back(
    store: Store, corpus: Corpus
) -> None:
    assert len(store) == store.count() == 60
    longest, shortest = corpus.ids[4], corpus.ids[5]
    new = [units(1, 70), units(6, 71)]
    store.upsert(new, [longest, shortest], metadata=[{"year": 1990}, {"other": "x"}])
    assert len(store) == 60
    query = new[0][:1]
    [[first, second]] = store.search([query], 2)
    assert (first.id, first.text, first.metadata) == (longest, None, {"year": 1990})
    assert first.score == pytest.approx(1, abs=1e-3)
    assert second.score < 0.99
    assert [hit.id for hit in store.search([query], where={"other": "x"})[0]] == [shortest]
    store.delete([longest, corpus.ids[0], 7])
    assert len(store) == 57
    assert longest not in [hit.id for hit in store.search([query], 100)[0]]
    with pytest.raises(ValueError, match="no document with 1 of the ids, the first 1"):
        store.delete([1, corpus.ids[6]])
    assert store.get([corpus.ids[6]])[0].text == "text 6"
    with pytest.raises(ValueError, match="no document with the id 1"):
        store.get([1])
    store.upsert([], [])
    store.delete([])
    assert len(store) == 57


def test_rerank_is_full_maxsim(store: Store, corpus: Corpus, exact: FastLaneIndex) -> None:
    query = units(5, 500)
    expected = exact.search([query], 60, candidates=60)[0]
    some = [hit.id for hit in expected[10:20]]
    assert_same([store.rerank(query, some[::-1])], [expected[10:20]])
    assert_same([store.rerank(query, some, top_k=3)], [expected[10:13]])
    with pytest.raises(ValueError, match="no document with the id 'none'"):
        store.rerank(query, [*some, "none"])


TEXTS = ["red car", "blue bus sky", "sky", "car bus", "red red blue"]


def test_texts_are_encoded_and_searched_as_by_an_index(create: Create) -> None:
    store = create(3, encoder=WordEncoder(), storage="float32")
    ids = list("abcde")
    store.upsert(TEXTS, ids, metadata=[{"n": n} for n in range(5)])
    index = FastLaneIndex.build(WordEncoder(), TEXTS, ids, metadata=[{"n": n} for n in range(5)])
    for options in ({}, {"rerank": 5}, {"where": {"n": {"$lt": 3}}, "rerank": 3, "top_k": 2}):
        found = store.search(["bus red", "sky blue"], **{"top_k": 3, **options})
        expected = index.search(["bus red", "sky blue"], num_routes=1, **{"top_k": 3, **options})
        assert [[hit.score for hit in hits] for hits in found] == [
            pytest.approx([hit.score for hit in hits]) for hits in expected
        ]
    [hit] = store.search("sky", 1, where={"n": 2})
    assert (hit.id, hit.text, hit.score) == ("c", "sky", pytest.approx(1.0))
    assert store.rerank("red car", ["b", "a"])[0].id == "a"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"documents": [units(1, 0)[:, :3]], "ids": ["x"]}, "3-dimensional vectors, .* holds 16"),
        ({"documents": [np.zeros((0, DIM))], "ids": ["x"]}, "'x' has no vectors"),
        ({"documents": [units(1, 0)], "ids": ["x", "y"]}, "ids must be 1"),
        ({"documents": [units(1, 0)], "ids": [1.5]}, "an id must be a str or an int"),
        ({"documents": [np.full((1, DIM), np.nan)], "ids": ["x"]}, "NaN or infinity"),
        (
            {"documents": [units(1, 0)], "ids": ["x"], "metadata": [{"a": [1]}]},
            "a of document 0 must be",
        ),
        ({"documents": [units(1, 0)], "ids": ["x"], "metadata": [{"a": 2**60}]}, "make it a text"),
        ({"documents": ["text"], "ids": ["x"]}, "texts need an encoder"),
    ],
)
def test_bad_documents_are_named_and_nothing_is_written(
    create: Create, arguments: dict[str, Any], message: str
) -> None:
    store = create()
    with pytest.raises(ValueError, match=message):
        store.upsert(**arguments)
    with pytest.raises(ValueError, match=message):
        store.upsert(
            [
                *([units(1, 1)] if message != "texts need an encoder" else ["x"]),
                *arguments["documents"],
            ],
            ["first", *arguments["ids"]],
            metadata=[{}, *arguments.get("metadata", [{}])],
        ) if "ids must" not in message and "of document 0" not in message else store.upsert(
            **arguments
        )
    assert len(store) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queries": [units(2, 0)]}, r"query 0 must be one routed view, of shape \(1, 16\), got 2"),
        ({"queries": [units(1, 0)[:, :3]]}, r"query 0 has shape \(1, 3\), .* holds vectors of 16"),
        ({"queries": "text"}, "text queries need an encoder: open .*stored"),
        ({"queries": QUERIES, "top_k": 0}, "top_k must be a positive integer"),
        ({"queries": QUERIES, "rerank": 20}, "rerank applies to texts"),
    ],
)
def test_bad_queries_are_named(create: Create, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create().search(**arguments)


def test_an_empty_store_finds_nothing(create: Create) -> None:
    store = create()
    assert store.search(QUERIES[:2]) == [[], []]
    assert store.count() == 0


def test_a_store_is_opened_again_with_its_settings(
    store: Store, exact: FastLaneIndex, engine: str
) -> None:
    uri = address(store)
    if engine == "qdrant":
        store.close()  # a folder has one client at a time
    again = open_store(uri)
    assert again.settings == store.settings
    assert_same(again.search(QUERIES, 5), exact.search(QUERIES, 5))
    with pytest.raises(ValueError, match=r"3-dimensional vectors, .*stored.* holds 16"):
        again.encoder = WordEncoder()
    again.close()
    with pytest.raises(ValueError, match=r"3-dimensional vectors, .*stored.* holds 16"):
        open_store(uri, encoder=WordEncoder())


def test_settings_are_remembered(create: Create) -> None:
    store = create(
        4,
        checkpoint=("abc",),
        document_routes=0.5,
        long_texts="cut",
        context=ContextMixing("both", 3.0),
        storage="float32",
    )
    uri, settings = address(store), store.settings
    store.close()
    again = open_store(uri)
    assert again.settings == settings
    again.close()


def test_an_encoder_of_another_checkpoint_is_refused(
    create: Create, model: FastLaneModel, checkpoint: Path
) -> None:
    store = create(4, encoder=FastLaneEncoder(checkpoint), checkpoint=tuple(encoder_digests(model)))
    store.upsert(DOCUMENTS, ids=range(len(DOCUMENTS)))
    index = FastLaneIndex.build(FastLaneEncoder(checkpoint), DOCUMENTS)
    assert [hit.id for hit in store.search("sort a list", 1)] == [
        hit.id for hit in index.search("sort a list", 1, num_routes=1)
    ]
    store.settings = replace(store.settings, checkpoint=("another",))
    with pytest.raises(ValueError, match=r"stored.*was filled by another checkpoint"):
        store.encoder = model


def test_a_store_that_is_there_or_is_not_is_named(create: Create, engine: str) -> None:
    store = create()
    uri = address(store)
    if engine == "qdrant":
        store.close()  # a folder has one client at a time
    with pytest.raises(FileExistsError, match=r"stored.*documents.* is there already"):
        create()
    store.close()
    with pytest.raises(FileNotFoundError, match=r"stored.*none.* isn't there"):
        open_store(uri, "none")


def test_opening_no_store_leaves_nothing_behind(engine: str, tmp_path: Path) -> None:
    place = tmp_path / ("typo.db" if engine == "milvus" else "typo")
    with pytest.raises(FileNotFoundError, match=r"typo.*documents.* isn't there"):
        open_store(f"{engine}:{place}")
    assert list(tmp_path.iterdir()) == []


def address(store: Store) -> str:
    """What opens a store again: its address without the name in parentheses."""
    return store.address.split(" (")[0]
