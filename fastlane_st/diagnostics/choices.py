"""What a router chooses: the distribution of its routes over the queries that have a choice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .routed_query import RoutedQuery
from .token_kinds import KINDS, TokenKind


@dataclass(frozen=True)
class MostFrequent:
    """The most frequent value, and the share of the queries that have it."""

    value: int | str
    share: float


@dataclass(frozen=True)
class RouterChoices:
    """The one route of each query with two or more views; shares are of these queries.

    Attributes:
        num_choices: How many such queries there are.
        entropy: Mean entropy of the softmax of the logits, in nats.
        normalised_entropy: Mean of entropy over log(number of views); 1 is a uniform choice.
        position_histogram: Shares of the routes by relative position, ten bins, first to last.
        first_share: Share of routes on the first view.
        last_share: Share of routes on the last view.
        common_position: The most frequent route, by its place among the views.
        common_token: The most frequent route, by its text.
        kinds: Shares of the routes by kind of token.
        kinds_by_chance: The expected shares of a random choice.
    """

    num_choices: int
    entropy: float
    normalised_entropy: float
    position_histogram: tuple[float, ...]
    first_share: float
    last_share: float
    common_position: MostFrequent
    common_token: MostFrequent
    kinds: Mapping[TokenKind, float]
    kinds_by_chance: Mapping[TokenKind, float]


def summarise_choices(queries: Sequence[RoutedQuery]) -> RouterChoices:
    """Counts the routes of queries, each of which has two or more views."""
    places = np.array([query.route for query in queries])
    last = np.array([len(query.logits) - 1 for query in queries])
    histogram, _ = np.histogram(places / last, bins=10, range=(0, 1))
    entropies = np.array([query.entropy for query in queries])
    return RouterChoices(
        num_choices=len(queries),
        entropy=float(entropies.mean()),
        normalised_entropy=float((entropies / np.log(last + 1)).mean()),
        position_histogram=tuple((histogram / len(queries)).tolist()),
        first_share=float((places == 0).mean()),
        last_share=float((places == last).mean()),
        common_position=_most_frequent(query.route for query in queries),
        common_token=_most_frequent(query.tokens[query.route] for query in queries),
        kinds=_mean_shares([query.kinds[query.route]] for query in queries),
        kinds_by_chance=_mean_shares(query.kinds for query in queries),
    )


def _most_frequent(values: Iterable[int | str]) -> MostFrequent:
    counts = Counter(values)
    [(value, count)] = counts.most_common(1)
    return MostFrequent(value, count / counts.total())


def _mean_shares(kinds: Iterable[Sequence[TokenKind]]) -> dict[TokenKind, float]:
    """The share of each kind, averaged over queries."""
    rows = [[list(found).count(kind) / len(found) for kind in KINDS] for found in kinds]
    return dict(zip(KINDS, np.mean(rows, axis=0).tolist(), strict=True))
