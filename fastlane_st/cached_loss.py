"""The training loss for batches whose activations don't fit into memory: gradient caching."""

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

from .losses import RoutedContrastiveLoss, Views, check_columns


class CachedRoutedContrastiveLoss(CachedLossMixin, RoutedContrastiveLoss):
    """`RoutedContrastiveLoss`, with `mini_batch_size` texts at a time in the encoder.

    The same loss and gradients: texts are encoded without a graph, the loss is taken of the whole
    batch, and each mini-batch is encoded again to carry its views' gradients on (GradCache, arXiv
    2101.06983). That costs a forward pass more, and memory no longer grows with the batch but for
    the similarities of its views. What is drawn of the global generator is replayed, so that dropout
    is the same both times.

    Args:
        *args: Those of `RoutedContrastiveLoss`.
        mini_batch_size: Texts encoded at a time.
        **kwargs: Those of `RoutedContrastiveLoss`.
    """

    def __init__(self, *args: Any, mini_batch_size: int = 32, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if mini_batch_size < 1:
            raise ValueError(f"mini_batch_size must be at least 1, got {mini_batch_size}")
        self.mini_batch_size = mini_batch_size

    def forward(
        self, sentence_features: Iterable[dict[str, Any]], labels: Tensor | None = None
    ) -> Tensor:
        """The loss of one batch of columns, a scalar whose backward pass encodes once more."""
        columns = list(sentence_features)
        check_columns(columns)
        self.draw_num_routes()
        # What ST calls labels reaches `calculate_loss` as it is: there, the teacher's scores.
        loss: Tensor = self.forward_cached(columns, self.teacher_scores(columns))
        return loss

    def teacher_views(self, column: dict[str, Any]) -> Views:
        """One column's views by the teacher, a mini-batch at a time."""
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
        """The views of some rows of a column as one tensor, the only kind whose gradient is kept."""
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
        """The loss of packed mini-batches, by column; `labels` are the teacher's scores."""
        routed = bool(self.weights.documents)
        query, *documents = [join(one, is_routed=routed or not n) for n, one in enumerate(reps)]
        loss = self.total(query, documents, labels)
        if with_backward:
            loss.backward()
            loss = loss.detach()
        return loss


def pack(views: Views) -> Tensor:
    """The embeddings with logits and mask as more columns, routed views and gate first.

    (B, T, D + 2), or (B, T, 2 D + 3) of a column that is routed.
    """
    columns = [views.embeddings, views.logits.unsqueeze(-1), views.mask.unsqueeze(-1)]
    if views.routed is not None and views.gate is not None:
        columns = [views.routed, views.gate.unsqueeze(-1), *columns]
    kind = torch.promote_types(views.embeddings.dtype, views.logits.dtype)
    return torch.cat([part.to(kind) for part in columns], dim=-1)


def join(packed: Sequence[Tensor], is_routed: bool = False) -> Views:
    """The views of all rows of a column; mini-batches with shorter texts are padded."""
    longest = max(part.shape[1] for part in packed)
    padded = [nn.functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in packed]
    whole = torch.cat(padded)
    routed = gate = None
    if is_routed:
        size = (whole.shape[-1] - 3) // 2
        routed, gate, whole = whole[..., :size], whole[..., size], whole[..., size + 1 :]
    return Views(whole[..., :-2], whole[..., -2], whole[..., -1] > 0, routed, gate)
