"""The router: a head on the backbone that scores every token of a text.

`routing_fastlane` makes routes of these scores.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .configuration_fastlane import FastLaneConfig
from .routing_fastlane import Task, salience_weights, unit


class TokenRouter(nn.Module):
    """Scores the tokens of a text: one self-attention layer, then a linear scorer for each side.

    Attention lets a token's scores depend on what else the text says, so that the choice is made
    for this text and not for the word (FastLane, arXiv 2601.06389, section on the router). Each
    token gets two scores: the *logit* decides which tokens are routed, the *salience* is the token's
    weight in the means that stand for several. At initialisation a query's logit is
    -10 · cos(token, mean): a route carries the mean of its tokens already, so the best route is the
    token of which that mean says least. The salience starts as log‖state‖ (twice that for queries):
    a backbone trained with mean pooling of raw states already gives longer states more weight.
    """

    def __init__(self, config: FastLaneConfig) -> None:
        super().__init__()
        self.num_heads: int = config.router_num_heads
        self.attention_input = nn.Linear(config.hidden_size, 3 * config.router_dim)
        self.attention_output = nn.Linear(config.router_dim, config.router_dim)
        self.norm = nn.LayerNorm(config.router_dim)
        self.query_scorer = SideScorer(config.router_dim, centrality_weight=-10.0, norm_weight=2.0)
        self.document_scorer: SideScorer | None = None
        if config.separate_document_scorer:
            self.document_scorer = SideScorer(
                config.router_dim, centrality_weight=0.0, norm_weight=1.0
            )

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor, token_mask: Tensor, task: Task
    ) -> tuple[Tensor, Tensor]:
        """Gives the router logits and the salience.

        Args:
            hidden_states: (B, T, H) float, the backbone's token states.
            attention_mask: (B, T), 0 at padding, which is not attended to.
            token_mask: (B, T) bool, true where a token may be routed.
            task: The side, which decides the scorer.

        Returns:
            Two of (B, T) float; at tokens that may not be routed they mean nothing.
        """
        query, key, value = self.heads(hidden_states)
        attended = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask.bool()[:, None, None, :]
        )
        own, context = (part.transpose(1, 2).flatten(-2) for part in (value, attended))
        mixed = self.norm(own + self.attention_output(context))
        scorer = self.query_scorer
        if task == "document" and self.document_scorer is not None:
            scorer = self.document_scorer
        scores: tuple[Tensor, Tensor] = scorer(mixed, hidden_states, token_mask)
        return scores

    def heads(self, hidden_states: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values of the attention: (B, heads, T, router_dim / heads) each."""
        return tuple(
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in self.attention_input(hidden_states).chunk(3, dim=-1)
        )


class SideScorer(nn.Module):
    """Gives the logit and the salience of each token, from the attention's output and its state.

    Args:
        router_dim: Width of the attention's output.
        centrality_weight: Initial weight of the centrality in the logit.
        norm_weight: Initial weight of log‖state‖ in the salience.
    """

    def __init__(self, router_dim: int, centrality_weight: float, norm_weight: float) -> None:
        super().__init__()
        self.logit = nn.Linear(router_dim, 1)
        self.salience = nn.Linear(router_dim, 1)
        self.centrality_weight = nn.Parameter(torch.tensor([centrality_weight]))
        self.norm_weight = nn.Parameter(torch.tensor([norm_weight]))

    def forward(
        self, mixed: Tensor, hidden_states: Tensor, token_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(B, T) each, from (B, T, router_dim), (B, T, H) and the mask of `TokenRouter.forward`."""
        tiny = torch.finfo(torch.float32).tiny
        norms = hidden_states.float().norm(dim=-1).clamp_min(tiny).log().to(mixed.dtype)
        salience = self.salience(mixed).squeeze(-1) + self.norm_weight[0] * norms
        # Detached: the router must not bend the states towards their mean.
        central = centrality(hidden_states.detach(), salience.detach(), token_mask)
        return self.logit(mixed).squeeze(-1) + self.centrality_weight[0] * central, salience


def centrality(hidden_states: Tensor, salience: Tensor, token_mask: Tensor) -> Tensor:
    """Cosine of each token with the mean of its text's tokens, weighted by salience: (B, T)."""
    directions = unit(hidden_states)
    weights = salience_weights(salience, token_mask).to(directions.dtype)
    return (directions * unit(weights.unsqueeze(1) @ directions)).sum(dim=-1)
