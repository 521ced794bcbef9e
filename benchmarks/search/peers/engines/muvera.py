"""Fixed-dimensional encodings (MUVERA, arXiv 2405.19504) in FAISS, then MaxSim. See `measure.py`.

A set of vectors becomes one vector, whose inner products approximate MaxSim: random hyperplanes cut space
into buckets. A query has the sum of its vectors in each bucket, a document their mean, or in an empty bucket
the nearest vector by Hamming distance. This is repeated, with random projections.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from ..collection import VectorCollection
from .exhaustive import reranker

Floats = npt.NDArray[np.float32]
REPETITIONS, HYPERPLANES, PROJECTED = 20, 4, 16  # 20 x 2**4 x 16 = 5,120 dimensions
CHUNK = 10_000  # documents
TRAINING = 20_000  # documents


def build(collection: VectorCollection, folder: Path, codec: str) -> None:
    encoding = FixedEncoding(collection.routed.shape[1])
    index = faiss.index_factory(encoding.size, codec, faiss.METRIC_INNER_PRODUCT)
    pending: list[Floats] = []
    for number, views in enumerate(collection.documents(), start=1):
        pending.append(encoding.document(views))
        is_due = number >= TRAINING and len(pending) >= CHUNK
        if is_due or number == len(collection):
            rows = np.stack(pending)
            if not index.is_trained:
                index.train(rows[:TRAINING])
            index.add(rows)
            pending = []
    faiss.write_index(index, str(folder / "index.faiss"))


def load(collection: VectorCollection, folder: Path) -> Callable[..., list[int]]:
    index: Any = faiss.read_index(str(folder / "index.faiss"))
    encoding = FixedEncoding(collection.routed.shape[1])
    rank_again = reranker(collection)

    def search(query: int, nprobe: int, rerank: int = 0) -> list[int]:
        index.nprobe = nprobe
        encoded = encoding.query(collection.full[query])
        _, [found] = index.search(encoded[None], rerank or 10)
        found = found[found >= 0]
        return rank_again(query, found) if rerank else found.tolist()

    return search


class FixedEncoding:
    """Random buckets and projections, the same in every process.

    Args:
        dim: The vectors' dimension.
    """

    def __init__(self, dim: int) -> None:
        rng = np.random.default_rng(0)
        self.hyperplanes = rng.normal(size=(dim, REPETITIONS, HYPERPLANES)).astype(np.float32)
        signs = rng.choice([-1.0, 1.0], size=(dim, REPETITIONS, PROJECTED))
        self.projections = (signs / PROJECTED**0.5).astype(np.float32)
        self.buckets = np.arange(2**HYPERPLANES)
        self.size = REPETITIONS * len(self.buckets) * PROJECTED

    def query(self, views: Floats) -> Floats:
        """The encoding `(size,)` of a query's views `(n, dim)`."""
        sums, _ = self._sums(*self._placed(views))
        return sums.ravel()

    def document(self, views: Floats) -> Floats:
        """The encoding `(size,)` of a document's views `(n, dim)`."""
        codes, projected = self._placed(views)
        sums, counts = self._sums(codes, projected)
        differing = self.buckets[:, None] ^ codes[:, None, :]  # (repetitions, buckets, n)
        nearest = np.bitwise_count(differing).argmin(axis=2)
        filled = projected[np.arange(REPETITIONS)[:, None], nearest]
        means = sums / np.maximum(counts, 1)[:, :, None]
        chosen: Floats = np.where(counts[:, :, None] > 0, means, filled).astype(np.float32)
        return chosen.ravel()

    def _placed(self, views: Floats) -> tuple[npt.NDArray[np.int64], Floats]:
        """Each vector's bucket (repetitions, n) and projection (repetitions, n, projected)."""
        above = np.tensordot(views, self.hyperplanes, 1) > 0
        codes = above @ (1 << np.arange(HYPERPLANES))
        return codes.T, np.tensordot(views, self.projections, 1).transpose(1, 0, 2)

    def _sums(self, codes: npt.NDArray[np.int64], projected: Floats) -> tuple[Floats, Floats]:
        """The sum of the vectors in each bucket, and their number."""
        is_in = (codes[:, None, :] == self.buckets[:, None]).astype(np.float32)
        return is_in @ projected, is_in.sum(axis=2)
