"""Changes to the released recipe, one at a time, in short runs that are judged on dev queries.

    python -m benchmarks.quality.variants --config training/fastlane-minilm.yaml --steps 64 \\
        --data data/eval --sets mlquestions:dev,scitldr:dev,stackexchange:dev,wikiqa:dev \\
        --limit-queries 300 --limit-documents 1000 --dtype bfloat16 --scratch runs/variants \\
        --out benchmarks/results/variants.json

nDCG@10 with all views and with the router's routes, and how much better a variant is than `as_released`, the
same recipe in as many steps. Topics and joined passages of a source are made once, by the untrained encoder.
A variant in the JSON isn't run again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate.utils import set_seed  # type: ignore[import-untyped]
from datasets import DatasetDict

from fastlane_st import FastLaneEncoder
from fastlane_st.losses import RoutedContrastiveLoss
from fastlane_st.losses.column_views import ColumnViews
from training import train
from training.mine import mine
from training.negatives import MiningConfig
from training.training_config import Source, TrainingConfig

from ..common.encoding import gains_over_control, rows_of_all_sets
from ..common.options import limits, parse, sets_parser
from ..common.results import Facts, Rows, SetResults, measure_sets

CONTROL = "as_released"
MINED = ("stackexchange", "scitldr", "trivia", "healthqa")
"""The sources with negatives of their own in the variant `mined_negatives`."""
CLOZE_WORDS = range(14, 40)


@dataclass(frozen=True)
class Variant:
    """One change.

    Attributes:
        overrides: As on the command line of training.train.
        change: Changes a configuration; gets a folder for files that it needs.
        frozen_documents: The untrained encoder encodes documents, the trained one queries.
    """

    overrides: tuple[str, ...] = ()
    change: Callable[[TrainingConfig, Path], TrainingConfig] = lambda config, _: config
    frozen_documents: bool = False


def with_mined_negatives(config: TrainingConfig, scratch: Path) -> TrainingConfig:
    """One hard negative per row of the sources in `MINED`, found by the released checkpoint."""
    sources = []
    for source in config.sources:
        if source.label in MINED:
            out = scratch / f"mined-{source.label}.jsonl.gz"
            if not out.exists():
                mine("fastlane-minilm", source, out, MiningConfig(num_negatives=1))
            source = replace(source, path=str(out), name=source.label)
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
    "more_routes": Variant(("num_routes=[1, 2, 4, 8]",)),
    "long_queries": Variant(change=with_long_queries),
    "special_tokens": Variant(("backbone_options.use_special_tokens=true",)),
    "mask_tokens": Variant(("backbone_options.query_prompt='[MASK] [MASK] [MASK] [MASK] '",)),
    "mined_negatives": Variant(change=with_mined_negatives),
    "frozen_documents": Variant(frozen_documents=True),
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
        """See `train.load_dataset`."""
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
        with ExitStack() as patches:
            patches.enter_context(patch.object(train, "load_dataset", load))
            if variant.frozen_documents:
                patches.enter_context(
                    patch.object(RoutedContrastiveLoss, "encode_document", encode_by_teacher)
                )
            train.train(config)
    trained = FastLaneEncoder(str(folder))
    return trained, untrained if variant.frozen_documents else trained


@torch.no_grad()
def encode_by_teacher(loss: RoutedContrastiveLoss, column: dict[str, Any]) -> ColumnViews:
    """Encodes documents by the frozen teacher; replaces the loss's `encode_document`."""
    views = loss.teacher_views(column)
    return replace(views, embeddings=views.embeddings.float())


if __name__ == "__main__":
    main()
