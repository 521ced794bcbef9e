"""Controls of a router: other ways to choose the routes, and what routing costs.

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
| `oracle` | the token with the best nDCG@10 as the one route, chosen by the judgements |
| `mean_view` | no token: the direction of the mean of `full`'s views, as one vector |
| `…_documents_f` | `full` or up to four routes, over documents pooled to the fraction f of their tokens |

The settings of one route differ only in the token; its view represents the whole query.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..data.collection import Collection
from .metrics import Metrics, Ranking, evaluate_rankings, top_documents
from .routes import OVER_DOCUMENTS, RANDOM, choose_routes, mean_of, mean_view
from .scoring import DocumentViews, QueryViews, Similarities, best_similarities

FRACTIONS = (0.25,)
"""Fractions of document tokens that are compared."""
WITH_FRACTIONS = ("full", "router_1", "router_2", "router_4")


@dataclass(frozen=True)
class ScoredQuery:
    """The best similarities of a query's views with every document, and its judgements.

    The first axis F has one entry for each fraction of document tokens, and the last for all tokens.

    Attributes:
        views: The query's views.
        full: (F, V, documents) float32, `best_similarities` of `views.vectors`.
        alone: (F, V, documents) float32, `best_similarities` of `views.alone`.
        routed: For each k above 1, (F, K, documents) float32, `best_similarities` of `views.routed[k]`.
        mean_view: (documents,) float32, the best similarities of the mean view.
        grades: (documents,) int, the judgements; 0 where there is none.
        view_ndcg: (V,) float, nDCG@10 of each view of `views.alone`.
    """

    views: QueryViews
    full: Similarities
    alone: Similarities
    routed: Mapping[int, Similarities]
    mean_view: Similarities
    grades: npt.NDArray[np.int64]
    view_ndcg: npt.NDArray[np.float64]


def score_queries(
    collection: Collection,
    queries: Sequence[QueryViews],
    documents: DocumentViews,
) -> Iterator[ScoredQuery]:
    """Yields each query of a collection scored against all documents, in the collection's order.

    Raises:
        ValueError: There are more or fewer queries or documents than the collection has.
    """
    for name, given, expected in (
        ("queries", len(queries), len(collection.queries)),
        ("documents", len(documents), len(collection.documents)),
    ):
        if given != expected:
            raise ValueError(f"{collection.name} has {expected} {name}, got the views of {given}")
    places = {id: place for place, id in enumerate(collection.documents)}
    scored = best_similarities(map(_all_views, queries), documents)
    for query, id, similarities in zip(queries, collection.queries, scored, strict=True):
        grades = np.zeros(len(documents), dtype=np.int64)
        for document, grade in collection.qrels[id].items():
            grades[places[document]] = grade
        few = _few_routes(query)
        sizes = [len(views) for views in (query.vectors, query.alone, *few.values())]
        full, alone, *routed, mean = np.split(similarities, np.cumsum(sizes), axis=1)
        found = dict(zip(few, routed, strict=True))
        yield ScoredQuery(
            views=query,
            full=full,
            alone=alone,
            routed={k: found.get(k, full) for k in query.routed},
            mean_view=mean[-1, 0],
            grades=grades,
            view_ndcg=np.array([ndcg_at_10(scores, grades) for scores in alone[-1]]),
        )


def _all_views(query: QueryViews) -> npt.NDArray[np.float32]:
    """Stacks all views of a query that `ScoredQuery` needs, so that one product scores them."""
    views = [query.vectors, query.alone, *_few_routes(query).values()]
    return np.concatenate([*views, mean_view(query.vectors)])


def _few_routes(query: QueryViews) -> dict[int, npt.NDArray[np.float32]]:
    """Gives the routed views of the k that are less than the number of tokens."""
    return {k: views for k, views in query.routed.items() if views is not query.vectors}


def ndcg_at_10(scores: Similarities, grades: npt.NDArray[np.int64]) -> float:
    """Computes trec_eval's ndcg_cut_10, ties as in `top_documents`; both arguments are (documents,).

    Example:
        >>> ndcg_at_10(np.array([3.0, 2.0, 1.0], dtype=np.float32), np.array([0, 1, 0]))
        0.6309297535714575
    """
    gains = np.clip(grades, 0, None)
    discounts = 1 / np.log2(np.arange(2, 12))
    ideal = -np.sort(-gains[gains > 0])[:10]
    found = gains[top_documents(scores, depth=10)]
    if not len(ideal):
        return 0.0
    return float(found @ discounts[: len(found)] / (ideal @ discounts[: len(ideal)]))


def measure_controls(
    collection: Collection,
    queries: Sequence[QueryViews],
    documents: DocumentViews,
) -> dict[str, Metrics]:
    """Computes the metrics of every setting of this module's table, for the k and f of the views."""
    rankings: dict[str, list[Ranking]] = {}
    for query_index, scored in enumerate(score_queries(collection, queries, documents)):
        choices = choose_routes(scored.views, documents.document_frequency, seed=query_index)
        choices["oracle"] = int(scored.view_ndcg.argmax())
        rows = {
            "full": scored.full,
            **{name: scored.alone[:, [place]] for name, place in choices.items()},
            **{f"router_{k}": similarities for k, similarities in scored.routed.items()},
        }
        scores = {name: similarities[-1].sum(0) for name, similarities in rows.items()}
        scores["mean_view"] = scored.mean_view
        for name in [name for name in WITH_FRACTIONS if name in rows]:
            for fraction, similarities in zip(documents.routed, rows[name], strict=False):
                scores[f"{name}{OVER_DOCUMENTS}{fraction:g}"] = similarities.sum(0)
        for name, values in scores.items():
            rankings.setdefault(name, []).append(top_documents(values))
    results = {name: evaluate_rankings(collection, found) for name, found in rankings.items()}
    results["random"] = mean_of([results.pop(name) for name in RANDOM])
    return results
