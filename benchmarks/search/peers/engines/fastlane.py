"""FastLaneIndex, one route or a cascade to all views of the query. See `measure.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastlane_st import FastLaneIndex

from ..collection import VectorCollection

CHUNK = 10_000  # documents
FIRST = 50_000  # documents that quantisers and clusters are fitted to, as in `build_folder`


def build(collection: VectorCollection, folder: Path, **settings: Any) -> None:
    documents = enumerate(collection.documents())
    ids, first = zip(*islice(documents, FIRST), strict=True)
    index = FastLaneIndex.from_embeddings(first, ids, num_documents=len(collection), **settings)
    while chunk := list(islice(documents, CHUNK)):
        ids, vectors = zip(*chunk, strict=True)
        index.add(vectors, ids)
    index.compact()
    index.save(folder)


def load(collection: VectorCollection, folder: Path) -> Callable[..., list[int]]:
    index = FastLaneIndex.load(folder, PrecomputedEncoder(collection), memory_map=False)
    original = index.vectors

    def search(query: int, effort: float = 1.0, **options: Any) -> list[int]:
        if index.vectors.effort != effort:
            index.vectors = replace(original, effort=effort)
        return [int(hit.id) for hit in index.search(str(query), top_k=10, **options)]

    return search


class PrecomputedEncoder:
    """An encoder whose texts are numbers of queries that were encoded before."""

    def __init__(self, collection: VectorCollection) -> None:
        self.features: list[dict[str, torch.Tensor]] = []
        for routed, full in zip(collection.routed, collection.full, strict=True):
            everything = torch.from_numpy(np.ascontiguousarray(full))
            mask = torch.ones(len(full), dtype=torch.bool)
            self.features.append(
                {
                    "token_embeddings": torch.from_numpy(routed[None]),
                    "attention_mask": torch.ones(1, dtype=torch.bool),
                    "unrouted_embeddings": everything,
                    "token_mask": mask,
                }
            )

    def encode_query(self, texts: list[str], /, **options: Any) -> list[dict[str, torch.Tensor]]:
        return [self.features[int(text)] for text in texts]

    def encode_document(self, texts: list[str], /, **options: Any) -> list[dict[str, torch.Tensor]]:
        raise NotImplementedError("documents are given as vectors")

    def get_embedding_dimension(self) -> int:
        return int(self.features[0]["token_embeddings"].shape[1])
