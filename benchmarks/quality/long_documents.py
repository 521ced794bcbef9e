"""Long documents: cut at the encoder's length, or indexed as overlapping windows.

    python -m benchmarks.quality.long_documents --data data/eval --sets cranfield,wikiqa:dev \\
        --out benchmarks/results/long_documents.json

A set's documents are joined, `--join` of them in the order of its corpus to one; what is relevant to a query
is the document that a relevant one became part of. nDCG@10, brute force; a set in the JSON isn't measured
again.
"""

from __future__ import annotations

import argparse
from functools import partial

import numpy as np

from fastlane_st import FastLaneEncoder
from fastlane_st.data.collection import Collection
from fastlane_st.evaluation.metrics import macro_difference
from fastlane_st.evaluation.routes import measure_routes
from fastlane_st.evaluation.scoring import BlockStore, DocumentViews, encode_queries
from fastlane_st.hub import DEFAULT_CHECKPOINT
from fastlane_st.index.encoding import Encoding
from fastlane_st.index.long_texts import LongTexts

from ..common.encoding import (
    autocast,
    describe_checkpoint,
    fastlane_model,
    ndcg_by_query,
    read_set,
)
from ..common.options import limits, parse, sets_parser
from ..common.results import Facts, Rows, SetResults, measure_sets

SETTINGS = ("router_1", "full")
WAYS: tuple[LongTexts, ...] = ("cut", "window")


def main() -> None:
    parser = sets_parser(__doc__)
    parser.add_argument("--model", default=DEFAULT_CHECKPOINT)
    parser.add_argument("--join", type=int, default=8, help="documents of the set in a long one")
    options = parse(parser)
    encoder = FastLaneEncoder(options.model)
    settings = {
        "model": describe_checkpoint(options.model, fastlane_model(encoder)),
        "join": options.join,
        **limits(options),
    }
    measure_sets(
        SetResults(options.out, settings),
        options.sets.split(","),
        partial(measure_long, encoder=encoder, options=options),
        lambda found: window_against_cut(found.rows),
    )


def measure_long(
    name: str, encoder: FastLaneEncoder, options: argparse.Namespace
) -> tuple[Facts, Rows]:
    """nDCG@10 per query by `way setting`, and how long the documents are."""
    collection = joined(read_set(name, options), options.join)
    with autocast(options, encoder.device.type):
        queries = encode_queries(encoder, list(collection.queries.values()), num_routes=(1,))
    rows: Rows = {}
    facts: Facts = {"queries": len(collection.queries), "documents": len(collection.documents)}
    for way in WAYS:
        encoding = Encoding(
            encoder, None, options.batch_size, show_progress_bar=True, long_texts=way
        )
        with autocast(options, encoder.device.type):
            documents = encode_all(encoding, collection)
        measured = ndcg_by_query(measure_routes(collection, queries, documents, SETTINGS))
        rows |= {f"{way} {setting}": row for setting, row in measured.items()}
        facts |= {"long": encoding.long.count}
        facts[f"vectors_per_document_{way}"] = float(documents.num_views.mean())
    return {**facts, "ndcg@10": window_against_cut({name: rows})}, rows


def joined(collection: Collection, count: int) -> Collection:
    """A collection whose documents are `count` each of this one's, in their order."""
    ids = list(collection.documents)
    parts = [ids[first : first + count] for first in range(0, len(ids), count)]
    owner = {id: f"joined-{number}" for number, some in enumerate(parts) for id in some}
    qrels: dict[str, dict[str, int]] = {}
    for query, judged in collection.qrels.items():
        grades = qrels.setdefault(query, {})
        for id, grade in judged.items():
            grades[owner[id]] = max(grade, grades.get(owner[id], grade))
    documents = {
        owner[some[0]]: "\n\n".join(collection.documents[id] for id in some) for some in parts
    }
    return Collection(collection.name, collection.split, documents, collection.queries, qrels)


def encode_all(encoding: Encoding, collection: Collection) -> DocumentViews:
    """All views of all documents, as an index takes them."""
    store = BlockStore(np.float16)
    for encoded in encoding.encoded(
        list(collection.documents.values()), list(collection.documents)
    ):
        store.add(encoded.views.vectors)
    return store.documents()


def window_against_cut(rows: dict[str, Rows]) -> Facts:
    """Means over sets, each with the same weight, and windows minus cut."""
    found: Facts = {}
    for setting in SETTINGS:
        cut, window = (
            [one[f"{way} {setting}"].astype(float) for one in rows.values()] for way in WAYS
        )
        found[setting] = {
            "cut": float(np.mean([one.mean() for one in cut])),
            "window": float(np.mean([one.mean() for one in window])),
            "difference": macro_difference(list(zip(window, cut, strict=True))).to_dict(),
        }
    return found


if __name__ == "__main__":
    main()
