"""A segment: documents that were added or merged together, with their vectors. It never changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..modeling.search_fastlane import Id, Metadata, Views
from .documents import Documents, MemoryDocuments, StoredDocument
from .vectors.settings import IntArray
from .vectors.store import StoreBuilder, VectorStore
from .windows import Windows

BoolArray: TypeAlias = npt.NDArray[np.bool_]

BLOCK = 1_000  # documents read at a time


class Document(NamedTuple):
    """One document, as it goes into a segment.

    Attributes:
        id: The user's own; 1 and "1" are two ids.
        views: Its token vectors and their positions.
        text: To be given back with hits.
        metadata: To filter by: a JSON scalar for each field.
        place: Where it stands among the documents of the index, which decides between equal scores.
        windows: Of a long text, see `windows`.
    """

    id: Id
    views: Views
    text: str | None
    metadata: Metadata
    place: int
    windows: Windows = ()


@dataclass(frozen=True, eq=False)
class Segment:
    """Documents and their vectors; document `i` owns the vectors `offsets[i]` to `offsets[i + 1] - 1`.

    Attributes:
        vectors: Every token vector, document after document.
        offsets: (num_documents + 1,) int64, from 0 to the number of vectors.
        positions: (num_vectors,) int32: each vector's token position in its document.
        documents: Ids, texts and metadata.
        places: (num_documents,) int64: where each document stands among those of the index.
        known_longest: The length of the longest vector, if it is known.
        is_mapped: Whether vectors, positions and documents are left in their files.
    """

    vectors: VectorStore
    offsets: IntArray
    positions: npt.NDArray[np.int32]
    documents: Documents
    places: IntArray
    known_longest: float | None = None
    is_mapped: bool = False

    def __len__(self) -> int:
        return len(self.documents)

    @cached_property
    def longest(self) -> float:
        """The Euclidean length of the longest vector."""
        return self.vectors.longest() if self.known_longest is None else self.known_longest

    @property
    def counts(self) -> IntArray:
        """(num_documents,) int64: how many vectors each document has."""
        return np.diff(self.offsets)

    @property
    def is_consistent(self) -> bool:
        """Whether the parts that were read from files agree in their counts."""
        size = len(self)
        return (
            self.vectors.is_by_inner_product
            and self.offsets.shape == (size + 1,)
            and self.offsets[0] == 0
            and self.offsets[-1] == len(self.vectors)
            and bool((self.counts >= 0).all())
            and self.positions.shape == (len(self.vectors),)
            and self.places.shape == (size,)
        )

    def read(self, numbers: Sequence[int]) -> Iterator[Document]:
        """Some documents with their vectors, in the order of `numbers`, a block of them at a time."""
        for first in range(0, len(numbers), BLOCK):
            some = numbers[first : first + BLOCK]
            for number, stored in zip(some, self.documents.read(some), strict=True):
                rows = slice(self.offsets[number], self.offsets[number + 1])
                views = Views(self.vectors.rows(rows), self.positions[rows])
                place = int(self.places[number])
                yield Document(
                    stored.id, views, stored.text, stored.metadata, place, stored.windows
                )


def expanded(firsts: IntArray, counts: IntArray) -> IntArray:
    """Concatenated ranges: `counts[i]` consecutive numbers from `firsts[i]` on."""
    numbers: IntArray = np.repeat(firsts - (np.cumsum(counts) - counts), counts)
    return numbers + np.arange(len(numbers))


def collect_segment(documents: Iterable[Document], template: VectorStore | None = None) -> Segment:
    """Collects documents into a segment.

    Args:
        documents: At least one.
        template: An empty store that says how to hold their vectors; flat in float32 by default.

    Raises:
        ValueError: Dimensions differ.
    """
    builder: StoreBuilder | None = None if template is None else template.builder()
    whose = "the first document has" if template is None else "the index has"
    positions: list[npt.NDArray[np.int32]] = []
    offsets, places = [0], []
    stored: list[StoredDocument] = []
    for document in documents:
        rows = document.views.vectors
        if builder is None:
            builder = VectorStore.flat(rows.shape[1]).builder()
        if rows.shape[1] != builder.dim:
            raise ValueError(
                f"document {document.id!r} has {rows.shape[1]}-dimensional vectors, {whose} "
                f"{builder.dim}-dimensional ones: all must be alike"
            )
        builder.add(rows)
        positions.append(document.views.positions)
        offsets.append(offsets[-1] + len(rows))
        places.append(document.place)
        stored.append(
            StoredDocument(document.id, document.text, document.metadata, document.windows)
        )
    assert builder is not None
    assert stored
    return Segment(
        builder.finished(),
        np.array(offsets, dtype=np.int64),
        np.concatenate(positions),
        MemoryDocuments(stored),
        np.array(places, dtype=np.int64),
    )
