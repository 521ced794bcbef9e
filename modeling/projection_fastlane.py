"""From token states to token views: each token in its text's context, in fewer dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .routing_fastlane import assign_to_routes, mean_direction, unit

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from .routing_fastlane import Task


class ViewProjection(nn.Module):
    """Puts each token state into its context, then projects to the embedding dimension.

    With state directions h_i, a document's view is `W (h_i + c_d m)`, m the direction of the text's
    mean: each view knows what its text is about. A query's route speaks for the tokens that were
    dropped in its favour: its view is `W (h_i + c_q m_i)`, m_i the mean direction of the tokens
    that it stands for. So k is a dial from one vector of the whole query, centred on the routed
    token, to late interaction, where each token stands for itself and its view is `W h_i`.
    c_q and c_d are learned; at 0 a route is ColBERT's token. `docs/decisions.md` has the numbers.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.hidden_size, config.embedding_dim, bias=False)
        weights = (config.query_context_weight, config.document_context_weight)
        query, document = (nn.Parameter(torch.tensor(float(weight))) for weight in weights)
        self.query_context_weight = query
        self.document_context_weight = document

    def forward(self, hidden_states: Tensor, attention_mask: Tensor, task: Task) -> Tensor:
        """Gives the token embeddings of a text that isn't routed.

        Args:
            hidden_states: (B, T, hidden_size) float, the backbone's token states.
            attention_mask: (B, T), 0 at padding.
            task: The side; a query's tokens each stand for themselves.

        Returns:
            (B, T, D) float, each of unit length.
        """
        is_query = task == "query"
        views = unit(hidden_states) if is_query else self.mix_context(hidden_states, attention_mask)
        return unit(self.linear(views))

    def mix_context(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        """A document's views before the projection: (B, T, hidden_size) float."""
        directions = unit(hidden_states)
        mean = mean_direction(directions, attention_mask)
        return directions + self.document_context_weight * mean

    def routed(self, hidden_states: Tensor, token_mask: Tensor, routes: Tensor) -> Tensor:
        """Gives the views of a query's routes.

        A route counts as much as the tokens that it stands for: its length is their number, over
        the mean number a route. So MaxSim over routes is a sum over all tokens, and the view of a
        single route is of unit length.

        Args:
            hidden_states: (B, T, hidden_size) float, the backbone's token states.
            token_mask: (B, T) bool, true where a token may be routed.
            routes: (B, T) bool, the routes among those, at least one in each row.

        Returns:
            (B, T, D) float. A token that isn't routed gets the view that it would have in place of
            the route that stands for it.
        """
        directions = unit(hidden_states)
        shares = assign_to_routes(hidden_states, token_mask, routes)
        means = unit(shares.transpose(1, 2) @ directions)
        views = directions + self.query_context_weight * (shares @ means)
        sizes = shares @ shares.sum(dim=1).unsqueeze(-1)
        mean_sizes = token_mask.sum(1) / routes.sum(1)
        lengths = sizes / mean_sizes[:, None, None].to(sizes.dtype)
        return lengths * unit(self.linear(views))


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
    directions = unit(views.double())
    _, vectors = torch.linalg.eigh(directions.T @ directions)
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
