"""A segment: documents that came into an index together, and their token vectors. It never changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from .views_fastlane import Views

Id: TypeAlias = str | int
Metadata: TypeAlias = Mapping[str, str | int | float | bool | None]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]


class FlatVectors(Protocol):
    """What is used of `faiss.IndexFlatIP`: float32 vectors of length `d`, by inner product."""

    ntotal: int
    d: int
    metric_type: int

    def search(self, x: FloatArray, k: int) -> tuple[FloatArray, IntArray]:
        """Similarities and numbers, both `(len(x), k)`, of the `k` best vectors."""

    def add(self, x: FloatArray) -> None:
        """Appends vectors `(n, d)`."""

    def get_xb(self) -> object:
        """A pointer to the vectors."""


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
    """

    vectors: FlatVectors
    offsets: IntArray
    positions: npt.NDArray[np.int32]
    ids: list[Id]
    texts: list[str | None]
    metadata: list[Metadata]
    places: IntArray
    _columns: dict[str, Column] = field(default_factory=dict, repr=False)

    @property
    def stored(self) -> FloatArray:
        """All vectors `(num_vectors, dim)`: FAISS's own memory, not a copy."""
        flat = self.vectors
        if flat.ntotal == 0:
            return np.empty((0, flat.d), dtype=np.float32)
        memory: FloatArray = import_faiss().rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d)
        return memory.reshape(flat.ntotal, flat.d)

    @cached_property
    def longest(self) -> float:
        """The length of the longest vector."""
        squares = np.einsum("nd,nd->n", self.stored, self.stored, dtype=np.float64)  # no copy
        return float(np.sqrt(squares.max(initial=0.0)))

    @property
    def counts(self) -> IntArray:
        """(num_documents,) int64: how many vectors each document has."""
        return np.diff(self.offsets)

    @property
    def is_consistent(self) -> bool:
        """Whether the parts, read from files, fit together."""
        size = len(self.ids)
        return (
            self.vectors.metric_type == import_faiss().METRIC_INNER_PRODUCT
            and self.offsets.shape == (size + 1,)
            and self.offsets[0] == 0
            and self.offsets[-1] == self.vectors.ntotal
            and bool((self.counts >= 0).all())
            and self.positions.shape == (self.vectors.ntotal,)
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
        for number in numbers:
            rows = slice(self.offsets[number], self.offsets[number + 1])
            yield Document(
                self.ids[number],
                Views(self.stored[rows], self.positions[rows]),
                self.texts[number],
                self.metadata[number],
                int(self.places[number]),
            )


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


def collect_segment(documents: Iterable[Document], dim: int | None = None) -> Segment:
    """Takes in one document after another, all of `dim` dimensions, or of the first one's.

    Raises:
        ValueError: Dimensions differ.
    """
    vectors: FlatVectors | None = None
    whose = "the index has" if dim is not None else "the first document has"
    positions: list[npt.NDArray[np.int32]] = []
    offsets, places = [0], []
    ids: list[Id] = []
    texts: list[str | None] = []
    metadata: list[Metadata] = []
    for document in documents:
        rows = document.views.vectors
        dim = rows.shape[1] if dim is None else dim
        if rows.shape[1] != dim:
            raise ValueError(
                f"document {document.id!r} has {rows.shape[1]}-dimensional vectors, {whose} "
                f"{dim}-dimensional ones: all must be alike"
            )
        if vectors is None:
            vectors = import_faiss().IndexFlatIP(dim)
        vectors.add(rows)
        positions.append(document.views.positions)
        offsets.append(offsets[-1] + len(rows))
        places.append(document.place)
        ids.append(document.id)
        texts.append(document.text)
        metadata.append(document.metadata)
    assert vectors is not None, "a segment has documents"
    return Segment(
        vectors,
        np.array(offsets, dtype=np.int64),
        np.concatenate(positions),
        ids,
        texts,
        metadata,
        np.array(places, dtype=np.int64),
    )


def import_faiss() -> ModuleType:
    """The module `faiss`, asked for only here because a checkpoint is of use without it."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            'an index needs FAISS: pip install "fastlane-st[cpu]", or "fastlane-st[gpu]"'
        ) from error
    return faiss
