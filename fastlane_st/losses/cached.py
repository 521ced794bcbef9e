"""The training loss with gradient caching, for batches whose activations don't fit into memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from sentence_transformers.base.losses.gradcache import (
    CachedLossMixin,
    RandContext,
    _create_minibatch,
    _minibatch_ranges,
)
from torch import Tensor, nn

from .column_views import ColumnViews
from .routed_contrastive import RoutedContrastiveLoss, check_columns


class CachedRoutedContrastiveLoss(CachedLossMixin, RoutedContrastiveLoss):
    """`RoutedContrastiveLoss` that encodes `mini_batch_size` texts at a time.

    Loss and gradients are the same. All texts are encoded without a graph, the loss of the whole batch
    gives the gradients of the views, and each mini-batch is encoded again to pass them on (GradCache,
    arXiv 2101.06983). This costs a second forward pass; of the memory only the similarities between
    views still grow with the batch. The second pass replays the random state of the first, so that
    dropout is the same.

    Args:
        *args: The arguments of `RoutedContrastiveLoss`.
        mini_batch_size: How many texts are encoded at a time.
        **kwargs: The keyword arguments of `RoutedContrastiveLoss`.
    """

    def __init__(self, *args: Any, mini_batch_size: int = 32, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if mini_batch_size < 1:
            raise ValueError(f"mini_batch_size must be at least 1, got {mini_batch_size}")
        self.mini_batch_size = mini_batch_size

    def forward(
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> Tensor:
        """Computes the loss of one batch, a scalar whose backward pass encodes the texts again."""
        columns = list(sentence_features)
        check_columns(columns)
        self.draw_num_routes()
        # The mixin passes its labels on to `calculate_loss`; ours are the teacher's scores.
        loss: Tensor = self.forward_cached(columns, self.teacher_scores(columns))
        return loss

    def teacher_views(self, column: dict[str, Any]) -> ColumnViews:
        """Encodes a column with the teacher, one mini-batch at a time."""
        rows = [
            _create_minibatch(column, begin, end)
            for begin, end in _minibatch_ranges(column, self.mini_batch_size)
        ]
        encode = super().teacher_views
        return join([pack(encode(some)) for some in rows])

    def embed_minibatch(
        self,
        sentence_feature: dict[str, Tensor],
        begin: int,
        end: int,
        with_grad: bool,
        copy_random_state: bool,
        random_state: RandContext | None = None,
    ) -> tuple[Tensor, RandContext | None]:
        """Encodes the rows `begin` to `end` of a column into one tensor, whose gradient is cached."""
        rows = _create_minibatch(sentence_feature, begin, end)
        with random_state or nullcontext(), nullcontext() if with_grad else torch.no_grad():
            state = RandContext(*rows.values()) if copy_random_state else None
            is_query = rows.get("task") == "query"
            encode = self.encode_query if is_query else self.encode_document
            return pack(encode(rows)), state

    def calculate_loss(
        self,
        reps: list[list[Tensor]],
        labels: Tensor | None = None,
        *,
        with_backward: bool = False,
    ) -> Tensor:
        """Computes the loss of packed mini-batches, by column; `labels` are the teacher's scores."""
        query, *documents = [join(one, is_routed=not n) for n, one in enumerate(reps)]
        loss = self.total(query, documents, labels)
        if with_backward:
            loss.backward()
            loss = loss.detach()
        return loss


def pack(views: ColumnViews) -> Tensor:
    """Packs views into one tensor: embeddings and mask, of a routed column its logits and routes before.

    Returns:
        (B, T, D + 1), or (B, T, 2 D + 3) for a routed column.
    """
    columns, kind = [views.embeddings, views.mask.unsqueeze(-1)], views.embeddings.dtype
    if views.routed is not None and views.gate is not None:
        assert views.logits is not None
        columns = [views.routed, views.gate.unsqueeze(-1), views.logits.unsqueeze(-1), *columns]
        kind = torch.promote_types(kind, views.logits.dtype)
    return torch.cat([part.to(kind) for part in columns], dim=-1)


def join(packed: Sequence[Tensor], is_routed: bool = False) -> ColumnViews:
    """Unpacks the mini-batches of a column into its views; shorter mini-batches are padded."""
    longest = max(part.shape[1] for part in packed)
    padded = [nn.functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in packed]
    whole = torch.cat(padded)
    routed = gate = logits = None
    if is_routed:
        size = (whole.shape[-1] - 3) // 2
        routed, gate, logits = whole[..., :size], whole[..., size], whole[..., size + 1]
        whole = whole[..., size + 2 :]
    return ColumnViews(whole[..., :-1], whole[..., -1] > 0, logits, routed, gate)
