"""Quality of a checkpoint, its controls and baselines on judged collections.

    python benchmarks/quality.py --data COLLECTIONS --sets nqgold,mlquestions:test \\
        --model fastlane-minilm --backbone BACKBONE --out benchmarks/results/quality.json

COLLECTIONS holds a BEIR-layout folder for each set; `name:split` names the judgements where there
are several. Settings are those of `fastlane_st.evaluation.controls`, and as baselines `bm25`, with --backbone
`dense_backbone` and `maxsim_backbone`, with --dense `dense_checkpoint`. The nDCG@10 of every query
is beside the JSON, in an .npz by `set/setting`. A set that the JSON holds already isn't measured again,
but for --dense, which may come later. --baselines OLD.json takes the baselines, which don't depend on the
checkpoint, from the results of another one that were measured alike.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from judged import autocast, encode_set, read_set, sets_parser
from machine import environment
from quality_summary import Values, describe, load_results, load_rows, save, summarise
from sentence_transformers import SentenceTransformer

from fastlane_st import FastLaneEncoder
from fastlane_st.data.collection import Collection
from fastlane_st.evaluation.baselines import Backbone, rank_by_bm25, rank_by_dense_encoder
from fastlane_st.evaluation.controls import FRACTIONS, measure_controls
from fastlane_st.evaluation.metrics import Metrics, Ranking, evaluate_rankings, mean_metrics
from fastlane_st.evaluation.scoring import DocumentViews, encode_queries
from fastlane_st.hub import DEFAULT_CHECKPOINT, default_checkpoint

BASELINES = ("bm25", "dense_backbone", "maxsim_backbone")


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    found = load_results(options.out, settings_of(options), may_come_later=("dense",))
    rows = load_rows(options.out)
    encoder = FastLaneEncoder(options.model)
    for name in options.sets.split(","):
        if name not in found["sets"]:
            found["sets"][name], rows[name] = measure_set(name, encoder, options)
        elif options.dense is not None and "dense_checkpoint" not in rows[name]:
            add_dense(name, found["sets"][name], rows[name], options)
        else:
            print(f"{name}: already in {options.out}")
            continue
        found["over_sets"] = summarise({name: rows[name] for name in found["sets"]})
        save(options.out, found, rows)
        means = found["sets"][name]["means"]
        for setting in means:
            print(f"  {setting:26} {means[setting]['ndcg@10']:.4f}")


def parse() -> argparse.Namespace:
    parser = sets_parser(__doc__)
    parser.add_argument("--model", default=DEFAULT_CHECKPOINT)
    parser.add_argument("--backbone", help="folder of the untouched encoder")
    parser.add_argument("--dense", help="a Sentence Transformers checkpoint")
    parser.add_argument("--baselines", type=Path, help="results of another checkpoint")
    parser.add_argument("--storage", choices=("float32", "float16"), default="float16")
    return parser.parse_args()


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What all sets of one file have in common."""
    return {
        "model": fingerprint(options.model),
        "backbone": fingerprint(options.backbone),
        "dense": fingerprint(options.dense),
        "limit_queries": options.limit_queries,
        "limit_documents": options.limit_documents,
        "dtype": options.dtype,
        "storage": options.storage,
        "batch_size": options.batch_size,
    }


def fingerprint(checkpoint: str | None) -> dict[str, str] | None:
    """A checkpoint's name, and what its weights are."""
    if checkpoint is None:
        return None
    folder = default_checkpoint() if checkpoint == DEFAULT_CHECKPOINT else Path(checkpoint)
    if not folder.is_dir():
        raise SystemExit(f"{checkpoint} is no folder; download the checkpoint first")
    digest = hashlib.sha256()
    for weights in sorted(folder.rglob("*.safetensors")):
        digest.update(weights.read_bytes())
    return {"name": Path(checkpoint).name, "sha256": digest.hexdigest()[:16]}


def measure_set(
    name: str, encoder: FastLaneEncoder, options: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON of one set, and its values a query."""
    collection = read(name, options)
    known = known_baselines(name, options)  # which may refuse, before the work
    results, facts = measure_model(collection, encoder, options)
    if known is None:
        with timed("baselines", facts["seconds"]):
            results |= measure_baselines(collection, encoder, options)
    rows: dict[str, Any] = {
        "query_ids": np.array(list(collection.queries)),
        "relevant_views": facts.pop("relevant_views"),
    }
    measured = {
        "command": shlex.join(["python", *sys.argv]),
        "environment": environment(),
        **facts,
        "split": collection.split,
        "queries": len(collection.queries),
        "documents": len(collection.documents),
        "means": {},
    }
    if known is not None:
        old, old_rows = known
        measured["baselines"] = {key: old[key] for key in ("command", "environment")}
        measured["means"] |= {setting: old["means"][setting] for setting in old_rows}
        rows |= old_rows
    add_results(results, measured, rows)
    return measured, rows


def known_baselines(
    name: str, options: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The JSON of a set in --baselines and the values a query of its baselines, if it is there."""
    if options.baselines is None:
        return None
    stored = json.loads(options.baselines.read_text())
    for key, wanted in settings_of(options).items():
        if key not in ("model", "dense") and stored["settings"][key] != wanted:
            raise SystemExit(
                f"{options.baselines} was measured with {key} {stored['settings'][key]}, asked for {wanted}"
            )
    if name not in stored["sets"]:
        return None
    rows = load_rows(options.baselines)[name]
    return stored["sets"][name], {key: rows[key] for key in BASELINES if key in rows}


def add_dense(
    name: str, measured: dict[str, Any], rows: dict[str, Any], options: argparse.Namespace
) -> None:
    """Adds the dense checkpoint to a set that was measured without it."""
    collection = read(name, options)
    with timed("dense", measured["seconds"]):
        ranking = rank_by_dense(collection, options, device=measured["device"])
    measured["dense_command"] = shlex.join(["python", *sys.argv])
    add_results({"dense_checkpoint": evaluate_rankings(collection, ranking)}, measured, rows)


def read(name: str, options: argparse.Namespace) -> Collection:
    collection = read_set(name, options)
    print(f"{name}: {len(collection.queries):,} queries, {len(collection.documents):,} documents")
    return collection


def add_results(
    results: dict[str, Metrics], measured: dict[str, Any], rows: dict[str, Any]
) -> None:
    """Adds settings to the JSON of a set and to its values a query."""
    rows |= {name: metrics["ndcg@10"].astype(np.float32) for name, metrics in results.items()}
    measured["means"] |= {name: mean_metrics(metrics) for name, metrics in results.items()}
    measured |= describe(rows)


def measure_model(
    collection: Collection, encoder: FastLaneEncoder, options: argparse.Namespace
) -> tuple[dict[str, Metrics], dict[str, Any]]:
    seconds: dict[str, float] = {}
    device = encoder.device.type
    with timed("encode queries", seconds), autocast(options, device):
        queries = encode_queries(
            encoder, list(collection.queries.values()), batch_size=options.batch_size
        )
    with timed("encode documents", seconds):
        documents = encode_set(collection, encoder, options, options.storage, FRACTIONS)
    with timed("score controls", seconds):
        results = measure_controls(collection, queries, documents)
    return results, {
        "device": str(encoder.device),
        "query_views": float(np.mean([len(query.logits) for query in queries])),
        "document_views": float(documents.num_views.mean()),
        "relevant_views": relevant_views(collection, documents),
        "seconds": seconds,
    }


def measure_baselines(
    collection: Collection, encoder: FastLaneEncoder, options: argparse.Namespace
) -> dict[str, Metrics]:
    rankings = {"bm25": rank_by_bm25(collection)}
    config = encoder.fastlane_config
    if options.backbone is not None:
        device = encoder.device.type
        backbone = Backbone(
            options.backbone,
            query_length=config.query_length,
            document_length=config.document_length,
            query_prompt=config.query_prompt,
            document_prompt=config.document_prompt,
            device=device,
        )
        with autocast(options, device):
            rankings |= backbone.rank(
                collection,
                batch_size=options.batch_size,
                dtype=options.storage,
                show_progress=True,
            )
    if options.dense is not None:
        rankings["dense_checkpoint"] = rank_by_dense(collection, options, encoder.device.type)
    return {name: evaluate_rankings(collection, found) for name, found in rankings.items()}


def rank_by_dense(
    collection: Collection, options: argparse.Namespace, device: str
) -> list[Ranking]:
    dense = SentenceTransformer(options.dense, device=device)
    with autocast(options, dense.device.type):
        return rank_by_dense_encoder(collection, dense, batch_size=options.batch_size)


@contextmanager
def timed(name: str, seconds: dict[str, float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 2)
    print(f"  {name}: {seconds[name]:.1f} s")


def relevant_views(collection: Collection, documents: DocumentViews) -> Values:
    """How many views a query's relevant documents have, on average; NaN without one."""
    lengths = dict(zip(collection.documents, documents.num_views.tolist(), strict=True))
    relevant = [
        [lengths[id] for id, grade in collection.qrels[query].items() if grade > 0]
        for query in collection.queries
    ]
    return np.array([np.mean(one) if one else np.nan for one in relevant], dtype=np.float32)


if __name__ == "__main__":
    main()
