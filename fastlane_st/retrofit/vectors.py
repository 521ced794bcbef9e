"""The token vectors of many documents in one file, written piece by piece and mapped into memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

Float16 = npt.NDArray[np.float16]


class TokenVectors:
    """Token vectors in float16, one document after another; what was appended survives a stop.

    Args:
        path: Of the vectors; their numbers stand beside it in a file that ends in `.counts`.
        dim: Dimension D of a vector.
    """

    def __init__(self, path: Path, dim: int) -> None:
        self._path, self._counts_path, self.dim = path, path.with_suffix(".counts"), dim
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self._counts_path.touch()
        self._counts: list[int] = np.fromfile(self._counts_path, dtype=np.int64).tolist()
        with path.open("r+b") as file:  # a stop may have left vectors without their numbers
            file.truncate(sum(self._counts) * self._bytes_of_vector)
        self._read()

    @property
    def _bytes_of_vector(self) -> int:
        return 2 * self.dim

    def __len__(self) -> int:
        return len(self._counts)

    @property
    def num_vectors(self) -> int:
        """Of all documents."""
        return int(self._offsets[-1])

    def append(self, documents: Sequence[npt.NDArray[np.floating]]) -> None:
        """Writes the vectors (T, D) of further documents."""
        counts = [len(vectors) for vectors in documents]
        with self._path.open("ab") as file:
            file.write(np.concatenate(documents).astype(np.float16).tobytes())
        with self._counts_path.open("ab") as file:
            file.write(np.array(counts, dtype=np.int64).tobytes())
        self._counts += counts
        self._read()

    def _read(self) -> None:
        self._offsets = np.concatenate([[0], np.cumsum(self._counts, dtype=np.int64)])
        shape = (int(self._offsets[-1]), self.dim)
        self._vectors: Float16 = (
            np.memmap(self._path, np.float16, "r", shape=shape)
            if shape[0]
            else np.zeros(shape, np.float16)
        )

    def __getitem__(self, number: int) -> Float16:
        """(T, D) float16 of one document."""
        return self._vectors[self._offsets[number] : self._offsets[number + 1]]

    def gather(self, numbers: Iterable[int]) -> tuple[Float16, npt.NDArray[np.int64]]:
        """The vectors of some documents one after another, (V, D), and the number of each one's, (N,)."""
        chosen = [self[number] for number in numbers]
        return np.concatenate(chosen), np.array([len(vectors) for vectors in chosen])
