"""One query: the router's logit of each view, and how useful each view is as the one route."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr

from ..evaluation.metrics import bootstrap_interval
from ..evaluation.scored_query import ScoredQuery, ndcg_at_10
from .token_kinds import TokenKind, token_kinds

if TYPE_CHECKING:
    from ..encoder import FastLaneEncoder

Values: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RoutedQuery:
    """The V views of a query, with the router's logit of each and its worth as the one route.

    Attributes:
        query: Text of the query.
        tokens: (V,) tokens as the tokenizer writes them.
        kinds: (V,) kinds of these tokens.
        logits: (V,) float, the router's.
        margins: (V,) float: similarity of the best relevant document minus that of the best
            irrelevant one if the token were the one route. None without a relevant or an irrelevant
            document.
        view_ndcg: (V,) float: nDCG@10 if the token were the one route.
        full_ndcg: nDCG@10 with all views, each token for itself.
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
        """Entropy of the softmax of the logits, in nats."""
        shifted = np.exp(self.logits - self.logits.max())
        shares = shifted / shifted.sum()
        return float(-(shares * np.log(np.maximum(shares, 1e-300))).sum())


def routed_query(encoder: FastLaneEncoder, text: str, scored: ScoredQuery) -> RoutedQuery:
    """Joins the text of a query with what `score_queries` found for it."""
    ids = scored.views.token_ids.tolist()
    tokens = encoder.tokenizer.convert_ids_to_tokens(ids)
    alone, relevant = scored.alone, scored.grades > 0
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
        full_ndcg=ndcg_at_10(scored.full.sum(0), scored.grades),
    )


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's correlation of two values of each view, averaged over queries.

    Attributes:
        mean: Mean over `num_queries`.
        low: Lower end of the 95 % bootstrap interval over queries.
        high: Upper end of that interval.
        num_queries: Number of queries with three or more views that differ in both values.
    """

    mean: float
    low: float
    high: float
    num_queries: int


def mean_rank_correlation(pairs: Iterable[tuple[Values, Values]]) -> RankCorrelation | None:
    """Averages the correlation of two values, (V,) each, over queries; None if no query has one."""
    found = [spearman(one, other) for one, other in pairs if len(one) > 2]
    values = np.array([value for value in found if value is not None])
    if not len(values):
        return None
    low, high = bootstrap_interval(values)
    return RankCorrelation(float(values.mean()), low, high, len(values))


def spearman(one: Values, other: Values) -> float | None:
    """Spearman's rank correlation; None if one of both has equal values only.

    Example:
        >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.9, 0.5]))
        0.5
    """
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(spearmanr(one, other).statistic)
