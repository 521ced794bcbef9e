"""Controls of a router: what else could have chosen the views, and what routing costs.

A query's view depends on how many routes are kept. A setting is a set of such views, whose rows of
M (see `best_similarities`) are summed:

| setting | views |
| --- | --- |
| `full` | all, each token for itself: plain late interaction |
| `router_1` | of the best router logit, as the one route |
| `router_k` | of the k best router logits, as k routes that stand for all tokens |
| `random` | of a token at random, as the one route; metrics are the means of five draws |
| `first` | of the first token, as the one route |
| `idf` | of the token in the fewest documents, the earlier of equals, as the one route |
| `oracle` | of the token with the best nDCG@10 as the one route, with hindsight |
| `mean_view` | none of them: the direction of the mean of `full`'s, as one vector |
| `…_documents_f` | `full` or up to four routes, over documents that keep the fraction f of their tokens |

The settings of one route differ only in the token: the view of each tells of the whole query.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..data.collection import Collection
from .metrics import Metrics, Ranking, evaluate_rankings, top_documents
from .routes import OVER_DOCUMENTS
from .scoring import DocumentViews, QueryViews, Similarities, TextViews, best_similarities

FRACTIONS = (0.25,)
"""Of document tokens: the budgets that are compared."""
WITH_FRACTIONS = ("full", "router_1", "router_2", "router_4")
NUM_DRAWS = 5


@dataclass(frozen=True)
class ScoredQuery:
    """One query against the corpus: what every control and diagnosis reads.

    Attributes:
        views: Of the query.
        full: (F, V, documents) float32, what `best_similarities` gives of `views.vectors`.
        alone: (F, V, documents) float32, the same of `views.alone`.
        routed: By k above 1, (F, K, documents) float32, the same of `views.routed[k]`.
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
    """Each query of the collection against all of its documents, in the collection's order.

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
    """All that is scored of a query, so that one product does: the parts of `ScoredQuery`."""
    views = [query.vectors, query.alone, *_few_routes(query).values()]
    return np.concatenate([*views, mean_view(query.vectors)])


def _few_routes(query: QueryViews) -> dict[int, npt.NDArray[np.float32]]:
    """The routed views that aren't all views."""
    return {k: views for k, views in query.routed.items() if views is not query.vectors}


def mean_view(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The direction of the mean of views: (V, D) to (1, D); zeros where they cancel out."""
    total: npt.NDArray[np.float32] = vectors.sum(axis=0, keepdims=True)
    total /= max(float(np.linalg.norm(total)), 1e-12)
    return total


def ndcg_at_10(scores: Similarities, grades: npt.NDArray[np.int64]) -> float:
    """trec_eval's ndcg_cut_10 of `scores`, ties as in `top_documents`; both (documents,).

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
    """The metrics of every setting of this module's table, for the k and f of the views."""
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
    draws = [results.pop(f"random_{draw}") for draw in range(NUM_DRAWS)]
    results["random"] = {
        name: np.mean([metrics[name] for metrics in draws], axis=0) for name in draws[0]
    }
    return results


def choose_routes(
    query: TextViews, document_frequency: Mapping[int, int], seed: int = 0
) -> dict[str, int]:
    """Which token is the one route in each setting, as its place among the query's views.

    Equal logits go to the earlier view, as in the encoder.

    Args:
        query: Its views.
        document_frequency: In how many documents a token id is, by id; one that is absent is 0.
        seed: Of the random draws: another one for each query.
    """
    rng = np.random.default_rng(seed)
    frequencies = [document_frequency.get(int(id), 0) for id in query.token_ids]
    draws = rng.integers(len(frequencies), size=NUM_DRAWS).tolist()
    return {
        "router_1": int(query.logits.argmax()),
        "first": 0,
        "idf": int(np.argmin(frequencies)),
        **{f"random_{draw}": place for draw, place in enumerate(draws)},
    }
