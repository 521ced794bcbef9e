"""Merging of segments: what is stored of a vector is copied, and its cluster isn't looked for again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import vector_index_fastlane as vector_index
from .segment_fastlane import Segment, collect_segment, expanded
from .vector_index_fastlane import (
    BLOCK,
    IntArray,
    VectorIndex,
    clusters_of,
    codes_of,
    import_faiss,
    is_clustered,
    plain_index,
    stored_in,
)

GONE = -1
"""The number of a vector that isn't to be in the merged segment."""


def merge_segments(chosen: Sequence[tuple[Segment, IntArray]], empty: VectorIndex) -> Segment:
    """One segment of documents of several, in the order of their places.

    Args:
        chosen: Segments, each with the numbers of some of its documents, at least one of all.
        empty: What holds the vectors of the index's segments, without any.
    """
    segments = [segment for segment, _ in chosen]
    owners = np.repeat(np.arange(len(chosen)), [len(numbers) for _, numbers in chosen])
    numbers = np.concatenate([numbers for _, numbers in chosen])
    places = np.concatenate([segment.places[numbers] for segment, numbers in chosen])
    order = np.argsort(places)
    owners, numbers, places = owners[order], numbers[order], places[order]
    documents = list(zip(owners.tolist(), numbers.tolist(), strict=True))
    if not _can_copy(segments, empty):
        whole = (segments[owner].document(number) for owner, number in documents)
        return collect_segment(whole, empty)
    counts = np.concatenate([segment.counts[numbers] for segment, numbers in chosen])[order]
    offsets = np.concatenate([[0], np.cumsum(counts)])
    positions = np.empty(offsets[-1], dtype=np.int32)
    moves = []
    for owner, segment in enumerate(segments):
        is_here = owners == owner
        old = expanded(segment.offsets[numbers[is_here]], counts[is_here])
        new = expanded(offsets[:-1][is_here], counts[is_here])
        positions[new] = segment.positions[old]
        moves.append(_Move(segment, old, new))
    return Segment(
        _merge_vectors(moves, empty, int(offsets[-1])),
        offsets,
        positions,
        [segments[owner].ids[number] for owner, number in documents],
        [segments[owner].texts[number] for owner, number in documents],
        [segments[owner].metadata[number] for owner, number in documents],
        places,
    )


class _Move(NamedTuple):
    """Vectors of a segment, by their numbers there and in the merged one."""

    segment: Segment
    old: IntArray
    new: IntArray

    def blocks(self) -> Iterator[tuple[IntArray, IntArray]]:
        """The numbers there and in the merged segment, some after others."""
        for first in range(0, len(self.old), BLOCK):
            yield self.old[first : first + BLOCK], self.new[first : first + BLOCK]


def _can_copy(segments: Sequence[Segment], empty: VectorIndex) -> bool:
    """Whether all vectors stand in a row; graphs are made anew, and so are clusters of format 2."""
    is_row = isinstance(empty, import_faiss().IndexFlatCodes) or is_clustered(empty)
    return is_row and all(segment.codes is not None for segment in segments)


def _merge_vectors(moves: Sequence[_Move], empty: VectorIndex, total: int) -> VectorIndex:
    faiss = import_faiss()
    is_plain = total <= vector_index.PLAIN_UP_TO
    merged = plain_index(empty) if is_plain else faiss.clone_index(empty)
    stored: Any = stored_in(merged)
    stored.codes.resize(total * stored.code_size)
    stored.ntotal = merged.ntotal = total
    codes = codes_of(merged)
    assert codes is not None
    for move in moves:
        theirs = move.segment.codes
        assert theirs is not None
        for old, new in move.blocks():
            codes[new] = theirs[old]
    if is_clustered(merged):
        _merge_clusters(moves, clusters_of(merged))
    return merged


def _merge_clusters(moves: Sequence[_Move], clusters: Any) -> None:
    """Fills empty clusters with the codes of all vectors."""
    faiss = import_faiss()
    for move in moves:
        segment = move.segment
        if not is_clustered(segment.vectors):
            for old, new in move.blocks():
                clusters.add_with_ids(segment.rows(old), new)
            continue
        renumbered = np.full(segment.vectors.ntotal, GONE)
        renumbered[move.old] = move.new
        theirs: Any = clusters_of(segment.vectors)
        for number in range(theirs.nlist):
            size = theirs.invlists.list_size(number)
            if size:
                ids = renumbered[faiss.rev_swig_ptr(theirs.invlists.get_ids(number), size)]
                codes = theirs.invlists.get_codes(number)
                _append(faiss.downcast_InvertedLists(clusters.invlists), number, ids, codes)
    clusters.ntotal = clusters.invlists.compute_ntotal()
    clusters.remove_ids(faiss.IDSelectorRange(GONE, GONE + 1))


def _append(lists: Any, number: int, ids: IntArray, codes: Any) -> None:
    """Appends the codes of another list to one.

    FAISS 1.15 (`BlockInvertedLists::add_entries`) writes beyond its memory if the list holds a multiple of
    `block_size` codes and isn't empty. Such a list first gets one that belongs to no vector.
    """
    faiss = import_faiss()
    size = lists.list_size(number)
    if size and size % lists.block_size == 0:
        lists.resize(number, size + 1)
        faiss.rev_swig_ptr(lists.get_ids(number), size + 1)[size] = GONE
    lists.add_entries(number, len(ids), faiss.swig_ptr(ids), codes)
