"""What a router's own settings rank, one by one, without its controls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from ..data.collection import Collection
from .metrics import Metrics, Ranking, evaluate_rankings, top_documents
from .scoring import DocumentViews, Floats, QueryViews, Similarities, best_similarities

OVER_DOCUMENTS = "_documents_"
"""Joins the name of a setting and the fraction that documents keep."""


def measure_routes(
    collection: Collection,
    queries: Sequence[QueryViews],
    documents: DocumentViews,
    settings: Iterable[str],
) -> dict[str, Metrics]:
    """The metrics of some of the settings that `controls` names; each costs its own views only.

    Args:
        collection: Judges the rankings.
        queries: The views of its queries.
        documents: The views of its documents.
        settings: `full`, `router_k` for 1 and the k of `QueryViews.routed`, and any of those with
            `_documents_f` for an f of `DocumentViews.routed`.

    Raises:
        KeyError: Such a k or f isn't there.
    """
    found = {}
    for setting in settings:
        name, _, fraction = setting.partition(OVER_DOCUMENTS)
        store = documents.routed[float(fraction)] if fraction else documents
        rankings = rank_by_maxsim([_views(query, name) for query in queries], store)
        found[setting] = evaluate_rankings(collection, rankings)
    return found


def rank_by_maxsim(queries: Iterable[Floats], documents: DocumentViews) -> list[Ranking]:
    """By the sum of the best similarities of a query's views, (V, D) each, with all of a document's."""
    return [top_documents(scores) for scores in score_by_maxsim(queries, documents)]


def score_by_maxsim(queries: Iterable[Floats], documents: DocumentViews) -> Iterator[Similarities]:
    """What `rank_by_maxsim` ranks by: for each query (documents,) float32."""
    whole = replace(documents, routed={})
    return (one[-1].sum(0) for one in best_similarities(queries, whole))


def _views(query: QueryViews, setting: str) -> Floats:
    if setting == "full":
        return query.vectors
    num_routes = int(setting.removeprefix("router_"))
    if num_routes == 1:
        best = int(query.logits.argmax())
        return query.alone[best : best + 1]
    return query.routed[num_routes]
