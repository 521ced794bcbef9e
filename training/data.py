"""Reads training data: each source becomes one `datasets.Dataset`, checked before training.

A row of a JSON Lines file, or of a dataset, has one of these forms:

    {"query", "positive"}                     a pair
    {"query", "positive", "negative"}         a triplet; negative_1, negative_2 … for several
    {"query", "positive", "negatives": […]}   the same, the hardest first
    {"query", "documents": […], "scores": […]}

In the last form the document with the highest score becomes the positive (the first of equal ones),
and those with lower scores become hard negatives, the best first. Training doesn't use the scores:
distillation has a teacher of its own.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset
from datasets.exceptions import DatasetBuildError

from fastlane_st.data.json_lines import read_json_lines

from .training_config import Source

Row = dict[str, Any]


def load_sources(
    sources: Sequence[Source], batch_size: int, num_processes: int = 1, seed: int = 0
) -> DatasetDict:
    """Reads all sources and checks that each can fill a batch.

    Returns:
        For each source the columns `query`, `positive`, `negative_1` … `negative_n`, and `origin`,
        the row's file and line: `data/pairs.jsonl:17`.

    Raises:
        ValueError: A row is broken (the message starts with its file and line), or a source can't
            fill a batch with rows that share no text.
    """
    loaded = DatasetDict({source.label: load_source(source, seed) for source in sources})
    for name, dataset in loaded.items():
        check_batches(name, dataset, batch_size)
    num_batches = sum(len(dataset) // batch_size for dataset in loaded.values())
    if num_batches < num_processes:
        raise ValueError(
            f"{num_processes} processes need a batch each, but all sources together hold "
            f"{num_batches} of {batch_size}; lower batch_size"
        )
    return loaded


def check_sources(sources: Sequence[Source]) -> None:
    """Raises a FileNotFoundError that names the first source whose file is not there."""
    for source in sources:
        if source.path is not None and not Path(source.path).is_file():
            raise FileNotFoundError(
                f"there is no file {source.path}: name your own pairs in `sources` of the configuration"
            )


def load_source(source: Source, seed: int = 0) -> Dataset:
    """Reads one source; see `load_sources` for its columns."""
    rows: list[tuple[str, list[str]]] = []
    wanted = source.num_negatives
    for origin, fields in read_rows(source):
        try:
            query, positive, *negatives = texts_of(rename(fields, source.columns))
            if wanted is None:
                wanted = len(negatives)
            if len(negatives) < wanted or (source.num_negatives is None and negatives[wanted:]):
                raise ValueError(
                    f"{len(negatives)} hard negatives, expected {wanted} as in the rows before; set "
                    "num_negatives of the source to the fewest that a row has"
                )
        except ValueError as error:
            raise ValueError(f"{origin}: {error}") from None
        rows.append((origin, [query, positive, *negatives[:wanted]]))
    if not rows:
        raise ValueError(f"{source.path or source.dataset} holds no rows")
    rows = draw_capped(rows, source.cap, seed)
    names = ["query", "positive", *(f"negative_{number}" for number in range(1, (wanted or 0) + 1))]
    columns = {name: [texts[i] for _, texts in rows] for i, name in enumerate(names)}
    return Dataset.from_dict({**columns, "origin": [origin for origin, _ in rows]})


def draw_capped(rows: list[Any], cap: int | None, seed: int) -> list[Any]:
    """Draws at most `cap` rows at random and keeps their order."""
    if cap is None or cap >= len(rows):
        return rows
    return [rows[index] for index in sorted(random.Random(seed).sample(range(len(rows)), cap))]


def read_rows(source: Source) -> Iterator[tuple[str, Row]]:
    """Yields the rows of a file or dataset, each with its origin, such as `pairs.jsonl:17`."""
    if source.path is not None:
        yield from read_json_lines(Path(source.path))
        return
    try:
        dataset = load_dataset(source.dataset, source.subset, split=source.split or "train")
    except DatasetBuildError as error:
        raise ValueError(f"{source.dataset}: {error.__cause__ or error}") from error
    for index, row in enumerate(dataset):
        yield f"{source.label}:{index}", row


def rename(row: Row, columns: dict[str, str]) -> Row:
    """Renames the fields that `columns` maps to ours; a missing one is a ValueError."""
    for theirs in columns.values():
        if theirs not in row:
            raise ValueError(f"no column {theirs!r} as `columns` says; the row has {list(row)}")
    rest = {name: value for name, value in row.items() if name not in columns.values()}
    return {**rest, **{ours: row[theirs] for ours, theirs in columns.items()}}


def texts_of(row: Row) -> list[str]:
    """Returns the texts of a row: query, positive and hard negatives.

    Example:
        >>> texts_of({"query": "q", "documents": ["a", "b", "c"], "scores": [0.2, 0.9, 0.4]})
        ['q', 'b', 'c', 'a']
    """
    query = text_of(row, "query")
    if "documents" in row or "scores" in row:
        positive, *negatives = ranked(row)
    else:
        positive, negatives = text_of(row, "positive"), negatives_of(row)
    if positive in negatives:
        raise ValueError("a hard negative is the positive itself")
    return [query, positive, *negatives]


def text_of(row: Row, name: str) -> str:
    """Returns the text of a field; a ValueError says if it is missing, empty or no text."""
    if name not in row:
        raise ValueError(f"no field {name!r}; the row has {list(row)}")
    text = row[name]
    if not isinstance(text, str):
        raise ValueError(f"{name} must be a text, got {text!r}")
    if not text.strip():
        raise ValueError(f"{name} is empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is no valid Unicode ({error.reason})") from None
    return text


def negatives_of(row: Row) -> list[str]:
    """Returns the hard negatives of a row that has a positive, from any of the three forms."""
    if "negatives" in row:
        return texts_in_list(row, "negatives")
    if "negative" in row:
        return [text_of(row, "negative")]
    names = [name for name in row if name.startswith("negative_")]
    return [text_of(row, name) for name in names]


def texts_in_list(row: Row, name: str) -> list[str]:
    """Returns the texts of a field that must hold a list of them."""
    texts = row.get(name)
    if not isinstance(texts, list):
        raise ValueError(f"{name} must be a list of texts, got {texts!r}")
    numbered = {f"{name}[{index}]": text for index, text in enumerate(texts)}
    return [text_of(numbered, each) for each in numbered]


def ranked(row: Row) -> list[str]:
    """Returns the document with the highest score, then those with lower scores, in order."""
    documents, scores = texts_in_list(row, "documents"), row.get("scores")
    if not isinstance(scores, list) or len(scores) != len(documents):
        raise ValueError(f"scores must be a list, one for each document, got {scores!r}")
    if not all(isinstance(score, int | float) and math.isfinite(score) for score in scores):
        raise ValueError(f"scores must be finite numbers, got {scores}")
    if not documents:
        raise ValueError("documents is empty, so there is no positive")
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    best = order[0]
    worse = [index for index in order if scores[index] < scores[best]]
    return [documents[best], *(documents[index] for index in worse)]


def check_batches(name: str, dataset: Dataset, batch_size: int) -> None:
    """Raises a ValueError unless `batch_size` rows share no text.

    The other rows of a batch are a query's negatives, so the sampler never puts two rows with the
    same query or document into one batch.
    """
    if batch_size == 1 and "negative_1" not in dataset.column_names:
        raise ValueError(
            f"source {name} has no hard negatives, so batch_size must be at least 2: the other rows "
            "of a batch are the negatives"
        )
    if len(dataset) < batch_size:
        raise ValueError(
            f"source {name} has {len(dataset)} rows, fewer than one batch of {batch_size}; lower "
            "batch_size or leave the source out"
        )
    seen: set[str] = set()
    num_apart = 0
    texts = dataset.remove_columns("origin")
    for row in texts:
        if seen.isdisjoint(row.values()):
            seen.update(row.values())
            num_apart += 1
            if num_apart == batch_size:
                return
    raise ValueError(
        f"source {name} has only {num_apart} rows that share no query and no document, fewer than "
        f"one batch of {batch_size}: the others would be false negatives; lower batch_size"
    )
