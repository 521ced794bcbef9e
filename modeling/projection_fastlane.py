"""From token states to token views: projected, a document's in its context, a query's as routes.

Two things hold for every view that `ViewProjection.routed` gives:

- Rows that are not routed hold the view that the token would get if it replaced the route that
  stands for it. Callers that want the routes alone must apply `routes`.
- The length of a query's route is the number of tokens that it stands for over the mean number of a
  route, so that MaxSim over routes is a sum over all tokens; a single route has length 1. Document
  views, and the views of a query that keeps every token, have unit length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from .configuration_fastlane import FastLaneConfig
from .routing_fastlane import Task, assign_to_routes, length_weights, unit

Context = Literal["window", "document", "both"]
"""What is mixed into a document's token embeddings with weight 1: c_w, c_d or both (see `mix_context`)."""


@dataclass
class FastLaneOutput(ModelOutput):
    """The tensors of a batch of texts; nothing is routed yet (see `FastLaneModel.route`).

    Attributes:
        token_embeddings: (B, T, D) float of unit length: the views of a text that keeps every token, in
            their context (see `ViewProjection`). Those of padding mean nothing.
        router_logits: (B, T) float; the tokens of the highest ones are routed. None for documents, which
            are pooled (see `pool_tokens`).
        token_mask: (B, T) bool, true at the tokens that are views of the text and may be routed. A
            text of special tokens alone (an empty one) keeps those, so that no row is empty.
        route_shifts: (B, T, D) float, what the route layers add to a route's view, 0 at tokens for which
            they weren't computed; None without them.
        last_hidden_state: (B, T, H) float, the backbone's token states.
        hidden_states: The backbone's, if asked for.
        attentions: The backbone's, if asked for.
    """

    token_embeddings: Tensor = None  # type: ignore[assignment]  # ModelOutput wants defaults
    router_logits: Tensor | None = None
    token_mask: Tensor = None  # type: ignore[assignment]
    route_shifts: Tensor | None = None
    last_hidden_state: Tensor = None  # type: ignore[assignment]
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class ViewProjection(nn.Module):
    """Projects token states to embeddings, and mixes a document's context into them.

    With state directions h_i and the projection W, a token's embedding e_i is the direction of W h_i. A
    query that keeps every token is these e_i. A document's token also holds its surroundings and its
    text (`mix_context`, with the weights c_w and c_d).

    A route speaks for the tokens that are dropped in its favour: its view is the direction of
    `e_i + c_r m_i + o_i s_i`, where m_i is the direction of the mean of their embeddings, s_i what the
    query's route layers say (`RouteLayers`; 0 without them), and o_i the share of the query's other
    tokens that it speaks for. In all means a token of a longer state weighs more (`length_weights`). So
    the number of routes k goes from one vector of the whole text, centred on the routed token, to all
    tokens, where each stands for itself.

    With all three weights at 0 and no route layers the model is ColBERT. `docs/decisions/model.md` has the
    numbers.
    """

    def __init__(self, config: FastLaneConfig) -> None:
        super().__init__()
        self.config = config
        self.linear = nn.Linear(config.hidden_size, config.embedding_dim, bias=False)

    def forward(self, hidden_states: Tensor, token_mask: Tensor, task: Task) -> Tensor:
        """Gives the views of a text that keeps every token.

        Args:
            hidden_states: (B, T, H) float, the backbone's token states.
            token_mask: (B, T) bool, true at the tokens that are views of the text.
            task: The side.

        Returns:
            (B, T, D) float of unit length.
        """
        embeddings = unit(self.linear(unit(hidden_states)))
        if task == "query":
            return embeddings
        config = self.config
        weights = length_weights(
            hidden_states, token_mask.unsqueeze(1), config.document_length_power
        )
        return mix_context(
            embeddings,
            weights.squeeze(1),
            config.window_context_weight,
            config.document_context_weight,
            config.window_size,
        )

    def routed(self, output: FastLaneOutput, routes: Tensor) -> Tensor:
        """Gives the views of a query's routes; see the module for the other rows and the lengths.

        Args:
            output: Of the model's forward pass.
            routes: (B, T) bool, the routes among the tokens of `output.token_mask`, at least one in
                each row.

        Returns:
            (B, T, D) float.
        """
        embeddings = output.token_embeddings
        states = output.last_hidden_state
        shares = assign_to_routes(states, output.token_mask, routes)
        power = self.config.query_length_power
        weights = length_weights(states, shares.transpose(1, 2) > 0, power)
        means = unit(weights.to(shares.dtype) @ embeddings)
        mixed = embeddings + self.config.route_context_weight * (shares @ means)
        sizes = shares @ shares.sum(dim=1).unsqueeze(-1)
        counts = output.token_mask.sum(1)[:, None, None].to(sizes.dtype)
        if output.route_shifts is not None:
            # The share of the other tokens that a route stands for: 1 for one route, 0 for a token's own.
            others = (sizes - 1).clamp_min(0) / (counts - 1).clamp_min(1)
            mixed = mixed + others * output.route_shifts
        mean_sizes = counts / routes.sum(1)[:, None, None].to(sizes.dtype)
        return sizes / mean_sizes * unit(mixed)


def mix_context(
    embeddings: Tensor,
    weights: Tensor,
    window_weight: float,
    document_weight: float,
    window_size: float,
    positions: Tensor | None = None,
) -> Tensor:
    """Puts the token embeddings of documents into their context: unit(e_i + c_w w_i + c_d m).

    w_i is the direction of Σ_j G_ij a_j e_j with the Gaussian window G (`window_weights`), and m that of
    Σ_j a_j e_j. A context is a sum of the document's own vectors, so that stored ones can be mixed as well.

    Args:
        embeddings: (B, T, D) float of unit length.
        weights: (B, T) float, a_j: 0 at what is no token of the document.
        window_weight: c_w.
        document_weight: c_d.
        window_size: Standard deviation of the window, in tokens.
        positions: (T,) int, the places of the tokens in their text; 0, 1, 2, … by default.

    Returns:
        (B, T, D) float of unit length.

    Example:
        >>> embeddings = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> mix_context(embeddings, torch.tensor([[1.0, 0.0]]), 0.0, 1.0, 6.0)
        tensor([[[1.0000, 0.0000],
                 [0.7071, 0.7071]]])
    """
    weighted = weights.to(embeddings.dtype).unsqueeze(-1) * embeddings
    if positions is None:
        positions = torch.arange(embeddings.shape[1])
    window = window_weights(positions, window_size).to(embeddings)
    around, text = unit(window @ weighted), unit(weighted.sum(dim=1, keepdim=True))
    return unit(embeddings + window_weight * around + document_weight * text)


def window_weights(positions: Tensor, window_size: float) -> Tensor:
    """Weight G_ij of token j in the context of token i: exp(-½ ((p_i - p_j) / window_size)²), (T, T)."""
    places = positions.float()
    return torch.exp(-0.5 * ((places[:, None] - places) / window_size) ** 2)
