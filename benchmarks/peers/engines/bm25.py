"""BM25, alone or as the first stage of MaxSim with all views of the query. Module of `measure.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import bm25s
import numpy as np
from collection import VectorCollection
from exhaustive import best, max_sims


def build(collection: VectorCollection, folder: Path) -> None:
    index = bm25s.BM25()
    index.index(bm25s.tokenize(collection.texts, show_progress=False), show_progress=False)
    index.save(str(folder / "index"))


def load(collection: VectorCollection, folder: Path) -> Callable[..., list[int]]:
    index = bm25s.BM25.load(str(folder / "index"))
    rows, firsts = collection.read()
    ends = np.append(firsts[1:], len(rows))
    texts = [query["text"] for query in collection.queries]

    def search(query: int, rerank: int = 0) -> list[int]:
        words = bm25s.tokenize(texts[query], show_progress=False, return_ids=False)
        found, _ = index.retrieve(words, k=rerank or 10, show_progress=False, n_threads=0)
        documents = np.sort(found[0])
        if not rerank:
            return [int(number) for number in found[0]]
        views = np.concatenate([rows[firsts[n] : ends[n]] for n in documents])
        counts = (ends - firsts)[documents]
        scores = max_sims(collection.full[query], views, np.cumsum(counts) - counts)
        return [int(documents[number]) for number in best(scores)]

    return search
