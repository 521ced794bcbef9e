"""BM25, alone or as the first stage of MaxSim with all views of the query. See `measure.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import bm25s

from ..collection import VectorCollection
from .exhaustive import reranker


def build(collection: VectorCollection, folder: Path) -> None:
    index = bm25s.BM25()
    index.index(bm25s.tokenize(collection.texts, show_progress=False), show_progress=False)
    index.save(str(folder / "index"))


def load(collection: VectorCollection, folder: Path) -> Callable[..., list[int]]:
    index = bm25s.BM25.load(str(folder / "index"))
    rank_again = reranker(collection)
    texts = [query["text"] for query in collection.queries]

    def search(query: int, rerank: int = 0) -> list[int]:
        words = bm25s.tokenize(texts[query], show_progress=False, return_ids=False)
        found, _ = index.retrieve(words, k=rerank or 10, show_progress=False, n_threads=0)
        if not rerank:
            return [int(number) for number in found[0]]
        return rank_again(query, found[0])

    return search
