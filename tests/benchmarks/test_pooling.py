"""The pooling benchmark, end to end on a tiny checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

from fastlane_st import FastLaneEncoder
from fastlane_st.data.collection import read_collection
from fastlane_st.evaluation.metrics import evaluate_rankings
from tests.conftest import DOCUMENTS
from tests.support.benchmarks import run_on_one_set


def test_pooled_documents_rank_as_sentence_transformers_pools_them(
    checkpoint: Path, tmp_path: Path
) -> None:
    found = run_on_one_set("quality.pooling", checkpoint, tmp_path)["sets"]["one"]

    encoder = FastLaneEncoder(checkpoint)
    collection = read_collection(tmp_path / "one")
    queries = encoder.encode_query(list(collection.queries.values()), num_routes=None)
    pooling = HierarchicalTokenPooling(4.0, num_protected_tokens=0)
    ways = {
        "routed": encoder.encode_document(DOCUMENTS, num_routes=0.25),
        "pooled": encoder.encode_document(DOCUMENTS, num_routes=None, token_pooling=pooling),
    }
    for way, documents in ways.items():
        scores = encoder.similarity(queries, documents).numpy()
        rankings = [np.argsort(-row) for row in scores]
        expected = evaluate_rankings(collection, rankings)["ndcg@10"].mean()
        assert found["ndcg@10"]["full_documents_0.25"][way] == pytest.approx(expected)
        vectors = np.mean([len(views) for views in documents])
        assert found["vectors_per_document"][way]["0.25"] == pytest.approx(vectors)
