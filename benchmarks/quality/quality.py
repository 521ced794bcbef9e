"""Quality of a checkpoint, its controls and baselines on judged collections.

    python -m benchmarks.quality.quality --data COLLECTIONS --sets nqgold,mlquestions:test \\
        --model fastlane-minilm --backbone BACKBONE --out benchmarks/results/quality.json

COLLECTIONS holds a BEIR-layout folder for each set; `name:split` names the judgements where there
are several. Settings are those of `fastlane_st.evaluation.routes`, and the baselines
`bm25`, with --backbone `dense_backbone` and `maxsim_backbone`, with --dense `dense_checkpoint`. An .npz
beside the JSON holds the nDCG@10 of every query, by `set/setting`. A set in the JSON isn't measured again;
--dense may be added to it later. --baselines OLD.json takes the baselines, which don't depend on the
checkpoint, from the results of another checkpoint, and with them what --unchanged names: after a second stage
(`training.routes`) `full,dense_checkpoint`, since documents and all views are the first stage's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

from fastlane_st import FastLaneEncoder
from fastlane_st.data.collection import Collection
from fastlane_st.evaluation.metrics import Metrics, evaluate_rankings, mean_metrics
from fastlane_st.evaluation.routes import measure_routes
from fastlane_st.evaluation.scoring import NUM_ROUTES, DocumentViews, encode_queries
from fastlane_st.hub import DEFAULT_CHECKPOINT

from ..common.encoding import (
    autocast,
    describe_checkpoint,
    encode_set,
    fastlane_model,
    ndcg_by_query,
    read_set,
)
from ..common.environment import command
from ..common.options import limits, parse, sets_parser
from ..common.results import Facts, Rows, SetResults, Values, measure_sets
from .baselines import measure_baselines, rank_by_dense, stored_baselines
from .summary import describe_set, summarise_sets

SETTINGS = (
    "full",
    *(f"router_{k}" for k in NUM_ROUTES),
    *("first", "random", "idf", "mean_view"),
)
FRACTIONS = (0.25,)
"""Fractions of document tokens that are compared."""
OVER_FRACTIONS = ("full", "router_1", "router_2", "router_4")


def main() -> None:
    parser = sets_parser(__doc__)
    parser.add_argument("--model", default=DEFAULT_CHECKPOINT)
    parser.add_argument("--backbone", help="folder of the untouched encoder")
    parser.add_argument("--dense", help="a Sentence Transformers checkpoint")
    parser.add_argument("--baselines", type=Path, help="results of another checkpoint")
    parser.add_argument(
        "--unchanged", default="", help="more settings to take from there, with commas"
    )
    parser.add_argument(
        "--fractions",
        type=lambda text: [float(one) for one in text.split(",") if one],
        default=list(FRACTIONS),
        help="of documents' tokens, with commas; '' measures all tokens alone",
    )
    parser.add_argument("--storage", choices=("float32", "float16"), default="float16")
    options = parse(parser)
    encoder = FastLaneEncoder(options.model)
    settings = settings_of(encoder, options)
    results = SetResults(options.out, settings, may_come_later=("dense",))

    def is_whole(name: str) -> bool:
        return options.dense is None or "dense_checkpoint" in results.rows[name]

    def measure(name: str) -> tuple[Facts, Rows]:
        if name in results.sets:
            return add_dense(name, results.sets[name], results.rows[name], options)
        return measure_quality(name, encoder, settings, options)

    measure_sets(
        results,
        options.sets.split(","),
        measure,
        lambda found: summarise_sets({name: found.rows[name] for name in found.sets}),
        is_whole,
        lambda facts: {name: round(found["ndcg@10"], 4) for name, found in facts["means"].items()},
    )


def settings_of(encoder: FastLaneEncoder, options: argparse.Namespace) -> dict[str, Any]:
    """What the numbers of all sets in one file depend on."""
    backbone, dense = options.backbone, options.dense
    return {
        "model": describe_checkpoint(options.model, fastlane_model(encoder)),
        "backbone": backbone and describe_checkpoint(backbone, AutoModel.from_pretrained(backbone)),
        "dense": dense and describe_checkpoint(dense, SentenceTransformer(dense, device="cpu")),
        **limits(options),
        "storage": options.storage,
        "batch_size": options.batch_size,
    }


def measure_quality(
    name: str, encoder: FastLaneEncoder, settings: dict[str, Any], options: argparse.Namespace
) -> tuple[Facts, Rows]:
    """A set's facts and values per query."""
    collection = read_and_report(name, options)
    stored = stored_baselines(name, settings, options)  # may refuse, so before the work
    known = [] if stored is None else list(stored[1])
    pooled = [
        f"{setting}_documents_{fraction:g}"
        for fraction in options.fractions
        for setting in OVER_FRACTIONS
    ]
    settings_left = [setting for setting in (*SETTINGS, *pooled) if setting not in known]
    measured, facts = measure_model(collection, encoder, options, settings_left)
    if stored is None:
        with timed("baselines", facts["seconds"]):
            measured |= measure_baselines(collection, encoder, options)
    rows: Rows = {
        "query_ids": np.array(list(collection.queries)),
        "relevant_views": facts.pop("relevant_views"),
    }
    facts |= {
        "split": collection.split,
        "queries": len(collection.queries),
        "documents": len(collection.documents),
        "means": {},
    }
    if stored is not None:
        old, old_rows = stored
        facts["baselines"] = old["baselines"]
        facts["means"] |= {setting: old["means"][setting] for setting in old_rows}
        rows |= old_rows
    add_settings(measured, facts, rows)
    return facts, rows


def add_dense(
    name: str, facts: Facts, rows: Rows, options: argparse.Namespace
) -> tuple[Facts, Rows]:
    """Adds the dense checkpoint to a set that was measured without it."""
    collection = read_and_report(name, options)
    with timed("dense", facts["seconds"]):
        ranking = rank_by_dense(collection, options, device=facts["device"])
    facts["dense_command"] = command()
    add_settings({"dense_checkpoint": evaluate_rankings(collection, ranking)}, facts, rows)
    return facts, rows


def read_and_report(name: str, options: argparse.Namespace) -> Collection:
    """Reads a set and prints its size."""
    collection = read_set(name, options)
    print(f"{name}: {len(collection.queries):,} queries, {len(collection.documents):,} documents")
    return collection


def add_settings(measured: dict[str, Metrics], facts: Facts, rows: Rows) -> None:
    """Adds settings to the facts of a set and to its values per query."""
    rows |= ndcg_by_query(measured)
    facts["means"] |= {name: mean_metrics(metrics) for name, metrics in measured.items()}
    facts |= describe_set(rows)


def measure_model(
    collection: Collection,
    encoder: FastLaneEncoder,
    options: argparse.Namespace,
    settings: Sequence[str],
) -> tuple[dict[str, Metrics], Facts]:
    """The metrics of some settings of the checkpoint, and facts about the encoded set."""
    seconds: dict[str, float] = {}
    device = encoder.device.type
    with timed("encode queries", seconds), autocast(options, device):
        queries = encode_queries(
            encoder, list(collection.queries.values()), batch_size=options.batch_size
        )
    with timed("encode documents", seconds):
        documents = encode_set(collection, encoder, options, options.storage, options.fractions)
    with timed("score controls", seconds):
        measured = measure_routes(collection, queries, documents, settings)
    return measured, {
        "device": str(encoder.device),
        "query_views": float(np.mean([len(query.logits) for query in queries])),
        "document_views": float(documents.num_views.mean()),
        "relevant_views": relevant_views(collection, documents),
        "seconds": seconds,
    }


@contextmanager
def timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Notes and prints how long the block takes."""
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 2)
    print(f"  {name}: {seconds[name]:.1f} s")


def relevant_views(collection: Collection, documents: DocumentViews) -> Values:
    """The mean number of views of each query's relevant documents; NaN without any."""
    lengths = dict(zip(collection.documents, documents.num_views.tolist(), strict=True))
    relevant = [
        [lengths[id] for id, grade in collection.qrels[query].items() if grade > 0]
        for query in collection.queries
    ]
    return np.array([np.mean(one) if one else np.nan for one in relevant], dtype=np.float32)


if __name__ == "__main__":
    main()
