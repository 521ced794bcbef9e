"""Every document view is compared: with all views of the query, or its one route. See `measure.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..collection import VectorCollection

BLOCK = 4_096  # documents


def build(collection: VectorCollection, folder: Path) -> None:
    """Nothing is built."""


def load(collection: VectorCollection, folder: Path) -> Callable[..., list[int]]:
    rows, firsts = collection.read()

    def search(query: int, one_route: bool = False) -> list[int]:
        views = collection.routed[query][None] if one_route else collection.full[query]
        return best(max_sims(views, rows, firsts))

    return search


def reranker(collection: VectorCollection) -> Callable[[int, npt.NDArray[np.int64]], list[int]]:
    """Gives the best of some documents by MaxSim with all views of a query; of equal ones the earlier."""
    rows, firsts = collection.read()
    ends = np.append(firsts[1:], len(rows))

    def rerank(query: int, found: npt.NDArray[np.int64]) -> list[int]:
        documents = np.sort(found)
        counts = (ends - firsts)[documents]
        views = np.concatenate([rows[firsts[n] : ends[n]] for n in documents])
        scores = max_sims(collection.full[query], views, np.cumsum(counts) - counts)
        return [int(documents[number]) for number in best(scores)]

    return rerank


def max_sims(
    views: npt.NDArray[np.float32], rows: npt.NDArray[np.float32], firsts: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """(documents,): the sum over the views of the best similarity in each document."""
    scores = np.empty(len(firsts), dtype=np.float32)
    for start in range(0, len(firsts), BLOCK):
        here = firsts[start : start + BLOCK]
        end = firsts[start + BLOCK] if start + BLOCK < len(firsts) else len(rows)
        products = rows[here[0] : end] @ views.T
        scores[start : start + BLOCK] = np.maximum.reduceat(products, here - here[0]).sum(axis=1)
    return scores


def best(scores: npt.NDArray[Any], top_k: int = 10) -> list[int]:
    """The best documents, best first; of equal ones the earlier."""
    kept = np.sort(np.argpartition(-scores, min(top_k, len(scores) - 1))[:top_k])
    return [int(number) for number in kept[np.argsort(-scores[kept], kind="stable")]]
