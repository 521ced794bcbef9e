"""Clusters of vectors: an inverted file whose lists hold codes of a bit a dimension (FAISS fast scan).

`index` is always a `faiss.IndexIVFPQFastScan`. The segments of one index share its centroids.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ...modeling.search_fastlane import import_faiss
from .settings import FloatArray, IntArray

MANY_CLUSTERS = 1_024  # from so many on, centroids are in clusters of their own
GONE = -1
"""The row of a vector that is not to be in a merged store."""


@contextmanager
def fitting(index: Any, num_clusters: int) -> Iterator[None]:
    """Lets FAISS train clusters by L2, from few vectors if need be, and fast where they are many."""
    faiss = import_faiss()
    index.cp.spherical = False  # see view_length
    centroids = faiss.IndexFlatL2(index.d)
    centroids.this.disown()
    index.quantizer = centroids
    finder = None  # FAISS holds a bare pointer to it
    if num_clusters >= MANY_CLUSTERS:
        finder = centroid_finder(index.d, num_clusters, faiss.METRIC_L2)
        index.cp.update_index = True
    index.clustering_index = finder
    # FAISS only warns, on standard error, of a sample that is small.
    index.cp.min_points_per_centroid = 1
    index.pq.cp.min_points_per_centroid = 1
    yield
    index.clustering_index = None


def centroid_finder(dim: int, count: int, metric: int) -> Any:
    """An empty IVF index for centroids, which finds the nearest one 99 times of 100."""
    faiss = import_faiss()
    finder = faiss.IndexIVFFlat(faiss.IndexFlat(dim, metric), dim, round(count**0.5), metric)
    finder.cp.min_points_per_centroid = 1
    finder.nprobe = 8
    return finder


def assigner_of(index: Any) -> Any:
    """The index that finds the cluster of an added vector: the centroids, or a finder of many."""
    exact = index.quantizer
    if index.nlist < MANY_CLUSTERS:
        return exact
    centroids = exact.reconstruct_n(0, index.nlist)
    finder = centroid_finder(index.d, index.nlist, exact.metric_type)
    finder.train(centroids)
    finder.add(centroids)
    return finder


@contextmanager
def assigning_by(index: Any, assigner: Any) -> Iterator[None]:
    """Lets FAISS ask `assigner` for the cluster of each vector that is added."""
    centroids = index.quantizer
    index.quantizer = assigner
    try:
        yield
    finally:
        index.quantizer = centroids


def view_length(index: Any) -> float:
    """The length that a view needs for its nearest clusters to be those of its best vectors.

    A centroid c is the mean of its vectors, and the shorter the more they differ. For views of
    length s the nearest clusters by L2 are those with the greatest s q·c - |c|²/2, so that a short
    s prefers clusters whose best vectors are far from their mean. Twice the centroids' root mean
    square length was best on 200 queries that are not among those by which searches are timed.
    """
    rows: FloatArray = index.quantizer.reconstruct_n(0, index.nlist)
    return 2 * float(np.sqrt(np.einsum("nd,nd->n", rows, rows).mean())) or 1.0


def rescaled(views: FloatArray, length: float) -> tuple[FloatArray, FloatArray]:
    """Views `(n, dim)` of that length, and the factors `(n, 1)` that undo it; zeros stay zeros."""
    scales = np.linalg.norm(views, axis=1, keepdims=True) / np.float32(length)
    scales[scales == 0] = 1
    return views / scales, scales


def nearest_clusters(index: Any, views: FloatArray, num_probed: int) -> tuple[FloatArray, IntArray]:
    """The clusters to probe for views of `view_length`: L2 distances and numbers, (n, num_probed)."""
    found: tuple[FloatArray, IntArray] = index.quantizer.search(views, num_probed)
    return found


def search_clusters(
    index: Any, views: FloatArray, count: int, distances: FloatArray, clusters: IntArray
) -> tuple[FloatArray, IntArray]:
    """Similarities by code and rows, both `(len(views), count)`, of the vectors found; -1 for none.

    Args:
        index: A store's clusters.
        views: (n, dim).
        count: How many vectors to find for each.
        distances, clusters: What `nearest_clusters` gives.
    """
    faiss = import_faiss()
    views = np.ascontiguousarray(views, dtype=np.float32)
    similarities = np.empty((len(views), count), dtype=np.float32)
    rows = np.empty((len(views), count), dtype=np.int64)
    given = (clusters, distances, similarities, rows)
    # FAISS's `search_preassigned` in Python takes no parameters, and so no number of clusters.
    index.search_preassigned_c(
        len(views),
        faiss.swig_ptr(views),
        count,
        *map(faiss.swig_ptr, given),
        False,
        faiss.SearchParametersIVF(nprobe=clusters.shape[1]),
    )
    return similarities, rows


def copy_lists(source: Any, target: Any, new_rows: IntArray) -> None:
    """Appends the codes of one store's lists to another's; `new_rows` (n,) gives each vector's row
    there, or `GONE`. Call `drop_gone` once all are copied."""
    faiss = import_faiss()
    lists = faiss.downcast_InvertedLists(target.invlists)
    for number in range(source.nlist):
        size = source.invlists.list_size(number)
        if size:
            rows = new_rows[faiss.rev_swig_ptr(source.invlists.get_ids(number), size)]
            _append(lists, number, rows, source.invlists.get_codes(number))


def drop_gone(index: Any) -> None:
    """Removes what was copied with the row `GONE`."""
    faiss = import_faiss()
    index.ntotal = index.invlists.compute_ntotal()
    index.remove_ids(faiss.IDSelectorRange(GONE, GONE + 1))


def _append(lists: Any, number: int, rows: IntArray, codes: Any) -> None:
    """Appends codes to list `number`.

    FAISS 1.15 (`BlockInvertedLists::add_entries`) writes beyond its memory if the list holds a
    multiple of `block_size` codes and isn't empty. Such a list first gets one that belongs to no
    vector.
    """
    faiss = import_faiss()
    size = lists.list_size(number)
    if size and size % lists.block_size == 0:
        lists.resize(number, size + 1)
        faiss.rev_swig_ptr(lists.get_ids(number), size + 1)[size] = GONE
    lists.add_entries(number, len(rows), faiss.swig_ptr(rows), codes)
