"""What a query has beside its token views: the router, which scores its tokens, and its route layers.

`routing_fastlane` makes routes of the scores.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .configuration_fastlane import FastLaneConfig


class TokenRouter(nn.Module):
    """Scores the tokens of a query: one self-attention layer, then a linear *logit* of its output.

    The tokens with the highest logits are routed. Attention lets the choice be made for this text and not
    for the word (FastLane, arXiv 2601.06389, section on the router). A document's tokens have no logits:
    they are pooled.
    """

    def __init__(self, config: FastLaneConfig) -> None:
        super().__init__()
        self.num_heads: int = config.router_num_heads
        self.attention_input = nn.Linear(config.hidden_size, 3 * config.router_dim)
        self.attention_output = nn.Linear(config.router_dim, config.router_dim)
        self.norm = nn.LayerNorm(config.router_dim)
        self.logit = nn.Linear(config.router_dim, 1)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        """Gives the router logits, (B, T) float.

        Args:
            hidden_states: (B, T, H) float, the backbone's token states.
            attention_mask: (B, T), 0 at padding, which is not attended to.
        """
        projected = self.attention_input(hidden_states)
        own = projected.chunk(3, dim=-1)[2]
        context = attend(projected, attention_mask, self.num_heads)
        logits: Tensor = self.logit(self.norm(own + self.attention_output(context)))
        return logits.squeeze(-1)

    def heads(self, hidden_states: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values of the attention: (B, heads, T, router_dim / heads) each."""
        return split_heads(self.attention_input(hidden_states), self.num_heads)


class RouteLayers(nn.Module):
    """Transformer layers over a query's token states, whose output shifts the views of its routes.

    A route is one vector that speaks for many tokens. A mean of token vectors can't say all that MaxSim
    over them does; these layers learn the rest from MaxSim's own scores, while documents stay as they are.
    `output` is 0 at initialisation.
    """

    def __init__(self, config: FastLaneConfig) -> None:
        super().__init__()
        backbone_config: Any = config.backbone_config
        heads = backbone_config.num_attention_heads
        self.layers = nn.ModuleList(
            RouteLayer(config.hidden_size, heads) for _ in range(config.num_route_layers)
        )
        self.output = nn.Parameter(torch.zeros(config.embedding_dim, config.hidden_size))

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor, tokens: Tensor | None = None
    ) -> Tensor:
        """(B, T, D) float, the shifts of tokens.

        Args:
            hidden_states: (B, T, H) float.
            attention_mask: (B, T), 0 at tokens that aren't seen.
            tokens: (B, K) int64, the only positions for which shifts are needed; others get 0. The last layer
                is then computed for these alone.
        """
        *others, last = self.layers
        for layer in others:
            hidden_states = layer(hidden_states, attention_mask)
        shifts: Tensor = last(hidden_states, attention_mask, tokens) @ self.output.T
        if tokens is None:
            return shifts
        everywhere = shifts.new_zeros(*hidden_states.shape[:2], shifts.shape[-1])
        return everywhere.scatter(1, tokens.unsqueeze(-1).expand_as(shifts), shifts)


class RouteLayer(nn.Module):
    """One layer as BERT has them: self-attention and a feed-forward network, each normalised after it."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_input = nn.Linear(hidden_size, 3 * hidden_size)
        self.attention_output = nn.Linear(hidden_size, hidden_size)
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.wide = nn.Linear(hidden_size, 4 * hidden_size)
        self.narrow = nn.Linear(4 * hidden_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor, tokens: Tensor | None = None
    ) -> Tensor:
        """(B, T, H) float from the same and a mask (B, T), or (B, K, H) of the `tokens`, (B, K) int64."""
        attended = attend(self.attention_input(hidden_states), attention_mask, self.num_heads)
        if tokens is not None:
            places = tokens.unsqueeze(-1).expand(-1, -1, hidden_states.shape[-1])
            attended, hidden_states = attended.gather(1, places), hidden_states.gather(1, places)
        states = self.attention_norm(hidden_states + self.attention_output(attended))
        result: Tensor = self.norm(states + self.narrow(nn.functional.gelu(self.wide(states))))
        return result


def attend(projected: Tensor, attention_mask: Tensor, num_heads: int) -> Tensor:
    """Self-attention (B, T, H) of queries, keys and values (B, T, 3H); mask (B, T), 0 at what isn't seen."""
    query, key, value = split_heads(projected, num_heads)
    attended = nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask.bool()[:, None, None, :]
    )
    return attended.transpose(1, 2).flatten(-2)


def split_heads(projected: Tensor, num_heads: int) -> tuple[Tensor, ...]:
    """Queries, keys and values (B, heads, T, H / heads) each, from all of them (B, T, 3H)."""
    return tuple(
        part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in projected.chunk(3, dim=-1)
    )
