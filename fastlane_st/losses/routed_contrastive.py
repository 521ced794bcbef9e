"""The training loss: scores of few routes and of all views from one encoding of the batch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .column_views import (
    ColumnViews,
    best_matches,
    divergence,
    mean_over_views,
    router_entropy,
    views_of_output,
)

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder


@dataclass(frozen=True)
class LossWeights:
    """The weight of each part of the loss; a part of weight 0 isn't computed.

    Attributes:
        routed: Contrastive, over the scores of k routed views of the query.
        full: Contrastive, over MaxSim with every view of the query.
        distillation: KL divergence from the teacher's (or the model's own) MaxSim to k routes.
        teacher: KL divergence from the teacher's MaxSim to the model's; needs a teacher.
        oracle: Cross-entropy of the router to the routed views that alone rank the positive best.
    """

    routed: float = 1.0
    full: float = 1.0
    distillation: float = 1.0
    teacher: float = 0.0
    oracle: float = 0.3

    def __post_init__(self) -> None:
        """Raises a ValueError if a weight is negative or not finite."""
        for name, weight in vars(self).items():
            if weight < 0:
                raise ValueError(f"the weight of {name} must be at least 0, got {weight}")
            if not math.isfinite(weight):
                raise ValueError(f"the weight of {name} must be finite, got {weight}")


class RoutedContrastiveLoss(nn.Module):
    """Trains encoder, projection and router together, for every number of routes at once.

    Column 0 is the query, column 1 its positive, further columns are hard negatives; every document
    of the batch is a candidate for every query. With M_ij = max_t q_i·d_jt a query's scores are
    scale · mean_i M_ij, over all of its views or over the k routes that the router chooses through
    the Gumbel straight-through gate (FastLane, arXiv 2601.06389). Works with
    `MultiVectorEncoderTrainer`.

    Args:
        model: A FastLane encoder.
        weights: The weight of each part.
        num_routes: Each step draws its k from these.
        scale: Inverse temperature of the contrastive softmax.
        oracle_scale: Inverse temperature of the oracle's choice among views.
        teacher: Frozen encoder with the same tokenizer, for `teacher` and `distillation`.

    The gate reads its temperature and noise from `model[0].temperature` and `.noise`, which the
    training loop sets. After a step `measures` holds each part of the loss, without its weight, and
    the router's mean entropy.
    """

    def __init__(
        self,
        model: MultiVectorEncoder,
        weights: LossWeights | None = None,
        *,
        num_routes: Sequence[int] = (1, 1, 2, 4, 8),
        scale: float = 20.0,
        oracle_scale: float = 2.0,
        teacher: MultiVectorEncoder | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.weights = weights or LossWeights()
        self.num_routes = tuple(num_routes)
        self.scale = scale
        self.oracle_scale = oracle_scale
        # In a list, which keeps the teacher's weights out of this module's state.
        self._teacher = [] if teacher is None else [teacher.eval().requires_grad_(False)]
        if self.weights.teacher and teacher is None:
            raise ValueError("the weight of teacher is above 0, so pass a teacher")
        self.measures: dict[str, Tensor] = {}

    def forward(
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> Tensor:
        """Computes the loss of one batch of columns, a scalar."""
        columns = list(sentence_features)
        check_columns(columns)
        self.draw_num_routes()
        teacher_scores = self.teacher_scores(columns)
        query, *documents = columns
        # Queries first: the cached loss draws its noise in this order.
        query_views = self.encode_query(query)
        document_views = [self.encode_document(column) for column in documents]
        return self.total(query_views, document_views, teacher_scores)

    def draw_num_routes(self) -> None:
        """Draws the step's k from the global generator."""
        self.step_num_routes = self.num_routes[int(torch.randint(len(self.num_routes), ()))]

    def total(
        self,
        query: ColumnViews,
        documents: Sequence[ColumnViews],
        teacher_scores: Tensor | None = None,
    ) -> Tensor:
        """Computes the weighted sum of the parts, a scalar, and keeps them in `measures`."""
        parts = self.parts(query, documents, teacher_scores)
        self.measures = {name: value.detach() for name, value in parts.items()}
        self.measures["router_entropy"] = router_entropy(query)
        return torch.stack(
            [getattr(self.weights, name) * value for name, value in parts.items()]
        ).sum()

    @torch.no_grad()
    def teacher_scores(self, columns: Sequence[dict[str, Any]]) -> Tensor | None:
        """Computes the teacher's MaxSim, (B, documents); None without a teacher."""
        if not self._teacher:
            return None
        query, *documents = [self.teacher_views(column) for column in columns]
        best = best_matches(query.embeddings, documents)
        return self.scale * mean_over_views(best, query.mask)

    def teacher_views(self, column: dict[str, Any]) -> ColumnViews:
        """Encodes a column with the teacher and leaves the column unchanged."""
        return views_of_output(self._teacher[0](dict(column), num_routes=None))

    def encode_document(self, features: dict[str, Any]) -> ColumnViews:
        """Encodes a column of documents with every view."""
        model: Any = self.model
        return views_of_output(model(features, num_routes=None))

    def encode_query(self, features: dict[str, Any]) -> ColumnViews:
        """Encodes the column of queries, and routes it with the step's k beside all of its views."""
        model: Any = self.model
        num_routes = self.step_num_routes
        if not model.training:  # evaluation has no gate: the top k are the routes
            routed = model(dict(features), num_routes=num_routes)
            views = views_of_output(model(features, num_routes=None))
            views.routed, views.gate = routed["token_embeddings"], routed["attention_mask"].float()
            return views
        output = model(features, num_routes=num_routes)
        return ColumnViews(
            output["unrouted_embeddings"],
            output["token_mask"],
            output["router_logits"],
            output["routed_embeddings"],
            output["gate"],
        )

    def parts(
        self,
        query: ColumnViews,
        documents: Sequence[ColumnViews],
        teacher_scores: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Computes the parts of the loss whose weight isn't 0, by name."""
        weights = self.weights
        assert query.routed is not None
        assert query.gate is not None
        best = best_matches(query.embeddings, documents)
        best_routed = best_matches(query.routed, documents)
        full = self.scale * mean_over_views(best, query.mask)
        routed = self.scale * mean_over_views(best_routed, query.gate)
        target = full.detach() if teacher_scores is None else teacher_scores

        parts: dict[str, Tensor] = {}
        if weights.routed:
            parts["routed"] = self.contrastive(routed, target)
        if weights.full:
            parts["full"] = self.contrastive(full, target)
        if weights.distillation:
            parts["distillation"] = divergence(target, routed)
        if weights.teacher:
            parts["teacher"] = divergence(target, full)
        if weights.oracle:
            parts["oracle"] = self.oracle(best_routed.detach(), query)
        return parts

    def contrastive(self, scores: Tensor, target: Tensor) -> Tensor:
        """Computes the cross-entropy of each query to its positive, a scalar.

        Args:
            scores: (B, documents); query i's positive is document i.
            target: (B, documents), the teacher's scores or the model's own; not used here.
        """
        return nn.functional.cross_entropy(scores, torch.arange(len(scores), device=scores.device))

    def oracle(self, best: Tensor, query: ColumnViews) -> Tensor:
        """Computes the cross-entropy of the router's choice to that of an oracle, a scalar.

        The oracle knows the positive: its choice is the softmax over the views of -oracle_scale times
        the contrastive loss that each view has alone.

        Args:
            best: (B, T, documents), M of the routed views.
            query: The queries' views with the router's logits.
        """
        assert query.logits is not None
        labels = torch.arange(len(best), device=best.device).unsqueeze(1).expand(best.shape[:2])
        losses = nn.functional.cross_entropy(
            (self.scale * best).flatten(0, 1), labels.flatten(), reduction="none"
        ).view_as(query.logits)
        lowest = torch.finfo(losses.dtype).min
        wanted = (-self.oracle_scale * losses).masked_fill(~query.mask, lowest).softmax(dim=-1)
        logits = query.logits.float().masked_fill(~query.mask, lowest)
        return -(wanted * logits.log_softmax(dim=-1)).sum(dim=-1).mean()


def check_columns(columns: Sequence[Any]) -> None:
    """Raises a ValueError if queries or positives are missing."""
    if len(columns) < 2:
        raise ValueError(f"training needs queries and positives, got {len(columns)} column")
