"""Candidates: the documents of which a training step draws what a query is compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm

from ..files import replace_file
from ..index.index import FastLaneIndex
from ..index.vectors.nearest import nearest_vectors
from ..modeling.modeling_fastlane import FastLaneModel
from .states import QueryStates, score_queries
from .training import batches
from .vectors import TokenVectors

MINED = 64
FETCHED = 2_048
"""Vectors whose documents are a query's candidates; each document has several among them."""
FITTED = 20_000
"""Documents that the index's clusters are fitted to, and that are added at once."""
MOST_VECTORS = 2_000_000
"""Of more vectors only every second, third, … of a document is searched: candidates needn't be exact."""


def mine(
    model: FastLaneModel,
    queries: Sequence[QueryStates],
    vectors: TokenVectors,
    work: Path,
    show_progress_bar: bool,
) -> npt.NDArray[np.int32]:
    """(queries, MINED) int32: the documents nearest to each query by one untrained route, -1 for none."""
    path = work / "candidates.npy"
    if path.exists():
        found: npt.NDArray[np.int32] = np.load(path, allow_pickle=False)
        return found
    step = math.ceil(vectors.num_vectors / MOST_VECTORS)
    nearest = NearestDocuments(index_of(vectors, step), max(MINED, FETCHED // step))
    found = np.full((len(queries), MINED), -1, dtype=np.int32)
    with tqdm(total=len(queries), desc="Candidates", disable=not show_progress_bar) as bar:
        for numbers in batches(len(queries), 64):
            views = routed_views(model, [queries[number] for number in numbers])
            for number, documents in zip(numbers, nearest(views), strict=True):
                found[number, : len(documents)] = documents
            bar.update(len(numbers))
    replace_file(path, lambda scratch: save_array(scratch, found))
    return found


def index_of(vectors: TokenVectors, step: int) -> FastLaneIndex:
    """An index over every `step`-th vector of each document, whose ids are the documents' numbers."""
    index: FastLaneIndex | None = None
    for numbers in batches(len(vectors), FITTED):
        chunk = [vectors[number][::step] for number in numbers]
        if index is None:
            index = FastLaneIndex.from_embeddings(
                chunk, ids=numbers, storage="int8", num_documents=len(vectors)
            )
        else:
            index.add(chunk, ids=numbers)
    assert index is not None
    return index


class NearestDocuments:
    """Finds documents by their nearest vectors, in order of these.

    An index's own search computes exact scores as well, which takes ten times as long and isn't needed here.

    Args:
        index: Its ids are integers.
        fetched: Vectors whose documents are found.
    """

    def __init__(self, index: FastLaneIndex, fetched: int) -> None:
        self._fetched = fetched
        self._stores = [part.segment.vectors for part in index.parts]
        self._firsts = np.cumsum([0, *map(len, self._stores)])
        self._settings = index.vectors
        self._owners = np.concatenate(
            [
                np.repeat([int(stored.id) for stored in part.stored()], part.segment.counts)
                for part in index.parts
            ]
        )

    def __call__(self, views: npt.NDArray[np.float32]) -> list[npt.NDArray[np.int64]]:
        """At most `MINED` documents for each view (V, D), best first."""
        count = min(self._fetched, len(self._owners))
        near = nearest_vectors(self._stores, self._settings, views, count)
        vectors = self._firsts[near.stores] + near.rows
        return [
            different(self._owners[row[is_there]])[:MINED]
            for row, is_there in zip(vectors, near.rows >= 0, strict=True)
        ]


def different(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The different values, in the order in which they come."""
    found, firsts = np.unique(values, return_index=True)
    return found[np.argsort(firsts)]


@torch.inference_mode()
def routed_views(model: FastLaneModel, states: Sequence[QueryStates]) -> npt.NDArray[np.float32]:
    """The views (queries, D) of one route of each query."""
    views, routes = model.route(score_queries(model, states), "query", 1)
    return views[routes].numpy()


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Writes an array to a file of any name, which `numpy.save` would add an ending to."""
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)
