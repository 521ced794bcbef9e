"""What an index holds in memory: token vectors, and the documents that own them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .views_fastlane import Views


class FlatVectors(Protocol):
    """What is used of `faiss.IndexFlatIP`: float32 vectors of length `d`, by inner product."""

    ntotal: int
    d: int
    metric_type: int

    def search(
        self, x: npt.NDArray[np.float32], k: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Similarities and numbers, both `(len(x), k)`, of the `k` best vectors."""

    def get_xb(self) -> object:
        """A pointer to the vectors."""


@dataclass(slots=True)
class IndexContents:
    """All that an index holds. Document `i` owns the vectors `offsets[i]` to `offsets[i + 1] - 1`.

    Attributes:
        vectors: Every stored token vector, document after document.
        offsets: int64 of shape `(num_documents + 1,)`, from 0 to the number of vectors.
        positions: int32 of shape `(num_vectors,)`: each vector's token position in its document.
        ids: One per document, all different; 1 and "1" are two ids.
        texts: One per document, or None if the index was made without texts.
        metadata: Free keys with JSON values.
    """

    vectors: FlatVectors
    offsets: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int32]
    ids: list[str | int]
    texts: list[str] | None
    metadata: dict[str, Any]

    @property
    def stored(self) -> npt.NDArray[np.float32]:
        """All vectors `(num_vectors, dim)`: FAISS's own memory, not a copy."""
        flat = self.vectors
        if flat.ntotal == 0:
            return np.empty((0, flat.d), dtype=np.float32)
        memory: npt.NDArray[np.float32] = import_faiss().rev_swig_ptr(
            flat.get_xb(), flat.ntotal * flat.d
        )
        return memory.reshape(flat.ntotal, flat.d)

    @property
    def is_consistent(self) -> bool:
        """Whether the parts, read from files, fit together."""
        return (
            self.vectors.metric_type == import_faiss().METRIC_INNER_PRODUCT
            and self.offsets.shape == (len(self.ids) + 1,)
            and self.offsets[0] == 0
            and self.offsets[-1] == self.vectors.ntotal
            and bool((np.diff(self.offsets) >= 0).all())
            and self.positions.shape == (self.vectors.ntotal,)
            and (self.texts is None or len(self.texts) == len(self.ids))
        )


def collect_contents(
    documents: Iterable[Views], ids: list[str | int], texts: list[str] | None
) -> IndexContents:
    """Takes in one document's views after another.

    Raises:
        ValueError: Dimensions differ.
    """
    vectors = None
    positions, counts = [], [0]
    for id, views in zip(ids, documents, strict=True):
        count, dim = views.vectors.shape
        if vectors is None:
            vectors = import_faiss().IndexFlatIP(dim)
        if dim != vectors.d:
            raise ValueError(
                f"document {id!r} has {dim}-dimensional vectors, the first document has "
                f"{vectors.d}-dimensional ones: all must be alike"
            )
        vectors.add(views.vectors)
        positions.append(views.positions)
        counts.append(count)
    assert vectors is not None
    offsets = np.cumsum(counts, dtype=np.int64)
    return IndexContents(vectors, offsets, np.concatenate(positions), ids, texts, metadata={})


def import_faiss() -> ModuleType:
    """The module `faiss`, asked for only here because a checkpoint is of use without it."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            'an index needs FAISS: pip install "fastlane-st[cpu]", or "fastlane-st[gpu]"'
        ) from error
    return faiss
