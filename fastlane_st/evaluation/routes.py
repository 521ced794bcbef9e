"""Rankings and metrics of single numbers of routes, without the controls of a router."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from ..data.collection import Collection
from .metrics import Metrics, Ranking, evaluate_rankings, top_documents
from .scoring import DocumentViews, Floats, QueryViews, Similarities, best_similarities

OVER_DOCUMENTS = "_documents_"
"""Stands between the name of a setting and the fraction of document tokens kept."""


def measure_routes(
    collection: Collection,
    queries: Sequence[QueryViews],
    documents: DocumentViews,
    settings: Iterable[str],
) -> dict[str, Metrics]:
    """Computes the metrics of single settings of `controls`; only their own views are scored.

    Args:
        collection: The judgements.
        queries: Views of the collection's queries.
        documents: Views of its documents.
        settings: `full`, or `router_k` with k 1 or a key of `QueryViews.routed`; each may end in
            `_documents_f` with f a key of `DocumentViews.routed`.

    Raises:
        KeyError: There are no views for a k or an f.
    """
    found = {}
    for setting in settings:
        name, _, fraction = setting.partition(OVER_DOCUMENTS)
        store = documents.routed[float(fraction)] if fraction else documents
        rankings = rank_by_maxsim([_views(query, name) for query in queries], store)
        found[setting] = evaluate_rankings(collection, rankings)
    return found


def rank_by_maxsim(queries: Iterable[Floats], documents: DocumentViews) -> list[Ranking]:
    """Ranks documents by MaxSim with each query, (V, D): Σ_i max_t q_i·d_jt."""
    return [top_documents(scores) for scores in score_by_maxsim(queries, documents)]


def score_by_maxsim(queries: Iterable[Floats], documents: DocumentViews) -> Iterator[Similarities]:
    """Yields the MaxSim of each query with all documents, (documents,) float32."""
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
