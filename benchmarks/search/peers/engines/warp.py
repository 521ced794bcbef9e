"""xtr-warp-rs, all views of the query. See `measure.py`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from xtr_warp.search import XTRWarp

from ..collection import VectorCollection

BOUND_TO_ONE_THREAD = True  # its searcher panics on another
THREADS = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))


def build(collection: VectorCollection, folder: Path, **settings: Any) -> None:
    torch.set_num_threads(THREADS)
    documents = [torch.from_numpy(vectors).half() for vectors in collection.documents()]
    XTRWarp(str(folder / "index")).create(documents, device="cpu", show_progress=False, **settings)


def load(collection: VectorCollection, folder: Path) -> Callable[..., list[int]]:
    torch.set_num_threads(THREADS)
    index = XTRWarp(str(folder / "index")).load(device="cpu", mmap=False)
    queries = [torch.from_numpy(views) for views in collection.full]

    def search(query: int, **settings: Any) -> list[int]:
        [found] = index.search(
            queries[query], 10, num_threads=THREADS, show_progress=False, **settings
        )
        return [document for document, _ in found]

    return search
