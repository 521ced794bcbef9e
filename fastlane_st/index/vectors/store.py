"""A VectorStore: vectors in FAISS, numbered by row, given back as they are stored.

It hides which FAISS index that is. All stored vectors lie in one `faiss.IndexFlatCodes`, row after
row; a clustered store has an inverted file of short codes beside it (`faiss.IndexRefine`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...modeling.search_fastlane import faiss_threads, import_faiss
from . import clusters
from .settings import (
    CODE_DIMENSIONS,
    FEWEST_VECTORS_PER_LIST,
    ByteArray,
    FloatArray,
    IntArray,
    VectorSettings,
    num_codes,
    num_lists,
)

BLOCK = 65_536  # vectors at a time, where all are read or added
DECODED_BY_THREAD = 16_384  # vectors that a thread of decoding is worth
PLAIN_UP_TO = 8_192  # vectors: scanning so few is faster than probing clusters
FEWEST_TO_FIT = {"float32": 0, "float16": 0, "int8": 1, "int4": 1, "pq": 256}


class VectorStore:
    """Vectors of one dimension, compared by inner product, numbered by row from 0.

    A store without vectors is a template: `builder` and `merged` make stores that hold vectors in
    the same way.

    Args:
        index: The FAISS index that holds them.
    """

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def flat(cls, dim: int) -> VectorStore:
        """An empty store that compares with every vector, in float32."""
        return cls(import_faiss().IndexFlatIP(dim))

    @classmethod
    def fitted(cls, settings: VectorSettings, sample: FloatArray, num_vectors: int) -> VectorStore:
        """An empty store fitted to a sample `(n, dim)` of the `num_vectors` that it is meant for.

        int8 and int4 take each dimension's range from the sample.

        Raises:
            ValueError: The sample is too small for the storage.
        """
        faiss = import_faiss()
        dim = sample.shape[1]
        codec = {
            "float32": "Flat",
            "float16": "SQfp16",
            "int8": "SQ8",
            "int4": "SQ4",
            "pq": f"PQ{num_codes(dim)}x8",
        }[settings.storage]
        fewest = FEWEST_TO_FIT[settings.storage]
        if len(sample) < fewest:
            raise ValueError(
                f"{settings.storage} is fitted to at least {fewest} vectors, there are {len(sample)}: "
                "take another storage"
            )
        lists = 0
        if settings.kind == "ivf":
            lists = min(num_lists(num_vectors), max(1, len(sample) // FEWEST_VECTORS_PER_LIST))
            codec = f"IVF{lists},PQ{num_codes(dim, CODE_DIMENSIONS)}x4fs,Refine({codec})"
            sample = np.resize(sample, (max(16, len(sample)), dim))  # what 4-bit codes need
        store = cls(faiss.index_factory(dim, codec, faiss.METRIC_INNER_PRODUCT))
        if settings.storage == "pq":
            store._stored.pq.cp.min_points_per_centroid = 1
            store._stored.do_polysemous_training = False  # seconds, for a search not used here
        if store.is_clustered:
            with clusters.fitting(store.clusters, lists):
                store._index.train(sample)
        elif not store._index.is_trained:
            store._index.train(sample)
        return store

    @classmethod
    def read(cls, path: Path, memory_map: bool = False) -> VectorStore:
        """Reads a file that `write` made; with `memory_map` the vectors stay in it."""
        faiss = import_faiss()
        return cls(faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if memory_map else 0))

    def write(self, write: Callable[[bytes], int]) -> None:
        """Writes the store through a function that takes bytes, as a file's `write` does.

        Not to a path: FAISS 1.15 only prints an error that comes on closing, such as a full disk.
        """
        faiss = import_faiss()
        faiss.write_index(self._index, faiss.PyCallbackIOWriter(write))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self._index.d)

    @property
    def is_by_inner_product(self) -> bool:
        """False only for a FAISS file that isn't ours."""
        return bool(self._index.metric_type == import_faiss().METRIC_INNER_PRODUCT)

    @cached_property
    def is_plain_float32(self) -> bool:
        """Whether it is such as `flat` makes."""
        return isinstance(self._index, import_faiss().IndexFlat)

    @cached_property
    def is_clustered(self) -> bool:
        """Whether it has clusters to probe."""
        return isinstance(self._index, import_faiss().IndexRefine)

    @cached_property
    def clusters(self) -> Any:
        """The inverted file of a clustered store, for `clusters.py`."""
        assert self.is_clustered
        return import_faiss().downcast_index(self._index.base_index)

    @cached_property
    def _stored(self) -> Any:
        """The FAISS index in which the vectors lie row after row."""
        if self.is_clustered:
            return import_faiss().downcast_index(self._index.refine_index)
        return self._index

    @cached_property
    def codes(self) -> ByteArray:
        """(n, bytes) uint8: what is stored of each vector, in FAISS's own memory.

        The array keeps the index, and so the memory, alive.
        """
        size = self._stored.ntotal * self._stored.code_size
        if size == 0:
            return np.empty((0, self._stored.code_size), dtype=np.uint8)
        memory: ByteArray = import_faiss().rev_swig_ptr(self._stored.codes.data(), size)
        rows = memory.reshape(self._stored.ntotal, self._stored.code_size)
        return np.asarray(_Memory(self._index, rows))

    @property
    def bytes_of_vector(self) -> int:
        """What is stored of one vector, without the codes of `ivf`."""
        return int(self._stored.sa_code_size())

    @cached_property
    def view_length(self) -> float:
        """See `clusters.view_length`; 1 where there are no clusters."""
        return clusters.view_length(self.clusters) if self.is_clustered else 1.0

    def rows(self, numbers: slice | IntArray) -> FloatArray:
        """(n, dim): vectors as they are stored; a slice of float32 ones isn't copied."""
        codes = self.codes[numbers]
        if isinstance(self._stored, import_faiss().IndexFlat):
            return codes.view(np.float32)
        with faiss_threads(len(codes) // DECODED_BY_THREAD):
            decoded: FloatArray = self._stored.sa_decode(np.ascontiguousarray(codes))
        return decoded

    def blocks(self) -> Iterator[FloatArray]:
        """All vectors as they are stored, `BLOCK` at a time."""
        for first in range(0, len(self), BLOCK):
            yield self.rows(slice(first, min(first + BLOCK, len(self))))

    def sample(self, count: int) -> FloatArray:
        """At most `count` of the vectors, spread evenly."""
        spread = np.linspace(0, len(self), min(count, len(self)), endpoint=False)
        return self.rows(spread.astype(np.int64))

    def longest(self) -> float:
        """Euclidean length of the longest vector; reads all of them."""
        longest = 0.0
        for block in self.blocks():
            squares = np.einsum("nd,nd->n", block, block, dtype=np.float64)
            longest = max(longest, float(np.sqrt(squares.max())))
        return longest

    def search(self, views: FloatArray, count: int) -> tuple[FloatArray, IntArray]:
        """Compares with every vector: similarities and rows of the `count` best, best first.

        Args:
            views: (n, dim).
            count: At most the number of vectors.

        Returns:
            Both (n, count). A clustered store is searched by `nearest.nearest_vectors`.
        """
        assert not self.is_clustered
        found: tuple[FloatArray, IntArray] = self._index.search(views, count)
        return found

    def for_gpu(self) -> Any:
        """A FAISS index to be copied to a GPU, which has no fast scan.

        A clustered store becomes an inverted file of the stored vectors, over the same clusters.
        """
        if not self.is_clustered:
            return self._index
        faiss = import_faiss()
        stored = self._stored
        shape = (self.clusters.quantizer, self.dim, self.clusters.nlist)
        filled: Any
        if isinstance(stored, faiss.IndexScalarQuantizer):
            metric = self._index.metric_type
            filled = faiss.IndexIVFScalarQuantizer(*shape, stored.sq.qtype, metric, False)
            filled.sq = stored.sq
        elif isinstance(stored, faiss.IndexPQ):
            metric = self._index.metric_type
            filled = faiss.IndexIVFPQ(*shape, stored.pq.M, stored.pq.nbits, metric)
            filled.pq, filled.by_residual = stored.pq, False
        else:
            filled = faiss.IndexIVFFlat(*shape, self._index.metric_type)
            filled.by_residual = False
        filled.is_trained = True
        for block in self.blocks():
            filled.add(block)
        return filled

    def builder(self) -> StoreBuilder:
        """Takes vectors into a new store that holds them as this empty one would."""
        return StoreBuilder(self)

    def merged(self, sources: Sequence[tuple[VectorStore, IntArray, IntArray]]) -> VectorStore:
        """A new store of vectors of several, held as this empty one would.

        What is stored of a vector is copied, and so is its short code: no cluster is looked for
        twice.

        Args:
            sources: Stores, each with the rows to take (n,) and their rows in the new one (n,). The
                new rows of all together are 0, 1, 2, ….
        """
        total = sum(len(new) for _, _, new in sources)
        merged = self._plain() if total <= PLAIN_UP_TO else self._copy()
        merged._stored.codes.resize(total * merged._stored.code_size)
        merged._stored.ntotal = merged._index.ntotal = total
        for store, old, new in sources:
            for first in range(0, len(old), BLOCK):
                block = slice(first, first + BLOCK)
                merged.codes[new[block]] = store.codes[old[block]]
        if merged.is_clustered:
            merged._merge_clusters(sources)
        return merged

    def _merge_clusters(self, sources: Sequence[tuple[VectorStore, IntArray, IntArray]]) -> None:
        for store, old, new in sources:
            if store.is_clustered:
                new_rows = np.full(len(store), clusters.GONE)
                new_rows[old] = new
                clusters.copy_lists(store.clusters, self.clusters, new_rows)
                continue
            for first in range(0, len(old), BLOCK):
                block = slice(first, first + BLOCK)
                self.clusters.add_with_ids(store.rows(old[block]), new[block])
        clusters.drop_gone(self.clusters)

    def _copy(self) -> VectorStore:
        return VectorStore(import_faiss().clone_index(self._index))

    def _plain(self) -> VectorStore:
        """An empty store of the same storage, without clusters."""
        return VectorStore(import_faiss().clone_index(self._stored))


class StoreBuilder:
    """Fills a store with vectors that come one document after another.

    They are added in blocks, since FAISS takes long over single vectors. A store that stays below
    `PLAIN_UP_TO` vectors gets no clusters.
    """

    def __init__(self, template: VectorStore) -> None:
        self._template = template
        self._store: VectorStore | None = None
        self._pending: list[FloatArray] = []
        self._num_pending = 0

    @property
    def dim(self) -> int:
        """Length of the vectors it takes."""
        return self._template.dim

    def add(self, rows: FloatArray) -> None:
        """Appends vectors `(n, dim)`."""
        self._pending.append(rows)
        self._num_pending += len(rows)
        if self._num_pending >= BLOCK:
            self._flush(self._template._copy)

    def finished(self) -> VectorStore:
        """The store, once all vectors are added."""
        is_small = self._num_pending <= PLAIN_UP_TO
        return self._flush(self._template._plain if is_small else self._template._copy)

    @cached_property
    def _assigner(self) -> Any:
        return clusters.assigner_of(self._template.clusters)

    def _flush(self, new: Callable[[], VectorStore]) -> VectorStore:
        if self._store is None:
            self._store = new()
        if self._num_pending:
            rows = np.concatenate(self._pending)
            if self._store.is_clustered:
                with clusters.assigning_by(self._store.clusters, self._assigner):
                    self._store._index.add(rows)
            else:
                self._store._index.add(rows)
        self._pending, self._num_pending = [], 0
        return self._store


class _Memory:
    """Memory that numpy makes an array of, with the FAISS index that owns it."""

    def __init__(self, owner: Any, memory: ByteArray) -> None:
        self.owner = owner
        self.__array_interface__ = memory.__array_interface__
