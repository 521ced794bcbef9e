"""What an index holds: segments, and which of their documents are live."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..modeling.search_fastlane import Id
from .documents import StoredDocument
from .merging import merge_segments
from .segment import BoolArray, Document, Segment
from .vectors.store import VectorStore

LARGEST_MERGED = 2 * 2**30
"""Bytes of vectors that a merged segment may have: a merge holds all of them in memory."""


@dataclass(frozen=True, eq=False)
class Part:
    """A segment and which of its documents are live: neither deleted nor replaced."""

    segment: Segment
    is_live: BoolArray

    @classmethod
    def whole(cls, segment: Segment) -> Part:
        """A segment of which every document is live."""
        return cls(segment, np.ones(len(segment), dtype=bool))

    @cached_property
    def num_vectors(self) -> int:
        """How many vectors the live documents have together."""
        return int(self.segment.counts[self.is_live].sum())

    @cached_property
    def num_documents(self) -> int:
        """How many documents are live."""
        return int(np.count_nonzero(self.is_live))

    def numbers(self) -> list[int]:
        """The live documents' numbers in their segment."""
        found: list[int] = np.flatnonzero(self.is_live).tolist()
        return found

    def documents(self) -> Iterator[Document]:
        """The live documents with their vectors."""
        return self.segment.read(self.numbers())

    def stored(self) -> list[StoredDocument]:
        """The live documents without their vectors."""
        return self.segment.documents.read(self.numbers())

    def without(self, numbers: Sequence[int]) -> Part:
        """The part with some of the segment's documents no longer live."""
        is_live = self.is_live.copy()
        is_live[numbers] = False
        return replace(self, is_live=is_live)


class IndexContents:
    """The documents of an index. Changes exclude one another; a search takes `parts` as they are.

    A change makes new parts and replaces the old ones in one assignment, so that a search that has
    begun doesn't see it. Small parts are merged into the ones before them, as in a log-structured
    merge tree (LSM): a document is copied about log N times.

    Args:
        template: The empty store that says how segments hold their vectors.
        parts: The documents, without an id twice.
        next_place: The place of the next new document; above all others if not given.
        next_id: The next id for documents that are given none; above all others if not given.

    Attributes:
        parts: The live documents; a tuple that is replaced, never changed.
    """

    def __init__(
        self,
        template: VectorStore,
        parts: Sequence[Part],
        next_place: int | None = None,
        next_id: int | None = None,
    ) -> None:
        self.template = template
        self._largest = LARGEST_MERGED // template.bytes_of_vector
        self.parts = tuple(parts)
        self.lock = threading.RLock()
        if next_place is None:
            last = (int(part.segment.places.max(initial=-1)) for part in self.parts)
            next_place = max(last, default=-1) + 1
        self.next_place = next_place
        if next_id is None:
            ids = (stored.id for part in self.parts for stored in part.stored())
            next_id = max((id for id in ids if isinstance(id, int)), default=-1) + 1
        self.next_id = next_id

    def __len__(self) -> int:
        return sum(part.num_documents for part in self.parts)

    def locate(self, ids: Collection[Id]) -> dict[Id, tuple[Segment, int]]:
        """The segment of each live document with one of these ids, and its number there."""
        return {
            id: (part.segment, number)
            for part in self.parts
            for id, number in part.segment.documents.find(ids).items()
            if part.is_live[number]
        }

    def ids(self) -> list[Id]:
        """Ids of the live documents, by place."""
        found = [
            (place, stored.id)
            for part in self.parts
            for place, stored in zip(
                part.segment.places[part.is_live].tolist(), part.stored(), strict=True
            )
        ]
        return [id for _, id in sorted(found, key=lambda pair: pair[0])]

    def only(self, ids: Iterable[Id]) -> tuple[Part, ...]:
        """The parts with only these documents live; ids that aren't there count for nothing."""
        with self.lock:
            parts, found = self.parts, self.locate(list(ids)).values()
        masks = {part.segment: np.zeros_like(part.is_live) for part in parts}
        for segment, number in found:
            masks[segment][number] = True
        return tuple(replace(part, is_live=masks[part.segment]) for part in parts)

    def reserve_ids(self, count: int) -> list[Id]:
        """Integers above all that were ids so far, which no one else is given."""
        with self.lock:
            first, self.next_id = self.next_id, self.next_id + count
        return list(range(first, first + count))

    def check_absent(self, ids: Iterable[Id]) -> None:
        """Raises a ValueError if a document has one of these ids."""
        wanted = list(ids)
        found = self.locate(wanted)
        there = [id for id in wanted if id in found]
        if there:
            raise ValueError(
                f"{len(there)} of the ids are there already, the first {there[0]!r}: update or "
                "upsert replaces documents"
            )

    def check_present(self, ids: Iterable[Id]) -> None:
        """Raises a ValueError unless there are documents with all of these ids."""
        wanted = list(ids)
        found = self.locate(wanted)
        absent = [id for id in wanted if id not in found]
        if absent:
            some = f"{len(absent)} of the ids, the first {absent[0]!r}"
            which = some if len(absent) > 1 else f"the id {absent[0]!r}"
            raise ValueError(f"no document has {which}: index.ids lists those there are")

    def insert(self, segment: Segment, check: Callable[[list[Id]], None]) -> None:
        """Adds documents; one whose id is there already replaces the other, in its place.

        Args:
            segment: The documents.
            check: Called with their ids, with no other change in between; may raise.
        """
        with self.lock:
            ids = [stored.id for stored in segment.documents.read(range(len(segment)))]
            check(ids)
            old = self.locate(ids)
            next_place, places = self.next_place, []
            for id in ids:
                known = old.get(id)
                places.append(next_place if known is None else int(known[0].places[known[1]]))
                next_place += known is None
            added = replace(segment, places=np.array(places, dtype=np.int64))
            self._take([*self._parts_without(old), Part.whole(added)])
            self.next_place = next_place
            taken = max((id for id in ids if isinstance(id, int)), default=-1)
            self.next_id = max(self.next_id, taken + 1)

    def remove(self, ids: Sequence[Id]) -> None:
        """Deletes the documents with these ids; a ValueError if one isn't there."""
        with self.lock:
            self.check_present(ids)
            self._take(self._parts_without(self.locate(ids)))

    def compact(self) -> None:
        """Merges all parts into one, without documents that aren't live."""
        with self.lock:
            if len(self.parts) > 1 or not all(part.is_live.all() for part in self.parts):
                self._take([self._merge(self.parts)])

    def _parts_without(self, located: Mapping[Id, tuple[Segment, int]]) -> list[Part]:
        """The parts with these documents marked as not live."""
        removed: dict[Segment, list[int]] = {}
        for segment, number in located.values():
            removed.setdefault(segment, []).append(number)
        return [
            part.without(removed[part.segment]) if part.segment in removed else part
            for part in self.parts
        ]

    def _take(self, parts: Iterable[Part]) -> None:
        """Replaces the parts, after merging those that break the LSM invariant.

        Each part has more than twice the live vectors of the next unless both together exceed
        `LARGEST_MERGED`, and at least half of its vectors are live. An error changes nothing.
        """
        kept: list[Part] = []
        for part in parts:
            if not part.num_documents:
                continue
            if 2 * part.num_vectors < len(part.segment.vectors):
                part = self._merge([part])
            kept.append(part)
            while len(kept) > 1 and self._belong_together(*kept[-2:]):
                kept[-2:] = [self._merge(kept[-2:])]
        self.parts = tuple(kept)

    def _belong_together(self, large: Part, small: Part) -> bool:
        """Whether two neighbours break the LSM invariant."""
        both = large.num_vectors + small.num_vectors
        return large.num_vectors <= 2 * small.num_vectors and both <= self._largest

    def _merge(self, parts: Sequence[Part]) -> Part:
        """Merges the live documents of several parts, in the order of their places."""
        chosen = [(part.segment, np.flatnonzero(part.is_live)) for part in parts]
        return Part.whole(merge_segments(chosen, self.template))
