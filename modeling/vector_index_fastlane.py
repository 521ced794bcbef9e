"""Which FAISS index holds the token vectors: how they are found, and how they are stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]
ByteArray: TypeAlias = npt.NDArray[np.uint8]
Kind = Literal["flat", "hnsw", "ivf"]
Storage = Literal["float32", "float16", "int8", "int4", "pq"]

FLAT_UP_TO = 100_000  # vectors: every query reads all of them, 150 MB of 384 dimensions
TRAINING_VECTORS_PER_LIST = 64  # FAISS's own advice is 39 to 256
PROBED = 24  # times the fourth root of their number are the clusters that `ivf` looks into
COMPARED = 1_024  # vectors, and as many as are asked for, that `ivf` compares as they are stored
HNSW_NEIGHBOURS = 32
PQ_DIMENSIONS = 8  # to one byte
MANY_CLUSTERS = 1_024  # from so many on, what is added looks for its own in clusters of centroids
BLOCK = 65_536  # vectors at a time, where all are gone through or added
CODE_DIMENSIONS = 4  # to half a byte, of the codes that `ivf` compares first
PLAIN_UP_TO = 8_192  # vectors of a segment: so few are compared faster than clusters are
EXPECTED_RECALL: dict[Kind, dict[Storage, float]] = {
    "flat": {"float32": 1.0, "float16": 1.0, "int8": 0.99, "int4": 0.91, "pq": 0.7},
    "hnsw": {"float32": 0.78, "float16": 0.78, "int8": 0.78, "int4": 0.75},
    "ivf": {"float32": 0.98, "float16": 0.98, "int8": 0.97, "int4": 0.9, "pq": 0.69},
}


class VectorIndex(Protocol):
    """What is used of a FAISS index: vectors of length `d`, by inner product, numbered from 0."""

    ntotal: int
    d: int
    metric_type: int

    def search(self, x: FloatArray, k: int, *, params: Any = None) -> tuple[FloatArray, IntArray]:
        """Similarities and numbers, both `(len(x), k)`, of the `k` best vectors; -1 for none."""

    def train(self, x: FloatArray) -> None:
        """Fits what depends on the data."""

    def add(self, x: FloatArray) -> None:
        """Appends vectors `(n, d)`."""

    def reconstruct_n(self, first: int, count: int) -> FloatArray:
        """Some vectors in a row, as they are stored."""

    def reconstruct_batch(self, numbers: IntArray) -> FloatArray:
        """Vectors by number, as they are stored."""

    def sa_decode(self, codes: ByteArray) -> FloatArray:
        """Vectors of what is stored of them."""


@dataclass(frozen=True)
class VectorSettings:
    """How vectors are found and stored. What isn't flat in float32 is approximate.

    Attributes:
        kind: `flat` compares with every vector; `hnsw` walks a graph of neighbours; `ivf` looks into
            the nearest of some clusters, where it compares codes of a bit a dimension (FAISS's fast
            scan of product quantisation) and then, of the vectors that seem best, what is stored.
        storage: Four bytes a dimension, two, one, half a byte, or a byte for eight (product quantisation).
        effort: Into how many clusters `ivf` looks and how many vectors it compares as stored, or
            how broadly `hnsw` walks, as parts of a default: twice as much takes about twice the time, and
            finds more of what flat search finds.
    """

    kind: Kind = "flat"
    storage: Storage = "float32"
    effort: float = 1.0

    def __post_init__(self) -> None:
        """Refuses what can't be."""
        for name, value, choices in (
            ("kind", self.kind, get_args(Kind)),
            ("storage", self.storage, get_args(Storage)),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        if self.kind == "hnsw" and self.storage == "pq":
            raise ValueError("FAISS has no hnsw of inner products with pq: take ivf, or int8")
        if not self.effort > 0:
            raise ValueError(f"effort must be above 0, got {self.effort}")

    @classmethod
    def choose(
        cls, kind: Kind | Literal["auto"], storage: Storage, num_vectors: int
    ) -> VectorSettings:
        """The settings for so many vectors; "auto" is flat while that is fast enough."""
        if kind == "auto":
            kind = "flat" if num_vectors <= FLAT_UP_TO else "ivf"
        return cls(kind, storage)

    def num_bytes(self, num_vectors: int, dim: int) -> int:
        """About how large the vectors are, in memory and on the disk."""
        stored = {
            "float32": 4 * dim,
            "float16": 2 * dim,
            "int8": dim,
            "int4": (dim + 1) // 2,
            "pq": num_codes(dim),
        }
        beside = {
            "flat": 0,
            "hnsw": 8 * HNSW_NEIGHBOURS + 8,  # numbers of neighbours
            "ivf": num_codes(dim, CODE_DIMENSIONS) // 2 + 8,  # a code and a number
        }
        return num_vectors * (stored[self.storage] + beside[self.kind])

    @property
    def expected_recall(self) -> float:
        """About which share of the ten best documents for one route is found, at an effort of 1.

        Measured on 10,000 passages by `benchmarks/recall.py`; the best are those of flat search in float32.
        """
        return EXPECTED_RECALL[self.kind][self.storage]

    def new_index(self, sample: FloatArray, num_vectors: int) -> VectorIndex:
        """An empty index, fitted to a sample `(n, d)` of the `num_vectors` that it is meant for.

        Later vectors are stored in the same way, int8 and int4 within the range that each dimension has
        in the sample.

        Raises:
            ValueError: The sample is too small.
        """
        faiss = import_faiss()
        dim = sample.shape[1]
        codec = {
            "float32": "Flat",
            "float16": "SQfp16",
            "int8": "SQ8",
            "int4": "SQ4",
            "pq": f"PQ{num_codes(dim)}x8",
        }[self.storage]
        fewest = {"float32": 0, "float16": 0, "int8": 1, "int4": 1, "pq": 256}[self.storage]
        if len(sample) < fewest:
            raise ValueError(
                f"{self.storage} is fitted to at least {fewest} vectors, there are {len(sample)}: take "
                "another storage"
            )
        if self.kind == "hnsw":
            codec = f"HNSW{HNSW_NEIGHBOURS},{codec}"
        if self.kind == "ivf":
            lists = min(num_lists(num_vectors), max(1, len(sample) // 39))
            codec = f"IVF{lists},PQ{num_codes(dim, CODE_DIMENSIONS)}x4fs,Refine({codec})"
            sample = np.resize(sample, (max(16, len(sample)), dim))  # that 4 bits can be fitted to
        index = faiss.index_factory(dim, codec, faiss.METRIC_INNER_PRODUCT)
        # FAISS only warns, on standard error, of a sample that is small.
        if self.kind == "ivf":
            clusters = faiss.downcast_index(index.base_index)
            clusters.cp.spherical = False  # see view_length
            centroids = faiss.IndexFlatL2(dim)
            centroids.this.disown()
            clusters.quantizer = centroids
            if lists >= MANY_CLUSTERS:
                finder = centroid_finder(dim, lists, faiss.METRIC_L2)
                clusters.clustering_index = finder
                clusters.cp.update_index = True
            clusters.cp.min_points_per_centroid = 1
            clusters.pq.cp.min_points_per_centroid = 1
        if self.storage == "pq":
            stored: Any = stored_in(index)
            stored.pq.cp.min_points_per_centroid = 1
            stored.do_polysemous_training = False  # seconds, for a search that isn't used here
        if not index.is_trained:
            index.train(sample)
        if self.kind == "ivf":
            clusters.clustering_index = None
        made: VectorIndex = index
        return made

    def sample_size(self, num_vectors: int) -> int:
        """How many vectors fit a new index well."""
        if self.kind == "ivf":
            return TRAINING_VECTORS_PER_LIST * max(256, num_lists(num_vectors))
        return 0 if self.storage in ("float32", "float16") else 65_536

    def search(
        self, index: VectorIndex, views: FloatArray, count: int, reach: float = 1.0
    ) -> tuple[FloatArray, IntArray]:
        """Similarities and numbers, both `(len(views), count)`, of vectors found; -1 for none.

        Args:
            index: A segment's vectors, unless they are clustered: then `search_clusters` does it.
            views: (n, dim).
            count: How many vectors to find for each.
            reach: Look so many times as far as `effort` says.
        """
        return index.search(views, count, params=self.search_parameters(index, count, reach))

    def search_parameters(self, index: VectorIndex, count: int, reach: float = 1.0) -> Any:
        """What FAISS is told of how far to look for `count` vectors."""
        faiss = import_faiss()
        if isinstance(index, faiss.IndexIVF):
            return faiss.SearchParametersIVF(nprobe=self._num_probed(index, reach))
        if isinstance(index, faiss.IndexHNSW):
            breadth = min(index.ntotal, round(64 * self.effort * reach))
            return faiss.SearchParametersHNSW(efSearch=max(count, breadth))
        return None

    def nearest_clusters(
        self, clusters: VectorIndex, views: FloatArray, reach: float = 1.0
    ) -> tuple[FloatArray, IntArray]:
        """Into which clusters to look: how near they are and their numbers, both `(n, probed)`.

        Args:
            clusters: Those of a segment.
            views: (n, dim), made as long as `view_length` says.
            reach: As for `search`.
        """
        centroids: VectorIndex = clusters.quantizer  # type: ignore[attr-defined]
        return centroids.search(views, self._num_probed(clusters, reach))

    def num_compared(self, num_vectors: int, count: int) -> int:
        """How many of the vectors that are found by their codes are compared as they are stored."""
        return max(count, min(num_vectors, round(self.effort * (COMPARED + count))))

    def looks_everywhere(self, index: VectorIndex, reach: float) -> bool:
        """Whether a larger reach leads no further."""
        faiss = import_faiss()
        if isinstance(index, faiss.IndexIVF):
            return bool(self._num_probed(index, reach) == index.nlist)
        is_graph = isinstance(index, faiss.IndexHNSW)
        return not is_graph or 64 * self.effort * reach >= index.ntotal

    def _num_probed(self, ivf: Any, reach: float) -> int:
        count: int = ivf.nlist
        wanted: int = round(PROBED * self.effort * reach * float(count) ** 0.25)
        return min(count, max(1, wanted))


def search_clusters(
    clusters: VectorIndex, views: FloatArray, count: int, nearness: FloatArray, lists: IntArray
) -> tuple[FloatArray, IntArray]:
    """Similarities by code and numbers, both `(len(views), count)`, of vectors found; -1 for none.

    Args:
        clusters: Those of a segment.
        views: (n, dim).
        count: How many vectors to find for each.
        nearness, lists: What `VectorSettings.nearest_clusters` gives.
    """
    faiss = import_faiss()
    views = np.ascontiguousarray(views, dtype=np.float32)
    similarities = np.empty((len(views), count), dtype=np.float32)
    numbers = np.empty((len(views), count), dtype=np.int64)
    given = (lists, nearness, similarities, numbers)
    # FAISS's `search_preassigned` in Python takes no parameters, and so no number of clusters.
    clusters.search_preassigned_c(  # type: ignore[attr-defined]
        len(views),
        faiss.swig_ptr(views),
        count,
        *map(faiss.swig_ptr, given),
        False,
        faiss.SearchParametersIVF(nprobe=lists.shape[1]),
    )
    return similarities, numbers


def view_length(clusters: VectorIndex) -> float:
    """How long a view is to be for the clusters nearest to it to be those of its best vectors.

    A centroid c is the mean of its vectors, and the shorter the more they differ. Of views of length s
    the nearest clusters are those with the greatest s q·c - |c|²/2, so that with a short s those come first
    whose best vectors are far from their mean. Twice the centroids' length was best, on 200 queries that
    aren't among those by which searches are timed.
    """
    centroids: Any = clusters.quantizer  # type: ignore[attr-defined]
    rows: FloatArray = centroids.reconstruct_n(0, centroids.ntotal)
    return 2 * float(np.sqrt(np.einsum("nd,nd->n", rows, rows).mean())) or 1.0


def with_length(views: FloatArray, length: float) -> tuple[FloatArray, FloatArray]:
    """Views `(n, dim)` made so long, and what times them `(n, 1)` they were before; zeros stay."""
    scales = np.linalg.norm(views, axis=1, keepdims=True) / np.float32(length)
    scales[scales == 0] = 1
    return views / scales, scales


def is_clustered(index: VectorIndex) -> bool:
    """Whether vectors are found in clusters by their codes, as `ivf` does where they are many."""
    return isinstance(index, import_faiss().IndexRefine)


def clusters_of(index: VectorIndex) -> VectorIndex:
    """What an index finds vectors by: of kind `ivf` its clusters, otherwise itself."""
    faiss = import_faiss()
    if isinstance(index, faiss.IndexRefine):
        index = faiss.downcast_index(index.base_index)
    return index


def stored_in(index: VectorIndex) -> VectorIndex:
    """What holds an index's vectors in a row, as they are stored; clusters of format 2 don't."""
    faiss = import_faiss()
    if isinstance(index, faiss.IndexRefine):
        index = faiss.downcast_index(index.refine_index)
    elif isinstance(index, faiss.IndexHNSW):
        index = faiss.downcast_index(index.storage)
    return index


def num_lists(num_vectors: int) -> int:
    """How many clusters: a power of two near √n, with 39 vectors or more in each."""
    exponent = round(float(np.log2(max(1, num_vectors) ** 0.5)))
    return max(1, min(1 << exponent, num_vectors // 39))


def flat_index(dim: int) -> VectorIndex:
    """An empty index that compares with every vector, in float32."""
    index: VectorIndex = import_faiss().IndexFlatIP(dim)
    return index


def is_flat(index: VectorIndex) -> bool:
    """Whether it is such as `flat_index` makes."""
    return isinstance(index, import_faiss().IndexFlat)


def num_codes(dim: int, dimensions: int = PQ_DIMENSIONS) -> int:
    """How many codes a product-quantised vector has: one for so many dimensions or a few more, evenly."""
    return max(m for m in range(1, max(1, dim // dimensions) + 1) if not dim % m)


class Filling:
    """Holds vectors as an empty index would, or plainly where they are few.

    They are added in blocks: clusters and graphs take long over single vectors.
    """

    def __init__(self, empty: VectorIndex) -> None:
        self.empty = empty
        self._index: VectorIndex | None = None
        self._pending: list[FloatArray] = []
        self._num_pending = 0

    @cached_property
    def _assigner(self) -> VectorIndex:
        return assigner_of(clusters_of(self.empty))

    def add(self, rows: FloatArray) -> None:
        """Appends vectors `(n, dim)`."""
        self._pending.append(rows)
        self._num_pending += len(rows)
        if self._num_pending >= BLOCK:
            self._flush(import_faiss().clone_index)

    def finished(self) -> VectorIndex:
        """The index, which gives vectors back by their number."""
        faiss = import_faiss()
        index = self._flush(plain_index if self._num_pending <= PLAIN_UP_TO else faiss.clone_index)
        if isinstance(index, faiss.IndexIVF):
            index.set_direct_map_type(faiss.DirectMap.Array)
        return index

    def _flush(self, new: Callable[[VectorIndex], VectorIndex]) -> VectorIndex:
        if self._index is None:
            self._index = new(self.empty)
        if self._num_pending:
            self._add(self._index, np.concatenate(self._pending))
        self._pending, self._num_pending = [], 0
        return self._index

    def _add(self, index: VectorIndex, rows: FloatArray) -> None:
        if not is_clustered(index):
            index.add(rows)
            return
        clusters: Any = clusters_of(index)
        centroids = clusters.quantizer
        clusters.quantizer = self._assigner  # which FAISS asks for the cluster of each vector
        try:
            index.add(rows)
        finally:
            clusters.quantizer = centroids


def assigner_of(clusters: Any) -> VectorIndex:
    """What finds the clusters of vectors that are added: the centroids, or if they are many a finder."""
    exact: VectorIndex = clusters.quantizer
    if clusters.nlist < MANY_CLUSTERS:
        return exact
    centroids = exact.reconstruct_n(0, clusters.nlist)
    finder = centroid_finder(clusters.d, clusters.nlist, exact.metric_type)
    finder.train(centroids)
    finder.add(centroids)
    return finder


def centroid_finder(dim: int, count: int, metric: int) -> VectorIndex:
    """An empty index of centroids in clusters of their own: it finds the nearest one 99 times of 100."""
    faiss = import_faiss()
    finder = faiss.IndexIVFFlat(faiss.IndexFlat(dim, metric), dim, round(count**0.5), metric)
    finder.cp.min_points_per_centroid = 1
    finder.nprobe = 8
    made: VectorIndex = finder
    return made


def plain_index(empty: VectorIndex) -> VectorIndex:
    """An empty index that stores vectors as `empty` does, and compares with every one of them."""
    faiss = import_faiss()
    plain: VectorIndex
    if isinstance(empty, faiss.IndexIVFScalarQuantizer):
        plain = faiss.IndexScalarQuantizer(empty.d, empty.sq.qtype, empty.metric_type)
        plain.sq, plain.is_trained = empty.sq, True  # type: ignore[attr-defined]
    elif isinstance(empty, faiss.IndexIVFPQ):
        plain = faiss.IndexPQ(empty.d, empty.pq.M, empty.pq.nbits, empty.metric_type)
        plain.pq, plain.is_trained = empty.pq, True  # type: ignore[attr-defined]
    elif isinstance(empty, faiss.IndexIVF):
        plain = flat_index(empty.d)
    else:
        plain = faiss.clone_index(stored_in(empty))
    return plain


def bytes_of_vector(empty: VectorIndex) -> int:
    """What one vector takes, without what leads to it."""
    plain: Any = plain_index(empty)
    size: int = plain.sa_code_size()
    return size


def codes_of(index: VectorIndex) -> ByteArray | None:
    """What is stored of each vector `(ntotal, bytes)`, in FAISS's own memory, where it is in a row.

    The array keeps the index, and so the memory, alive.
    """
    faiss = import_faiss()
    stored: Any = stored_in(index)
    if not isinstance(stored, faiss.IndexFlatCodes):
        return None
    size = stored.ntotal * stored.code_size
    if size == 0:
        return np.empty((0, stored.code_size), dtype=np.uint8)
    memory: ByteArray = faiss.rev_swig_ptr(stored.codes.data(), size)
    return np.asarray(_Memory(index, memory.reshape(stored.ntotal, stored.code_size)))


class _Memory:
    """What numpy makes an array of, and keeps as long as that."""

    def __init__(self, owner: VectorIndex, memory: ByteArray) -> None:
        self.owner = owner
        self.__array_interface__ = memory.__array_interface__


def import_faiss() -> ModuleType:
    """The module `faiss`, asked for only here because a checkpoint is of use without it."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            'an index needs FAISS: pip install "fastlane-st[cpu]", or "fastlane-st[gpu]"'
        ) from error
    return faiss
