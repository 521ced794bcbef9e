"""The training loss: one encoding of a batch, scored with few routes, with all, and distilled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder


@dataclass(frozen=True)
class LossWeights:
    """How much each part of the loss counts; a part at 0 isn't computed.

    Attributes:
        routed: Contrastive, over the scores of k routed views of the query.
        full: Contrastive, over MaxSim with every view of the query.
        distillation: KL divergence from the teacher's (or the model's own) MaxSim to k routes.
        teacher: KL divergence from the teacher's MaxSim to the model's; needs a teacher.
        oracle: Cross-entropy of the router to the routed views that alone rank the positive best.
        documents: `routed` and `full` again, with the documents' views routed as well.
    """

    routed: float = 1.0
    full: float = 1.0
    distillation: float = 1.0
    teacher: float = 0.0
    oracle: float = 0.3
    documents: float = 0.0

    def __post_init__(self) -> None:
        """Refuses what can't be."""
        for name, weight in vars(self).items():
            if weight < 0:
                raise ValueError(f"the weight of {name} must be at least 0, got {weight}")


@dataclass
class Views:
    """The token views of one column.

    Attributes:
        embeddings: (B, T, D), every token for itself.
        logits: (B, T), the router's.
        mask: (B, T) bool, true at the views.
        routed: (B, T, D), the views in place of the route that stands for each, where the column is
            routed (see `ViewProjection.routed`).
        gate: (B, T), the Gumbel gate of those routes.
    """

    embeddings: Tensor
    logits: Tensor
    mask: Tensor
    routed: Tensor | None = None
    gate: Tensor | None = None


class RoutedContrastiveLoss(nn.Module):
    """Trains encoder, projection and router together, for every number of routes at once.

    Column 0 is the query, column 1 its positive, further columns are hard negatives; every document
    of the batch is a candidate for every query. With M_ij = max_t q_i·d_jt a query's scores are
    scale · mean_i M_ij, over all of its views or over the k routes that the router chooses through
    the Gumbel straight-through gate (FastLane, arXiv 2601.06389). Works with
    `MultiVectorEncoderTrainer`.

    Args:
        model: A FastLane encoder.
        weights: How much each part counts.
        num_routes: The k to draw from, one for each step.
        scale: Inverse temperature of the contrastive softmax.
        oracle_scale: Inverse temperature of the oracle's choice among views.
        document_fraction: Fraction of a document's views kept in the `documents` part.
        teacher: Frozen encoder with the same tokenizer, for `teacher` and `distillation`.

    The gates' temperature and noise are `model[0].temperature` and `.noise`, set by the training
    loop's schedule. After a step `measures` holds each part of the loss, without its weight, and
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
        document_fraction: float = 0.25,
        teacher: MultiVectorEncoder | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.weights = weights or LossWeights()
        self.num_routes = tuple(num_routes)
        self.scale = scale
        self.oracle_scale = oracle_scale
        self.document_fraction = document_fraction
        # In a list, so that the teacher's weights are no part of this module's state.
        self._teacher = [] if teacher is None else [teacher.eval().requires_grad_(False)]
        if self.weights.teacher and teacher is None:
            raise ValueError("the weight of teacher is above 0, so pass a teacher")
        self.measures: dict[str, Tensor] = {}

    def forward(
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> Tensor:
        """The loss of one batch of columns, a scalar."""
        columns = list(sentence_features)
        check_columns(columns)
        self.draw_num_routes()
        teacher_scores = self.teacher_scores(columns)
        query, *documents = columns
        query_views = self.encode_query(query)  # first, as the cached loss draws its noise
        document_views = [self.encode_document(column) for column in documents]
        return self.total(query_views, document_views, teacher_scores)

    def draw_num_routes(self) -> None:
        """Draws the step's k, from the global generator."""
        self.step_num_routes = self.num_routes[int(torch.randint(len(self.num_routes), ()))]

    def total(
        self, query: Views, documents: Sequence[Views], teacher_scores: Tensor | None = None
    ) -> Tensor:
        """The weighted sum of the parts, a scalar; `measures` keeps them for the log."""
        parts = self.parts(query, documents, teacher_scores)
        self.measures = {name: value.detach() for name, value in parts.items()}
        self.measures["router_entropy"] = router_entropy(query)
        return torch.stack(
            [getattr(self.weights, name) * value for name, value in parts.items()]
        ).sum()

    @torch.no_grad()
    def teacher_scores(self, columns: Sequence[dict[str, Any]]) -> Tensor | None:
        """The teacher's MaxSim, (B, documents), or None without a teacher."""
        if not self._teacher:
            return None
        query, *documents = [self.teacher_views(column) for column in columns]
        best = best_matches(query.embeddings, documents)
        return self.scale * mean_over_views(best, query.mask)

    def teacher_views(self, column: dict[str, Any]) -> Views:
        """One column's views by the teacher; the column stays as it is."""
        return unrouted_views(self._teacher[0](dict(column), num_routes=None))

    def encode_document(self, features: dict[str, Any]) -> Views:
        """The views of one column of documents, routed as well if a part of the loss is of that."""
        if self.weights.documents:
            return self.encode_routed(features, self.document_fraction)
        model: Any = self.model
        return unrouted_views(model(features, num_routes=None))

    def encode_query(self, features: dict[str, Any]) -> Views:
        """The queries' views, each token for itself and routed with the step's k."""
        return self.encode_routed(features, self.step_num_routes)

    def encode_routed(self, features: dict[str, Any], num_routes: int | float) -> Views:
        """The views of one column, each token for itself and routed."""
        model: Any = self.model
        if not model.training:  # no gate there: the plain top k
            routed = model(dict(features), num_routes=num_routes)
            views = unrouted_views(model(features, num_routes=None))
            views.routed, views.gate = routed["token_embeddings"], routed["attention_mask"].float()
            return views
        output = model(features, num_routes=num_routes)
        return Views(
            output["unrouted_embeddings"],
            output["router_logits"],
            output["token_mask"],
            output["routed_embeddings"],
            output["gate"],
        )

    def parts(
        self, query: Views, documents: Sequence[Views], teacher_scores: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The parts of the loss whose weight isn't 0, by name."""
        weights = self.weights
        assert query.routed is not None
        assert query.gate is not None
        best = best_matches(query.embeddings, documents)
        best_routed = best_matches(query.routed, documents)
        full = self.scale * mean_over_views(best, query.mask)
        routed = self.scale * mean_over_views(best_routed, query.gate)
        labels = torch.arange(len(full), device=full.device)
        target = full.detach() if teacher_scores is None else teacher_scores

        parts: dict[str, Tensor] = {}
        if weights.routed:
            parts["routed"] = nn.functional.cross_entropy(routed, labels)
        if weights.full:
            parts["full"] = nn.functional.cross_entropy(full, labels)
        if weights.distillation:
            parts["distillation"] = divergence(target, routed)
        if weights.teacher:
            parts["teacher"] = divergence(target, full)
        if weights.oracle:
            parts["oracle"] = self.oracle(best_routed.detach(), query)
        if weights.documents:
            kept = [kept_views(views) for views in documents]
            with_all = mean_over_views(best_kept_matches(query.embeddings, kept), query.mask)
            with_few = mean_over_views(best_kept_matches(query.routed, kept), query.gate)
            with_all, with_few = self.scale * with_all, self.scale * with_few
            pair = nn.functional.cross_entropy(torch.cat([with_all, with_few]), labels.repeat(2))
            parts["documents"] = pair + divergence(target, with_all)
        return parts

    def oracle(self, best: Tensor, query: Views) -> Tensor:
        """Cross-entropy of the router's choice to that of an oracle which knows the positive.

        The oracle prefers a routed view by how well it ranks the positive alone: softmax over views
        of `-oracle_scale` times the view's own contrastive loss.
        """
        labels = torch.arange(len(best), device=best.device).unsqueeze(1).expand(best.shape[:2])
        losses = nn.functional.cross_entropy(
            (self.scale * best).flatten(0, 1), labels.flatten(), reduction="none"
        ).view_as(query.logits)
        lowest = torch.finfo(losses.dtype).min
        wanted = (-self.oracle_scale * losses).masked_fill(~query.mask, lowest).softmax(dim=-1)
        logits = query.logits.float().masked_fill(~query.mask, lowest)
        return -(wanted * logits.log_softmax(dim=-1)).sum(dim=-1).mean()


def check_columns(columns: Sequence[Any]) -> None:
    """Raises a ValueError unless there are queries and positives."""
    if len(columns) < 2:
        raise ValueError(f"training needs queries and positives, got {len(columns)} column")


@torch.no_grad()
def router_entropy(query: Views) -> Tensor:
    """Mean entropy, in nats, of the softmax of the router's logits over a query's views."""
    lowest = torch.finfo(torch.float32).min
    chances = query.logits.float().masked_fill(~query.mask, lowest).softmax(dim=-1)
    entropy: Tensor = torch.special.entr(chances).sum(dim=-1).mean()
    return entropy


def unrouted_views(features: dict[str, Any]) -> Views:
    """The views in a model's output that isn't routed."""
    embeddings, logits = features["token_embeddings"], features["router_logits"]
    return Views(embeddings, logits, features["attention_mask"].bool())


def best_matches(embeddings: Tensor, documents: Sequence[Views]) -> Tensor:
    """M: what each query view finds best in each document, over all columns of documents.

    Args:
        embeddings: (B, T, D), a query's views.
        documents: Columns of documents, each token for itself.

    Returns:
        (B, T, B · columns) float32.
    """
    found = []
    for views in documents:
        similarities = torch.einsum("bqd,ctd->bqct", embeddings, views.embeddings).float()
        found.append(similarities.masked_fill(~views.mask, -torch.inf).amax(dim=-1))
    return torch.cat(found, dim=-1)


def best_kept_matches(embeddings: Tensor, documents: Sequence[Views]) -> Tensor:
    """M over the routed views of documents that are kept.

    A view that isn't kept scores as low as any could, and so is nobody's best; the gradient of the
    gate is the similarity's distance from that.

    Args:
        embeddings: (B, T, D), a query's views.
        documents: Columns of documents, of `kept_views`.

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


def kept_views(views: Views) -> Views:
    """Only the views that the gate keeps: (B, K, …), K the most of a row, others masked."""
    assert views.routed is not None
    assert views.gate is not None
    is_kept = views.gate.detach() > 0.5
    most = int(is_kept.sum(dim=1).max())
    places = is_kept.int().argsort(dim=1, descending=True, stable=True)[:, :most]

    def at_places(vectors: Tensor) -> Tensor:
        return vectors.gather(1, places.unsqueeze(-1).expand(-1, -1, vectors.shape[-1]))

    return Views(
        at_places(views.embeddings),
        views.logits.gather(1, places),
        is_kept.gather(1, places),
        at_places(views.routed),
        views.gate.gather(1, places),
    )


def mean_over_views(best: Tensor, gate: Tensor) -> Tensor:
    """Scores (B, documents) from M (B, T, documents) and a mask or gate (B, T) of the views."""
    weights = gate.to(best.dtype)
    counted = weights.detach().sum(dim=-1).clamp_min(1)
    return torch.einsum("bq,bqc->bc", weights, best) / counted.unsqueeze(-1)


def divergence(target_scores: Tensor, scores: Tensor) -> Tensor:
    """KL(softmax of target ‖ softmax of scores), the mean over rows; no gradient to the target."""
    target = target_scores.detach().log_softmax(dim=-1)
    return nn.functional.kl_div(
        scores.log_softmax(dim=-1), target, reduction="batchmean", log_target=True
    )
