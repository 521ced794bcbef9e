"""PyLate's Voyager index (HNSW over token vectors) and its reranking. See `measure.py`.

PyLate reads its maps between vectors and documents from a pickle at every search; they are its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from pylate import indexes, rank

from ..collection import VectorCollection

CHUNK = 2_000  # documents


def build(collection: VectorCollection, folder: Path) -> None:
    index = engine(collection, folder, override=True)
    documents = list(collection.documents())
    for start in range(0, len(documents), CHUNK):
        chunk = documents[start : start + CHUNK]
        index.add_documents([str(start + n) for n in range(len(chunk))], chunk)


def load(collection: VectorCollection, folder: Path) -> Callable[..., list[int]]:
    index = engine(collection, folder, override=False)
    documents = [torch.from_numpy(vectors) for vectors in collection.documents()]

    def search(query: int, candidates: int = 100) -> list[int]:
        views = torch.from_numpy(collection.full[query])[None]
        [by_view] = index(views, k=candidates)["documents_ids"]
        found = sorted({document for view in by_view for document in view})
        [ranked] = rank.rerank(
            documents_ids=[found],
            queries_embeddings=views,
            documents_embeddings=[[documents[int(document)] for document in found]],
        )
        return [int(one["id"]) for one in ranked[:10]]

    return search


def engine(collection: VectorCollection, folder: Path, override: bool) -> indexes.Voyager:
    dim = collection.routed.shape[1]
    return indexes.Voyager(str(folder), "index", override=override, embedding_size=dim)
