"""Puts routes onto a late-interaction checkpoint: reads it, trains its query side, saves and reports.

A run keeps its work in a folder beside the one that it writes, and goes on from there.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ..data.corpus import CorpusDocument
from ..index.index import FastLaneIndex
from ..modeling.modeling_fastlane import FastLaneModel
from ..modeling.projection_fastlane import Context
from ..modeling.search_fastlane import check_counts
from .candidates import mine
from .existing import StoredDocuments
from .queries import TrainingQuery, make_queries
from .report import HeldOut, RetrofitReport, measure_routes, timed
from .source import is_fastlane, read_fastlane, read_late_interaction
from .states import QueryStates, query_states, read_states, write_states
from .training import RouteTraining, TrainingData, train_routes
from .vectors import TokenVectors
from .work import check_run, work_folder

FEWEST_DOCUMENTS = 100
HELD_OUT = 300
RANKED = 5_000
"""Documents that the report ranks."""
ENCODED_AT_ONCE = 1_024


def retrofit(
    name_or_path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    documents: Iterable[CorpusDocument] = (),
    pairs: Iterable[tuple[str, str]] = (),
    *,
    index: FastLaneIndex | None = None,
    context: Context | None = None,
    num_route_layers: int = 2,
    training: RouteTraining | None = None,
    max_documents: int = 50_000,
    max_queries: int = 30_000,
    batch_size: int = 32,
    resume: bool = False,
    trust_remote_code: bool = False,
    show_progress_bar: bool = False,
) -> RetrofitReport:
    """Writes a FastLane checkpoint whose token embeddings are those of another late-interaction model.

    Documents' vectors stay valid. Only the query side is trained, to score by one or a few routes as the
    model's own MaxSim scores by all views: on pairs, if there are some, and without labels on titles and
    on crops of documents.

    Args:
        name_or_path: A checkpoint that `read_late_interaction` reads, or a FastLane checkpoint whose
            query side is to be trained further.
        output: A new folder.
        documents: To train on; passages like those to be searched.
        pairs: Queries, each with its document's text.
        index: An index of the checkpoint's vectors, whose documents are trained on in place of others and
            aren't encoded; `adopt` makes one of the new checkpoint out of it.
        context: Mix context into documents' vectors ("window", "document" or "both"), as an index can
            mix it into stored ones; None leaves them untouched.
        num_route_layers: See `RouteLayers`.
        training: Settings of the training.
        max_documents: Draw so many if there are more; a pair's documents come first.
        max_queries: Draw so many if there are more.
        batch_size: Texts encoded at once.
        resume: Go on with a run that was stopped.
        trust_remote_code: As for `read_late_interaction`.
        show_progress_bar: Show one for each phase.

    Raises:
        FileExistsError: `output` exists, or the work of another run is there and `resume` is false.
        BlockingIOError: Another process is writing `output`.
        ValueError: Too few documents, no text to make a query of, a run with other settings, an index of
            other vectors, or what `read_late_interaction` refuses.
    """
    check_counts(batch_size=batch_size, max_documents=max_documents, max_queries=max_queries)
    stored = None if index is None else StoredDocuments(index, context)
    target = Path(output)
    settings = training or RouteTraining()
    seconds: dict[str, float] = {}
    with work_folder(target, resume) as work:
        torch.manual_seed(settings.seed)  # new parameters: a resumed run starts with the same
        with timed(seconds, "loading"):
            options: dict[str, Any] = {"num_route_layers": num_route_layers, "query_num_routes": 1}
            if is_fastlane(name_or_path):
                if context is not None:
                    raise ValueError(f"context is for models without routes, got {context!r}")
                model = read_fastlane(name_or_path, **options)
            else:
                model = read_late_interaction(
                    name_or_path, trust_remote_code=trust_remote_code, context=context, **options
                )
            given = [*documents, *(stored.documents if stored else ())]
            texts, queries = gather(given, pairs, max_documents, max_queries, settings.seed)
            if stored:
                stored.check(model, texts)
        held_out, trained = split(queries)
        if settings.steps == 0:  # only the report needs queries
            queries = [queries[number] for number in held_out]
            held_out, trained = list(range(len(queries))), []
        asked = {
            "name": str(name_or_path),
            "context": context,
            "num_route_layers": num_route_layers,
            **asdict(settings),
        }
        check_run(work, texts, queries, asked)
        with timed(seconds, "documents"):
            vectors = encode_documents(model, texts, work, stored, batch_size, show_progress_bar)
        with timed(seconds, "queries"):
            states = encode_queries(model, queries, work, batch_size, show_progress_bar)
        ranked = documents_to_rank(
            [queries[number] for number in held_out], len(texts), settings.seed
        )

        with timed(seconds, "report"):
            measured = HeldOut(
                model,
                [queries[number] for number in held_out],
                [states[number] for number in held_out],
                vectors,
                ranked,
            )
            before = measure_routes(model, measured)
        losses, after = [], before
        if trained:
            with timed(seconds, "candidates"):
                candidates = mine(model, states, vectors, work, show_progress_bar)
            data = TrainingData(
                [queries[number] for number in trained],
                [states[number] for number in trained],
                vectors,
                candidates[trained],
            )
            with timed(seconds, "training"):
                losses = train_routes(model, data, settings, work, show_progress_bar)
            with timed(seconds, "report"):
                after = measure_routes(model, measured)
        report = RetrofitReport(
            num_documents=len(ranked),
            num_queries=len(held_out),
            query_kind="labelled" if queries[held_out[0]].is_labelled else "made",
            before=before,
            after=after,
            seconds=seconds,
            peak_memory=peak_memory(),
            losses=losses,
        )
        model.save_pretrained(work / "model")
        (work / "model" / "retrofit.json").write_text(json.dumps(report.to_dict(), indent=2) + "\n")
        os.replace(work / "model", target)
        shutil.rmtree(work)
    return report


def gather(
    documents: Sequence[CorpusDocument],
    pairs: Iterable[tuple[str, str]],
    max_documents: int,
    max_queries: int,
    seed: int,
) -> tuple[list[str], list[TrainingQuery]]:
    """The texts to encode, and the queries to train with: labelled ones first, each in a drawn order."""
    chance = random.Random(seed)
    given = list(pairs)
    chance.shuffle(given)
    given = given[: min(max_queries // 2, max_documents)]
    drawn = list(documents)
    chance.shuffle(drawn)
    numbers: dict[str, int] = {}
    labelled = [
        TrainingQuery(query, numbers.setdefault(positive, len(numbers)), is_labelled=True)
        for query, positive in given
    ]
    titles = []
    for document in drawn:
        if document.content and document.content not in numbers and len(numbers) < max_documents:
            if document.text:
                titles.append((len(numbers), document.title))
            numbers[document.content] = len(numbers)
    texts = list(numbers)
    if len(texts) < FEWEST_DOCUMENTS:
        raise ValueError(
            f"there are {len(texts)} different documents, and routes need at least {FEWEST_DOCUMENTS} to be "
            "trained: some thousand passages like those to be searched are better"
        )
    made = make_queries(texts, titles, seed)
    chance.shuffle(made)
    queries = [*labelled, *made][:max_queries]
    if len(queries) < FEWEST_DOCUMENTS:
        raise ValueError(
            f"there are {len(queries)} queries: no document is long enough for a crop (12 words), and "
            "titles or pairs are too few"
        )
    return texts, queries


def split(queries: Sequence[TrainingQuery]) -> tuple[list[int], list[int]]:
    """Numbers of the queries to measure with, all labelled or none, and of those to train with."""
    count = min(HELD_OUT, len(queries) // 5)
    labelled = [number for number, query in enumerate(queries) if query.is_labelled]
    if len(labelled) < 2 * count:
        held_out = [number for number, query in enumerate(queries) if not query.is_labelled][:count]
    else:
        held_out = labelled[:count]
    kept = set(held_out)
    return held_out, [number for number in range(len(queries)) if number not in kept]


def documents_to_rank(queries: Sequence[TrainingQuery], num_documents: int, seed: int) -> list[int]:
    """The queries' documents and drawn others, up to `RANKED`, in order."""
    chosen = {query.document for query in queries}
    others = random.Random(seed).sample(range(num_documents), min(num_documents, RANKED))
    for number in others:
        if len(chosen) >= RANKED:
            break
        chosen.add(number)
    return sorted(chosen)


def encode_documents(
    model: FastLaneModel,
    texts: list[str],
    work: Path,
    stored: StoredDocuments | None,
    batch_size: int,
    show_progress_bar: bool,
) -> TokenVectors:
    """The documents' vectors, in a file of the work folder; goes on behind those that are there."""
    vectors = TokenVectors(work / "documents.f16", model.config.embedding_dim)
    with tqdm(
        total=len(texts), initial=len(vectors), desc="Documents", disable=not show_progress_bar
    ) as bar:
        while len(vectors) < len(texts):
            chunk = texts[len(vectors) : len(vectors) + ENCODED_AT_ONCE]
            known = (
                {text: stored.vectors(text) for text in chunk if text in stored} if stored else {}
            )
            new = [text for text in chunk if text not in known]
            encoded = model.encode_document(
                new, num_routes=None, batch_size=batch_size, convert_to_numpy=True
            )
            known.update(zip(new, encoded, strict=True))
            vectors.append([known[text] for text in chunk])
            bar.update(len(chunk))
    return vectors


def encode_queries(
    model: FastLaneModel,
    queries: Sequence[TrainingQuery],
    work: Path,
    batch_size: int,
    show_progress_bar: bool,
) -> list[QueryStates]:
    """The queries' states, from a file of the work folder if they are there."""
    path = work / "queries.safetensors"
    if path.exists():
        return read_states(path)
    states = query_states(model, [query.text for query in queries], batch_size, show_progress_bar)
    write_states(path, states)
    return states


def peak_memory() -> int:
    """The most memory that the process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
