"""fast-plaid, all views of the query. See `measure.py`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fast_plaid.search import FastPlaid

from ..collection import VectorCollection


def build(collection: VectorCollection, folder: Path, **settings: Any) -> None:
    documents = [torch.from_numpy(vectors).half() for vectors in collection.documents()]
    engine(folder).create(documents_embeddings=documents, **settings)


def load(collection: VectorCollection, folder: Path) -> Callable[..., list[int]]:
    index = engine(folder)
    queries = [torch.from_numpy(views)[None] for views in collection.full]

    def search(query: int, **settings: Any) -> list[int]:
        [found] = index.search(queries[query], top_k=10, show_progress=False, **settings)
        return [document for document, _ in found]

    return search


def engine(folder: Path) -> Any:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    return FastPlaid(index=str(folder / "index"), device="cpu")
