"""Quality of a checkpoint, its controls and baselines on judged collections.

    python benchmarks/quality.py --data COLLECTIONS --sets nqgold,mlquestions:test \\
        --model fastlane-minilm --backbone BACKBONE --out benchmarks/results/quality.json

COLLECTIONS holds a BEIR-layout folder for each set; `name:split` names the judgements where there
are several. Settings are those of `fastlane_st.evaluation.controls`, and as baselines `bm25`, with --backbone
`dense_backbone` and `maxsim_backbone`, with --dense `dense_checkpoint`. The nDCG@10 of every query
is beside the JSON, in an .npz by `set/setting`. A set that the JSON holds already isn't measured again,
but for --dense, which may come later. --baselines OLD.json takes the baselines, which don't depend on the
checkpoint, from the results of another one that were measured alike. --same-weights OLD.json is for a change
of config.json that leaves all views and one route as they are: it measures only several routes and routed
documents, and takes the others from there.
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
from judged import add_options, autocast, encode_set, read_set
from machine import environment
from quality_summary import OF_QUERIES, Values, describe, load_rows, save, summarise
from sentence_transformers import SentenceTransformer

from fastlane_st import FastLaneEncoder
from fastlane_st.evaluation.baselines import Backbone, rank_by_bm25, rank_by_dense_encoder
from fastlane_st.evaluation.collection import Collection
from fastlane_st.evaluation.controls import FRACTIONS, WITH_FRACTIONS, measure_controls
from fastlane_st.evaluation.metrics import Metrics, Ranking, evaluate_rankings, mean_metrics
from fastlane_st.evaluation.routes import OVER_DOCUMENTS, measure_routes
from fastlane_st.evaluation.scoring import NUM_ROUTES, DocumentViews, encode_queries
from fastlane_st.hub import DEFAULT_CHECKPOINT, default_checkpoint

BASELINES = ("bm25", "dense_backbone", "maxsim_backbone")
OF_CONFIG = (  # what `route_spread` changes
    *(f"router_{k}" for k in NUM_ROUTES if k > 1),
    *(f"{name}{OVER_DOCUMENTS}{fraction:g}" for name in WITH_FRACTIONS for fraction in FRACTIONS),
)


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    found = load(options)
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--sets", required=True, help="name or name:split, with commas")
    parser.add_argument("--model", default=DEFAULT_CHECKPOINT)
    parser.add_argument("--backbone", help="folder of the untouched encoder")
    parser.add_argument("--dense", help="a Sentence Transformers checkpoint")
    known = parser.add_mutually_exclusive_group()
    known.add_argument("--baselines", type=Path, help="results of another checkpoint")
    known.add_argument("--same-weights", type=Path, help="results of another config.json")
    parser.add_argument("--storage", choices=("float32", "float16"), default="float16")
    return parser.parse_args()


def load(options: argparse.Namespace) -> dict[str, Any]:
    """The results so far, or none; refuses those of other settings."""
    settings = settings_of(options)
    if not options.out.exists():
        return {"settings": settings, "over_sets": {}, "sets": {}}
    found: dict[str, Any] = json.loads(options.out.read_text())
    if found["settings"]["dense"] is None:
        found["settings"]["dense"] = settings["dense"]
    if found["settings"] != settings:
        raise SystemExit(f"{options.out} holds {found['settings']}, asked for {settings}")
    return found


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """What all sets of one file have in common."""
    return {
        "model": fingerprint(options.model),
        "backbone": fingerprint(options.backbone),
        "dense": fingerprint(options.dense),
        "config": digest_of([checkpoint_folder(options.model) / "config.json"]),
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
    weights = sorted(checkpoint_folder(checkpoint).rglob("*.safetensors"))
    return {"name": Path(checkpoint).name, "sha256": digest_of(weights)}


def checkpoint_folder(checkpoint: str) -> Path:
    folder = default_checkpoint() if checkpoint == DEFAULT_CHECKPOINT else Path(checkpoint)
    if not folder.is_dir():
        raise SystemExit(f"{checkpoint} is no folder; download the checkpoint first")
    return folder


def digest_of(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def measure_set(
    name: str, encoder: FastLaneEncoder, options: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The JSON of one set, and its values a query."""
    collection = read(name, options)
    old, known = known_values(name, options)  # which may refuse, before the work
    results, facts = measure_model(collection, encoder, options, known)
    if not any(setting in known for setting in BASELINES):
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
    if known:
        told = ("command", "environment", "device", "baselines", "dense_command", "known")
        measured["known"] = {
            "settings": list(known),
            **{key: old[key] for key in told if key in old},
        }
        measured["means"] |= {setting: old["means"][setting] for setting in known}
        rows |= known
    add_results(results, measured, rows)
    return measured, rows


def known_values(name: str, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """What needn't be measured again: the JSON of a set in old results, and the values a query from there."""
    path: Path | None = options.baselines or options.same_weights
    if path is None:
        return {}, {}
    stored = json.loads(path.read_text())
    changed = ("config",) if options.same_weights else ("config", "model", "dense")
    for key, wanted in settings_of(options).items():
        if key not in changed and stored["settings"][key] != wanted:
            raise SystemExit(
                f"{path} was measured with {key} {stored['settings'][key]}, asked for {wanted}"
            )
    if name not in stored["sets"]:
        return {}, {}
    kept = {
        setting: row
        for setting, row in load_rows(path)[name].items()
        if setting not in OF_QUERIES
        and (setting not in OF_CONFIG if options.same_weights else setting in BASELINES)
    }
    return stored["sets"][name], kept


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
    collection: Collection,
    encoder: FastLaneEncoder,
    options: argparse.Namespace,
    known: dict[str, Any],
) -> tuple[dict[str, Metrics], dict[str, Any]]:
    """The metrics of the model's settings, all of them unless its own are known, and facts about it."""
    seconds: dict[str, float] = {}
    device = encoder.device.type
    with timed("encode queries", seconds), autocast(options, device):
        queries = encode_queries(
            encoder, list(collection.queries.values()), batch_size=options.batch_size
        )
    with timed("encode documents", seconds):
        documents = encode_set(collection, encoder, options, options.storage, FRACTIONS)
    with timed("score controls", seconds):
        if "full" in known:
            results = measure_routes(collection, queries, documents, OF_CONFIG)
        else:
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
