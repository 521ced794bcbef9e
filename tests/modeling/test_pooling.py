"""Pooling of documents: values worked out by hand, and what Sentence Transformers' own pooling gives."""

from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

from fastlane_st.modeling.routing_fastlane import pool_tokens


def units(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator), dim=-1)


@pytest.mark.parametrize("fraction", [0.5, 0.25, 0.125, 1.0])
def test_pooled_views_are_those_of_sentence_transformers(fraction: float) -> None:
    embeddings, lengths = units(3, 40, 6), [40, 9, 1]
    mask = torch.arange(40) < torch.tensor(lengths)[:, None]
    pooled, kept = pool_tokens(embeddings, mask, fraction)
    expected = HierarchicalTokenPooling(1 / fraction, num_protected_tokens=0).pool(
        [row[:length] for row, length in zip(embeddings, lengths, strict=True)]
    )
    for views, is_kept, theirs in zip(pooled, kept, expected, strict=True):
        found = views[is_kept]
        assert len(found) == len(theirs)
        closest = (found @ theirs.T).argmax(dim=1)  # theirs come in the order of clusters
        assert sorted(closest.tolist()) == list(range(len(theirs)))
        torch.testing.assert_close(found, theirs[closest])


@given(num_tokens=st.integers(1, 12), num_views=st.integers(1, 13), seed=st.integers(0, 200))
def test_a_pooled_view_stands_at_the_nearest_token_of_its_cluster(
    num_tokens: int, num_views: int, seed: int
) -> None:
    embeddings = units(1, num_tokens + 2, 3, seed=seed)
    mask = torch.tensor([[False, *[True] * num_tokens, False]])
    views, kept = pool_tokens(embeddings, mask, num_views)
    assert int(kept.sum()) == min(num_views, num_tokens)
    assert not kept[0, [0, -1]].any()
    torch.testing.assert_close(views.norm(dim=-1), torch.ones(1, num_tokens + 2))
    if num_views == 1 < num_tokens:
        [place] = kept[0].nonzero()[:, 0].tolist()
        mean = embeddings[0, 1:-1].mean(dim=0)
        closeness = embeddings[0, 1:-1] @ mean / mean.norm()
        assert place - 1 == int((closeness > closeness.max() - 1e-5).int().argmax())
        torch.testing.assert_close(views[0, place], mean / mean.norm())
    if num_views >= num_tokens:
        assert torch.equal(views, embeddings)


@pytest.mark.parametrize(
    ("fraction", "num_tokens", "count"), [(0.25, 3, 1), (0.25, 9, 2), (0.29, 100, 29), (0.3, 10, 3)]
)
def test_a_fraction_of_tokens_is_rounded_down_to_at_least_one(
    fraction: float, num_tokens: int, count: int
) -> None:
    mask = torch.ones(1, num_tokens, dtype=torch.bool)
    assert int(pool_tokens(units(1, num_tokens, 8), mask, fraction)[1].sum()) == count


def test_equal_tokens_are_pooled_to_one_of_them() -> None:
    embeddings = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    views, kept = pool_tokens(embeddings, torch.ones(1, 4, dtype=torch.bool), 3)
    assert kept.tolist() == [[True, True, False, False]]  # fewer than asked for, where tokens tie
    assert torch.equal(views, embeddings)


def test_pooling_passes_gradients_through_the_means() -> None:
    embeddings = units(1, 4, 3).requires_grad_()
    views, kept = pool_tokens(embeddings, torch.ones(1, 4, dtype=torch.bool), 1)
    (views[kept] @ torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert embeddings.grad is not None
    assert (embeddings.grad.abs().sum(dim=-1) > 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_pooled_in_its_own_dtype(dtype: torch.dtype) -> None:
    views, kept = pool_tokens(units(1, 8, 4).to(dtype), torch.ones(1, 8, dtype=torch.bool), 0.5)
    assert views.dtype == dtype
    assert int(kept.sum()) == 4


def test_without_scipy_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.cluster", None)
    with pytest.raises(
        ImportError, match=r"num_routes of documents pools .* pip install scipy, or"
    ):
        pool_tokens(units(1, 4, 3), torch.ones(1, 4, dtype=torch.bool), 0.5)
