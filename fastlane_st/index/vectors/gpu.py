"""Search on a GPU by FAISS: vectors are copied there, and exact scores stay on the CPU."""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

from ...modeling.search_fastlane import import_faiss
from . import clusters
from .settings import FloatArray, IntArray, VectorSettings
from .store import VectorStore

MOST_FOUND = 2048
"""Vectors that FAISS finds at most for a query on a GPU."""


class GpuVectors:
    """Copies of stores on one GPU, made at their first search and kept as long as the stores are.

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
        self._device = int(number or 0)
        if self._device >= faiss.get_num_gpus():
            raise ValueError(f"there is no GPU {device}: FAISS sees {faiss.get_num_gpus()}")
        self._resources = faiss.StandardGpuResources()
        self._copies: WeakKeyDictionary[VectorStore, Any] = WeakKeyDictionary()
        self._lock = threading.Lock()  # FAISS's memory on a GPU is one thread's at a time

    def search(
        self,
        store: VectorStore,
        settings: VectorSettings,
        views: FloatArray,
        count: int,
        reach: float,
    ) -> tuple[FloatArray, IntArray]:
        """Similarities and rows, both `(len(views), count)`; -1 for none.

        Args:
            store: Copied to the GPU if it isn't there.
            settings: How far to look.
            views: (n, dim).
            count: At most `MOST_FOUND`.
            reach: Multiplies `settings.effort`.

        Raises:
            ValueError: FAISS doesn't hold such vectors on a GPU.
        """
        parameters = None
        if store.is_clustered:
            num_probed = settings.num_probed(store.clusters.nlist, reach)
            parameters = import_faiss().SearchParametersIVF(nprobe=num_probed)
        scaled, scales = clusters.rescaled(views, store.view_length)
        with self._lock:
            found = self._copy(store, settings).search(scaled, count, params=parameters)
        return found[0] * scales, found[1]

    def _copy(self, store: VectorStore, settings: VectorSettings) -> Any:
        if store not in self._copies:
            faiss = import_faiss()
            try:
                copy = faiss.index_cpu_to_gpu(self._resources, self._device, store.for_gpu())
            except RuntimeError as error:
                raise ValueError(
                    f"FAISS can't put {settings.kind} in {settings.storage} on a GPU: build the index "
                    'with kind="ivf" and another storage, or flat in float32'
                ) from error
            self._copies[store] = copy
        return self._copies[store]
