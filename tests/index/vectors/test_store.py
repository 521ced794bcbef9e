"""Every kind of index and storage agrees with brute force over what it has stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from fastlane_st.index.index import FastLaneIndex
from fastlane_st.index.segment import collect_segment
from fastlane_st.index.vectors import clusters as cluster_module
from fastlane_st.index.vectors import settings, store
from fastlane_st.index.vectors.clusters import nearest_clusters, search_clusters
from fastlane_st.index.vectors.settings import VectorSettings, num_codes, num_lists
from tests.support.vectors import DIM, Matrix, units

STORAGES = ("float32", "float16", "int8", "int4", "pq")
KINDS = [(kind, storage) for kind in ("flat", "ivf") for storage in STORAGES]
# The largest error of a similarity of unit vectors, from what the storage keeps of them.
TOLERANCE = {"float32": 1e-6, "float16": 1e-3, "int8": 0.02, "int4": 0.3, "pq": 0.6}


@pytest.fixture(autouse=True)
def clusters_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a few vectors are held as the kind says."""
    monkeypatch.setattr(store, "PLAIN_UP_TO", 0)


@pytest.fixture(scope="module")
def documents() -> list[Matrix]:
    counts = np.random.default_rng(0).integers(1, 9, size=300)
    return [units(count, seed) for seed, count in enumerate(counts)]


@pytest.fixture(scope="module")
def queries() -> list[Matrix]:
    return [units(1 + seed % 3, 1000 + seed) for seed in range(12)]


def build(documents: list[Matrix], kind: Any, storage: Any) -> FastLaneIndex:
    """An index that looks everywhere, whose neighbours are those of flat search."""
    index = FastLaneIndex.from_embeddings(documents, kind=kind, storage=storage)
    index.vectors = replace(index.vectors, effort=100)
    return index


def stored(index: FastLaneIndex) -> dict[Any, Matrix]:
    return {
        document.id: document.views.vectors
        for part in index._contents.parts
        for document in part.documents()
    }


def brute_force(query: Matrix, documents: dict[Any, Matrix]) -> list[tuple[Any, float]]:
    scored = [(id, float((query @ rows.T).max(axis=1).sum())) for id, rows in documents.items()]
    return sorted(scored, key=lambda pair: -pair[1])


def assert_found(index: FastLaneIndex, queries: list[Matrix], **options: Any) -> None:
    """The ten best of each query are those of brute force over what the index has stored."""
    kept = stored(index)
    for query in queries:
        candidates = {"candidates": len(index)} if len(query) > 1 else {}
        [hits] = index.search([query], **candidates, **options)
        expected = brute_force(query, kept)[:10]
        assert [hit.id for hit in hits] == [id for id, _ in expected]
        assert [hit.score for hit in hits] == pytest.approx(
            [score for _, score in expected], abs=1e-5
        )


@pytest.mark.parametrize(("kind", "storage"), KINDS)
def test_search_finds_the_best_of_what_is_stored(
    documents: list[Matrix], queries: list[Matrix], kind: str, storage: str
) -> None:
    index = build(documents, kind, storage)
    assert (index.vectors.kind, index.vectors.storage) == (kind, storage)
    assert_found(index, queries)
    kept = stored(index)
    for number, rows in enumerate(documents):
        errors = np.abs(kept[number] @ queries[0].T - rows @ queries[0].T)
        assert errors.max() <= TOLERANCE[storage]
    assert_found(FastLaneIndex.from_embeddings(documents), queries)


@pytest.mark.parametrize(("kind", "storage"), KINDS)
def test_a_changed_index_finds_what_one_finds_that_is_saved_and_loaded(
    documents: list[Matrix], queries: list[Matrix], kind: str, storage: str, tmp_path: Path
) -> None:
    index = build(documents[:200], kind, storage)
    for start in range(200, 300, 20):
        index.add(documents[start : start + 20])
    index.delete(range(0, 150, 2))
    index.update(documents[:3], ids=[101, 103, 105])
    assert_found(index, queries)
    index.save(tmp_path)
    for memory_map in (False, True):
        loaded = FastLaneIndex.load(tmp_path, memory_map=memory_map)
        assert loaded.vectors == index.vectors
        assert loaded.search(queries, candidates=300) == index.search(queries, candidates=300)
        loaded.add([documents[7]], ids=["new"])
        assert_found(loaded, queries)
    index.compact()
    assert_found(index, queries)


def test_vectors_outlive_the_index_that_holds_them() -> None:
    rows = units(2000, 3)
    kept = stored(FastLaneIndex.from_embeddings([rows]))[0]  # the index is gone
    for _ in range(20):
        FastLaneIndex.from_embeddings([np.zeros((2000, DIM))])  # takes its memory, if that is free
    np.testing.assert_array_equal(kept, rows)


@pytest.mark.parametrize("storage", ["float32", "float16", "int8", "int4"])
@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_merging_changes_nothing_of_what_is_stored(
    documents: list[Matrix], kind: str, storage: str
) -> None:
    index = build(documents[:100], kind, storage)
    for number in range(100, 300):
        index.add([documents[number]], ids=[number])
    before = stored(index)
    index.compact()
    assert len(index._contents.parts) == 1
    for id, rows in stored(index).items():
        np.testing.assert_array_equal(rows, before[id])


def test_merged_clusters_hold_what_they_would_if_all_were_added(documents: list[Matrix]) -> None:
    index = build(documents[:20], "ivf", "float32")  # two clusters, so that they grow long
    for number in range(20, 300):
        index.add([documents[number]], ids=[number])
        if number % 7 == 0:
            index.delete([number - 10])
    index.compact()
    [part] = index.parts
    anew = collect_segment(part.documents(), index._contents.template)
    merged, added = part.segment.vectors.clusters, anew.vectors.clusters
    assert merged.ntotal == added.ntotal == index.num_vectors
    chosen = nearest_clusters(added, units(5, 0), index.vectors.num_probed(added.nlist))
    for found, expected in zip(
        search_clusters(merged, units(5, 0), added.ntotal, *chosen),
        search_clusters(added, units(5, 0), added.ntotal, *chosen),
        strict=True,
    ):
        np.testing.assert_array_equal(np.sort(found), np.sort(expected))


def test_segments_are_searched_as_one_would_be(
    documents: list[Matrix], queries: list[Matrix], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "COMPARED", 16)
    index = FastLaneIndex.from_embeddings(documents[:150], kind="ivf", num_documents=300)
    index.vectors = replace(index.vectors, effort=0.2)  # a few of the clusters, and of the codes
    for start, end in ((150, 220), (220, 270), (270, 300)):
        index.add(documents[start:end], ids=range(start, end))
    assert len(index.parts) > 1
    before = index.search(queries)
    index.compact()
    assert index.search(queries) == before


def test_among_many_clusters_nearly_every_vector_is_in_its_nearest(
    documents: list[Matrix], queries: list[Matrix], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "MANY_CLUSTERS", 4)
    rows = units(20_000, 7)
    index = build([*documents, rows], "ivf", "float32")
    [part] = index.parts
    clusters = part.segment.vectors.clusters
    assert clusters.nlist == 128
    assert isinstance(faiss.downcast_index(clusters.quantizer), faiss.IndexFlat)
    vectors = np.concatenate([*documents, rows])
    nearest = clusters.quantizer.search(vectors, 1)[1][:, 0]
    held = np.empty(len(vectors), dtype=np.int64)
    for number in range(clusters.nlist):
        size = clusters.invlists.list_size(number)
        held[faiss.rev_swig_ptr(clusters.invlists.get_ids(number), size)] = number
    assert 0.95 < (held == nearest).mean() < 1
    assert_found(index, queries)


def test_a_filter_finds_everything_that_it_lets_through(
    documents: list[Matrix], queries: list[Matrix]
) -> None:
    index = FastLaneIndex.from_embeddings(documents, kind="ivf")
    index.vectors = replace(index.vectors, effort=0.01)  # looks almost nowhere
    for share in (3, 30, 150):
        ids = list(range(0, 300, 300 // share))
        for query in queries:
            [hits] = index.search([query[:1]], top_k=share, ids=ids)
            assert sorted(int(hit.id) for hit in hits) == ids


def test_a_memory_mapped_index_is_not_read_whole_to_know_its_longest_vector(
    documents: list[Matrix], tmp_path: Path
) -> None:
    index = build(documents, "ivf", "int8")
    index.save(tmp_path)
    [part] = FastLaneIndex.load(tmp_path, memory_map=True).parts
    assert part.segment.known_longest == index.parts[0].segment.longest


def test_more_effort_finds_more(documents: list[Matrix]) -> None:
    index = FastLaneIndex.from_embeddings(documents, kind="ivf")
    exact = FastLaneIndex.from_embeddings(documents)
    queries = [units(1, 5000 + seed) for seed in range(40)]
    overlaps = []
    for effort in (0.02, 0.1, 100.0):
        index.vectors = replace(index.vectors, effort=effort)
        overlaps.append(
            sum(
                len({hit.id for hit in found} & {hit.id for hit in wanted})
                for found, wanted in zip(index.search(queries), exact.search(queries), strict=True)
            )
        )
    assert overlaps[0] < overlaps[1] < overlaps[2] == 400


def test_auto_is_flat_for_few_vectors_and_ivf_for_many() -> None:
    assert VectorSettings.choose("auto", "int8", 100_000) == VectorSettings("flat", "int8")
    assert VectorSettings.choose("auto", "int8", 100_001) == VectorSettings("ivf", "int8")
    assert VectorSettings.choose("ivf", "float16", 10) == VectorSettings("ivf", "float16")


@pytest.mark.parametrize(
    ("num_vectors", "lists"), [(0, 1), (77, 1), (1_000, 25), (40_000, 256), (5_000_000, 2048)]
)
def test_lists_grow_with_the_root_of_the_vectors(num_vectors: int, lists: int) -> None:
    assert num_lists(num_vectors) == lists


@pytest.mark.parametrize(("dim", "codes"), [(384, 48), (128, 16), (100, 10), (7, 1), (8, 1)])
def test_product_quantisation_takes_a_byte_for_eight_dimensions_or_a_few_more(
    dim: int, codes: int
) -> None:
    assert num_codes(dim) == codes


@pytest.mark.parametrize(("kind", "storage"), KINDS)
def test_an_index_takes_about_the_bytes_that_are_foretold(
    kind: str, storage: str, tmp_path: Path
) -> None:
    rows = units(4000, 1)
    index = build([rows], kind, storage)
    index.save(tmp_path)
    [vectors] = tmp_path.glob("vectors-*")
    foretold = index.vectors.num_bytes(4000, DIM)
    fixed = sum(
        path.stat().st_size for path in tmp_path.glob("template-*")
    )  # clusters and codebooks
    assert foretold == pytest.approx(vectors.stat().st_size - fixed, rel=0.25, abs=20_000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "tree"}, "kind must be one of flat, ivf, got 'tree'"),
        (
            {"storage": "int2"},
            "storage must be one of float32, float16, int8, int4, pq, got 'int2'",
        ),
        ({"storage": "pq"}, "pq is fitted to at least 256 vectors, there are 5"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FastLaneIndex.from_embeddings([units(5, 0)], **options)


def test_effort_must_be_above_0() -> None:
    with pytest.raises(ValueError, match="effort must be a number above 0, got 0"):
        VectorSettings(effort=0)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "storage"), KINDS)
def test_few_vectors_are_held_plainly_and_stored_alike(
    kind: str,
    storage: str,
    documents: list[Matrix],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    held = build(documents, kind, storage)
    monkeypatch.setattr(store, "PLAIN_UP_TO", 100)
    index = build(documents, kind, storage)
    added = [units(5, 3000 + seed) for seed in range(10)]
    for one in (held, index):
        monkeypatch.setattr(store, "PLAIN_UP_TO", 100 if one is index else 0)
        one.add(added[:4])
        one.add(added[4:])
    [_, *small] = [part.segment.vectors for part in index.parts]
    assert small
    for vectors in small:
        assert not vectors.is_clustered
    for number, views in stored(held).items():
        np.testing.assert_array_equal(views, stored(index)[number])
    index.save(tmp_path)
    index.delete(range(200))  # more than half: what is left is written anew, from plain and others
    loaded = FastLaneIndex.load(tmp_path)
    queries = [view[None] for view in added[0]]
    assert [hits[0].id for hits in index.search(queries)] == [300] * 5
    assert [hits[0].id for hits in loaded.search(queries)] == [300] * 5
