"""FastLaneIndex equals brute-force MaxSim, with many ties and every cut of the list."""

from __future__ import annotations

import tempfile

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sentence_transformers.util import maxsim

from fastlane_st.index.index import FastLaneIndex
from fastlane_st.modeling.search_fastlane import Hit

Matrix = npt.NDArray[np.float32]


def matrices(dim: int, min_rows: int, max_rows: int) -> st.SearchStrategy[Matrix]:
    """Arrays of eighths between -1 and 1: their sums are exact, and equal scores are common."""
    shape = st.tuples(st.integers(min_rows, max_rows), st.just(dim))
    eighths = st.integers(-8, 8).map(lambda number: number / 8)
    return hnp.arrays(np.float32, shape, elements=eighths, fill=st.sampled_from([0.0, 1.0]))


@st.composite
def collections(draw: st.DrawFn, max_views: int) -> tuple[list[Matrix], list[Matrix]]:
    dim = draw(st.integers(1, 3))
    few = draw(st.lists(matrices(dim, 1, 6), min_size=1, max_size=12))
    # Copies make ties of whole documents; a long one can fill the list of vectors.
    documents = draw(st.lists(st.sampled_from(few), max_size=60)) + few
    if draw(st.booleans()):
        place = draw(st.integers(0, len(documents)))
        documents.insert(place, np.repeat(draw(st.sampled_from(few)), 50, axis=0))
    queries = draw(st.lists(matrices(dim, 1, max_views), min_size=1, max_size=4))
    return queries, documents


def brute_force(query: Matrix, documents: list[Matrix], top_k: int) -> list[tuple[int, float]]:
    """Every product in a loop, a document without vectors left out, equal scores in order."""
    scored = [
        (number, float(sum(max(float(view @ vector) for vector in document) for view in query)))
        for number, document in enumerate(documents)
        if len(document)
    ]
    return sorted(scored, key=lambda pair: -pair[1])[:top_k]


def pairs(hits: list[Hit]) -> list[tuple[int, float]]:
    return [(int(hit.id), hit.score) for hit in hits]


@given(collections(max_views=1), st.integers(1, 80))
def test_one_route_is_maxsim_in_scores_and_order(
    collection: tuple[list[Matrix], list[Matrix]], top_k: int
) -> None:
    queries, documents = collection
    expected = maxsim(queries, documents)
    order = torch.argsort(-expected, dim=1, stable=True)[:, :top_k]
    found = FastLaneIndex.from_embeddings(documents).search(queries, top_k)
    for hits, row, best in zip(found, expected, order, strict=True):
        assert pairs(hits) == list(zip(best.tolist(), row[best].tolist(), strict=True))


@given(collections(max_views=4), st.integers(1, 80))
def test_several_routes_with_every_document_a_candidate_are_brute_force(
    collection: tuple[list[Matrix], list[Matrix]], top_k: int
) -> None:
    queries, documents = collection
    index = FastLaneIndex.from_embeddings(documents)
    found = index.search(queries, top_k, candidates=max(top_k, len(index)), batch_size=3)
    for query, hits in zip(queries, found, strict=True):
        assert pairs(hits) == brute_force(query, documents, top_k)


@given(collections(max_views=4), st.integers(1, 10), st.integers(0, 10))
def test_few_candidates_still_give_exact_scores_and_each_routes_best(
    collection: tuple[list[Matrix], list[Matrix]], top_k: int, more: int
) -> None:
    queries, documents = collection
    found = FastLaneIndex.from_embeddings(documents).search(queries, top_k, candidates=top_k + more)
    for query, hits in zip(queries, found, strict=True):
        everything = brute_force(query, documents, len(documents))
        assert set(pairs(hits)) <= set(everything)
        assert pairs(hits) == sorted(pairs(hits), key=lambda pair: (-pair[1], pair[0]))
        proposed = {
            number
            for view in query
            for number, _ in brute_force(view[None], documents, top_k + more)
        }
        best_proposed = [pair for pair in everything if pair[0] in proposed][:top_k]
        # FAISS may propose further documents that tie with the last; they can only do better.
        assert len(hits) == min(top_k, len(documents))
        assert all(h[1] >= p[1] for h, p in zip(pairs(hits), best_proposed, strict=True))


@given(collections(max_views=3))
def test_matches_name_the_first_best_vector_and_add_up_to_the_score(
    collection: tuple[list[Matrix], list[Matrix]],
) -> None:
    queries, documents = collection
    for query, hits in zip(
        queries, FastLaneIndex.from_embeddings(documents).search(queries), strict=True
    ):
        for hit in hits:
            products = query @ documents[int(hit.id)].T
            assert [match.query_position for match in hit.matches] == list(range(len(query)))
            assert [m.document_position for m in hit.matches] == products.argmax(axis=1).tolist()
            assert sum(match.similarity for match in hit.matches) == hit.score


@given(st.lists(matrices(2, 0, 3), min_size=1, max_size=20), matrices(2, 1, 3), st.integers(1, 25))
def test_documents_without_vectors_are_never_found(
    documents: list[Matrix], query: Matrix, top_k: int
) -> None:
    hits = FastLaneIndex.from_embeddings(documents).search([query], top_k)[0]
    assert pairs(hits) == brute_force(query, documents, top_k)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=30)
@given(st.data())
def test_a_saved_index_loads_as_it_was(data: st.DataObject) -> None:
    documents = data.draw(st.lists(matrices(2, 0, 3), min_size=1, max_size=6))
    size = {"min_size": len(documents), "max_size": len(documents)}
    index = FastLaneIndex.from_embeddings(
        documents,
        ids=data.draw(st.lists(st.integers() | st.text(), unique=True, **size)),
        positions=[
            data.draw(st.lists(st.integers(0, 511), min_size=len(one), max_size=len(one)))
            for one in documents
        ],
        texts=data.draw(st.none() | st.lists(st.text(), **size)),
    )
    index.metadata = data.draw(st.dictionaries(st.text(), json_values, max_size=3))
    with tempfile.TemporaryDirectory() as folder:
        index.save(folder)
        loaded = FastLaneIndex.load(folder)
    queries = [data.draw(matrices(2, 1, 3)) for _ in range(2)]
    assert loaded.search(queries) == index.search(queries)
    assert loaded.ids == index.ids
    assert [type(id) for id in loaded.ids] == [type(id) for id in index.ids]
    assert [loaded.text(id) for id in loaded.ids] == [index.text(id) for id in index.ids]
    assert loaded.metadata == index.metadata


@given(st.lists(st.integers(0, 3) | st.sampled_from("0123"), min_size=2, max_size=6))
def test_ids_are_taken_exactly_if_all_differ(ids: list[int | str]) -> None:
    vectors = [[[1.0]]] * len(ids)
    seen: set[int | str] = set()
    duplicate = next((id for id in ids if id in seen or seen.add(id)), None)  # type: ignore[func-returns-value]
    if duplicate is None:
        assert FastLaneIndex.from_embeddings(vectors, ids).ids == ids
    else:
        with pytest.raises(ValueError, match=f"got {duplicate!r} twice"):
            FastLaneIndex.from_embeddings(vectors, ids)
