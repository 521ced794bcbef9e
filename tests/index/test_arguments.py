"""What callers give an index: collections of every kind, by place; and what can't be read as one."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict, UserList, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from fastlane_st import FastLaneIndex
from fastlane_st.index.hybrid import HybridSearch
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
        with pytest.raises(ValueError, match=r"documents must be several texts.*, got (one|a) "):
            insert()
    assert texts_of(index) == TEXTS


@pytest.mark.parametrize("value", [5, None, 2.5])
def test_what_is_no_collection_is_named(value: Any) -> None:
    for insert in (
        lambda: FastLaneIndex.build(WordEncoder(), value),
        lambda: FastLaneIndex.from_embeddings(value),
        lambda: build().add(value),
    ):
        with pytest.raises(
            ValueError, match=f"documents must be several texts or arrays, got {value}"
        ):
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
