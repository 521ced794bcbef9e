"""The vectors that all engines search: a folder that `vectors.py` writes. Needs numpy alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float16]


class VectorCollection:
    """Documents and queries as vectors, with texts and judgements.

    Attributes:
        folder: Where it is.
        facts: What `vectors.py` says of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts: dict[str, Any] = json.loads((folder / "collection.json").read_text("utf-8"))

    def __len__(self) -> int:
        """The number of documents."""
        return len(self.ids)

    @cached_property
    def ids(self) -> list[str]:
        """The documents' ids."""
        ids: list[str] = json.loads((self.folder / "ids.json").read_text("utf-8"))
        return ids

    @cached_property
    def shards(self) -> list[tuple[Vectors, npt.NDArray[np.int64]]]:
        """The documents' vectors `(n, dim)`, memory-mapped, and how many each document has."""
        return [
            (np.load(path, mmap_mode="r"), np.load(path.with_name(f"counts-{path.name[8:]}")))
            for path in sorted(self.folder.glob("vectors-*.npy"))
        ]

    @property
    def num_vectors(self) -> int:
        """The number of vectors of all documents."""
        return sum(len(vectors) for vectors, _ in self.shards)

    def read(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """All vectors in memory, and each document's first one."""
        dim = self.shards[0][0].shape[1]
        rows = np.empty((self.num_vectors, dim), dtype=np.float32)
        first = 0
        for vectors, _ in self.shards:
            rows[first : first + len(vectors)] = vectors
            first += len(vectors)
        counts = np.concatenate([counts for _, counts in self.shards])
        return rows, np.cumsum(counts) - counts

    def documents(self) -> Iterator[npt.NDArray[np.float32]]:
        """Each document's vectors `(n, dim)`, in the order of the ids."""
        for vectors, counts in self.shards:
            read = np.asarray(vectors, dtype=np.float32)
            yield from np.split(read, np.cumsum(counts)[:-1])

    @cached_property
    def texts(self) -> list[str]:
        """The documents' texts."""
        texts: list[str] = json.loads((self.folder / "texts.json").read_text("utf-8"))
        return texts

    @cached_property
    def queries(self) -> list[dict[str, Any]]:
        """`id`, `text` and `relevant`, the grades of documents by their id."""
        queries: list[dict[str, Any]] = json.loads(
            (self.folder / "queries.json").read_text("utf-8")
        )
        return queries

    @cached_property
    def routed(self) -> npt.NDArray[np.float32]:
        """(queries, dim): the one routed view of each query."""
        routed: Vectors = np.load(self.folder / "queries-routed.npy")
        return routed.astype(np.float32)

    @cached_property
    def full(self) -> list[npt.NDArray[np.float32]]:
        """All views `(n, dim)` of each query."""
        rows = np.load(self.folder / "queries-full.npy").astype(np.float32)
        counts = np.load(self.folder / "queries-counts.npy")
        return np.split(rows, np.cumsum(counts)[:-1])
