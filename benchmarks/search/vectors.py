"""Encodes real passages and judged queries once, for all engines to search the same vectors.

    python -m benchmarks.search.vectors --judged data/eval/nqgold --others data/scale/manuals.jsonl.xz \
        --num-others 100000 --num-queries 500 --routes 0.25 --out runs/peers/vectors

The documents of the judged collection and the others are shuffled together. A run that was
stopped goes on where it was. Vectors are stored in float16: 3.5 GB for 114,086 passages and a quarter of
their views.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from fastlane_st import FastLaneEncoder
from fastlane_st.data.collection import Collection, read_collection
from fastlane_st.data.corpus import CorpusDocument
from fastlane_st.index.identity import encoder_digests

from ..common.encoding import autocast
from ..common.environment import command, environment
from ..common.results import write_results

SHARD = 2_000  # documents
BATCH = 16  # more long texts at once don't fit a CPU's caches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judged", type=Path, required=True, help="a BEIR folder")
    parser.add_argument("--others", type=Path, help="more documents, JSONL in xz")
    parser.add_argument("--num-others", type=int, default=0)
    parser.add_argument("--num-queries", type=int, default=500)
    parser.add_argument("--routes", type=float, help="the fraction of views kept; all without it")
    parser.add_argument("--model", default="fastlane-minilm")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of encoding; bfloat16 is slow on a processor without it",
    )
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    judged = read_collection(options.judged).limit(num_queries=options.num_queries)
    documents = list(judged.documents.items())
    if options.num_others:
        documents += read_others(options.others, options.num_others)
    random.Random(0).shuffle(documents)
    ids, texts = map(list, zip(*documents, strict=True))
    encoder = FastLaneEncoder(options.model)
    facts = {
        "command": command(),
        "checkpoint": encoder_digests(encoder),
        "routes": options.routes,
        "documents": len(documents),
        "queries": len(judged.queries),
    }
    check_same(options.out / "collection.json", facts)
    (options.out / "ids.json").write_text(json.dumps(ids), "utf-8")
    (options.out / "texts.json").write_text(json.dumps(texts), "utf-8")
    with autocast(options, encoder.device.type):
        encode_queries(options.out, encoder, judged)
        seconds = encode_documents(options.out, encoder, texts, options.routes)
    write_results(
        options.out / "collection.json",
        {**facts, "environment": environment(), "documents_per_second": seconds},
    )


def read_others(path: Path, count: int) -> list[tuple[str, str]]:
    """The first documents of a file, id and text."""
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        rows = map(json.loads, islice(lines, count))
        documents = (CorpusDocument(row["_id"], row["text"], row.get("title", "")) for row in rows)
        return [(document.id, document.content) for document in documents]


def check_same(path: Path, facts: dict[str, Any]) -> None:
    """Raises SystemExit if the folder was begun with another command or checkpoint."""
    if not path.exists():
        write_results(path, facts)
    begun = json.loads(path.read_text("utf-8"))
    if any(begun[name] != facts[name] for name in facts):
        raise SystemExit(f"{path.parent} was begun otherwise: {begun['command']}")


def encode_queries(folder: Path, encoder: FastLaneEncoder, judged: Collection) -> None:
    """Writes each query's one route, all of its views, and its judgements."""
    texts = list(judged.queries.values())
    routed = encoder.encode_query(texts, num_routes=1)
    full = encoder.encode_query(texts, num_routes=None)
    save_vectors(folder / "queries-routed.npy", torch.cat(list(routed)))
    save_vectors(folder / "queries-full.npy", torch.cat(list(full)))
    np.save(folder / "queries-counts.npy", np.array([len(views) for views in full]))
    queries = [
        {"id": id, "text": text, "relevant": dict(judged.qrels[id])}
        for id, text in judged.queries.items()
    ]
    (folder / "queries.json").write_text(json.dumps(queries), "utf-8")


def encode_documents(
    folder: Path, encoder: FastLaneEncoder, texts: list[str], routes: float | None
) -> float | None:
    """Encodes the missing shards; returns documents per second, or None if none was missing."""
    encoded, started = 0, time.perf_counter()
    for number in tqdm(range(-(-len(texts) // SHARD)), unit="shard"):
        path = folder / f"vectors-{number:04d}.npy"
        if path.exists():
            continue
        chunk = texts[number * SHARD : (number + 1) * SHARD]
        views = encoder.encode_document(
            chunk, num_routes=routes, batch_size=BATCH, show_progress_bar=False
        )
        np.save(folder / f"counts-{number:04d}.npy", np.array([len(one) for one in views]))
        save_vectors(path, torch.cat(list(views)))
        encoded += len(chunk)
    return encoded / (time.perf_counter() - started) if encoded else None


def save_vectors(path: Path, vectors: torch.Tensor) -> None:
    """Writes vectors as float16; a run that is stopped leaves no part of them."""
    scratch = path.with_suffix(".tmp")
    with open(scratch, "wb") as file:
        np.save(file, vectors.half().numpy())
    scratch.rename(path)


if __name__ == "__main__":
    main()
