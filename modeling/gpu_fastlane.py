"""Search on a GPU, by FAISS: the vectors are copied there, all that decides a ranking stays here."""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

from .segment_fastlane import Segment
from .vector_index_fastlane import (
    FloatArray,
    IntArray,
    VectorIndex,
    VectorSettings,
    clusters_of,
    import_faiss,
    is_clustered,
    stored_in,
    with_length,
)

MOST_FOUND = 2048
"""Vectors that FAISS finds at most for a query on a GPU."""


class GpuVectors:
    """Copies of segments' vectors on one GPU, made at their first search, kept as long as they are.

    Args:
        device: "cuda", or "cuda:1" for the second GPU.

    Raises:
        ValueError: It is no such name, or there is no such GPU.
        ImportError: The FAISS that is installed knows no GPU.
    """

    def __init__(self, device: str) -> None:
        kind, _, number = device.partition(":")
        if kind != "cuda" or not (number.isdecimal() or device == "cuda"):
            raise ValueError(f'device must be "cpu", "cuda", or "cuda:1" and so on, got {device!r}')
        faiss = import_faiss()
        if not hasattr(faiss, "StandardGpuResources"):
            raise ImportError(
                "searching on a GPU needs faiss-gpu, and faiss-cpu is installed: uninstall that, then "
                'pip install "fastlane-st[gpu]"'
            )
        self._number = int(number or 0)
        if self._number >= faiss.get_num_gpus():
            raise ValueError(f"there is no GPU {device}: FAISS sees {faiss.get_num_gpus()}")
        self._resources = faiss.StandardGpuResources()
        self._copies: WeakKeyDictionary[Segment, VectorIndex] = WeakKeyDictionary()
        self._lock = threading.Lock()  # FAISS's memory on a GPU is one thread's at a time

    def search(
        self,
        segment: Segment,
        settings: VectorSettings,
        views: FloatArray,
        count: int,
        reach: float,
    ) -> tuple[FloatArray, IntArray]:
        """As `VectorSettings.search` on the CPU, which also finds what is too much for FAISS on a GPU.

        Raises:
            ValueError: FAISS doesn't hold such vectors on a GPU.
        """
        if count > MOST_FOUND:
            return settings.search(segment.vectors, views, count, reach)
        parameters = settings.search_parameters(clusters_of(segment.vectors), count, reach)
        length = segment.view_length if is_clustered(segment.vectors) else 1.0
        scaled, scales = with_length(views, length)
        with self._lock:
            found = self._copy(segment, settings).search(scaled, count, params=parameters)
        return found[0] * scales, found[1]

    def _copy(self, segment: Segment, settings: VectorSettings) -> VectorIndex:
        if segment not in self._copies:
            faiss = import_faiss()
            vectors = _stored_in_clusters(segment)
            try:
                copy = faiss.index_cpu_to_gpu(self._resources, self._number, vectors)
            except RuntimeError as error:
                raise ValueError(
                    f"FAISS can't put {settings.kind} in {settings.storage} on a GPU: build the index "
                    'with kind="ivf" and another storage, or flat in float32'
                ) from error
            self._copies[segment] = copy
        return self._copies[segment]


def _stored_in_clusters(segment: Segment) -> VectorIndex:
    """Its vectors, those of kind `ivf` in clusters as they are stored: a GPU has no fast scan."""
    faiss = import_faiss()
    index = segment.vectors
    if not is_clustered(index):
        return index
    clusters: Any = clusters_of(index)
    stored: Any = stored_in(index)
    shape = (clusters.quantizer, index.d, clusters.nlist)
    filled: Any
    if isinstance(stored, faiss.IndexScalarQuantizer):
        filled = faiss.IndexIVFScalarQuantizer(*shape, stored.sq.qtype, index.metric_type, False)
        filled.sq = stored.sq
    elif isinstance(stored, faiss.IndexPQ):
        filled = faiss.IndexIVFPQ(*shape, stored.pq.M, stored.pq.nbits, index.metric_type)
        filled.pq, filled.by_residual = stored.pq, False
    else:
        filled = faiss.IndexIVFFlat(*shape, index.metric_type)
        filled.by_residual = False
    filled.is_trained = True
    for block in segment.blocks():
        filled.add(block)
    made: VectorIndex = filled
    return made
