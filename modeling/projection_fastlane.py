"""From token states to token views: each token in its text's context, in fewer dimensions.

Two things hold for every view that `ViewProjection.routed` gives:

- Rows that are not routed hold the view that the token would get if it replaced the route that
  stands for it. Callers that want the routes alone must apply `routes`.
- Query views have lengths, document views don't. The length of a query's route is the number of
  tokens that it stands for over the mean number of a route, so that MaxSim over routes is a sum over
  all tokens; a single route has length 1. Document views, and the views of a text that keeps every
  token, have unit length.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .configuration_fastlane import FastLaneConfig
from .output_fastlane import FastLaneOutput
from .routing_fastlane import Task, assign_to_routes, salience_weights, unit


class ViewProjection(nn.Module):
    """Puts each token state into its context, then projects it to the embedding dimension.

    With state directions h_i, a query's token is v_i = h_i. A document's token also holds its
    surroundings and its text: v_i is the direction of `h_i + c_w w_i + c_d m`, where w_i is the
    direction of the mean state within some `window_size` tokens (a Gaussian) and m that of the whole
    text. A view of a text that keeps every token is the direction of W v_i, W the projection.

    A route speaks for the tokens that are dropped in its favour: its view is the direction of
    `W (v_i + c_r m_i)`, where m_i is the direction of the mean of their v. All means are weighted by the
    router's salience. So the number of routes k goes from one vector of the whole text, centred on
    the routed token, to all tokens, where each stands for itself.

    c_r, c_w and c_d are learned; at 0 the model is ColBERT. `docs/decisions/model.md` has the numbers.
    """

    def __init__(self, config: FastLaneConfig) -> None:
        super().__init__()
        self.window_size: float = config.window_size
        self.linear = nn.Linear(config.hidden_size, config.embedding_dim, bias=False)
        self.route_context_weight = _weight(config.route_context_weight)
        self.window_context_weight = _weight(config.window_context_weight)
        self.document_context_weight = _weight(config.document_context_weight)

    def forward(
        self, hidden_states: Tensor, token_mask: Tensor, salience: Tensor, task: Task
    ) -> tuple[Tensor, Tensor]:
        """Gives the token states in their context, and their projection.

        Args:
            hidden_states: (B, T, H) float, the backbone's token states.
            token_mask: (B, T) bool, true at the tokens that are views of the text.
            salience: (B, T) float, the router's.
            task: The side.

        Returns:
            v, (B, T, H) float of unit length, and W v, (B, T, D) float.
        """
        states = unit(hidden_states)
        if task == "document":
            weights = salience_weights(salience, token_mask).to(states.dtype)
            weighted = weights.unsqueeze(-1) * states
            window = window_weights(states.shape[1], self.window_size).to(states)
            around, text = unit(window @ weighted), unit(weighted.sum(dim=1, keepdim=True))
            states = unit(
                states
                + self.window_context_weight[0] * around
                + self.document_context_weight[0] * text
            )
        return states, self.linear(states)

    def routed(self, output: FastLaneOutput, routes: Tensor, task: Task) -> Tensor:
        """Gives the views of a text's routes; see the module for the other rows and the lengths.

        Args:
            output: Of the model's forward pass.
            routes: (B, T) bool, the routes among the tokens of `output.token_mask`, at least one in
                each row.
            task: The side.

        Returns:
            (B, T, D) float.
        """
        projected = output.projected_states
        shares = assign_to_routes(output.last_hidden_state, output.token_mask, routes)
        weights = salience_weights(output.salience.unsqueeze(1), shares.transpose(1, 2) > 0)
        weights = weights.to(shares.dtype)
        # W m_i from W v, which is there already: the projection is linear.
        norms = (weights @ output.contextual_states).norm(dim=-1, keepdim=True)
        means = weights @ projected / norms.clamp_min(torch.finfo(norms.dtype).tiny)
        embeddings = unit(projected + self.route_context_weight[0] * (shares @ means))
        if task == "document":
            return embeddings
        sizes = shares @ shares.sum(dim=1).unsqueeze(-1)
        mean_sizes = output.token_mask.sum(1) / routes.sum(1)
        return sizes / mean_sizes[:, None, None].to(sizes.dtype) * embeddings


def _weight(value: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor([float(value)]))  # FSDP shards no scalar


def window_weights(num_tokens: int, window_size: float) -> Tensor:
    """Weight of token j in the context of token i: exp(-½ ((i - j) / window_size)²), (T, T)."""
    places = torch.arange(num_tokens, dtype=torch.float32)
    return torch.exp(-0.5 * ((places[:, None] - places) / window_size) ** 2)
