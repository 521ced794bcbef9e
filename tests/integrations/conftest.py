"""An encoder that knows every word, so that the frameworks' own suites can search for what they like."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from fastlane_st import FastLaneEncoder, FastLaneIndex
from tests.conftest import DOCUMENTS

YEARS = [{"year": 2019}, {"year": 2020}, {"year": 2021}, {"year": 2022}, {}, {"year": 2022}]
IDS = ["loads", "open", "sort", "join", "date", "set"]


os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # before it is imported


class HashEncoder:
    """A word's vector is drawn by the hash of the word; one route is a query's last word."""

    def get_embedding_dimension(self) -> int:
        return 16

    def encode_query(self, texts: list[str], **options: Any) -> list[dict[str, torch.Tensor]]:
        return [self._features(text, options.get("num_routes")) for text in texts]

    def encode_document(self, texts: list[str], **options: Any) -> list[dict[str, torch.Tensor]]:
        return [self._features(text, None) for text in texts]

    def _features(self, text: str, num_routes: int | None) -> dict[str, torch.Tensor]:
        words = text.split() or [""]
        vectors = torch.stack([self._vector(word) for word in words])
        mask = torch.ones(len(words), dtype=torch.int64)
        if num_routes is not None:
            mask[: max(0, len(words) - num_routes)] = 0
        return {
            "token_embeddings": vectors,
            "attention_mask": mask,
            "unrouted_embeddings": vectors,
            "token_mask": torch.ones(len(words), dtype=torch.int64),
        }

    def _vector(self, word: str) -> torch.Tensor:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:6], "big")
        drawn = torch.randn(16, generator=torch.Generator().manual_seed(seed))
        return drawn / drawn.norm()


def pytest_configure(config: pytest.Config) -> None:
    """The suites of LangChain have asynchronous tests without a marker."""
    if hasattr(config.option, "asyncio_mode"):
        config.option.asyncio_mode = "auto"


@pytest.fixture
def words() -> HashEncoder:
    return HashEncoder()


@pytest.fixture(scope="session")
def encoder(checkpoint: Path) -> FastLaneEncoder:
    """The tiny FastLane checkpoint: 12 tokens of a document, so that long texts are soon windows."""
    return FastLaneEncoder(checkpoint)


@pytest.fixture
def index(encoder: FastLaneEncoder) -> FastLaneIndex:
    """Six documents with ids and years; one has no year."""
    return FastLaneIndex.build(encoder, DOCUMENTS, IDS, metadata=YEARS)
