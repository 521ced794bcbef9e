"""From token states to token views: each token in its text's context, in fewer dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from .routing_fastlane import Task


class ViewProjection(nn.Module):
    """Mixes each token state with its text's mean state, then projects to the embedding dimension.

    With state directions h_i and the direction m of their mean, a token's view is
    `W (h_i + c m)`, c learned for queries and documents apart. At c = 0 that is ColBERT. At c = 1
    a single view knows what its text is about, so that one route loses little, while MaxSim over
    all views loses nothing; `docs/decisions.md` has the numbers.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.hidden_size, config.embedding_dim, bias=False)
        self.query_context_weight = nn.Parameter(torch.tensor(float(config.context_weight)))
        self.document_context_weight = nn.Parameter(torch.tensor(float(config.context_weight)))

    def forward(self, hidden_states: Tensor, attention_mask: Tensor, task: Task) -> Tensor:
        """Gives the token embeddings.

        Args:
            hidden_states: (B, T, hidden_size) float, the backbone's token states.
            attention_mask: (B, T), 0 at padding.
            task: Which side's weight.

        Returns:
            (B, T, D) float, each of unit length.
        """
        views = self.mix_context(hidden_states, attention_mask, task)
        return nn.functional.normalize(self.linear(views), dim=-1)

    def mix_context(self, hidden_states: Tensor, attention_mask: Tensor, task: Task) -> Tensor:
        """The views before the projection: (B, T, hidden_size) float."""
        directions = nn.functional.normalize(hidden_states, dim=-1)
        present = attention_mask.unsqueeze(-1).to(directions.dtype)
        mean = nn.functional.normalize((directions * present).sum(1, keepdim=True), dim=-1)
        weight = self.query_context_weight if task == "query" else self.document_context_weight
        return directions + weight * mean


def principal_components(views: Tensor, num_components: int) -> Tensor:
    """The leading components of the directions of some views, uncentred.

    Uncentred, since MaxSim compares inner products and not deviations from a mean. With as many
    components as dimensions the projection is a rotation, and every inner product stays.

    Args:
        views: (N, H) float, one row a token.
        num_components: D, at most H and N.

    Returns:
        (D, H) float32 with orthonormal rows, the strongest first; the sign of each row makes its
        largest entry positive, so that equal inputs give equal projections everywhere.

    Raises:
        ValueError: There are fewer than `num_components` views.
    """
    if len(views) < num_components:
        raise ValueError(
            f"{num_components} components need at least as many calibration tokens, got "
            f"{len(views)}; pass more calibration_texts"
        )
    unit = nn.functional.normalize(views.double(), dim=-1)
    _, vectors = torch.linalg.eigh(unit.T @ unit)
    components: Tensor = vectors.T.flip(0)[:num_components]
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    return (components * largest.sign()).float()


def default_calibration_texts() -> list[str]:
    """Some 600 English paragraphs that are on every machine: Python's language reference.

    Passages like those to be searched calibrate a little better; see `from_backbone`.
    """
    from pydoc_data.topics import topics

    paragraphs = [part for topic in topics.values() for part in topic.split("\n\n")]
    return [" ".join(part.split()) for part in paragraphs if len(part) > 80][:600]
