"""The router: a head on the backbone that scores every token of a text; and a query's route layers.

`routing_fastlane` makes routes of a query's scores.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .configuration_fastlane import FastLaneConfig
from .routing_fastlane import Task, salience_weights, unit


class TokenRouter(nn.Module):
    """Scores the tokens of a text: one self-attention layer, then a few linear scores of its output.

    Attention lets a token's scores depend on what else the text says, so that the choice is made
    for this text and not for the word (FastLane, arXiv 2601.06389, section on the router). The
    *logit* of a query's token decides which tokens are routed. At initialisation it is
    -10 · cos(token, mean): a route carries the mean of its tokens already, so the best route is the
    token of which that mean says least. The *salience* of either side's token is its weight in the
    means that stand for several (`Salience`). A document's tokens have no logits: they are pooled.
    """

    def __init__(self, config: FastLaneConfig) -> None:
        super().__init__()
        self.num_heads: int = config.router_num_heads
        self.attention_input = nn.Linear(config.hidden_size, 3 * config.router_dim)
        self.attention_output = nn.Linear(config.router_dim, config.router_dim)
        self.norm = nn.LayerNorm(config.router_dim)
        self.logit = nn.Linear(config.router_dim, 1)
        self.centrality_weight = nn.Parameter(torch.tensor([-10.0]))
        self.query_salience = Salience(config.router_dim, norm_weight=2.0)
        self.document_salience = Salience(config.router_dim, norm_weight=1.0)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor, token_mask: Tensor, task: Task
    ) -> tuple[Tensor | None, Tensor]:
        """Gives a query's router logits, None for documents, and the salience.

        Args:
            hidden_states: (B, T, H) float, the backbone's token states.
            attention_mask: (B, T), 0 at padding, which is not attended to.
            token_mask: (B, T) bool, true at the tokens that are views of the text.
            task: The side.

        Returns:
            Two of (B, T) float; at tokens that are no views they mean nothing.
        """
        projected = self.attention_input(hidden_states)
        own = projected.chunk(3, dim=-1)[2]
        context = attend(projected, attention_mask, self.num_heads)
        mixed = self.norm(own + self.attention_output(context))
        if task == "document":
            return None, self.document_salience(mixed, hidden_states)
        salience = self.query_salience(mixed, hidden_states)
        # Detached: the router must not bend the states towards their mean.
        central = centrality(hidden_states.detach(), salience.detach(), token_mask)
        return self.logit(mixed).squeeze(-1) + self.centrality_weight[0] * central, salience

    def heads(self, hidden_states: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values of the attention: (B, heads, T, router_dim / heads) each."""
        return split_heads(self.attention_input(hidden_states), self.num_heads)


class Salience(nn.Module):
    """The weight of a token in a mean over several, as a logit: learned(mixed) + norm_weight · log‖state‖.

    A backbone trained with mean pooling of raw states already gives longer states more weight.

    Args:
        router_dim: Width of the attention's output, `mixed`.
        norm_weight: Initial weight of the state's length.
    """

    def __init__(self, router_dim: int, norm_weight: float) -> None:
        super().__init__()
        self.learned = nn.Linear(router_dim, 1)
        self.norm_weight = nn.Parameter(torch.tensor([norm_weight]))

    def forward(self, mixed: Tensor, hidden_states: Tensor) -> Tensor:
        """(B, T) from (B, T, router_dim) and (B, T, H)."""
        tiny = torch.finfo(torch.float32).tiny
        norms = hidden_states.float().norm(dim=-1).clamp_min(tiny).log().to(mixed.dtype)
        salience: Tensor = self.learned(mixed).squeeze(-1) + self.norm_weight[0] * norms
        return salience


def centrality(hidden_states: Tensor, salience: Tensor, token_mask: Tensor) -> Tensor:
    """Cosine of each token with the mean of its text's tokens, weighted by salience: (B, T)."""
    directions = unit(hidden_states)
    weights = salience_weights(salience, token_mask).to(directions.dtype)
    return (directions * unit(weights.unsqueeze(1) @ directions)).sum(dim=-1)


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

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, T, D) float from token states (B, T, H); tokens at which the (B, T) mask is 0 aren't seen."""
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask)
        return hidden_states @ self.output.T


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

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, T, H) float from the same and a mask (B, T)."""
        attended = attend(self.attention_input(hidden_states), attention_mask, self.num_heads)
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
