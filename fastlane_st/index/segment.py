"""A segment: documents that came into an index together, and their token vectors. It never changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..modeling.search_fastlane import Id, Metadata, Views
from .vectors.settings import IntArray
from .vectors.store import StoreBuilder, VectorStore

BoolArray: TypeAlias = npt.NDArray[np.bool_]


class Document(NamedTuple):
    """One document, as it goes into a segment.

    Attributes:
        id: The user's own; 1 and "1" are two ids.
        views: Its token vectors and their positions.
        text: To be given back with hits.
        metadata: To filter by: a JSON scalar for each field.
        place: Where it stands among the documents of the index, which decides between equal scores.
    """

    id: Id
    views: Views
    text: str | None
    metadata: Metadata
    place: int


@dataclass(frozen=True, eq=False)
class Segment:
    """Documents and their vectors; document `i` owns the vectors `offsets[i]` to `offsets[i + 1] - 1`.

    Attributes:
        vectors: Every token vector, document after document.
        offsets: (num_documents + 1,) int64, from 0 to the number of vectors.
        positions: (num_vectors,) int32: each vector's token position in its document.
        ids: Of the documents.
        texts: Of the documents.
        metadata: Of the documents.
        places: (num_documents,) int64, of the documents.
        known_longest: The length of the longest vector, if it is known.
    """

    vectors: VectorStore
    offsets: IntArray
    positions: npt.NDArray[np.int32]
    ids: list[Id]
    texts: list[str | None]
    metadata: list[Metadata]
    places: IntArray
    known_longest: float | None = None
    _columns: dict[str, Column] = field(default_factory=dict, repr=False)

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
        """Whether the parts, read from files, fit together."""
        size = len(self.ids)
        return (
            self.vectors.is_by_inner_product
            and self.offsets.shape == (size + 1,)
            and self.offsets[0] == 0
            and self.offsets[-1] == len(self.vectors)
            and bool((self.counts >= 0).all())
            and self.positions.shape == (len(self.vectors),)
            and self.places.shape == (size,)
            and len(set(self.ids)) == size
        )

    def column(self, name: str) -> Column:
        """The values of one metadata field; read from the documents at the first call."""
        found = self._columns.get(name)
        if found is None:
            found = self._columns[name] = Column.of(
                [one.get(name, ABSENT) for one in self.metadata]
            )
        return found

    def documents(self, is_live: BoolArray | None = None) -> Iterable[Document]:
        """The documents, or those that `is_live`, (num_documents,), marks."""
        numbers = range(len(self.ids)) if is_live is None else np.flatnonzero(is_live).tolist()
        return map(self.document, numbers)

    def document(self, number: int) -> Document:
        """One document by its number."""
        rows = slice(self.offsets[number], self.offsets[number + 1])
        return Document(
            self.ids[number],
            Views(self.vectors.rows(rows), self.positions[rows]),
            self.texts[number],
            self.metadata[number],
            int(self.places[number]),
        )


def expanded(firsts: IntArray, counts: IntArray) -> IntArray:
    """Runs of numbers, one after another: `counts[i]` of them from `firsts[i]` on."""
    numbers: IntArray = np.repeat(firsts - (np.cumsum(counts) - counts), counts)
    return numbers + np.arange(len(numbers))


ABSENT: Any = object()
"""In place of the value of a field that a document doesn't have."""


class Column(NamedTuple):
    """One metadata field of a segment's documents.

    Attributes:
        values: Those that occur; 1, 1.0 and True are kept apart.
        codes: (num_documents,) int32: which of them each document has, -1 for none.
    """

    values: list[Any]
    codes: npt.NDArray[np.int32]

    @classmethod
    def of(cls, values: Sequence[Any]) -> Column:
        """The column of these values."""
        numbers: dict[tuple[type, Any], int] = {}
        codes = np.full(len(values), -1, dtype=np.int32)
        for place, value in enumerate(values):
            if value is not ABSENT:
                codes[place] = numbers.setdefault((type(value), value), len(numbers))
        return cls([value for _, value in numbers], codes)


def collect_segment(documents: Iterable[Document], template: VectorStore | None = None) -> Segment:
    """Takes in one document after another.

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
    ids: list[Id] = []
    texts: list[str | None] = []
    metadata: list[Metadata] = []
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
        ids.append(document.id)
        texts.append(document.text)
        metadata.append(document.metadata)
    assert builder is not None
    assert ids
    return Segment(
        builder.finished(),
        np.array(offsets, dtype=np.int64),
        np.concatenate(positions),
        ids,
        texts,
        metadata,
        np.array(places, dtype=np.int64),
    )
