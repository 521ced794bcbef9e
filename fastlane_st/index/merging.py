"""Merging of segments: stored vectors and codes are copied, and nothing is clustered again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .documents import MemoryDocuments
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
    return Segment(
        template.merged(sources), offsets, positions, _documents(segments, owners, numbers), places
    )


def _documents(segments: Sequence[Segment], owners: IntArray, numbers: IntArray) -> MemoryDocuments:
    """The documents that each `segments[owners[i]]` has as `numbers[i]`."""
    read = [
        iter(segment.documents.read(numbers[owners == owner].tolist()))
        for owner, segment in enumerate(segments)
    ]
    return MemoryDocuments([next(read[owner]) for owner in owners.tolist()])
