"""Baselines of `quality.py`: measured, or taken from results that were measured alike."""

from __future__ import annotations

import argparse
import json
from typing import Any

from sentence_transformers import SentenceTransformer

from fastlane_st import FastLaneEncoder
from fastlane_st.data.collection import Collection
from fastlane_st.evaluation.baselines import Backbone, rank_by_bm25, rank_by_dense_encoder
from fastlane_st.evaluation.metrics import Metrics, Ranking, evaluate_rankings

from ..common.encoding import autocast
from ..common.results import Facts, Rows, load_rows

STORED = ("bm25", "dense_backbone", "maxsim_backbone")
"""Those that don't depend on the checkpoint, so that another one's results may give them."""


def measure_baselines(
    collection: Collection, encoder: FastLaneEncoder, options: argparse.Namespace
) -> dict[str, Metrics]:
    """BM25, with --backbone the untouched backbone, and with --dense the dense checkpoint."""
    rankings = {"bm25": rank_by_bm25(collection)}
    config = encoder.fastlane_config
    device = encoder.device.type
    if options.backbone is not None:
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
        rankings["dense_checkpoint"] = rank_by_dense(collection, options, device)
    return {name: evaluate_rankings(collection, found) for name, found in rankings.items()}


def rank_by_dense(
    collection: Collection, options: argparse.Namespace, device: str
) -> list[Ranking]:
    """Rankings by the checkpoint of --dense."""
    dense = SentenceTransformer(options.dense, device=device)
    with autocast(options, dense.device.type):
        return rank_by_dense_encoder(collection, dense, batch_size=options.batch_size)


def stored_baselines(
    name: str, settings: dict[str, Any], options: argparse.Namespace
) -> tuple[Facts, Rows] | None:
    """A set's facts in --baselines, and the values per query taken from there; None if it isn't there.

    The facts' `baselines` say how those values were measured.

    Raises:
        SystemExit: They were measured with other settings; the dtype may be another.
    """
    if options.baselines is None:
        return None
    stored = json.loads(options.baselines.read_text("utf-8"))
    for key, wanted in settings.items():
        if key not in ("model", "dense", "dtype", "backbone") and stored["settings"][key] != wanted:
            raise SystemExit(
                f"{options.baselines} was measured with {key} {stored['settings'][key]}, asked for {wanted}"
            )
    if name not in stored["sets"]:
        return None
    facts = stored["sets"][name]
    how = {key: facts[key] for key in ("command", "environment")}
    rows = load_rows(options.baselines)[name]
    taken = [*STORED, *filter(None, options.unchanged.split(","))]
    kept = {key: rows[key] for key in taken if key in rows}
    how = {"settings": list(kept), "measured_with": stored["settings"], **how}
    return {**facts, "baselines": how}, kept
