"""Fewer views of a document: its token embeddings are clustered, and each cluster's mean is a view.

A document has no router. Clustering relies on SciPy.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .routing_fastlane import unit


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
