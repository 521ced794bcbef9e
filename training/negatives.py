"""Chooses the hard negatives of a query: the rules of `mine.py`, without model or files."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from fastlane_st.modeling.routing_fastlane import NumRoutes, check_num_routes
from fastlane_st.onnx.backend import Backend, Dtype


@dataclass(frozen=True)
class MiningConfig:
    """Settings that the negatives depend on, besides model and texts."""

    num_negatives: int = 4
    depth: int = 50  # documents that each query retrieves
    skip: int = 0  # leaves out this many of the best, which may be unlabelled positives
    num_routes: int | None = 1  # of queries; None is full late interaction
    document_routes: NumRoutes = 0.25  # a quarter of the memory
    max_relative_score: float = 0.95  # the value of NV-Retriever
    batch_size: int = 64
    backend: Backend = "torch"  # onnx with int8 is twice as fast where the processor has VNNI
    dtype: Dtype = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises a ValueError if a setting is out of range."""
        enough = self.skip + self.num_negatives
        at_least = {"num_negatives": 1, "batch_size": 1, "skip": 0, "depth": enough}
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.max_relative_score < math.inf:
            raise ValueError(
                f"max_relative_score must be finite and above 0, got {self.max_relative_score}"
            )
        check_num_routes(self.num_routes)
        check_num_routes(self.document_routes, allow_fraction=True)


class Row(NamedTuple):
    """A pair with its origin (`pairs.jsonl:17`) and all positives of its query, normalised."""

    origin: str
    query: str
    positive: str
    positives: set[str]


def choose_negatives(
    ranked: Iterable[tuple[str, float]],
    positives: Collection[str],
    positive_score: float,
    config: MiningConfig,
) -> tuple[list[str], Counter[str]]:
    """Chooses the negatives of one query.

    Args:
        ranked: The retrieved documents with their scores, best first.
        positives: All positives of the query, normalised.
        positive_score: The score of the row's own positive.
        config: Gives `num_negatives`, `skip` and `max_relative_score`.

    Returns:
        At most `num_negatives` documents, best first, and how many documents each rule dropped.

    Example:
        >>> ranked = [("Top", 0.9), ("a top", 0.8), ("near", 0.7), ("c", 0.5), ("d", 0.25)]
        >>> config = MiningConfig(num_negatives=1, skip=1, max_relative_score=0.75)
        >>> choose_negatives(ranked, {"top"}, 0.9, config)
        (['d'], Counter({'positive': 1, 'overlap': 1, 'score': 1, 'skipped': 1}))
    """
    limit = score_limit(positive_score, config.max_relative_score)
    rules = [
        (false_negative(text, positives) or ("score" if score > limit else None), text)
        for text, score in ranked
    ]
    kept = [text for rule, text in rules if rule is None]
    dropped = Counter(rule for rule, _ in rules if rule is not None)
    dropped["skipped"] = min(config.skip, len(kept))
    return kept[config.skip :][: config.num_negatives], dropped


def score_limit(positive_score: float, max_relative_score: float) -> float:
    """Returns the score above which a document may well be relevant: s - (1 - r) |s|.

    For a positive's score s >= 0 that is r s, TopK-PercPos of NV-Retriever (arXiv 2407.15831). For
    s < 0, r s would be above s; the limit lies the same margin below s.

    Example:
        >>> score_limit(2.0, 0.75), score_limit(-2.0, 0.75)
        (1.5, -2.5)
    """
    return positive_score - (1 - max_relative_score) * abs(positive_score)


def false_negative(text: str, positives: Collection[str]) -> str | None:
    """Returns "positive" or "overlap" if a text equals, contains or is part of a positive."""
    text = normalise(text)
    if text in positives:
        return "positive"
    is_overlap = any(text in positive or positive in text for positive in positives)
    return "overlap" if is_overlap else None


def draw_negatives(
    row: Row,
    documents: Sequence[str],
    count: int,
    seed: int,
    chosen: Collection[str] = (),
    found: Collection[str] = (),
) -> list[str]:
    """Draws up to `count` documents at random as further negatives of a row.

    The draw depends on the seed and the row's own texts, not on other rows.

    Args:
        row: The row; no positive of its query and nothing that overlaps one is drawn.
        documents: The documents to draw from.
        count: How many to draw at most.
        seed: Seed of the draw.
        chosen: The row's negatives so far, which are not drawn again.
        found: The documents that its query retrieved. Those of them that a rule dropped are drawn
            only if no other is left.
    """
    generator = random.Random(f"{seed} {row.query} {row.positive}")
    drawn: list[str] = []
    last: list[str] = []
    for text in shuffled(documents, generator):
        if len(drawn) == count:
            break
        if text not in chosen and false_negative(text, row.positives) is None:
            (last if text in found else drawn).append(text)
    return [*drawn, *last][:count]


def shuffled(documents: Sequence[str], generator: random.Random) -> Iterator[str]:
    """Yields all documents in random order; the first few need no shuffle of the whole list."""
    seen: set[int] = set()
    while len(seen) < len(documents):
        number = generator.randrange(len(documents))
        if number not in seen:
            seen.add(number)
            yield documents[number]


def distinct(texts: Iterable[str]) -> list[str]:
    """Returns the first of all texts that are equal once normalised."""
    first: dict[str, str] = {}
    for text in texts:
        first.setdefault(normalise(text), text)
    return list(first.values())


@cache  # queries retrieve the same documents again and again
def normalise(text: str) -> str:
    """Folds case and makes white space single blanks: texts are compared in this form."""
    return " ".join(text.casefold().split())
