"""Which documents are hard negatives of a query: the rules of `mine.py`, without model or files."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from fastlane_st.modeling.routing_fastlane import NumRoutes, check_num_routes


@dataclass(frozen=True)
class MiningConfig:
    """What the negatives depend on besides model and texts."""

    num_negatives: int = 4
    depth: int = 50  # documents found for each query
    skip: int = 0  # the best ones, where they are often relevant all the same
    num_routes: int | None = 1  # of queries; None is full late interaction
    document_routes: NumRoutes = 0.25  # a quarter of the memory
    max_relative_score: float = 0.95  # NV-Retriever's
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses what can't be."""
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
    """A pair, where it came from (`pairs.jsonl:17`), and all positives of its query, normalised."""

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
        ranked: Documents with their scores, best first.
        positives: All positives of the query, normalised.
        positive_score: That of the row's own positive.
        config: Its `num_negatives`, `skip` and `max_relative_score` count.

    Returns:
        At most `num_negatives` documents, best first, and how many each rule dropped.

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
    """The score above which a document may well be relevant: s - (1 - r) |s|.

    For a positive's score s >= 0 that is r s, TopK-PercPos of NV-Retriever (arXiv 2407.15831). For
    s < 0, r s would be above s; the same margin below s is taken instead.

    Example:
        >>> score_limit(2.0, 0.75), score_limit(-2.0, 0.75)
        (1.5, -2.5)
    """
    return positive_score - (1 - max_relative_score) * abs(positive_score)


def false_negative(text: str, positives: Collection[str]) -> str | None:
    """The rule on texts by which this is no negative, if one applies."""
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
    """Draws up to `count` documents for a row that has some `chosen` from what its query `found`.

    What was found and not chosen is drawn only if nothing else is left: a rule was against it. The
    draw depends on the seed and the row's own texts, not on other rows.
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
    """Yields all documents in random order; a few cost little, unlike those of a shuffled list."""
    seen: set[int] = set()
    while len(seen) < len(documents):
        number = generator.randrange(len(documents))
        if number not in seen:
            seen.add(number)
            yield documents[number]


def distinct(texts: Iterable[str]) -> list[str]:
    """The texts that differ once normalised, each as it comes first."""
    first: dict[str, str] = {}
    for text in texts:
        first.setdefault(normalise(text), text)
    return list(first.values())


@cache  # the same documents are found again and again
def normalise(text: str) -> str:
    """Case-folded, with white space as single blanks: how texts are compared."""
    return " ".join(text.casefold().split())
