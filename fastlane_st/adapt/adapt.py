"""Adapts a checkpoint to a collection without labels: makes pairs, mines negatives, trains an adapter."""

from __future__ import annotations

import copy
import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..adapters import LoraSettings, lora_config
from ..data.rows import CorpusDocument
from ..demo.python_docs import python_documents
from ..encoder import FastLaneEncoder
from ..files import found_anywhere
from ..index.index import FastLaneIndex
from ..losses import LossWeights, RoutedContrastiveLoss
from ..modeling.adapters_fastlane import loaded_adapters
from ..retrofit.report import timed
from .held_out import AdaptReport, Measured, hold_out, measure
from .pairs import MadePair, make_pairs

FEWEST_PAIRS = 64
FOUND = 20
"""Documents of which a negative is chosen."""
FALSE_NEGATIVES = 0.95
"""A found document that scores more than this share of the query's own may be as relevant (NV-Retriever,
arXiv 2407.15831)."""
ADAPTER_NAME = "default"


@dataclass(frozen=True)
class AdaptSettings:
    """Settings of a run. Lengths are in tokens.

    Attributes:
        steps: Optimiser steps.
        batch_size: Pairs in a step; each has a mined negative.
        max_documents: Draw so many if there are more: of these pairs are made.
        query_length: Of queries in training.
        document_length: Of passages in training.
        rank: Of LoRA in the backbone.
        lora_learning_rate: Of LoRA.
        projection_learning_rate: Of the projection, which an adapter has for its own.
        router_learning_rate: Of the router, likewise.
        seed: Of all draws.
    """

    steps: int = 150
    batch_size: int = 16
    max_documents: int = 2_000
    query_length: int = 32
    document_length: int = 96
    rank: int = 8
    lora_learning_rate: float = 1e-4
    projection_learning_rate: float = 1e-4
    router_learning_rate: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "max_documents", "query_length", "document_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


LOSS = LossWeights(routed=1.0, full=1.0, distillation=1.0, teacher=1.0, oracle=0.3)
"""The teacher is the checkpoint's own MaxSim, before training."""
NUM_ROUTES = (1, 1, 2, 4)
TEMPERATURE = 0.3
"""Of the Gumbel gate: the last one of the released run."""


def adapt(
    name_or_path: str | FastLaneEncoder,
    documents: Iterable[CorpusDocument],
    output: str | Path,
    *,
    other: Iterable[CorpusDocument] | None = None,
    settings: AdaptSettings | None = None,
    batch_size: int = 32,
    show_progress_bar: bool = False,
) -> AdaptReport:
    """Writes an adapter of a checkpoint, trained on pairs that are made of a collection's documents.

    Titles, headings and crops are the queries; each has its passage, a negative that the checkpoint finds,
    and the other passages of its batch. The checkpoint's own MaxSim is the teacher. A fifth of the
    documents, at most 200, is held out and tells what was gained.

    Args:
        name_or_path: A FastLane checkpoint or encoder. An encoder has the adapter afterwards.
        documents: Titles and texts of the collection.
        output: A new folder, for the adapter and `adapt.json`.
        other: Documents of another collection, which tell what was forgotten; by default those that
            Python's own documentation gives.
        settings: Of the run.
        batch_size: Texts encoded at once.
        show_progress_bar: Show one for each phase.

    Raises:
        FileExistsError: `output` exists.
        ValueError: Too few documents, or the checkpoint has an adapter loaded.
        ImportError: The extra `train` isn't installed.
    """
    target = Path(output)
    if target.exists():
        raise FileExistsError(f"{target} exists: name a new folder")
    chosen = settings or AdaptSettings()
    seconds: dict[str, float] = {}
    given = draw(documents, chosen.max_documents, chosen.seed)
    pairs = make_pairs(given, chosen.seed)
    ours = hold_out(pairs, given, "this collection", chosen.seed)
    held = {int(number) for number in ours.queries}
    trained = [pair for pair in pairs if pair.document not in held]
    if len(trained) < FEWEST_PAIRS or not held:
        raise ValueError(
            f"{len(given):,} documents give {len(trained)} pairs, and an adapter needs at least "
            f"{FEWEST_PAIRS}: some thousand documents with titles, headings or more than some 20 words "
            "are better"
        )
    theirs = draw(python_documents() if other is None else other, chosen.max_documents, chosen.seed)
    elsewhere = hold_out(make_pairs(theirs, chosen.seed), theirs, "another collection", chosen.seed)
    if not elsewhere.queries:
        raise ValueError("the other collection's documents are too few or too short for queries")

    with timed(seconds, "loading"):
        encoder = (
            name_or_path
            if isinstance(name_or_path, FastLaneEncoder)
            else FastLaneEncoder(name_or_path)
        )
        model: Any = encoder[0].model
        if loaded_adapters(model):
            raise ValueError(
                "the checkpoint has an adapter: merge it into its base first, with merge_and_unload()"
            )
        adapter = lora_config(model, LoraSettings(rank=chosen.rank, alpha=2 * chosen.rank))
    collections = (ours, elsewhere)
    with timed(seconds, "measuring"):
        before = [measure(encoder, one, batch_size, show_progress_bar) for one in collections]
    with timed(seconds, "negatives"):
        rows = with_negatives(encoder, trained, given, batch_size, show_progress_bar)
    with timed(seconds, "training"):
        teacher = copy.deepcopy(encoder)
        encoder.add_adapter(adapter, ADAPTER_NAME)
        if isinstance(name_or_path, str):
            adapter.base_model_name_or_path = found_anywhere(name_or_path)
        train(encoder, teacher, rows, chosen, show_progress_bar)
    with timed(seconds, "measuring"):
        after = [measure(encoder, one, batch_size, show_progress_bar) for one in collections]
    gained, forgotten = (
        {views: Measured.of(old[views], new[views]) for views in old}
        for old, new in zip(before, after, strict=True)
    )
    report = AdaptReport(
        num_documents=len(given),
        num_pairs=dict(Counter(pair.kind for pair in trained)),
        gained=gained,
        forgotten=forgotten,
        other=elsewhere.name,
        seconds=seconds,
    )
    encoder.save_pretrained(str(target))
    facts = {"settings": asdict(chosen), **report.to_dict()}
    (target / "adapt.json").write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
    return report


def draw(documents: Iterable[CorpusDocument], count: int, seed: int) -> list[CorpusDocument]:
    """Up to so many documents whose texts differ, in a drawn order."""
    different = list({document.text: document for document in documents}.values())
    return random.Random(seed).sample(different, min(count, len(different)))


def with_negatives(
    encoder: FastLaneEncoder,
    pairs: Sequence[MadePair],
    documents: Sequence[CorpusDocument],
    batch_size: int,
    show_progress_bar: bool,
) -> list[dict[str, str]]:
    """Gives each pair the text of another document that its query finds by one route.

    That is the best one whose score isn't so near to that of the pair's own document that it may be as
    relevant; where the own one isn't found, the last of those found.
    """
    vectors = encoder.encode_document(
        [document.text for document in documents],
        num_routes=None,
        batch_size=batch_size,
        show_progress_bar=show_progress_bar,
        convert_to_numpy=True,
    )
    index = FastLaneIndex.from_embeddings(list(vectors), encoder=encoder, kind="flat")
    found = index.search(
        [pair.query for pair in pairs], min(FOUND, len(documents)), 1, batch_size=batch_size
    )
    rows = []
    for pair, hits in zip(pairs, found, strict=True):
        scores = {int(hit.id): hit.score for hit in hits}
        own = scores.pop(pair.document, None)
        others = list(scores)
        below = [] if own is None else [n for n in others if scores[n] < FALSE_NEGATIVES * own]
        chosen = documents[below[0] if below else others[-1]]
        rows.append({"query": pair.query, "positive": pair.positive, "negative_1": chosen.text})
    return rows


def train(
    encoder: FastLaneEncoder,
    teacher: FastLaneEncoder,
    rows: Sequence[dict[str, str]],
    settings: AdaptSettings,
    show_progress_bar: bool,
) -> None:
    """Trains the encoder's adapter, and leaves the encoder ready to encode."""
    from datasets import Dataset
    from sentence_transformers import MultiVectorEncoderTrainingArguments
    from transformers import PrinterCallback

    from ..trainer import EncoderTrainer, prompts_by_column

    module: Any = encoder[0]
    module.temperature = TEMPERATURE
    with tempfile.TemporaryDirectory() as scratch:
        arguments = MultiVectorEncoderTrainingArguments(
            scratch,
            per_device_train_batch_size=settings.batch_size,
            max_steps=settings.steps,
            learning_rate=settings.lora_learning_rate,
            learning_rate_mapping={
                r"\.projection\.": settings.projection_learning_rate,
                r"\.router\.": settings.router_learning_rate,
            },
            warmup_steps=0.1,
            batch_sampler="no_duplicates",
            max_length={"query": settings.query_length, "document": settings.document_length},
            prompts=prompts_by_column(encoder.prompts, rows[0]),
            use_cpu=encoder.device.type == "cpu",
            dataloader_drop_last=True,
            dataloader_pin_memory=False,
            disable_tqdm=not show_progress_bar,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            seed=settings.seed,
        )
        trainer = EncoderTrainer(
            model=encoder,
            args=arguments,
            train_dataset=Dataset.from_list(list(rows)),
            loss=RoutedContrastiveLoss(encoder, LOSS, num_routes=NUM_ROUTES, teacher=teacher),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    encoder.eval()
