"""The vectors nearest to a view, over several stores as if they were one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...modeling.search_fastlane import faiss_threads, inner_products
from . import clusters
from .gpu import MOST_FOUND, GpuVectors
from .settings import FloatArray, IntArray, VectorSettings
from .store import VectorStore

VIEWS_BY_THREAD = 8  # that a thread of a search is worth


class Nearest(NamedTuple):
    """Vectors found for each of V views.

    Attributes:
        similarities: (V, n) float32.
        stores: (V, n) int64: the store of each, by its place among those that were searched.
        rows: (V, n) int64: its row there; -1 for none.
    """

    similarities: FloatArray
    stores: IntArray
    rows: IntArray

    @classmethod
    def in_store(cls, similarities: FloatArray, rows: IntArray, store: int) -> Nearest:
        """What FAISS found in one store."""
        return cls(similarities, np.full(rows.shape, store), rows)

    @classmethod
    def joined(cls, parts: Sequence[Nearest]) -> Nearest:
        """What was found in several stores, in no order."""
        similarities, stores, rows = zip(*parts, strict=True)
        return cls(
            np.concatenate(similarities, axis=1),
            np.concatenate(stores, axis=1),
            np.concatenate(rows, axis=1),
        )

    def best(self, count: int) -> Nearest:
        """At most `count` for each view, in no order."""
        if self.rows.shape[1] <= count:
            return self
        return self._taken(np.argpartition(self.similarities, -count, axis=1)[:, -count:])

    def ordered(self) -> Nearest:
        """The best first, and -1 last."""
        return self._taken(np.argsort(-self.similarities, axis=1, kind="stable"))

    def _taken(self, columns: IntArray) -> Nearest:
        return Nearest(
            np.take_along_axis(self.similarities, columns, axis=1),
            np.take_along_axis(self.stores, columns, axis=1),
            np.take_along_axis(self.rows, columns, axis=1),
        )


def nearest_vectors(
    stores: Sequence[VectorStore],
    settings: VectorSettings,
    views: FloatArray,
    count: int,
    reach: float = 1.0,
    gpu: GpuVectors | None = None,
) -> Nearest:
    """For each view the `count` best of all vectors within reach, best first; fewer if these are all.

    Clustered stores share their centroids, so that the clusters to probe are chosen once, and the
    codes of all stores are compared before any stored vector. So the cost of a search depends on
    the number of vectors, and hardly on how many stores hold them.

    Args:
        stores: At least one.
        settings: How far to look.
        views: (V, dim).
        count: At least 1.
        reach: Multiplies `settings.effort`.
        gpu: Where FAISS looks, if not on the CPU.
    """
    found, clustered = [], []
    with faiss_threads(len(views) // VIEWS_BY_THREAD):
        for place, store in enumerate(stores):
            if gpu is not None and count <= MOST_FOUND:
                near = gpu.search(store, settings, views, count, reach)
            elif store.is_clustered:
                clustered.append(place)
                continue
            else:
                near = store.search(views, min(count, len(store)))
            found.append(Nearest.in_store(*near, place))
        if clustered:
            coded = _nearest_codes(stores, clustered, settings, views, count, reach)
            found.append(_with_similarities(coded, stores, views))
    return Nearest.joined(found).best(count).ordered()


def looks_everywhere(
    stores: Sequence[VectorStore], settings: VectorSettings, count: int, reach: float
) -> bool:
    """Whether `nearest_vectors` can find no more by a larger reach."""
    clustered = [store for store in stores if store.is_clustered]
    total = sum(map(len, clustered))
    return settings.num_compared(total, count) >= total and all(
        settings.num_probed(store.clusters.nlist, reach) == store.clusters.nlist
        for store in clustered
    )


def _nearest_codes(
    stores: Sequence[VectorStore],
    places: Sequence[int],
    settings: VectorSettings,
    views: FloatArray,
    count: int,
    reach: float,
) -> Nearest:
    """The candidates whose stored vectors are to be compared, by their codes.

    `places` are those of the clustered stores among `stores`.
    """
    total = sum(len(stores[place]) for place in places)
    compared = settings.num_compared(total, count)
    first = stores[places[0]]
    scaled, _ = clusters.rescaled(views, first.view_length)
    num_probed = settings.num_probed(first.clusters.nlist, reach)
    chosen = clusters.nearest_clusters(first.clusters, scaled, num_probed)
    best: list[Nearest] = []
    for place in places:
        store = stores[place]
        near = clusters.search_clusters(store.clusters, views, min(compared, len(store)), *chosen)
        best = [Nearest.joined([*best, Nearest.in_store(*near, place)]).best(compared)]
    return best[0]


def _with_similarities(coded: Nearest, stores: Sequence[VectorStore], views: FloatArray) -> Nearest:
    """The same candidates with the similarities of their stored vectors."""
    similarities = np.full(coded.rows.shape, -np.inf, dtype=np.float32)
    is_there = coded.rows >= 0
    for place in np.unique(coded.stores).tolist():
        is_here = is_there & (coded.stores == place)
        for number, view in enumerate(views):
            rows = coded.rows[number, is_here[number]]
            products = inner_products(stores[place].rows(rows), view[None])
            similarities[number, is_here[number]] = products[:, 0]
    return coded._replace(similarities=similarities)
