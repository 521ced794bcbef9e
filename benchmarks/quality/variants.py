"""Changes to the released recipe, one at a time, in short runs that are judged on dev queries.

    python -m benchmarks.quality.variants --config training/fastlane-minilm.yaml --steps 128 \\
        --data data --limit-queries 800 --limit-documents 2500 --dtype bfloat16 \\
        --sets eval/mlquestions:dev,eval/scitldr:dev,eval/stackexchange:dev,eval/wikiqa:dev,\\
    train/news.jsonl.gz,train/checkthat2020.jsonl.gz,train/wikiqa.jsonl.gz \\
        --scratch runs/variants --out benchmarks/results/variants.json

nDCG@10 with all views and with the router's routes, and how much better a variant is than `as_released`, the
same recipe in as many steps. Three of the sets are pairs that the recipe doesn't train on. Topics and joined
passages of a source are made once, by the untrained encoder. A variant in the JSON isn't run again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree
from typing import Any
from unittest.mock import patch

import torch
from accelerate.utils import set_seed  # type: ignore[import-untyped]
from datasets import DatasetDict
from torch import Tensor

from fastlane_st import FastLaneEncoder
from fastlane_st.losses import RoutedContrastiveLoss, routed_contrastive
from fastlane_st.losses.column_views import ColumnViews, best_matches, divergence, mean_over_views
from fastlane_st.modeling.routing_fastlane import pool_tokens
from training import train
from training.data import draw_capped, read_rows
from training.mine import mine
from training.negatives import MiningConfig
from training.training_config import Source, TrainingConfig

from ..common.encoding import gains_over_control, rows_of_all_sets
from ..common.options import limits, parse, sets_parser
from ..common.results import Facts, Rows, SetResults, measure_sets

CONTROL = "as_released"
NEGATIVES = 2
CLOZE_WORDS = range(14, 40)


class MeanTeacher(RoutedContrastiveLoss):
    """Teaches the mean of two MaxSims: over documents in their context, and over those without any."""

    @torch.no_grad()
    def teacher_scores(self, columns: Sequence[dict[str, Any]]) -> Tensor | None:
        """Computes the mean of both MaxSims, (B, documents); documents are encoded for each."""
        query, *documents = [self.teacher_views(column) for column in columns]
        plain = [
            replace(self.teacher_views(column | {"task": "query"}), mask=views.mask)
            for column, views in zip(columns[1:], documents, strict=True)
        ]
        best = best_matches(query.embeddings, documents) + best_matches(query.embeddings, plain)
        return self.scale * mean_over_views(best / 2, query.mask)


class WithoutFalseNegatives(MeanTeacher):
    """Leaves out negatives that the teacher scores close to the positive or above it."""

    margin = 0.05

    def contrastive(self, scores: Tensor, target: Tensor) -> Tensor:
        """Computes the cross-entropy over the positive and what scores below 0.95 of it."""
        positive = target.diagonal()[:, None]
        false = target > positive - self.margin * positive.abs()
        false.fill_diagonal_(False)
        return super().contrastive(scores.masked_fill(false, torch.finfo(scores.dtype).min), target)


class FrozenDocuments(RoutedContrastiveLoss):
    """The untrained encoder encodes documents, the trained one queries."""

    @torch.no_grad()
    def encode_document(self, features: dict[str, Any]) -> ColumnViews:
        """Encodes documents by the teacher, without gradients, in float32 as the loss expects."""
        views = self.teacher_views(features)
        return replace(views, embeddings=views.embeddings.float())


class PooledDocuments(RoutedContrastiveLoss):
    """Every other batch has documents pooled to a quarter of their views."""

    def encode_document(self, features: dict[str, Any]) -> ColumnViews:
        """Encodes documents with every view, or pooled; gradients pass through the means."""
        views = super().encode_document(features)
        if torch.rand(()) < 0.5:
            views.embeddings, views.mask = pool_tokens(views.embeddings, views.mask, 0.25)
        return views


class MarginLoss(RoutedContrastiveLoss):
    """MarginMSE (arXiv 2010.02666) beside each divergence: squared differences of margins to the positive."""

    weight = 0.05

    def parts(self, *args: Any) -> dict[str, Tensor]:
        """Computes the parts, with margins in `distillation` and in `teacher`."""

        def both(target: Tensor, scores: Tensor) -> Tensor:
            margins = [one - one.diagonal()[:, None] for one in (target.detach(), scores)]
            squares = (margins[1] - margins[0]).square().mean()
            return divergence(target, scores) + self.weight * squares

        with patch.object(routed_contrastive, "divergence", both):
            return super().parts(*args)


@dataclass(frozen=True)
class Variant:
    """One change.

    Attributes:
        overrides: As on the command line of training.train.
        change: Changes a configuration; gets a folder for files that it needs.
        loss: Replaces the recipe's.
    """

    overrides: tuple[str, ...] = ()
    change: Callable[[TrainingConfig, Path], TrainingConfig] = lambda config, _: config
    loss: type[RoutedContrastiveLoss] = RoutedContrastiveLoss


def with_mined_negatives(config: TrainingConfig, scratch: Path) -> TrainingConfig:
    """Hard negatives for each row of the sources, found by one route of the released checkpoint."""
    sources = []
    for source in config.sources:
        if source.join == 1:
            out = scratch / f"mined-{source.label}.jsonl.gz"
            if not out.exists():
                kept = draw_capped([row for _, row in read_rows(source)], source.cap, config.seed)
                pairs = scratch / f"pairs-{source.label}.jsonl"
                pairs.write_text("".join(json.dumps(row) + "\n" for row in kept), "utf-8")
                settings = MiningConfig(num_negatives=4, backend="onnx", dtype="int8")
                mine("fastlane-minilm", Source(path=str(pairs)), out, settings)
            source = Source(path=str(out), name=source.label, num_negatives=NEGATIVES)
        sources.append(source)
    return replace(config, sources=tuple(sources))


def with_long_queries(config: TrainingConfig, scratch: Path) -> TrainingConfig:
    """Summaries of papers four times as often, and sentences as queries for the rest of their abstract."""
    named = {source.label: source for source in config.sources}
    cloze = scratch / "cloze.jsonl.gz"
    if not cloze.exists():
        write_cloze(str(named["papers"].path), cloze)
    more = [replace(named["scitldr"], name=f"scitldr{number}") for number in (2, 3, 4)]
    return replace(config, sources=(*config.sources, *more, Source(path=str(cloze), cap=8000)))


def write_cloze(papers: str, out: Path, seed: int = 0) -> None:
    """Writes pairs of a sentence and the rest of its abstract (inverse cloze, arXiv 1906.00300)."""
    rng = random.Random(seed)
    with gzip.open(papers, "rt", encoding="utf-8") as rows, gzip.open(out, "wt") as pairs:
        for row in map(json.loads, rows):
            sentences = re.split(r"(?<=[.!?]) ", row["positive"])
            fitting = [n for n, one in enumerate(sentences) if len(one.split()) in CLOZE_WORDS]
            if len(sentences) > 2 and fitting:
                query = sentences.pop(rng.choice(fitting))
                pairs.write(json.dumps({"query": query, "positive": " ".join(sentences)}) + "\n")


VARIANTS = {
    CONTROL: Variant(),
    "mean_teacher": Variant(loss=MeanTeacher),
    "two_mined_negatives": Variant(change=with_mined_negatives),
    "two_mined_negatives_and_mean_teacher": Variant(change=with_mined_negatives, loss=MeanTeacher),
    "joint": Variant(
        (r"frozen=['backbone\.embeddings']",), with_mined_negatives, WithoutFalseNegatives
    ),
    "larger_batches": Variant(("batch_size=128",)),
    "margins": Variant(loss=MarginLoss),
    "pooled_documents": Variant(loss=PooledDocuments),
    "taught_router": Variant(
        (
            "loss_weights.oracle=1.0",
            "temperature_schedule=exponential",
            "temperature_end=0.1",
        )
    ),
    "more_routes": Variant(("num_routes=[1, 2, 4, 8]",)),
    "long_queries": Variant(change=with_long_queries),
    "special_tokens": Variant(("backbone_options.use_special_tokens=true",)),
    "mask_tokens": Variant(("backbone_options.query_prompt='[MASK] [MASK] [MASK] [MASK] '",)),
    "frozen_documents": Variant(loss=FrozenDocuments),
}


def main() -> None:
    parser = sets_parser(__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--variants", default=",".join(VARIANTS), help=f"{CONTROL} first")
    parser.add_argument("--scratch", type=Path, required=True)
    options = parse(parser)
    options.scratch.mkdir(parents=True, exist_ok=True)
    settings = {
        "config": options.config.name,
        "steps": options.steps,
        "sets": options.sets,
        **limits(options),
    }
    results = SetResults(options.out, settings)
    load = Sources()

    def measure(name: str) -> tuple[Facts, Rows]:
        queries, documents = train_variant(name, VARIANTS[name], load, options)
        rows = rows_of_all_sets(queries, options, documents)
        return gains_over_control(rows, rows if name == CONTROL else results.rows[CONTROL]), rows

    measure_sets(results, options.variants.split(","), measure)


class Sources:
    """Loads a run's data as training.train does, each source once for all runs."""

    def __init__(self) -> None:
        self.load = train.load_dataset
        self.known: dict[str, Any] = {}

    def __call__(self, config: TrainingConfig, encoder: FastLaneEncoder, *processes: int) -> Any:
        """Takes the arguments of `train.load_dataset`, and gives the same data."""
        for source in config.sources:
            if repr(source) not in self.known:
                alone = self.load(replace(config, sources=(source,)), encoder, *processes)
                self.known[repr(source)] = alone[source.label]
        return DatasetDict({one.label: self.known[repr(one)] for one in config.sources})


def train_variant(
    name: str, variant: Variant, load: Sources, options: argparse.Namespace
) -> tuple[FastLaneEncoder, FastLaneEncoder]:
    """Trains one variant, and gives the encoders of its queries and of its documents."""
    folder = options.scratch / name
    overrides = [f"max_steps={options.steps}", f"output_dir={folder}", "delta=false"]
    config = TrainingConfig.load(options.config, [*overrides, *variant.overrides])
    config = variant.change(config, options.scratch)
    set_seed(config.seed)
    untrained = train.build_encoder(config)  # with the same seed as in training.train
    if not (folder / "model.safetensors").exists():
        rmtree(folder, ignore_errors=True)  # of a run that was stopped midway
        with ExitStack() as patches:
            patches.enter_context(patch.object(train, "load_dataset", load))
            patches.enter_context(patch.object(train, "RoutedContrastiveLoss", variant.loss))
            train.train(config)
    trained = FastLaneEncoder(str(folder))
    return trained, untrained if variant.loss is FrozenDocuments else trained


if __name__ == "__main__":
    main()
