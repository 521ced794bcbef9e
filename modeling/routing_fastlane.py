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
AskedRoutes = NumRoutes | Literal["default", "auto"]
"""As calls say it: "default" is the configuration's number, "auto" up to each query's router."""


def check_num_routes(num_routes: object, allow_fraction: bool = False) -> None:
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


def certain_routes(router_logits: Tensor, token_mask: Tensor, budget: int, margin: float) -> Tensor:
    """Marks as many routes as the router's certainty asks for.

    The best token is routed, and those of the next best whose logits are at most `margin` below its
    own: a router that is certain of its first choice keeps one.

    Args:
        router_logits: (B, T) float, spread out for `budget` routes.
        token_mask: (B, T) bool, true where a token may be routed.
        budget: The most that a row keeps.
        margin: At least 0.

    Returns:
        (B, T) bool.

    Example:
        >>> logits = torch.tensor([[0.5, 2.0, 1.0], [9.0, 2.0, 1.0]])
        >>> certain_routes(logits, torch.ones(2, 3, dtype=torch.bool), budget=2, margin=1.5).int()
        tensor([[0, 1, 1],
                [1, 0, 0]], dtype=torch.int32)
    """
    scores = router_logits.masked_fill(~token_mask, -math.inf)
    is_close = scores >= scores.amax(dim=-1, keepdim=True) - margin
    return top_k_mask(router_logits, token_mask, budget) & is_close


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


def salience_weights(salience: Tensor, mask: Tensor) -> Tensor:
    """Softmax of the salience over the last dimension where `mask` is true; 0 elsewhere, in float32."""
    scores = salience.float().masked_fill(~mask, torch.finfo(torch.float32).min)
    return scores.softmax(dim=-1) * mask


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


def spread_out(
    router_logits: Tensor,
    hidden_states: Tensor,
    token_mask: Tensor,
    num_routes: int | float,
    penalty: float,
) -> Tensor:
    """Lowers the logit of a token by its closeness to the tokens that are routed before it.

    The best token is routed first; each next one is the best after the penalty, as in maximal
    marginal relevance (Carbonell & Goldstein, SIGIR 1998). The top k of the logits that are
    returned are those tokens: k that say different things, all of them among the first k + 1. With
    one route nothing is lowered.

    Args:
        router_logits: (B, T) float.
        hidden_states: (B, T, H) float; closeness is their cosine, 0 if that is negative.
        token_mask: (B, T) bool, true where a token may be routed.
        num_routes: How many will be routed, as in `count_routes`.
        penalty: Logit that a token loses next to one that is its equal; at least 0.

    Returns:
        (B, T) float. No gradient passes through the penalty.

    Example:
        >>> states = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
        >>> logits = torch.tensor([[1.0, 0.9, 0.5]])
        >>> mask = torch.ones(1, 3, dtype=torch.bool)
        >>> spread_out(logits, states, mask, num_routes=2, penalty=2.0)
        tensor([[ 1.0000, -1.1000,  0.5000]])
    """
    if not penalty or not token_mask.numel():
        return router_logits
    with torch.no_grad():
        directions = unit(hidden_states.float())
        penalties = penalty * (directions @ directions.transpose(1, 2))
        left = router_logits.float().masked_fill(~token_mask, -math.inf)
        lost = torch.zeros_like(left)
        rows = torch.arange(len(left), device=left.device)
        for _ in range(int(count_routes(num_routes, token_mask).max()) - 1):  # all but the last
            best = (left - lost).argmax(dim=-1)
            left[rows, best] = -math.inf  # routed: what comes after it doesn't lower it
            lost = torch.where(left.isinf(), lost, torch.maximum(lost, penalties[rows, best]))
    return router_logits - lost.to(router_logits.dtype)


class TokenRouter(nn.Module):
    """Scores the token views of a text: one self-attention layer, then a linear scorer a side.

    Attention lets a token's scores depend on what else the text says, so that the choice is made
    for this text and not for the word (FastLane, arXiv 2601.06389, section on the router). There
    are two: the *logit* says which tokens are routed, the *salience* how much a token counts in the
    means that stand for several. An untrained router starts from what needs no training. A route
    carries the mean of its tokens already, so that a query's best route is the token of which that
    says least: the lower its centrality, the higher its logit. The salience is the logarithm of the
    state's norm, which mean pooling gave the backbone a use for.
    """

    def __init__(self, config: PretrainedConfig) -> None:
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
            hidden_states: (B, T, hidden_size) float, the backbone's token states.
            attention_mask: (B, T), 0 at padding; padding is not attended to.
            token_mask: (B, T) bool, true where a token may be routed.
            task: Which side's scorer.

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
    """Logit and salience of each token, from what attention has mixed and from its state.

    Args:
        router_dim: Width of what attention gives.
        centrality_weight: What the weight of the centrality in the logit starts with.
        norm_weight: What the weight of the norm's logarithm in the salience starts with.
    """

    def __init__(self, router_dim: int, centrality_weight: float, norm_weight: float) -> None:
        super().__init__()
        self.logit = nn.Linear(router_dim, 1)
        self.salience = nn.Linear(router_dim, 1)
        self.centrality_weight = nn.Parameter(torch.tensor(centrality_weight))
        self.norm_weight = nn.Parameter(torch.tensor(norm_weight))

    def forward(
        self, mixed: Tensor, hidden_states: Tensor, token_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(B, T) each, from (B, T, router_dim), (B, T, hidden_size) and the mask of `TokenRouter`."""
        tiny = torch.finfo(torch.float32).tiny
        norms = hidden_states.float().norm(dim=-1).clamp_min(tiny).log().to(mixed.dtype)
        salience = self.salience(mixed).squeeze(-1) + self.norm_weight * norms
        # Detached: the router learns to read the states, and doesn't bend them towards their mean.
        central = centrality(hidden_states.detach(), salience.detach(), token_mask)
        return self.logit(mixed).squeeze(-1) + self.centrality_weight * central, salience


def centrality(hidden_states: Tensor, salience: Tensor, token_mask: Tensor) -> Tensor:
    """How close each token is to the mean of its text's tokens, weighted by salience: (B, T) cosines."""
    directions = unit(hidden_states)
    weights = salience_weights(salience, token_mask).to(directions.dtype)
    return (directions * unit(weights.unsqueeze(1) @ directions)).sum(dim=-1)
