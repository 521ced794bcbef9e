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
        mask: (B, T) bool, true at the views.
        logits: (B, T), the router's logits; None for documents.
        routed: (B, T, D), the views that the tokens would have as routes (see
            `ViewProjection.routed`); None if the column isn't routed.
        gate: (B, T), the Gumbel gate of the routes; None if the column isn't routed.
    """

    embeddings: Tensor
    mask: Tensor
    logits: Tensor | None = None
    routed: Tensor | None = None
    gate: Tensor | None = None


def views_of_output(features: dict[str, Any]) -> ColumnViews:
    """Takes the views from the output of a model that was called with `num_routes=None`."""
    mask = features["attention_mask"].bool()
    return ColumnViews(features["token_embeddings"], mask, features.get("router_logits"))


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
    assert query.logits is not None
    lowest = torch.finfo(torch.float32).min
    chances = query.logits.float().masked_fill(~query.mask, lowest).softmax(dim=-1)
    entropy: Tensor = torch.special.entr(chances).sum(dim=-1).mean()
    return entropy
