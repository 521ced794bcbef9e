"""Fewer views of a text, as pure functions: routes of a query, pooled tokens of a document.

A query's tokens with the highest logits are routed, and each route stands for the tokens that are closest to
it. A document has no router: its tokens are clustered (`pool_tokens`, which relies on SciPy).
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

Task = Literal["query", "document"]
NumRoutes = int | float | None
AskedRoutes = NumRoutes | Literal["default"]
"""What callers may pass: a count, for documents also a fraction of the tokens, None (all tokens) or
"default" (the configuration's)."""


def check_num_routes(num_routes: object, allow_fraction: bool = False) -> None:
    """Raises a ValueError unless `num_routes` is a positive integer or None.

    With `allow_fraction` (documents) it may also be a float in (0, 1], the fraction of tokens kept.
    """
    if num_routes is None:
        return
    if is_count(num_routes):
        return
    if allow_fraction and isinstance(num_routes, float) and 0 < num_routes <= 1:
        return
    expected = (
        "a positive integer, a fraction in (0, 1]" if allow_fraction else "a positive integer"
    )
    hint = "; None keeps all tokens" if isinstance(num_routes, str) else ""
    raise ValueError(f"num_routes must be {expected} or None, got {num_routes!r}{hint}")


def is_count(value: object) -> bool:
    """Whether a value is a positive integer: Python's or NumPy's, but not True."""
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return is_integer and bool(value > 0)  # type: ignore[operator]


def count_routes(num_routes: int, token_mask: Tensor) -> Tensor:
    """How many tokens of each row of a (B, T) mask are routed, (B,) int64: all where there are fewer."""
    return token_mask.sum(dim=-1).clamp(max=num_routes)


def top_k_mask(router_logits: Tensor, token_mask: Tensor, num_routes: int) -> Tensor:
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
    rank = best_first(router_logits, token_mask).argsort(dim=-1)
    return (rank < count_routes(num_routes, token_mask).unsqueeze(-1)) & token_mask


def best_first(router_logits: Tensor, token_mask: Tensor) -> Tensor:
    """(B, T) int64: positions of tokens by falling logit, and last those that may not be routed."""
    scores = router_logits.masked_fill(~token_mask, -math.inf)
    return scores.argsort(dim=-1, descending=True, stable=True)


def gumbel_top_k_gate(
    router_logits: Tensor,
    token_mask: Tensor,
    num_routes: int,
    temperature: float = 1.0,
    noise: bool = True,
) -> Tensor:
    """Samples routes with Gumbel noise: a hard k-hot gate whose gradient is the relaxed one's.

    Forward, the gate is 1 at the top k of `router_logits + Gumbel noise` and 0 elsewhere. Backward,
    it is the relaxed k-hot of Xie & Ermon (arXiv 1901.10517): k softmaxes in a row, each with the
    earlier choices discounted; at k = 1 that is the straight-through Gumbel-Softmax of FastLane
    (arXiv 2601.06389). The gate is not negative, so multiplying query embeddings by it carries it
    through MaxSim unchanged. Noise comes from the global generator, which gradient caching replays.

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
    """Scales the last dimension to unit length; a zero vector stays zero, in float16 too."""
    return nn.functional.normalize(vectors, dim=-1, eps=torch.finfo(vectors.dtype).tiny)


def length_weights(hidden_states: Tensor, mask: Tensor, power: float) -> Tensor:
    """Weights of tokens in a mean over several: proportional to ‖state‖^power where `mask` is true, else 0.

    A backbone trained with mean pooling of raw states already gives longer states more weight.

    Args:
        hidden_states: (B, T, H) float.
        mask: (B, N, T) bool, the tokens of each of N means.
        power: 0 weighs all alike.

    Returns:
        (B, N, T) float32; they sum to 1 over the last dimension, or to 0 for an empty mean.
    """
    smallest, lowest = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).min
    lengths = hidden_states.float().norm(dim=-1).clamp_min(smallest)
    scores = (power * lengths.log()).unsqueeze(1).masked_fill(~mask, lowest)
    weights: Tensor = scores.softmax(dim=-1) * mask
    return weights


def assign_to_routes(hidden_states: Tensor, token_mask: Tensor, routed: Tensor) -> Tensor:
    """Assigns each token to the route that stands for it: the one whose state is closest by cosine.

    A routed token stands for itself; of equally close routes the earlier one stands for the token.

    Args:
        hidden_states: (B, T, H) float.
        token_mask: (B, T) bool, true where a token may be routed.
        routed: (B, T) bool, the routes among those, at least one in each row.

    Returns:
        (B, T, T) float, 1 at [b, i, r] where route r stands for token i. Rows of tokens that may not
        be routed and columns of tokens that are no routes are 0.

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


def pool_tokens(
    embeddings: Tensor, token_mask: Tensor, num_views: int | float
) -> tuple[Tensor, Tensor]:
    """Pools the token embeddings of documents into fewer (hierarchical token pooling, arXiv 2409.14683).

    A document's tokens are clustered by Ward's criterion on their cosine distances, and the direction of
    each cluster's mean is a view: what Sentence Transformers' `HierarchicalTokenPooling` gives with no
    protected tokens. A view stands at the position of the token of its cluster that is nearest to it, the
    first of equals.

    Args:
        embeddings: (B, T, D) float of unit length.
        token_mask: (B, T) bool, true at the tokens that are views of the document.
        num_views: A number of views, or a float in (0, 1]: that fraction of the document's tokens,
            rounded down, at least one. A document with no more tokens stays as it is.

    Returns:
        The views (B, T, D) float of unit length, and (B, T) bool, true at them. Gradients pass through
        the means, and not through the choice of clusters.

    Example:
        >>> tokens = torch.tensor([[[1.0, 0.0], [0.8, 0.6], [0.0, -1.0], [0.96, 0.28]]])
        >>> views, kept = pool_tokens(tokens, torch.ones(1, 4, dtype=torch.bool), 0.5)
        >>> kept.int()
        tensor([[0, 0, 1, 1]], dtype=torch.int32)
        >>> views[kept]
        tensor([[ 0.0000, -1.0000],
                [ 0.9527,  0.3038]])
    """
    views, kept = embeddings.clone(), token_mask.clone()
    for row, mask in enumerate(token_mask):
        places = mask.nonzero()[:, 0]
        tokens = embeddings[row, places]
        count = num_views
        if isinstance(num_views, float):  # rounded first: .29 · 100 is 28.999…
            count = max(1, int(round(num_views * len(places), 6)))
        if count >= len(places):
            continue
        clusters = ward_clusters(tokens.detach().float().cpu(), int(count)).to(tokens.device)
        means = unit(clusters_summed(tokens.float(), clusters))
        at = places[nearest_tokens(tokens.detach().float(), means.detach(), clusters)]
        kept[row] = False
        kept[row, at] = True
        views[row, at] = means.to(views.dtype)
    return views, kept


def clusters_summed(tokens: Tensor, clusters: Tensor) -> Tensor:
    """The sum of each cluster's tokens, (clusters, D), from (N, D) and (N,)."""
    sums = tokens.new_zeros(int(clusters.max()) + 1, tokens.shape[1])
    return sums.index_add(0, clusters, tokens)


def nearest_tokens(tokens: Tensor, means: Tensor, clusters: Tensor) -> Tensor:
    """(clusters,) int64: the token of each cluster that is nearest to its mean, the first of equals.

    Two tokens are always equally near to their mean, so that rounding must not decide.
    """
    closeness = (unit(tokens) * means[clusters]).sum(dim=-1)
    best = closeness.new_full((len(means),), -2).scatter_reduce(0, clusters, closeness, "amax")
    numbers = torch.arange(len(tokens), device=tokens.device)
    numbers = numbers.masked_fill(closeness < best[clusters] - 1e-5, len(tokens))
    first = numbers.new_full((len(means),), len(tokens))
    return first.scatter_reduce(0, clusters, numbers, "amin")


def ward_clusters(vectors: Tensor, count: int) -> Tensor:
    """The cluster of each vector, (N,) int64 from 0: at most `count` of them, fewer only in ties.

    Args:
        vectors: (N, D) float32 of unit length on the CPU, more than `count`.
        count: At least 1.
    """
    hierarchy, squareform = import_clustering()
    rows = vectors.numpy()  # whose products no autocast rounds
    distances = (1 - rows @ rows.T).clip(0, 2)
    tree = hierarchy.linkage(squareform(distances, checks=False), method="ward")
    labels = torch.from_numpy(hierarchy.fcluster(tree, t=count, criterion="maxclust"))
    clusters: Tensor = labels.unique(return_inverse=True)[1]
    return clusters


def import_clustering() -> tuple[ModuleType, Any]:
    """SciPy's `hierarchy` and `squareform`, imported at first use: other encoding needs no SciPy."""
    try:
        from scipy.cluster import hierarchy
        from scipy.spatial.distance import squareform
    except ImportError as error:
        raise ImportError(
            "num_routes of documents pools their tokens, which needs SciPy: pip install scipy, or "
            "num_routes=None for all tokens"
        ) from error
    return hierarchy, squareform
