"""Fewer vectors per document: our document router beside token pooling, over the same views.

    python -m benchmarks.quality.pooling --data data/eval --sets cranfield,wikiqa:test --dtype bfloat16 \\
        --out benchmarks/results/pooling.json

Pooling is Sentence Transformers' `HierarchicalTokenPooling` (Ward clusters, arXiv 2409.14683) of all of a
document's views, by the factor that leaves as many as routing keeps. nDCG@10, brute force; a set in the
JSON isn't measured again.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np
import torch
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

from fastlane_st import FastLaneEncoder
from fastlane_st.evaluation.metrics import macro_difference
from fastlane_st.evaluation.routes import OVER_DOCUMENTS, measure_routes
from fastlane_st.evaluation.scoring import BlockStore, DocumentViews, encode_queries
from fastlane_st.hub import DEFAULT_CHECKPOINT

from ..common.encoding import (
    autocast,
    describe_checkpoint,
    encode_set,
    fastlane_model,
    ndcg_by_query,
    read_set,
)
from ..common.options import limits, parse, sets_parser
from ..common.results import Facts, Rows, SetResults, measure_sets

FRACTIONS = (0.25, 0.125)
SETTINGS = ("full", "router_1")


def main() -> None:
    parser = sets_parser(__doc__)
    parser.add_argument("--model", default=DEFAULT_CHECKPOINT)
    options = parse(parser)
    encoder = FastLaneEncoder(options.model)
    settings = {
        "model": describe_checkpoint(options.model, fastlane_model(encoder)),
        **limits(options),
    }
    measure_sets(
        SetResults(options.out, settings),
        options.sets.split(","),
        partial(measure_pooling, encoder=encoder, options=options),
        lambda found: routed_against_pooled(found.rows),
    )


def measure_pooling(
    name: str, encoder: FastLaneEncoder, options: argparse.Namespace
) -> tuple[Facts, Rows]:
    """nDCG@10 per query by `way setting`, and the vectors per document by way and fraction."""
    collection = read_set(name, options)
    with autocast(options, encoder.device.type):
        queries = encode_queries(encoder, list(collection.queries.values()), num_routes=())
    routed = encode_set(collection, encoder, options, np.float16, FRACTIONS)
    ways = {"routed": routed, "pooled": with_pooled(routed)}
    rows: Rows = {}
    vectors = {}
    for way, documents in ways.items():
        asked = [f"{one}{OVER_DOCUMENTS}{fraction}" for one in SETTINGS for fraction in FRACTIONS]
        measured = ndcg_by_query(measure_routes(collection, queries, documents, asked))
        rows |= {f"{way} {setting}": row for setting, row in measured.items()}
        vectors[way] = {
            str(fraction): float(kept.num_views.mean())
            for fraction, kept in documents.routed.items()
        }
    measured = ndcg_by_query(measure_routes(collection, queries, routed, SETTINGS))
    rows |= {f"all {setting}": row for setting, row in measured.items()}
    facts = {"vectors_per_document": vectors, "ndcg@10": routed_against_pooled({name: rows})}
    return facts, rows


def with_pooled(documents: DocumentViews) -> DocumentViews:
    """All views, with pooled ones in place of the routed ones."""
    pooled = {}
    for fraction in FRACTIONS:
        pooling = HierarchicalTokenPooling(1 / fraction, num_protected_tokens=0)
        store = BlockStore(np.float16)
        for block, counts in zip(documents.blocks, documents.counts, strict=True):
            views = torch.from_numpy(block.astype(np.float32))
            for one in pooling.pool(list(views.split(counts.tolist()))):
                store.add(one.numpy())
        pooled[fraction] = store.documents()
    return DocumentViews(documents.blocks, documents.counts, routed=pooled)


def routed_against_pooled(rows: dict[str, Rows]) -> Facts:
    """Means over sets, each with the same weight, and routing minus pooling."""
    found: Facts = {}
    for one in SETTINGS:
        found[one] = {"all": mean_over_sets(rows, f"all {one}")}
        for fraction in FRACTIONS:
            setting = f"{one}{OVER_DOCUMENTS}{fraction}"
            pairs = [
                (row[f"routed {setting}"].astype(float), row[f"pooled {setting}"].astype(float))
                for row in rows.values()
            ]
            found[setting] = {
                "routed": mean_over_sets(rows, f"routed {setting}"),
                "pooled": mean_over_sets(rows, f"pooled {setting}"),
                "difference": macro_difference(pairs).to_dict(),
            }
    return found


def mean_over_sets(rows: dict[str, Rows], key: str) -> float:
    """The mean of the sets' means."""
    return float(np.mean([row[key].mean(dtype=float) for row in rows.values()]))


if __name__ == "__main__":
    main()
