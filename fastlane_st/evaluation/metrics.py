"""Metrics of rankings, as trec_eval computes them, and how sure a difference between two is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..data.collection import Collection

if TYPE_CHECKING:
    from pytrec_eval import RelevanceEvaluator

Ranking: TypeAlias = npt.NDArray[np.intp]
"""Documents, by their place in the corpus, best first."""
Metrics: TypeAlias = dict[str, npt.NDArray[np.float64]]
"""By metric one value for each query, in the order of the collection."""

Run: TypeAlias = Mapping[str, Mapping[str, float]]
"""By query id, the score of each document that was found, by its id."""

METRICS = ("ndcg@10", "mrr@10", "recall@100", "map@100")
DEPTH = 100
_RESAMPLES = 10_000


def top_documents(scores: npt.NDArray[np.floating[Any]], depth: int = DEPTH) -> Ranking:
    """The `depth` best documents; of equal scores, the one that stands earlier in the corpus.

    A document with a score of -inf isn't retrieved at all.

    Args:
        scores: (documents,) float.
        depth: How many, if there are as many.

    Raises:
        ValueError: A score is NaN.

    Example:
        >>> top_documents(np.array([0.5, 2.0, -np.inf, 2.0]), depth=3)
        array([1, 3, 0])
    """
    if np.isnan(scores).any():
        raise ValueError("a score is NaN: nothing can be ranked by it")
    if depth < len(scores):
        last = np.partition(scores, -depth)[-depth]
        better = np.flatnonzero(scores > last)
        tied = np.flatnonzero(scores == last)[: depth - len(better)]
        kept = np.sort(np.concatenate([better, tied]))
    else:
        kept = np.arange(len(scores))
    order: Ranking = kept[np.argsort(-scores[kept], kind="stable")]
    retrieved: Ranking = order[scores[order] > -np.inf]
    return retrieved


def evaluate_rankings(collection: Collection, rankings: Sequence[Ranking]) -> Metrics:
    """The metrics of one ranking for each query, from pytrec_eval.

    A ranking has no ties left (see `top_documents`), and what trec_eval gets as scores are ranks, so
    that its own rule for them and its float32 scores change nothing.

    Args:
        collection: Whose judgements.
        rankings: In the order of the collection's queries; `map@100` reads the first 100.

    Raises:
        ValueError: There are more or fewer rankings than judged queries.
        ImportError: pytrec_eval is not installed.
    """
    if len(rankings) != len(collection.queries):
        raise ValueError(
            f"{collection.name} judges {len(collection.queries)} queries, got {len(rankings)} "
            "rankings; a query without results has an empty one"
        )
    ids = np.array(list(collection.documents), dtype=object)
    run = {
        query: {id: float(-rank) for rank, id in enumerate(ids[ranking[:DEPTH]])}
        for query, ranking in zip(collection.queries, rankings, strict=True)
    }
    return evaluate_run(collection, run)


def evaluate_run(collection: Collection, run: Run) -> Metrics:
    """The metrics of a run as trec_eval reads it, from pytrec_eval.

    Scores are compared in float32, and of equal ones the greater document id comes first. Gains of
    nDCG are linear in the grade. A query that retrieves nothing, or that has no relevant document, counts
    as 0; so does a judged query that the run doesn't have.

    Args:
        collection: Whose judgements.
        run: At most `DEPTH` documents a query, for the names of the metrics to be true.

    Raises:
        ValueError: A score is not finite, or a query isn't judged.
        ImportError: pytrec_eval is not installed.
    """
    for query, scores in run.items():
        if query not in collection.qrels:
            raise ValueError(f"{collection.name} doesn't judge the query {query!r}")
        if not np.isfinite(list(scores.values())).all():
            raise ValueError(f"the query {query!r} has a score that is not finite")
    whole = {query: dict(run.get(query, {})) for query in collection.queries}
    found = _evaluator(collection, {"ndcg_cut.10", "recall.100", "map"}).evaluate(whole)
    short = {query: dict(in_order(scores)[:10]) for query, scores in whole.items()}
    reciprocal = _evaluator(collection, {"recip_rank"}).evaluate(short)
    measures = ("ndcg_cut_10", "recip_rank", "recall_100", "map")
    return {
        name: np.array([{**found[id], **reciprocal[id]}[measure] for id in collection.queries])
        for name, measure in zip(METRICS, measures, strict=True)
    }


def in_order(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """Documents and their scores as trec_eval ranks them.

    Example:
        >>> in_order({"a": 0.5, "c": 0.5, "b": 2.0})
        [('b', 2.0), ('c', 0.5), ('a', 0.5)]
    """
    return sorted(scores.items(), key=lambda one: (np.float32(one[1]), one[0]), reverse=True)


def _evaluator(collection: Collection, measures: set[str]) -> RelevanceEvaluator:
    try:
        from pytrec_eval import RelevanceEvaluator
    except ImportError as error:
        hint = 'pip install "fastlane-st[eval]"'
        raise ImportError(f"metrics need pytrec_eval: {hint}") from error
    qrels = {query: dict(judged) for query, judged in collection.qrels.items()}
    return RelevanceEvaluator(qrels, measures)


def mean_metrics(metrics: Metrics) -> dict[str, float]:
    """The mean of each metric over the queries."""
    return {name: float(values.mean()) for name, values in metrics.items()}


@dataclass(frozen=True)
class PairedDifference:
    """How much better one setting is than another on the same queries.

    Attributes:
        mean: Of the differences.
        low: Lower end of the 95 % confidence interval.
        high: Upper end.
        p_value: Two-sided, of no difference.
        num_queries: Compared.
    """

    mean: float
    low: float
    high: float
    p_value: float
    num_queries: int

    def to_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def paired_difference(
    ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64], seed: int = 0
) -> PairedDifference:
    """`ours - theirs`, query by query: (queries,) each, in the same order."""
    return macro_difference([(ours, theirs)], seed)


def macro_difference(
    pairs: Sequence[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]], seed: int = 0
) -> PairedDifference:
    """The mean over collections of the mean differences of `(ours, theirs)`: each counts alike.

    The interval is the percentile bootstrap's, queries resampled within each collection. The p
    value is the paired randomisation test's, the share of random sign flips with at least as large
    a mean, the observed one included (Smucker et al., CIKM 2007). Both draw 10,000 times.

    Raises:
        ValueError: Nothing to compare, or the two of a pair are not of one length.
    """
    differences = []
    for ours, theirs in pairs:
        if ours.shape != theirs.shape or ours.ndim != 1 or not len(ours):
            raise ValueError(f"expected two values a query, got {ours.shape} and {theirs.shape}")
        differences.append(ours - theirs)
    if not differences:
        raise ValueError("expected at least one collection to compare on, got none")
    mean = float(np.mean([values.mean() for values in differences]))
    rng = np.random.default_rng(seed)
    resampled = np.mean([_bootstrap_means(values, rng) for values in differences], axis=0)
    flipped = np.mean([_flipped_means(values, rng) for values in differences], axis=0)
    low, high = np.percentile(resampled, [2.5, 97.5])
    as_large = np.count_nonzero(np.abs(flipped) >= abs(mean) - 1e-12)
    return PairedDifference(
        mean=mean,
        low=float(low),
        high=float(high),
        p_value=(1 + int(as_large)) / (1 + _RESAMPLES),
        num_queries=sum(len(values) for values in differences),
    )


def bootstrap_interval(values: npt.NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean of `values`, (queries,)."""
    means = _bootstrap_means(values, np.random.default_rng(seed))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _bootstrap_means(
    values: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    means = [values[rng.integers(len(values), size=(n, len(values)))].mean(1) for n in _chunks()]
    return np.concatenate(means)


def _flipped_means(
    values: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    signs = (rng.integers(0, 2, size=(n, len(values)), dtype=np.int8) for n in _chunks())
    return np.concatenate([(2.0 * sign - 1) @ values / len(values) for sign in signs])


def _chunks(size: int = 500) -> Iterator[int]:
    """Numbers that sum to the resamples: 500 × 2,000 queries are 8 MB at a time."""
    return (min(size, _RESAMPLES - start) for start in range(0, _RESAMPLES, size))
