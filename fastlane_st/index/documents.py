"""Ids, texts and metadata of a segment's documents, read by number: in memory, or in a file.

`storage.document_file.DocumentFile` is the form on the disk.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ..modeling.search_fastlane import Id, Metadata
from .windows import Windows

ABSENT: Any = object()
"""Stands for the value of a field that a document doesn't have."""


class StoredDocument(NamedTuple):
    """What an index keeps of a document besides its vectors; `windows` are those of a long text."""

    id: Id
    text: str | None
    metadata: Metadata
    windows: Windows = ()


class Column(NamedTuple):
    """One metadata field of a segment's documents.

    Attributes:
        values: The values that occur; 1, 1.0 and True are kept apart.
        codes: (num_documents,) int32: the place in `values` of each document's value, -1 for none.
    """

    values: list[Any]
    codes: npt.NDArray[np.int32]

    @classmethod
    def of(cls, values: Sequence[Any]) -> Column:
        """The column of one value a document, `ABSENT` where it has none."""
        places: dict[tuple[type, Any], int] = {}
        codes = np.full(len(values), -1, dtype=np.int32)
        for number, value in enumerate(values):
            if value is not ABSENT:
                codes[number] = places.setdefault((type(value), value), len(places))
        return cls([value for _, value in places], codes)


class Documents(Protocol):
    """The documents of a segment, numbered from 0; they never change."""

    def __len__(self) -> int: ...

    def read(self, numbers: Sequence[int]) -> list[StoredDocument]:
        """Some documents, in the order of `numbers`; what callers do to them stays theirs."""

    def find(self, ids: Collection[Id]) -> dict[Id, int]:
        """The numbers of those of these ids that are there."""

    def fields(self) -> list[str]:
        """The names of the metadata fields that occur."""

    def column(self, field: str) -> Column:
        """The values of one metadata field."""


class MemoryDocuments:
    """Documents that are not saved yet.

    Args:
        documents: With different ids.
    """

    def __init__(self, documents: Sequence[StoredDocument]) -> None:
        self._documents = documents
        self._columns: dict[str, Column] = {}

    def __len__(self) -> int:
        return len(self._documents)

    def read(self, numbers: Sequence[int]) -> list[StoredDocument]:
        found = (self._documents[number] for number in numbers)
        return [one._replace(metadata=dict(one.metadata)) for one in found]

    def find(self, ids: Collection[Id]) -> dict[Id, int]:
        return {id: self._numbers[id] for id in ids if id in self._numbers}

    def fields(self) -> list[str]:
        return sorted({name for one in self._documents for name in one.metadata})

    def column(self, field: str) -> Column:
        if field not in self._columns:
            values = [one.metadata.get(field, ABSENT) for one in self._documents]
            self._columns[field] = Column.of(values)
        return self._columns[field]

    @cached_property
    def _numbers(self) -> Mapping[Id, int]:
        return {one.id: number for number, one in enumerate(self._documents)}
