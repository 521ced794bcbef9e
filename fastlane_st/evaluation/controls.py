"""Controls of a router: what else could have chosen the views, scored on one encoding.

Every setting is a set of query views whose rows of M (see `best_similarities`) are summed:

| setting | views |
| --- | --- |
| `full` | all: plain late interaction |
| `router_k` | the k best router logits |
| `random` | one at random; metrics are the means of five draws |
| `first` | the first one |
| `idf` | the one whose token is in the fewest documents of the corpus, the earlier of equals |
| `mean_view` | none of them: the direction of their mean, as one vector |
| `oracle` | the one that has the best nDCG@10, with hindsight |
| `…_documents_f` | as before, over the fraction f of each document's views |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .collection import Collection
from .metrics import Metrics, Ranking, evaluate_rankings, top_documents
from .scoring import DocumentViews, QueryViews, Similarities, best_similarities

NUM_ROUTES = (1, 2, 4, 8, 16)
FRACTIONS = (0.2, 0.25, 0.5)
NUM_DRAWS = 5


@dataclass(frozen=True)
class ScoredQuery:
    """One query against the corpus: what every control and diagnosis reads.

    Attributes:
        views: Of the query.
        similarities: (fractions + 1, V, documents) float32, as `best_similarities` gives them.
        mean_view: (documents,) float32, the best similarities of the mean view.
        grades: (documents,) int, the judgements; 0 where there is none.
        view_ndcg: (V,) float, nDCG@10 of each view alone.
    """

    views: QueryViews
    similarities: Similarities
    mean_view: Similarities
    grades: npt.NDArray[np.int64]
    view_ndcg: npt.NDArray[np.float64]


def score_queries(
    collection: Collection,
    queries: Sequence[QueryViews],
    documents: DocumentViews,
    fractions: Sequence[float] = (),
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
    rows = [np.concatenate([query.vectors, mean_view(query.vectors)]) for query in queries]
    places = {id: place for place, id in enumerate(collection.documents)}
    scored = best_similarities(rows, documents, fractions)
    for query, id, similarities in zip(queries, collection.queries, scored, strict=True):
        grades = np.zeros(len(documents), dtype=np.int64)
        for document, grade in collection.qrels[id].items():
            grades[places[document]] = grade
        views = similarities[:, :-1]
        ndcg = np.array([ndcg_at_10(scores, grades) for scores in views[-1]])
        yield ScoredQuery(query, views, similarities[-1, -1], grades, ndcg)


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
    *,
    num_routes: Sequence[int] = NUM_ROUTES,
    fractions: Sequence[float] = FRACTIONS,
) -> dict[str, Metrics]:
    """The metrics of every setting of this module's table."""
    rankings: dict[str, list[Ranking]] = {}
    for number, scored in enumerate(score_queries(collection, queries, documents, fractions)):
        choices = route_choices(scored.views, documents.document_frequency, num_routes, seed=number)
        scores = {name: scored.similarities[-1][kept].sum(0) for name, kept in choices.items()}
        scores["mean_view"] = scored.mean_view
        scores["oracle"] = scored.similarities[-1][int(scored.view_ndcg.argmax())]
        for fraction, similarities in zip(fractions, scored.similarities, strict=False):
            for name in ("full", "router_1"):
                if name in choices:
                    kept = choices[name]
                    scores[f"{name}_documents_{fraction:g}"] = similarities[kept].sum(0)
        for name, values in scores.items():
            rankings.setdefault(name, []).append(top_documents(values))
    results = {name: evaluate_rankings(collection, found) for name, found in rankings.items()}
    draws = [results.pop(f"random_{draw}") for draw in range(NUM_DRAWS)]
    results["random"] = {
        name: np.mean([metrics[name] for metrics in draws], axis=0) for name in draws[0]
    }
    return results


def route_choices(
    query: QueryViews,
    document_frequency: Mapping[int, int],
    num_routes: Sequence[int] = NUM_ROUTES,
    seed: int = 0,
) -> dict[str, npt.NDArray[np.intp]]:
    """Which views each setting keeps, as their places among the query's views.

    Equal logits go to the earlier view; more routes than views are all of them.

    Args:
        query: Its views.
        document_frequency: In how many documents a token id is, by id; one that is absent is 0.
        num_routes: The k of `router_k`.
        seed: Of the random draws: another one for each query.
    """
    order = np.argsort(-query.logits, kind="stable")
    rng = np.random.default_rng(seed)
    frequencies = [document_frequency.get(int(id), 0) for id in query.token_ids]
    draws = rng.integers(len(order), size=NUM_DRAWS)
    return {
        "full": np.arange(len(order)),
        **{f"router_{k}": np.sort(order[:k]) for k in num_routes},
        "first": np.array([0]),
        "idf": np.array([int(np.argmin(frequencies))]),
        **{f"random_{draw}": draws[draw : draw + 1] for draw in range(NUM_DRAWS)},
    }
