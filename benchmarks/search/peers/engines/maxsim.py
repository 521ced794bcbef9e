"""Sentence Transformers' own scoring: every document, all views of the query. See `measure.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from sentence_transformers.util import maxsim

from ..collection import VectorCollection


def build(collection: VectorCollection, folder: Path) -> None:
    """Nothing is built."""


def load(collection: VectorCollection, folder: Path) -> Callable[..., list[int]]:
    documents = [torch.from_numpy(views) for views in collection.documents()]
    queries = [torch.from_numpy(views) for views in collection.full]

    def search(query: int) -> list[int]:
        found: list[int] = maxsim(queries[query], documents)[0].topk(10).indices.tolist()
        return found

    return search
