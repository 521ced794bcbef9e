"""Routing: which token views of a text are kept. Pure functions, and the head that scores."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PretrainedConfig

Task = Literal["query", "document"]
NumRoutes = int | float | None


def check_num_routes(num_routes: NumRoutes, allow_fraction: bool = False) -> None:
    """Raises a ValueError unless `num_routes` is a positive integer or None.

    With `allow_fraction` (documents) a float in (0, 1], the fraction of tokens kept, passes too.
    """
    if num_routes is None:
        return
    if isinstance(num_routes, int) and not isinstance(num_routes, bool) and num_routes > 0:
        return
    if allow_fraction and isinstance(num_routes, float) and 0 < num_routes <= 1:
        return
    expected = (
        "a positive integer, a fraction in (0, 1]" if allow_fraction else "a positive integer"
    )
    raise ValueError(f"num_routes must be {expected} or None, got {num_routes!r}")


def count_routes(num_routes: int | float, token_mask: Tensor) -> Tensor:
    """How many tokens each row keeps.

    Args:
        num_routes: A number of tokens, or a float in (0, 1]: that fraction of the row's tokens,
            rounded up.
        token_mask: (B, T) bool, true where a token may be routed.

    Returns:
        (B,) int64, never more than the row has tokens.
    """
    num_tokens = token_mask.sum(dim=-1)
    if isinstance(num_routes, float):
        return torch.ceil(num_routes * num_tokens.double()).long()
    return num_tokens.clamp(max=num_routes)


def top_k_mask(router_logits: Tensor, token_mask: Tensor, num_routes: int | float) -> Tensor:
    """Marks the `num_routes` best-scored tokens of each row; equal logits go to the earlier token.

    Args:
        router_logits: (B, T) float.
        token_mask: (B, T) bool, true where a token may be routed.
        num_routes: As in `count_routes`; a row with fewer tokens keeps them all.

    Returns:
        (B, T) bool.

    Example:
        >>> logits = torch.tensor([[0.5, 2.0, 2.0, 9.0]])
        >>> top_k_mask(logits, torch.tensor([[True, True, True, False]]), 1).int()
        tensor([[0, 1, 0, 0]], dtype=torch.int32)
    """
    scores = router_logits.masked_fill(~token_mask, -math.inf)
    order = scores.argsort(dim=-1, descending=True, stable=True)
    rank = order.argsort(dim=-1)
    return (rank < count_routes(num_routes, token_mask).unsqueeze(-1)) & token_mask


def gumbel_top_k_gate(
    router_logits: Tensor,
    token_mask: Tensor,
    num_routes: int | float,
    temperature: float = 1.0,
    noise: bool = True,
) -> Tensor:
    """Samples routes with Gumbel noise: a hard k-hot gate whose gradient is the relaxed one's.

    Forward, the gate is 1 at the top k of `router_logits + Gumbel noise` and 0 elsewhere. Backward,
    it is the relaxed k-hot of Xie & Ermon (arXiv 1901.10517): k softmaxes in a row, each with the
    earlier choices discounted; at k = 1 that is the straight-through Gumbel-Softmax of FastLane
    (arXiv 2601.06389). The gate is not negative, so multiplying query embeddings by it carries it
    through MaxSim unchanged. Noise comes from the global generator: gradient caching replays that.

    Args:
        router_logits: (B, T) float.
        token_mask: (B, T) bool, true where a token may be routed.
        num_routes: As in `count_routes`.
        temperature: Above 0; lower makes the relaxation sharper.
        noise: Without it, the gate is the deterministic top k, with the same gradient.

    Returns:
        (B, T) float of the logits' dtype.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    keys = router_logits.float()
    smallest = torch.finfo(keys.dtype).tiny
    if noise:
        keys = keys - torch.empty_like(keys).exponential_().clamp_min(smallest).log()
    hard = top_k_mask(keys.detach(), token_mask, num_routes)

    num_kept = count_routes(num_routes, token_mask)
    relaxed = torch.zeros_like(keys)
    choice = torch.zeros_like(keys)
    for step in range(int(num_kept.max()) if num_kept.numel() else 0):
        keys = keys + (1 - choice).clamp_min(torch.finfo(keys.dtype).eps).log()
        sharpened = (keys / temperature).masked_fill(~token_mask, torch.finfo(keys.dtype).min)
        choice = sharpened.softmax(dim=-1) * token_mask
        relaxed = relaxed + choice * (num_kept > step).unsqueeze(-1)
    gate = hard + (relaxed - relaxed.detach())
    return gate.to(router_logits.dtype)


def unit(vectors: Tensor) -> Tensor:
    """The directions of the last dimension; zeros stay zeros, in float16 as well."""
    return nn.functional.normalize(vectors, dim=-1, eps=torch.finfo(vectors.dtype).tiny)


def mean_direction(vectors: Tensor, mask: Tensor) -> Tensor:
    """The direction of the mean of a row's vectors (B, T, D) where `mask` (B, T) is true: (B, 1, D)."""
    return unit((vectors * mask.unsqueeze(-1).to(vectors.dtype)).sum(1, keepdim=True))


def assign_to_routes(hidden_states: Tensor, token_mask: Tensor, routed: Tensor) -> Tensor:
    """Which route stands for each token: the one whose state is closest by cosine.

    A routed token stands for itself; of equally close routes the earlier one stands for the token.

    Args:
        hidden_states: (B, T, H) float.
        token_mask: (B, T) bool, true where a token may be routed.
        routed: (B, T) bool, the routes among those, at least one in each row.

    Returns:
        (B, T, T) float, 1 at [b, i, r] where route r stands for token i. A row of a token that may
        not be routed is 0, and so is a column of a token that isn't.

    Example:
        >>> states = torch.tensor([[[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]])
        >>> routes = torch.tensor([[True, False, True]])
        >>> assign_to_routes(states, torch.ones(1, 3, dtype=torch.bool), routes).int()
        tensor([[[1, 0, 0],
                 [1, 0, 0],
                 [0, 0, 1]]], dtype=torch.int32)
    """
    directions = unit(hidden_states.detach())
    closeness = (directions @ directions.transpose(1, 2)).masked_fill(~routed.unsqueeze(1), -2)
    own = torch.eye(routed.shape[1], dtype=torch.bool, device=routed.device) & routed.unsqueeze(1)
    nearest = closeness.masked_fill(own, 2).argmax(dim=-1)
    shares = nn.functional.one_hot(nearest, routed.shape[1]) * token_mask.unsqueeze(-1)
    return shares.to(hidden_states.dtype)


def centrality(token_embeddings: Tensor, token_mask: Tensor) -> Tensor:
    """How close each view is to the mean of its text's views: (B, T) cosines.

    Args:
        token_embeddings: (B, T, D) float of unit length.
        token_mask: (B, T) bool, true at the views that count.
    """
    return (token_embeddings * mean_direction(token_embeddings, token_mask)).sum(dim=-1)


class TokenRouter(nn.Module):
    """Scores the token views of a text: one self-attention layer, then a linear scorer a side.

    Attention lets a token's score depend on what else the text says, so that the choice is made
    for this text and not for the word (FastLane, arXiv 2601.06389, section on the router). To that
    comes a learned weight times the view's centrality: the most central view of a query is a
    good first guess, and an untrained router starts from it.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        self.num_heads: int = config.router_num_heads
        self.attention_input = nn.Linear(config.hidden_size, 3 * config.router_dim)
        self.attention_output = nn.Linear(config.router_dim, config.router_dim)
        self.norm = nn.LayerNorm(config.router_dim)
        self.query_scorer = nn.Linear(config.router_dim, 1)
        self.query_centrality_weight = nn.Parameter(torch.tensor(10.0))
        self.document_scorer: nn.Linear | None = None
        self.document_centrality_weight: nn.Parameter | None = None
        if config.separate_document_scorer:
            self.document_scorer = nn.Linear(config.router_dim, 1)
            self.document_centrality_weight = nn.Parameter(torch.tensor(0.0))

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor, centrality: Tensor, task: Task
    ) -> Tensor:
        """Gives the router logits.

        Args:
            hidden_states: (B, T, hidden_size) float, the backbone's token states.
            attention_mask: (B, T), 0 at padding; padding is not attended to.
            centrality: (B, T) float, as `centrality` gives it.
            task: Which side's scorer.

        Returns:
            (B, T) float; the logits at padding mean nothing.
        """
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in self.attention_input(hidden_states).chunk(3, dim=-1)
        )
        attended = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask.bool()[:, None, None, :]
        )
        own, context = (part.transpose(1, 2).flatten(-2) for part in (value, attended))
        mixed = self.norm(own + self.attention_output(context))
        scorer, weight = self.query_scorer, self.query_centrality_weight
        if task == "document" and self.document_scorer is not None:
            assert self.document_centrality_weight is not None
            scorer, weight = self.document_scorer, self.document_centrality_weight
        logits: Tensor = scorer(mixed).squeeze(-1) + weight * centrality
        return logits
