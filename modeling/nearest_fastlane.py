"""The vectors nearest to a view, over several segments as if they were one index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .gpu_fastlane import MOST_FOUND, GpuVectors
from .segment_fastlane import Segment
from .vector_index_fastlane import (
    FloatArray,
    IntArray,
    VectorSettings,
    clusters_of,
    is_clustered,
    search_clusters,
    with_length,
)


class Nearest(NamedTuple):
    """Vectors found for each of V views.

    Attributes:
        similarities: (V, n) float32.
        segments: (V, n) int64: the segment of each, by its place among those that were searched.
        rows: (V, n) int64: its number there; -1 for none.
    """

    similarities: FloatArray
    segments: IntArray
    rows: IntArray

    @classmethod
    def in_segment(cls, similarities: FloatArray, rows: IntArray, segment: int) -> Nearest:
        """What FAISS found in one segment."""
        return cls(similarities, np.full(rows.shape, segment), rows)

    @classmethod
    def joined(cls, parts: Sequence[Nearest]) -> Nearest:
        """What was found in several segments, in no order."""
        similarities, segments, rows = zip(*parts, strict=True)
        return cls(
            np.concatenate(similarities, axis=1),
            np.concatenate(segments, axis=1),
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

    def _taken(self, places: IntArray) -> Nearest:
        return Nearest(
            np.take_along_axis(self.similarities, places, axis=1),
            np.take_along_axis(self.segments, places, axis=1),
            np.take_along_axis(self.rows, places, axis=1),
        )


def nearest_vectors(
    segments: Sequence[Segment],
    settings: VectorSettings,
    views: FloatArray,
    count: int,
    reach: float = 1.0,
    gpu: GpuVectors | None = None,
) -> Nearest:
    """For each view the `count` best of all vectors within reach, best first; fewer if these are all.

    Segments with clusters have the same ones, so that these are chosen once, and codes of all segments are
    compared before vectors as they are stored. What a search costs depends on the vectors,
    and hardly on how many segments they are in.

    Args:
        segments: At least one.
        settings: How far to look.
        views: (V, dim).
        count: At least 1.
        reach: Look so many times as far as `settings.effort` says.
        gpu: Where FAISS looks, if not on the CPU.
    """
    found, clustered = [], []
    for number, segment in enumerate(segments):
        if gpu is not None and count <= MOST_FOUND:
            near = gpu.search(segment, settings, views, count, reach)
        elif is_clustered(segment.vectors):
            clustered.append(number)
            continue
        else:
            near = settings.search(
                segment.vectors, views, min(count, segment.vectors.ntotal), reach
            )
        found.append(Nearest.in_segment(*near, number))
    if clustered:
        coded = _nearest_codes(segments, clustered, settings, views, count, reach)
        found.append(_with_similarities(coded, segments, views))
    return Nearest.joined(found).best(count).ordered()


def looks_everywhere(
    segments: Sequence[Segment], settings: VectorSettings, count: int, reach: float
) -> bool:
    """Whether `nearest_vectors` can find no more by a larger reach."""
    clustered = [segment for segment in segments if is_clustered(segment.vectors)]
    total = sum(segment.vectors.ntotal for segment in clustered)
    return settings.num_compared(total, count) >= total and all(
        settings.looks_everywhere(clusters_of(segment.vectors), reach) for segment in segments
    )


def _nearest_codes(
    segments: Sequence[Segment],
    numbers: Sequence[int],
    settings: VectorSettings,
    views: FloatArray,
    count: int,
    reach: float,
) -> Nearest:
    """Of the segments with these numbers what is to be compared as it is stored, by the codes."""
    clusters = [clusters_of(segments[number].vectors) for number in numbers]
    total = sum(index.ntotal for index in clusters)
    compared = settings.num_compared(total, count)
    scaled, _ = with_length(views, segments[numbers[0]].view_length)
    chosen = settings.nearest_clusters(clusters[0], scaled, reach)
    best: list[Nearest] = []
    for number, index in zip(numbers, clusters, strict=True):
        near = search_clusters(index, views, min(compared, index.ntotal), *chosen)
        best = [Nearest.joined([*best, Nearest.in_segment(*near, number)]).best(compared)]
    return best[0]


def _with_similarities(coded: Nearest, segments: Sequence[Segment], views: FloatArray) -> Nearest:
    """The same with the similarities of the vectors as they are stored."""
    similarities = np.full(coded.rows.shape, -np.inf, dtype=np.float32)
    is_there = coded.rows >= 0
    for number in np.unique(coded.segments).tolist():
        is_here = is_there & (coded.segments == number)
        for place, view in enumerate(views):
            rows = coded.rows[place, is_here[place]]
            similarities[place, is_here[place]] = segments[number].rows(rows) @ view
    return coded._replace(similarities=similarities)
