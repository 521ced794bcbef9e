"""Queries to train routes with: given ones with their documents, and some made of the documents."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..data.json_lines import read_json_lines

CROP_WORDS = (4, 6, 8, 10, 12, 16, 24)
"""Lengths of a crop; one is drawn for each."""
FEWEST_WORDS = 12
"""A document of fewer words gives no crop: it would be most of the text."""


@dataclass(frozen=True, slots=True)
class TrainingQuery:
    """A query and the number of its document.

    Attributes:
        text: The query.
        document: The number of the document that it was asked for or made of.
        is_labelled: Whether someone asked it for that document. A query that was made of the document
            only learns MaxSim's scores.
    """

    text: str
    document: int
    is_labelled: bool


def read_pairs(path: Path | str) -> Iterator[tuple[str, str]]:
    """Yields query and positive text of a JSONL file of `{"query", "positive"}`.

    Raises:
        ValueError: A line has no such texts; the message names it.
    """
    for place, row in read_json_lines(Path(path)):
        texts = [row.get(name) for name in ("query", "positive")]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise ValueError(f'{place}: expected texts "query" and "positive", got {row!r:.80}')
        yield str(texts[0]), str(texts[1])


def make_queries(
    texts: Sequence[str], titles: Iterable[tuple[int, str]], seed: int
) -> list[TrainingQuery]:
    """A crop of each text that is long enough, and the titles: queries without a label.

    Args:
        texts: The documents.
        titles: Numbers of documents with their titles.
        seed: Of the crops.
    """
    chance = random.Random(seed)
    made = [TrainingQuery(title, number, False) for number, title in titles if title.strip()]
    for number, text in enumerate(texts):
        words = text.split()
        if len(words) >= FEWEST_WORDS:
            length = min(len(words) - 4, chance.choice(CROP_WORDS))
            start = chance.randrange(len(words) - length)
            made.append(TrainingQuery(" ".join(words[start : start + length]), number, False))
    return made
