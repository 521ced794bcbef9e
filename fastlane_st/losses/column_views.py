"""The token views of a batch's columns, and the late-interaction scores between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class ColumnViews:
    """The token views of one column of a batch: its queries, positives or hard negatives.

    Attributes:
        embeddings: (B, T, D), the view of every token.
        logits: (B, T), the router's logits.
        mask: (B, T) bool, true at the views.
        routed: (B, T, D), the views that the tokens would have as routes (see
            `ViewProjection.routed`); None if the column isn't routed.
        gate: (B, T), the Gumbel gate of the routes; None if the column isn't routed.
    """

    embeddings: Tensor
    logits: Tensor
    mask: Tensor
    routed: Tensor | None = None
    gate: Tensor | None = None


def views_of_output(features: dict[str, Any]) -> ColumnViews:
    """Takes the views from the output of a model that was called with `num_routes=None`."""
    embeddings, logits = features["token_embeddings"], features["router_logits"]
    return ColumnViews(embeddings, logits, features["attention_mask"].bool())


def best_matches(embeddings: Tensor, documents: Sequence[ColumnViews]) -> Tensor:
    """Computes M: the largest similarity of each query view to a view of each document.

    Args:
        embeddings: (B, T, D), the views of the queries.
        documents: Columns of documents; `embeddings` of each are compared.

    Returns:
        (B, T, B · columns) float32; -inf for a document without views.
    """
    found = []
    for views in documents:
        similarities = torch.einsum("bqd,ctd->bqct", embeddings, views.embeddings).float()
        found.append(similarities.masked_fill(~views.mask, -torch.inf).amax(dim=-1))
    return torch.cat(found, dim=-1)


def best_kept_matches(embeddings: Tensor, documents: Sequence[ColumnViews]) -> Tensor:
    """Computes M over the routed views that the documents' gates keep.

    A view that isn't kept scores the negative norm of the query view, the lowest similarity possible,
    and so is never the largest. The gate's gradient is the distance of the similarity from that.

    Args:
        embeddings: (B, T, D), the views of the queries.
        documents: Columns of documents, as `kept_views` returns them.

    Returns:
        (B, T, B · columns) float32.
    """
    lowest = -embeddings.detach().float().norm(dim=-1)[:, :, None, None]
    found = []
    for views in documents:
        assert views.routed is not None
        assert views.gate is not None
        similarities = torch.einsum("bqd,ctd->bqct", embeddings, views.routed).float()
        kept = views.gate.float() * (similarities - lowest) + lowest
        found.append(kept.masked_fill(~views.mask, -torch.inf).amax(dim=-1))
    return torch.cat(found, dim=-1)


def kept_views(views: ColumnViews) -> ColumnViews:
    """Selects the views that the gate keeps: (B, K, …), K the largest count of a row, masked."""
    assert views.routed is not None
    assert views.gate is not None
    is_kept = views.gate.detach() > 0.5
    most = int(is_kept.sum(dim=1).max())
    places = is_kept.int().argsort(dim=1, descending=True, stable=True)[:, :most]

    def at_places(vectors: Tensor) -> Tensor:
        return vectors.gather(1, places.unsqueeze(-1).expand(-1, -1, vectors.shape[-1]))

    return ColumnViews(
        at_places(views.embeddings),
        views.logits.gather(1, places),
        is_kept.gather(1, places),
        at_places(views.routed),
        views.gate.gather(1, places),
    )


def mean_over_views(best: Tensor, gate: Tensor) -> Tensor:
    """Averages M, (B, T, documents), over the views in a mask or gate, (B, T): (B, documents)."""
    weights = gate.to(best.dtype)
    counted = weights.detach().sum(dim=-1).clamp_min(1)
    return torch.einsum("bq,bqc->bc", weights, best) / counted.unsqueeze(-1)


def divergence(target_scores: Tensor, scores: Tensor) -> Tensor:
    """Computes the mean over rows of KL(softmax of target ‖ softmax of scores), target detached."""
    target = target_scores.detach().log_softmax(dim=-1)
    return nn.functional.kl_div(
        scores.log_softmax(dim=-1), target, reduction="batchmean", log_target=True
    )


@torch.no_grad()
def router_entropy(query: ColumnViews) -> Tensor:
    """Computes the mean entropy, in nats, of the softmax of the logits over a query's views."""
    lowest = torch.finfo(torch.float32).min
    chances = query.logits.float().masked_fill(~query.mask, lowest).softmax(dim=-1)
    entropy: Tensor = torch.special.entr(chances).sum(dim=-1).mean()
    return entropy
