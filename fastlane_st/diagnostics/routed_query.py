"""One query as its router sees it: what it says of each view, and what each view is worth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from ..evaluation.controls import ScoredQuery, ndcg_at_10
from ..evaluation.metrics import bootstrap_interval
from .token_kinds import TokenKind, token_kinds

if TYPE_CHECKING:
    from ..encoder import FastLaneEncoder

Values: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RoutedQuery:
    """One query's views, what the router says of each, and what each is worth as the one route.

    Attributes:
        query: Its text.
        tokens: V of them, one a view.
        kinds: V of them.
        logits: (V,) float.
        margins: (V,) float: the best relevant document's similarity minus the best irrelevant one's
            if the token were the one route. None without a relevant or an irrelevant document.
        view_ndcg: (V,) float, nDCG@10 if it were.
        full_ndcg: With all views, each token for itself.
    """

    query: str
    tokens: Sequence[str]
    kinds: Sequence[TokenKind]
    logits: Values
    margins: Values | None
    view_ndcg: Values
    full_ndcg: float

    @property
    def route(self) -> int:
        """The view of the highest logit, the earlier of equals."""
        return int(self.logits.argmax())

    @property
    def entropy(self) -> float:
        """Of the softmax of the logits, in nats."""
        shifted = np.exp(self.logits - self.logits.max())
        shares = shifted / shifted.sum()
        return float(-(shares * np.log(np.maximum(shares, 1e-300))).sum())


def routed_query(encoder: FastLaneEncoder, text: str, scored: ScoredQuery) -> RoutedQuery:
    """Puts together what `encoder` and `score_queries` found of the query `text`."""
    ids = scored.views.token_ids.tolist()
    tokens = encoder.tokenizer.convert_ids_to_tokens(ids)
    alone, relevant = scored.alone[-1], scored.grades > 0
    margins = None
    if relevant.any() and not relevant.all():
        best, other = alone[:, relevant].max(1), alone[:, ~relevant].max(1)
        margins = (best - other).astype(np.float64)
    return RoutedQuery(
        query=text,
        tokens=tokens,
        kinds=token_kinds(tokens, ids, encoder.fastlane_config.special_token_ids),
        logits=scored.views.logits.astype(np.float64),
        margins=margins,
        view_ndcg=scored.view_ndcg,
        full_ndcg=ndcg_at_10(scored.full[-1].sum(0), scored.grades),
    )


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's, of two values a view: the mean over queries.

    Attributes:
        mean: Over `num_queries`.
        low: Lower end of the 95 % bootstrap interval over queries.
        high: Upper end.
        num_queries: Those with three or more views of which both values differ.
    """

    mean: float
    low: float
    high: float
    num_queries: int


def mean_rank_correlation(pairs: Iterable[tuple[Values, Values]]) -> RankCorrelation | None:
    """The mean correlation of two values, (V,) each, over queries; None where no query tells."""
    found = [spearman(one, other) for one, other in pairs if len(one) > 2]
    values = np.array([value for value in found if value is not None])
    if not len(values):
        return None
    low, high = bootstrap_interval(values)
    return RankCorrelation(float(values.mean()), low, high, len(values))


def spearman(one: Values, other: Values) -> float | None:
    """Spearman's rank correlation, equal values sharing their mean rank; None if all are equal.

    Example:
        >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.9, 0.5]))
        0.5
    """
    first, second = (_ranks(values) - (len(values) - 1) / 2 for values in (one, other))
    size = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / size if size else None


def _ranks(values: Values) -> Values:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Values = (counts.cumsum() - (counts + 1) / 2)[inverse]
    return ranks
