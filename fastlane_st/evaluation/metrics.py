"""Metrics of rankings, as trec_eval computes them, and the significance of differences."""

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
"""For each metric one value per query, in the order of the collection."""

Run: TypeAlias = Mapping[str, Mapping[str, float]]
"""For each query id the scores of the documents found, by document id."""

METRICS = ("ndcg@10", "mrr@10", "recall@100", "map@100")
DEPTH = 100
_RESAMPLES = 10_000


def top_documents(scores: npt.NDArray[np.floating[Any]], depth: int = DEPTH) -> Ranking:
    """Gives the `depth` best documents; equal scores are ordered by place in the corpus.

    A document with a score of -inf isn't retrieved at all.

    Args:
        scores: (documents,) float.
        depth: Largest number of documents to give.

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
    """Computes the metrics of one ranking per query with pytrec_eval.

    trec_eval gets ranks as scores, so its rule for ties and its float32 scores have no effect.

    Args:
        collection: The judgements.
        rankings: One per query, in the order of the collection; `map@100` reads the first 100.

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
    """Computes the metrics of a run with pytrec_eval.

    As in trec_eval, scores are compared in float32, and of equal scores the greater document id comes first.
    Gains of nDCG are linear in the grade. A judged query without results or without a relevant document
    counts as 0.

    Args:
        collection: The judgements.
        run: At most `DEPTH` documents per query; `map@100` and `recall@100` assume that.

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
    """Sorts documents and their scores as trec_eval ranks them.

    Example:
        >>> in_order({"a": 0.5, "c": 0.5, "b": 2.0})
        [('b', 2.0), ('c', 0.5), ('a', 0.5)]
    """
    return sorted(scores.items(), key=lambda one: (np.float32(one[1]), one[0]), reverse=True)


def _evaluator(collection: Collection, measures: set[str]) -> RelevanceEvaluator:
    qrels = {query: dict(judged) for query, judged in collection.qrels.items()}
    return check_pytrec_eval()(qrels, measures)


def check_pytrec_eval() -> type[RelevanceEvaluator]:
    """Gives pytrec_eval's evaluator; an ImportError says how to install it."""
    try:
        from pytrec_eval import RelevanceEvaluator
    except ImportError as error:
        hint = 'pip install "fastlane-st[eval]"'
        raise ImportError(f"metrics need pytrec_eval: {hint}") from error
    return RelevanceEvaluator


def mean_metrics(metrics: Metrics) -> dict[str, float]:
    """Averages each metric over the queries of a collection."""
    return {name: float(values.mean()) for name, values in metrics.items()}


@dataclass(frozen=True)
class PairedDifference:
    """The difference between two settings on the same queries.

    Attributes:
        mean: Mean of the differences.
        low: Lower end of the 95 % confidence interval.
        high: Upper end of that interval.
        p_value: Two-sided p value of the null hypothesis that the settings are equally good.
        num_queries: Number of queries compared.
    """

    mean: float
    low: float
    high: float
    p_value: float
    num_queries: int

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def paired_difference(
    ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64], seed: int = 0
) -> PairedDifference:
    """Compares two settings by `ours - theirs`, (queries,) each in the same order."""
    return macro_difference([(ours, theirs)], seed)


def macro_difference(
    pairs: Sequence[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]], seed: int = 0
) -> PairedDifference:
    """Averages the mean differences of `(ours, theirs)` over collections of equal weight.

    The interval is a percentile bootstrap that resamples queries within each collection. The p value is that
    of the paired randomisation test: the share of random sign flips with at least as large a mean, the
    observed one included (Smucker et al., CIKM 2007). Both draw 10,000 times.

    Raises:
        ValueError: There is no pair, or the two of a pair differ in length.
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
    """Gives the 95 % percentile bootstrap interval of the mean of `values`, (queries,)."""
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
    """Splits the resamples into chunks: 500 × 2,000 queries are 8 MB at a time."""
    return (min(size, _RESAMPLES - start) for start in range(0, _RESAMPLES, size))
