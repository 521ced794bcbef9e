"""Queries scored by each of their views alone: how good a router's choices are, and the best there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..data.collection import Collection
from .metrics import top_documents
from .scoring import DocumentViews, QueryViews, Similarities, best_similarities


@dataclass(frozen=True)
class ScoredQuery:
    """The best similarities of a query's views with every document, and its judgements.

    Attributes:
        views: The query's views.
        full: (V, documents) float32, `best_similarities` of `views.vectors`.
        alone: (V, documents) float32, `best_similarities` of `views.alone`.
        grades: (documents,) int, the judgements; 0 where there is none.
        view_ndcg: (V,) float, nDCG@10 of each view of `views.alone`.
    """

    views: QueryViews
    full: Similarities
    alone: Similarities
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
    stacked = (np.concatenate([query.vectors, query.alone]) for query in queries)
    scored = best_similarities(stacked, replace(documents, routed={}))
    for query, id, similarities in zip(queries, collection.queries, scored, strict=True):
        grades = np.zeros(len(documents), dtype=np.int64)
        for document, grade in collection.qrels[id].items():
            grades[places[document]] = grade
        full, alone = np.split(similarities[-1], [len(query.vectors)])
        ndcg = np.array([ndcg_at_10(scores, grades) for scores in alone])
        yield ScoredQuery(query, full, alone, grades, ndcg)


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
