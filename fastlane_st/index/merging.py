"""Merging of segments: stored vectors and codes are copied, and nothing is clustered again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .segment import Segment, expanded
from .vectors.settings import IntArray
from .vectors.store import VectorStore


def merge_segments(chosen: Sequence[tuple[Segment, IntArray]], template: VectorStore) -> Segment:
    """One segment of documents of several, in the order of their places.

    Args:
        chosen: Segments, each with the numbers of some of its documents, at least one of all.
        template: The empty store that says how the index holds vectors.
    """
    segments = [segment for segment, _ in chosen]
    owners = np.repeat(np.arange(len(chosen)), [len(numbers) for _, numbers in chosen])
    numbers = np.concatenate([numbers for _, numbers in chosen])
    places = np.concatenate([segment.places[numbers] for segment, numbers in chosen])
    order = np.argsort(places)
    owners, numbers, places = owners[order], numbers[order], places[order]
    counts = np.concatenate([segment.counts[numbers] for segment, numbers in chosen])[order]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    positions = np.empty(offsets[-1], dtype=np.int32)
    sources = []
    for owner, segment in enumerate(segments):
        is_here = owners == owner
        old = expanded(segment.offsets[numbers[is_here]], counts[is_here])
        new = expanded(offsets[:-1][is_here], counts[is_here])
        positions[new] = segment.positions[old]
        sources.append((segment.vectors, old, new))
    documents = list(zip(owners.tolist(), numbers.tolist(), strict=True))
    return Segment(
        template.merged(sources),
        offsets,
        positions,
        [segments[owner].ids[number] for owner, number in documents],
        [segments[owner].texts[number] for owner, number in documents],
        [segments[owner].metadata[number] for owner, number in documents],
        places,
    )
