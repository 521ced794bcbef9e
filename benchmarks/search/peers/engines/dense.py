"""One vector per text, in FAISS: the untouched backbone, or another dense model. See `measure.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from fastlane_st.hub import base_weights

from ..collection import VectorCollection


def build(collection: VectorCollection, folder: Path, codec: str, model: str | None = None) -> None:
    vectors = encode(collection.texts, model)
    index = faiss.index_factory(vectors.shape[1], codec, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(folder / "index.faiss"))
    np.save(folder / "queries.npy", encode([query["text"] for query in collection.queries], model))


def load(collection: VectorCollection, folder: Path) -> Callable[..., list[int]]:
    index = faiss.read_index(str(folder / "index.faiss"))
    queries = np.load(folder / "queries.npy")

    def search(query: int) -> list[int]:
        _, [found] = index.search(queries[query : query + 1], 10)
        return [int(number) for number in found if number >= 0]

    return search


def encode(texts: list[str], model: str | None) -> Any:
    encoder = SentenceTransformer(model or str(base_weights()), device="cpu")
    with torch.autocast("cpu", torch.bfloat16):
        return encoder.encode(texts, normalize_embeddings=True, batch_size=32).astype(np.float32)
