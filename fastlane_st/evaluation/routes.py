"""Rankings and metrics of single settings: all views, numbers of routes, other choices of the one route.

A query's views depend on how many routes are kept. Each setting below scores documents by the sum over its
views of their best similarities (see `best_similarities`):

| setting | views |
| --- | --- |
| `full` | all, each token for itself: plain late interaction |
| `router_1` | the token of the highest router logit, as the one route |
| `router_k` | the tokens of the k highest router logits, as k routes that stand for all tokens |
| `random` | a random token, as the one route; metrics are the means of five draws |
| `first` | the first token, as the one route |
| `idf` | the token in the fewest documents, the earlier of equals, as the one route |
| `mean_view` | no token: the direction of the mean of `full`'s views, as one vector |
| `…_documents_f` | any of these, over documents pooled to the fraction f of their tokens |

The settings of one route differ only in the token; its view represents the whole query.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..data.collection import Collection
from .metrics import Metrics, Ranking, evaluate_rankings, top_documents
from .scoring import DocumentViews, Floats, QueryViews, Similarities, TextViews, best_similarities

OVER_DOCUMENTS = "_documents_"
"""Stands between the name of a setting and the fraction of document tokens kept."""
NUM_DRAWS = 5
RANDOM = [f"random_{draw}" for draw in range(NUM_DRAWS)]


def measure_routes(
    collection: Collection,
    queries: Sequence[QueryViews],
    documents: DocumentViews,
    settings: Iterable[str],
) -> dict[str, Metrics]:
    """Computes the metrics of single settings of this module's table; only their own views are scored.

    Settings over the same documents are scored at once: their views span what a query's tokens span, so that
    they cost little more than all views alone (see `factorise`).

    Args:
        collection: The judgements.
        queries: Views of the collection's queries.
        documents: Views of its documents.
        settings: In `router_k`, k is 1 or a key of `QueryViews.routed`, and in `_documents_f` f one of
            `DocumentViews.routed`.

    Raises:
        KeyError: There are no views for a k or an f.
    """
    settings = list(settings)
    frequency = documents.document_frequency
    found: dict[str, Metrics] = {}
    for fraction, names in _by_fraction(settings).items():
        store = documents.routed[float(fraction)] if fraction else documents
        views = [
            {name: _views(number, query, name, frequency) for name in names}
            for number, query in enumerate(queries)
        ]
        stacked = (np.concatenate(list(one.values())) for one in views)
        rankings: dict[str, list[Ranking]] = {name: [] for name in names}
        for one, best in zip(
            views, best_similarities(stacked, replace(store, routed={})), strict=True
        ):
            ends = np.cumsum([len(rows) for rows in one.values()])
            for name, part in zip(names, np.split(best[-1], ends[:-1]), strict=True):
                rankings[name].append(top_documents(part.sum(0)))
        found |= {
            f"{name}{OVER_DOCUMENTS}{fraction}" if fraction else name: evaluate_rankings(
                collection, rankings[name]
            )
            for name in names
        }
    for setting in settings:
        draws = _draws(setting)
        if draws != [setting]:
            found[setting] = mean_of([found[name] for name in draws])
    return {setting: found[setting] for setting in settings}


def _by_fraction(settings: Iterable[str]) -> dict[str, list[str]]:
    """The settings by the fraction of document tokens, "" for all; one of random tokens by its draws."""
    names: dict[str, list[str]] = {}
    for setting in settings:
        for drawn in _draws(setting):
            name, _, fraction = drawn.partition(OVER_DOCUMENTS)
            names.setdefault(fraction, []).append(name)
    return names


def _draws(setting: str) -> list[str]:
    """The settings whose mean a setting is: itself, or those of random draws."""
    name, mark, fraction = setting.partition(OVER_DOCUMENTS)
    return [f"{draw}{mark}{fraction}" for draw in RANDOM] if name == "random" else [setting]


def mean_of(draws: Sequence[Metrics]) -> Metrics:
    """The mean of several metrics of the same queries."""
    return {name: np.mean([one[name] for one in draws], axis=0) for name in draws[0]}


def rank_by_maxsim(queries: Iterable[Floats], documents: DocumentViews) -> list[Ranking]:
    """Ranks documents by MaxSim with each query, (V, D): Σ_i max_t q_i·d_jt."""
    return [top_documents(scores) for scores in score_by_maxsim(queries, documents)]


def score_by_maxsim(queries: Iterable[Floats], documents: DocumentViews) -> Iterator[Similarities]:
    """Yields the MaxSim of each query with all documents, (documents,) float32."""
    whole = replace(documents, routed={})
    return (one[-1].sum(0) for one in best_similarities(queries, whole))


def _views(
    number: int, query: QueryViews, setting: str, document_frequency: Mapping[int, int]
) -> Floats:
    if setting == "full":
        return query.vectors
    if setting == "mean_view":
        return mean_view(query.vectors)
    choices = choose_routes(query, document_frequency, seed=number)
    if setting in choices:
        place = choices[setting]
        return query.alone[place : place + 1]
    return query.routed[int(setting.removeprefix("router_"))]


def choose_routes(
    query: TextViews, document_frequency: Mapping[int, int], seed: int = 0
) -> dict[str, int]:
    """Chooses the one route of each setting, as its place among the query's views.

    Equal logits go to the earlier view, as in the encoder.

    Args:
        query: The query's views.
        document_frequency: Number of documents that hold a token id; 0 for ids that are absent.
        seed: Seed of the random draws, different for each query.
    """
    rng = np.random.default_rng(seed)
    frequencies = [document_frequency.get(int(id), 0) for id in query.token_ids]
    draws = rng.integers(len(frequencies), size=NUM_DRAWS).tolist()
    return {
        "router_1": int(query.logits.argmax()),
        "first": 0,
        "idf": int(np.argmin(frequencies)),
        **dict(zip(RANDOM, draws, strict=True)),
    }


def mean_view(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Gives the direction of the mean of views (V, D) as (1, D); zeros where they cancel out."""
    total: npt.NDArray[np.float32] = vectors.sum(axis=0, keepdims=True)
    total /= max(float(np.linalg.norm(total)), 1e-12)
    return total
