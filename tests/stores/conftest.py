"""A corpus of random unit vectors, its exact index, and an empty store of each engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from fastlane_st import FastLaneIndex
from fastlane_st.stores import Store
from fastlane_st.stores.settings import StoreSettings
from tests.support.vectors import DIM, Matrix, units

ENGINES = ("lancedb", "qdrant", "milvus")
METADATA: list[dict[str, Any]] = [
    {"year": 2001, "language": "de"},
    {"year": 2002.5, "language": "fr"},
    {"year": "2001"},
    {"year": True, "language": "it's \"é\\"},
    {"year": None},
    {},
]


class Corpus(NamedTuple):
    """Vectors in float16 of documents with mixed ids, texts and metadata."""

    ids: list[int | str]
    vectors: list[Matrix]
    texts: list[str]
    metadata: list[dict[str, Any]]
    positions: list[list[int]]

    def index(self) -> FastLaneIndex:
        return FastLaneIndex.from_embeddings(
            self.vectors,
            self.ids,
            texts=self.texts,
            metadata=self.metadata,
            positions=self.positions,
        )

    def fill(self, store: Store) -> Store:
        store.upsert(
            self.vectors,
            self.ids,
            texts=self.texts,
            metadata=self.metadata,
            positions=self.positions,
        )
        return store


@pytest.fixture(scope="session")
def corpus() -> Corpus:
    ids: list[int | str] = [n if n % 3 else str(n) for n in range(60)]
    ids[:3] = ["int:1", 'it\'s "one" \\ `é`', ""]
    vectors = [units(1 + n % 5, n).astype(np.float16).astype(np.float32) for n in range(60)]
    texts = [f"text {n}" for n in range(60)]
    metadata = [METADATA[n % len(METADATA)] | ({"a.b c": n} if n % 2 else {}) for n in range(60)]
    positions = [[2 * row + 1 for row in range(len(one))] for one in vectors]
    return Corpus(ids, vectors, texts, metadata, positions)


@pytest.fixture(scope="session")
def exact(corpus: Corpus) -> FastLaneIndex:
    return corpus.index()


Create = Callable[..., Store]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """The name of each engine that is installed."""
    package = {"lancedb": "lancedb", "qdrant": "qdrant_client", "milvus": "milvus_lite"}
    pytest.importorskip(package[request.param])
    return str(request.param)


@pytest.fixture
def create(engine: str, tmp_path: Path) -> Iterator[Create]:
    """Creates a store of the engine in a folder of its own."""
    made: list[Store] = []

    def build(dim: int = DIM, **options: Any) -> Store:
        from fastlane_st.stores import create_store

        encoder = options.pop("encoder", None)
        default = "float32" if engine == "milvus" else "float16"
        settings = StoreSettings(dim, **{"storage": default, **options})
        path = tmp_path / ("stored.db" if engine == "milvus" else "stored")
        made.append(create_store(f"{engine}:{path}", settings, encoder=encoder))
        return made[-1]

    yield build
    for store in made:
        store.close()
