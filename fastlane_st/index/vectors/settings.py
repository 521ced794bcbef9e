"""Which kind of store holds an index's vectors, and how far a search looks in it.

Nothing here imports faiss: `store` makes what these settings say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]
ByteArray: TypeAlias = npt.NDArray[np.uint8]
Kind = Literal["flat", "ivf"]
Storage = Literal["float32", "float16", "int8", "int4", "pq"]

FLAT_UP_TO = 100_000  # vectors: a query reads all of them, 150 MB of 384 dimensions
TRAINING_VECTORS_PER_LIST = 64  # FAISS's own advice is 39 to 256
FEWEST_VECTORS_PER_LIST = 39
PROBED = 24  # `ivf` probes 24 * n_clusters**(1/4) clusters at effort 1
COMPARED = 1_024  # rerank depth at effort 1: so many candidates, and k, get their stored similarity
PQ_DIMENSIONS = 8  # to one byte
CODE_DIMENSIONS = 4  # to half a byte, in the codes that `ivf` compares first
EXPECTED_RECALL: dict[Kind, dict[Storage, float]] = {
    "flat": {"float32": 1.0, "float16": 1.0, "int8": 0.99, "int4": 0.91, "pq": 0.7},
    "ivf": {"float32": 0.98, "float16": 0.98, "int8": 0.97, "int4": 0.9, "pq": 0.69},
}


@dataclass(frozen=True)
class VectorSettings:
    """How vectors are found and stored. Everything but flat in float32 is approximate.

    Attributes:
        kind: `flat` compares with every vector. `ivf` probes the nearest of some clusters, compares
            codes of a bit a dimension there (FAISS's fast scan of product quantisation), and then
            the stored vectors of the best candidates.
        storage: Bytes a dimension: float32 four, float16 two, int8 one, int4 a half, and pq an
            eighth (product quantisation).
        effort: Multiplies how many clusters `ivf` probes and how many candidates it compares as
            stored. Twice the effort takes about twice the time and finds more of what flat finds.
    """

    kind: Kind = "flat"
    storage: Storage = "float32"
    effort: float = 1.0

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("kind", self.kind, get_args(Kind)),
            ("storage", self.storage, get_args(Storage)),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        if not isinstance(self.effort, int | float) or not self.effort > 0:
            raise ValueError(f"effort must be a number above 0, got {self.effort!r}")

    @classmethod
    def choose(
        cls, kind: Kind | Literal["auto"], storage: Storage, num_vectors: int
    ) -> VectorSettings:
        """The settings for so many vectors; "auto" is flat up to 100,000 of them."""
        if kind == "auto":
            kind = "flat" if num_vectors <= FLAT_UP_TO else "ivf"
        return cls(kind, storage)

    def num_bytes(self, num_vectors: int, dim: int) -> int:
        """Expected size of the vectors in bytes, in memory and on the disk."""
        stored = {
            "float32": 4 * dim,
            "float16": 2 * dim,
            "int8": dim,
            "int4": (dim + 1) // 2,
            "pq": num_codes(dim),
        }
        code_and_number = num_codes(dim, CODE_DIMENSIONS) // 2 + 8
        return num_vectors * (stored[self.storage] + (code_and_number if self.kind == "ivf" else 0))

    def describe(self, num_vectors: int, dim: int) -> str:
        """What an index of so many vectors is, takes and finds, for whoever builds it.

        >>> VectorSettings("ivf", "int8").describe(1_000_000, 384)
        'ivf index in int8 for about 1,000,000 vectors of 384 dimensions: 440 MB, expected recall@10 0.97'
        """
        return (
            f"{self.kind} index in {self.storage} for about {num_vectors:,} vectors of {dim} dimensions: "
            f"{self.num_bytes(num_vectors, dim) / 1e6:.0f} MB, expected recall@10 "
            f"{self.expected_recall:.2f}"
        )

    @property
    def expected_recall(self) -> float:
        """Expected share of the ten best documents that one route finds at effort 1.

        Measured on 10,000 passages by `benchmarks.search.recall`, against flat search in float32.
        """
        return EXPECTED_RECALL[self.kind][self.storage]

    def sample_size(self, num_vectors: int) -> int:
        """How many vectors a new store is fitted to, of the `num_vectors` it is meant for."""
        if self.kind == "ivf":
            return TRAINING_VECTORS_PER_LIST * max(256, num_lists(num_vectors))
        return 0 if self.storage in ("float32", "float16") else 65_536

    def num_probed(self, num_clusters: int, reach: float = 1.0) -> int:
        """How many of an `ivf` store's clusters a search probes; `reach` multiplies the effort."""
        wanted: int = round(PROBED * self.effort * reach * float(num_clusters) ** 0.25)
        return min(num_clusters, max(1, wanted))

    def num_compared(self, num_vectors: int, count: int) -> int:
        """How many candidates `ivf` compares as stored, to find `count` of `num_vectors`."""
        return max(count, min(num_vectors, round(self.effort * (COMPARED + count))))


def num_lists(num_vectors: int) -> int:
    """How many clusters: a power of two near the square root, with 39 vectors or more in each."""
    exponent = round(float(np.log2(max(1, num_vectors) ** 0.5)))
    return max(1, min(1 << exponent, num_vectors // FEWEST_VECTORS_PER_LIST))


def num_codes(dim: int, dimensions: int = PQ_DIMENSIONS) -> int:
    """How many codes product quantisation makes of a vector: the most that divide `dim` evenly,
    with `dimensions` or more to each."""
    return max(m for m in range(1, max(1, dim // dimensions) + 1) if not dim % m)
