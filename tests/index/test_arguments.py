"""What callers give an index: collections of every kind, by place; and what can't be read as one."""

from __future__ import annotations

import copy
import json
import pickle
from collections import OrderedDict, UserList, deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from fastlane_st import FastLaneIndex
from fastlane_st.index.hybrid import HybridSearch
from fastlane_st.modeling.search_fastlane import ExactIndex
from tests.support.encoders import WordEncoder

TEXTS = ["red car", "blue bus sky", "sky"]
IDS = ["r", "b", "s"]


def build() -> FastLaneIndex:
    years = [{"year": 2000 + number, "draft": number == 1} for number in range(3)]
    return FastLaneIndex.build(WordEncoder(), TEXTS, ids=IDS, metadata=years)


def texts_of(index: FastLaneIndex) -> list[Any]:
    return [index.text(id) for id in index.ids]


COLLECTIONS: dict[str, Callable[[list[str]], Any]] = {
    "generator": lambda texts: (text for text in texts),
    "tuple": tuple,
    "deque": deque,
    "UserList": UserList,
    "array": lambda texts: np.array(texts, dtype=object),
    "Series": lambda texts: pandas.Series(texts),
    "filtered Series": lambda texts: pandas.Series(["", *texts]).drop(0),
    "shuffled Series": lambda texts: pandas.Series(texts, index=[2, 0, 1]),
    "Series of dates": lambda texts: pandas.Series(
        texts, index=pandas.date_range("2024", periods=3)
    ),
    "column": lambda texts: pandas.DataFrame({"text": texts}).iloc[::1]["text"],
    "dict's values": lambda texts: dict(enumerate(texts)).values(),
}


@pytest.mark.parametrize("kind", COLLECTIONS)
def test_texts_are_taken_by_place(kind: str) -> None:
    collect = COLLECTIONS[kind]
    built = FastLaneIndex.build(WordEncoder(), collect(TEXTS))
    assert texts_of(built) == TEXTS
    built.add(collect(TEXTS), ids=collect(["a", "b", "c"]))
    assert texts_of(built) == TEXTS * 2
    built.update(collect(TEXTS[::-1]), ids=[0, 1, 2])
    built.upsert(collect(TEXTS[::-1]), ids=collect(["a", "b", "new"]))
    assert texts_of(built) == [*TEXTS[::-1], *TEXTS[::-1][:2], TEXTS[2], TEXTS[0]]
    assert built.search(collect(TEXTS)) == built.search(TEXTS)


@pytest.mark.parametrize("one", ["red car", b"red car", {"d1": "red car"}, OrderedDict(a="sky")])
def test_one_text_or_a_mapping_is_no_list_of_texts(one: Any) -> None:
    index = build()
    for insert in (
        lambda: FastLaneIndex.build(WordEncoder(), one),
        lambda: FastLaneIndex.from_embeddings(one),
        lambda: index.add(one),
        lambda: index.update(one, ids=["r"]),
        lambda: index.upsert(one, ids=["r"]),
    ):
        with pytest.raises(ValueError, match=r"documents must be several,.* got (one|a) "):
            insert()
    assert texts_of(index) == TEXTS


@pytest.mark.parametrize("value", [5, None, 2.5])
def test_what_is_no_collection_is_named(value: Any) -> None:
    for insert in (
        lambda: FastLaneIndex.build(WordEncoder(), value),
        lambda: FastLaneIndex.from_embeddings(value),
        lambda: build().add(value),
    ):
        with pytest.raises(ValueError, match=f"documents must be several, in a list, got {value}"):
            insert()


def test_vectors_come_in_every_collection() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    expected = FastLaneIndex.from_embeddings(list(rows)).search([[[1.0, 0.0]]])
    for given in (rows, torch.from_numpy(rows), (each for each in rows), tuple(rows.tolist())):
        index = FastLaneIndex.from_embeddings(given)
        assert index.search([[[1.0, 0.0]]]) == expected
    index.add(rows)
    index.add(each for each in torch.from_numpy(rows))
    assert len(index) == 9


def test_hybrid_search_takes_one_query_for_one_query() -> None:
    pytest.importorskip("bm25s")
    hybrid = HybridSearch(build())
    assert hybrid.search("sky") == hybrid.search(["sky"]) == hybrid.search(pandas.Series(["sky"]))


def test_documents_are_given_back_by_id_and_walked_over() -> None:
    index = build()
    index.delete(["b"])
    assert list(index) == index.ids == ["r", "s"]
    found = index.get(["s", "r", "s"])
    assert [(one.id, one.text, one.metadata) for one in found] == [
        ("s", "sky", {"year": 2002, "draft": False}),
        ("r", "red car", {"year": 2000, "draft": False}),
    ]
    with pytest.raises(ValueError, match=r"no document has the id 'b': index\.ids lists"):
        index.get(["s", "b"])
    with pytest.raises(ValueError, match="ids must be several, got one str, 's'"):
        index.get("s")


def test_what_callers_do_to_a_hit_stays_theirs() -> None:
    index = build()
    without = FastLaneIndex.build(WordEncoder(), TEXTS)
    for each in (index, without):
        for hits in (each.search("sky"), each.search(["red"])[0]):
            for hit in hits:
                hit.metadata["score"] = [np.float32(1.0)]  # type: ignore[index]
        for stored in each.get(each.ids):
            stored.metadata["score"] = 1  # type: ignore[index]
        assert "score" not in each.fields
        assert all("score" not in hit.metadata for hit in each.search("sky", top_k=3))


@pytest.mark.parametrize("memory_map", [False, True])
def test_hits_of_a_saved_index_are_the_callers_too(memory_map: bool, tmp_path: Any) -> None:
    build().save(tmp_path)
    index = FastLaneIndex.load(tmp_path, WordEncoder(), memory_map=memory_map)
    index.search("sky", where={"year": 2002})[0].metadata["year"] = 1  # type: ignore[index]
    assert [hit.id for hit in index.search("sky", where={"year": 2002})] == ["s"]


def test_an_index_says_how_it_is_shared() -> None:
    index = build()
    for share in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="save it to a folder, and load that in each process"):
            share(index)


# Filters


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            {"year": {"$gt": "x"}},
            r"\$gt of 'year' compares with 'x', a text; the field holds .* number",
        ),
        ({"$not": {"year": {"$lte": "2001"}}}, r"\$lte of 'year' compares with '2001', a text"),
        ({"$or": [{"year": 1}, {"draft": {"$gte": 0}}]}, r"\$gte of 'draft' .* kind truth value"),
    ],
)
def test_a_range_of_another_kind_than_the_field_is_an_error(where: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build().search("sky", where=where)


def test_a_filter_too_deep_is_an_error_on_its_depth() -> None:
    deep: Any = {"year": 2000}
    for _ in range(3000):
        deep = {"$not": deep}
    itself: Any = {"$and": []}
    itself["$and"].append(itself)
    for where in (deep, itself):
        with pytest.raises(ValueError, match="a filter may be 32 levels deep, this one is deeper"):
            build().search("sky", where=where)
    fine: Any = {"year": 2002}
    for _ in range(30):
        fine = {"$not": fine}
    assert [hit.id for hit in build().search("sky", where=fine)] == ["s"]


# NumPy's scalars


def test_integers_of_numpy_are_integers() -> None:
    index = build()
    assert index.search("sky", top_k=np.int64(2)) == index.search("sky", top_k=2)
    assert index.search("red car", 2, np.int32(2), candidates=np.int64(3)) == index.search(
        "red car", 2, 2, candidates=3
    )
    encoder = WordEncoder()
    two = FastLaneIndex.build(encoder, TEXTS, num_routes=np.int64(1), num_documents=np.int16(3))
    assert two.num_vectors == 3
    exact = ExactIndex.build(encoder, TEXTS, np.arange(3))
    assert [hit.id for hit in exact.search("blue", np.int64(1), np.int8(1))] == [1]


@pytest.mark.parametrize("ids", [np.array([7, 8, 9]), pandas.Series([7, 8, 9]), [np.int8(7), 8, 9]])
def test_ids_of_numpy_are_pythons(ids: Any, tmp_path: Any) -> None:
    index = FastLaneIndex.build(WordEncoder(), TEXTS, ids=ids)
    for each in index.ids:
        assert type(each) is int
    assert np.int64(7) in index
    assert 7 in index
    index.save(tmp_path)
    loaded = FastLaneIndex.load(tmp_path, WordEncoder())
    assert loaded.ids == [7, 8, 9]
    assert loaded.text(np.int64(8)) == TEXTS[1]  # type: ignore[arg-type]
    assert [one.id for one in loaded.get(np.array([9, 7]))] == [9, 7]
    loaded.update(["red"], ids=np.array([9]))
    loaded.delete(np.array([7]))
    assert loaded.ids == [8, 9]
    assert [hit.id for hit in loaded.search("red", ids=np.array([8, 9]))] == [9, 8]


def test_metadata_and_filters_of_numpy_are_pythons(tmp_path: Any) -> None:
    rows = pandas.DataFrame(
        {"year": [1999, 2004, 2010], "score": np.float32([0.5, 1, 2]), "new": [False, False, True]}
    )
    metadata = [dict(row) for _, row in rows.iterrows()]
    index = FastLaneIndex.build(WordEncoder(), TEXTS, ids=IDS, metadata=metadata)
    index.save(tmp_path)
    index = FastLaneIndex.load(tmp_path, WordEncoder())
    assert index.get(["b"])[0].metadata == {"year": 2004, "score": 1.0, "new": False}
    wheres: list[tuple[dict[str, Any], set[str]]] = [
        ({"year": np.int64(2004)}, {"b"}),
        ({"year": {"$gte": np.int64(2004)}}, {"b", "s"}),
        ({"year": {"$in": np.array([1999, 2010])}}, {"r", "s"}),
        ({"score": {"$lt": np.float32(0.75)}}, {"r"}),
        ({"$and": [{"new": np.bool_(True)}, {"$not": {"year": np.int16(1999)}}]}, {"s"}),
        ({"score": {"$exists": np.bool_(True)}}, {"r", "b", "s"}),
    ]
    for where, found in wheres:
        assert set(index.select(where)) == found


@pytest.mark.parametrize("value", [np.datetime64("2024-01-01"), np.array([1]), np.float64("nan")])
def test_what_json_cannot_hold_is_refused_at_the_add(value: Any) -> None:
    index = build()
    with pytest.raises(ValueError, match="year of document 0 must be a text, a finite number"):
        index.add(["sky"], metadata=[{"year": value}])
    assert index.ids == IDS


@pytest.mark.parametrize(
    ("metadata", "place"), [({"k": "a\ud800"}, "value 0"), ({"n": 1, "\ud800": 1}, "field 1")]
)
def test_metadata_that_is_no_unicode_is_refused_at_the_add(metadata: Any, place: str) -> None:
    index = build()
    message = f"metadata of document 1: {place} is no valid Unicode: surrogates not allowed"
    with pytest.raises(ValueError, match=message):
        index.add(["sky", "red"], metadata=[{}, metadata])
    assert index.ids == IDS


# Words


@pytest.mark.parametrize("method", ["add", "update", "upsert"])
def test_an_unknown_argument_is_named_with_the_nearest(method: str) -> None:
    index = build()
    for name, nearest in (("metadatas", "metadata"), ("batchsize", "batch_size")):
        message = f"{method} has no argument '{name}': did you mean '{nearest}'"
        with pytest.raises(TypeError, match=message):
            getattr(index, method)(["sky"], ids=["s"], **{name: 1})


WRONG: dict[str, tuple[Callable[[FastLaneIndex], Any], str]] = {
    "build without a collection": (
        lambda index: FastLaneIndex.build(WordEncoder(), 5),  # type: ignore[arg-type]
        r"documents must be several, in a list, got 5 \(int\)",
    ),
    "build with a name": (
        lambda index: FastLaneIndex.build("folder", TEXTS),  # type: ignore[arg-type]
        r"encoder must be a model, got 'folder': pass FastLaneEncoder\('folder'\)",
    ),
    "load with a name": (
        lambda index: FastLaneIndex.load("folder", "model"),  # type: ignore[arg-type]
        r"encoder must be a model, got 'model'",
    ),
    "another encoder": (
        lambda index: setattr(index, "encoder", 5),
        r"encoder must be a FastLaneEncoder.*, got 5 \(int\)",
    ),
    "search for a number": (
        lambda index: index.search(5),  # type: ignore[call-overload]
        r"queries must be several, in a list, got 5 \(int\)",
    ),
    "search for a mapping": (
        lambda index: index.search({"q": "sky"}),  # type: ignore[call-overload]
        "queries must be several, in a list, got a dict",
    ),
    "all routes": (
        lambda index: index.search("sky", num_routes="all"),  # type: ignore[call-overload]
        "got 'all'; None keeps all tokens",
    ),
    "delete nothing": (
        lambda index: index.delete(None),  # type: ignore[arg-type]
        r"ids must be several, in a list, got None \(NoneType\)",
    ),
    "delete a number": (
        lambda index: index.delete(7),  # type: ignore[arg-type]
        r"ids must be several, in a list, got 7 \(int\)",
    ),
    "a text as num_documents": (
        lambda index: FastLaneIndex.build(WordEncoder(), TEXTS, num_documents="x"),  # type: ignore[arg-type]
        "num_documents must be a positive integer, got 'x'",
    ),
    "a text as effort": (
        lambda index: replace(index.vectors, effort="2"),  # type: ignore[arg-type]
        "effort must be a number above 0, got '2'",
    ),
    "a text as top_k of both": (
        lambda index: HybridSearch(index).search("sky", top_k="4"),  # type: ignore[arg-type]
        "top_k must be a positive integer, got '4'",
    ),
    "None as a document": (
        lambda index: index.add([None]),  # type: ignore[list-item]
        r"document 0 must be a text, or an array of its vectors, got None \(NoneType\)",
    ),
    "bytes as a document": (
        lambda index: index.upsert(["fine", b"abc"], ids=["r", "s"]),  # type: ignore[list-item]
        r"document 1 must be a text, or an array of its vectors, got b'abc' \(bytes\)",
    ),
    "a number as a document": (
        lambda index: FastLaneIndex.build(WordEncoder(), ["fine", 7]),  # type: ignore[list-item]
        r"document 1 must be a text, or an array of its vectors, got 7 \(int\)",
    ),
    "hybrid search of a folder": (
        lambda index: HybridSearch("folder"),  # type: ignore[arg-type]
        "index must be a FastLaneIndex, got 'folder'",
    ),
    "one mapping as metadata": (
        lambda index: index.add(["sky"], metadata={"year": 2024}),  # type: ignore[arg-type]
        "metadata must be several, in a list, got a dict",
    ),
    "a table as metadata": (
        lambda index: index.add(["sky"], metadata=pandas.DataFrame({"year": [1]})),
        "metadata of document 0 must be a mapping of fields to values, got 'year'",
    ),
    "vectors of several lengths": (
        lambda index: index.add([[[1.0, 2.0], [1.0]]], ids=["x"]),
        "document 'x' must be vectors of one length, of real numbers: ",
    ),
    "complex vectors": (
        lambda index: FastLaneIndex.from_embeddings([np.ones((2, 2), dtype=complex)]),
        "document 0 must be vectors of one length, of real numbers: got complex ones",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_an_error_names_the_argument_and_what_came(case: str) -> None:
    index = build()
    call, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        call(index)
    assert index.ids == IDS


def test_hits_become_json() -> None:
    index = build()
    [hit] = index.search("red", top_k=1)
    assert json.loads(json.dumps(hit.to_dict())) == {
        "id": "r",
        "score": 1.0,
        "text": "red car",
        "metadata": {"year": 2000, "draft": False},
        "span": None,
        "matches": [{"query_position": 1, "document_position": 1, "similarity": 1.0}],
    }
    pytest.importorskip("bm25s")
    [fused] = HybridSearch(index).search("red", top_k=1)[0]
    assert json.loads(json.dumps(fused.to_dict())) == {
        "id": "r",
        "score": 2 / 61,
        "text": "red car",
        "bm25_rank": 1,
        "hit": hit.to_dict(),
    }
