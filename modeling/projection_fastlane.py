"""From token states to token views: each token in its text's context, in fewer dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .routing_fastlane import assign_to_routes, salience_weights, unit

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from .routing_fastlane import Task


class ViewProjection(nn.Module):
    """Puts each token state into its context, then projects to the embedding dimension.

    With state directions h_i, a query's token is v_i = h_i. A document's knows what stands around it
    and what its text is about: v_i is the direction of `h_i + c_w w_i + c_d m`, w_i the direction of
    the states within some `window_size` tokens (a Gaussian), m that of the whole text's. A route speaks
    for the tokens that were dropped in its favour: its direction is that of `v_i + c_r m_i`, m_i the
    direction of the mean of their v. All of these means are weighted by the router's salience. So k is a dial
    from one vector of the whole text, centred on the routed token, to all tokens, where each
    stands for itself. A view is the projection of v_i, or of its route.
    c_r, c_w and c_d are learned; at 0 it is ColBERT. `docs/decisions.md` has the numbers.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.window_size: float = config.window_size
        self.linear = nn.Linear(config.hidden_size, config.embedding_dim, bias=False)
        self.route_context_weight = _weight(config.route_context_weight)
        self.window_context_weight = _weight(config.window_context_weight)
        self.document_context_weight = _weight(config.document_context_weight)

    def forward(
        self, hidden_states: Tensor, token_mask: Tensor, salience: Tensor, task: Task
    ) -> Tensor:
        """Gives the token embeddings of a text that isn't routed.

        Args:
            hidden_states: (B, T, hidden_size) float, the backbone's token states.
            token_mask: (B, T) bool, true at the tokens that are views of the text.
            salience: (B, T) float, the router's.
            task: The side.

        Returns:
            (B, T, D) float, each of unit length.
        """
        return unit(self.linear(self.in_context(hidden_states, token_mask, salience, task)))

    def in_context(
        self, hidden_states: Tensor, token_mask: Tensor, salience: Tensor, task: Task
    ) -> Tensor:
        """The views before the projection, (B, T, hidden_size) of unit length."""
        directions = unit(hidden_states)
        if task == "query":
            return directions
        weights = salience_weights(salience, token_mask).to(directions.dtype)
        weighted = weights.unsqueeze(-1) * directions
        window = window_weights(directions.shape[1], self.window_size).to(directions)
        around, text = unit(window @ weighted), unit(weighted.sum(dim=1, keepdim=True))
        return unit(
            directions + self.window_context_weight * around + self.document_context_weight * text
        )

    def routed(
        self,
        hidden_states: Tensor,
        token_mask: Tensor,
        routes: Tensor,
        salience: Tensor,
        task: Task,
    ) -> Tensor:
        """Gives the views of a text's routes.

        A query's route counts as much as the tokens that it stands for: its length is their number,
        over the mean number a route. So MaxSim over routes is a sum over all tokens, and the view
        of a single route is of unit length. A document's views are all of unit length.

        Args:
            hidden_states: (B, T, hidden_size) float, the backbone's token states.
            token_mask: (B, T) bool, true where a token may be routed.
            routes: (B, T) bool, the routes among those, at least one in each row.
            salience: (B, T) float, the router's.
            task: The side.

        Returns:
            (B, T, D) float. A token that isn't routed gets the view that it would have in place of
            the route that stands for it.
        """
        views = self.in_context(hidden_states, token_mask, salience, task)
        shares = assign_to_routes(hidden_states, token_mask, routes)
        weights = salience_weights(salience.unsqueeze(1), shares.transpose(1, 2) > 0)
        means = unit(weights.to(views.dtype) @ views)
        embeddings = unit(self.linear(views + self.route_context_weight * (shares @ means)))
        if task == "document":
            return embeddings
        sizes = shares @ shares.sum(dim=1).unsqueeze(-1)
        mean_sizes = token_mask.sum(1) / routes.sum(1)
        return sizes / mean_sizes[:, None, None].to(sizes.dtype) * embeddings


def _weight(value: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(float(value)))


def window_weights(num_tokens: int, window_size: float) -> Tensor:
    """How much token j counts in the context of token i: exp(-½ ((i - j) / window_size)²), (T, T)."""
    places = torch.arange(num_tokens, dtype=torch.float32)
    return torch.exp(-0.5 * ((places[:, None] - places) / window_size) ** 2)
