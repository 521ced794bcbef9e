"""Routing and pooling as pure functions: values worked out by hand, and properties over random logits."""

from __future__ import annotations

import math
import sys
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers.multi_vector_encoder.modules import HierarchicalTokenPooling

from fastlane_st.modeling.routing_fastlane import (
    check_num_routes,
    gumbel_top_k_gate,
    pool_tokens,
    spread_out,
    top_k_mask,
)

ALL = torch.tensor([[True, True, True]])


def marked(mask: torch.Tensor) -> list[list[int]]:
    return mask.int().tolist()


def test_the_best_tokens_are_kept() -> None:
    assert marked(top_k_mask(torch.tensor([[0.1, 3.0, -2.0]]), ALL, 2)) == [[1, 1, 0]]


def test_equal_logits_go_to_the_earlier_token() -> None:
    assert marked(top_k_mask(torch.tensor([[1.0, 1.0, 1.0]]), ALL, 2)) == [[1, 1, 0]]


def test_a_masked_token_is_never_kept() -> None:
    mask = torch.tensor([[True, False, True]])
    assert marked(top_k_mask(torch.tensor([[0.0, 99.0, -5.0]]), mask, 1)) == [[1, 0, 0]]


def test_more_routes_than_tokens_keep_all_tokens() -> None:
    mask = torch.tensor([[True, False, True]])
    assert marked(top_k_mask(torch.zeros(1, 3), mask, 99)) == [[1, 0, 1]]


def test_an_infinitely_bad_token_is_kept_only_where_nothing_else_is_left() -> None:
    logits = torch.tensor([[-math.inf, 0.0, 0.0]])
    assert marked(top_k_mask(logits, ALL, 2)) == [[0, 1, 1]]
    assert marked(top_k_mask(logits, ALL, 3)) == [[1, 1, 1]]


@pytest.mark.parametrize("num_routes", [0, -1, 1.0, True, "1", float("nan")])
def test_a_number_of_query_routes_is_a_positive_integer(num_routes: object) -> None:
    with pytest.raises(ValueError, match="num_routes must be a positive integer or None, got"):
        check_num_routes(num_routes)  # type: ignore[arg-type]


@pytest.mark.parametrize("num_routes", [0.0, 1.5, -0.5, 0, float("nan")])
def test_a_document_keeps_a_number_or_a_fraction(num_routes: float) -> None:
    with pytest.raises(ValueError, match=r"a fraction in \(0, 1\] or None, got"):
        check_num_routes(num_routes, allow_fraction=True)


@given(
    logits=st.lists(st.floats(-4, 4, width=16), min_size=1, max_size=9),
    data=st.data(),
)
def test_the_top_k_agrees_with_sorting_by_hand(logits: list[float], data: st.DataObject) -> None:
    size = len(logits)
    allowed = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    num_routes = data.draw(st.integers(1, size + 1))
    mask = top_k_mask(torch.tensor([logits]), torch.tensor([allowed]), num_routes)
    ranked = sorted((i for i in range(size) if allowed[i]), key=lambda i: (-logits[i], i))
    assert torch.nonzero(mask[0]).flatten().tolist() == sorted(ranked[:num_routes])


@given(logits=st.lists(st.floats(-4, 4, width=16), min_size=1, max_size=9))
def test_fewer_routes_are_among_more_routes(logits: list[float]) -> None:
    row = torch.tensor([logits])
    mask = torch.ones_like(row, dtype=torch.bool)
    kept = [top_k_mask(row, mask, k) for k in range(1, len(logits) + 1)]
    assert all((few <= more).all() for few, more in pairwise(kept))


@given(num_routes=st.integers(1, 6), seed=st.integers(0, 50))
def test_the_gate_is_exactly_one_at_k_tokens_and_zero_elsewhere(num_routes: int, seed: int) -> None:
    torch.manual_seed(seed)
    mask = torch.tensor([[True, True, False, True, True]])
    gate = gumbel_top_k_gate(torch.randn(1, 5), mask, num_routes, temperature=0.1)
    assert gate.sum() == min(num_routes, 4)
    assert set(gate.flatten().tolist()) <= {0.0, 1.0}
    assert gate[0, 2] == 0


def test_without_noise_the_gate_is_the_top_k() -> None:
    logits = torch.tensor([[0.3, 2.0, 1.0]])
    assert gumbel_top_k_gate(logits, ALL, 2, noise=False).tolist() == [[0.0, 1.0, 1.0]]


def test_the_gradient_of_one_route_is_that_of_the_softmax() -> None:
    usefulness = torch.tensor([[1.0, -2.0, 0.5]])
    logits = torch.tensor([[0.3, 2.0, 1.0]], requires_grad=True)
    gate = gumbel_top_k_gate(logits, ALL, 1, temperature=0.5, noise=False)
    (gate * usefulness).sum().backward()
    twin = logits.detach().clone().requires_grad_()
    ((twin / 0.5).softmax(dim=-1) * usefulness).sum().backward()
    torch.testing.assert_close(logits.grad, twin.grad)


def test_the_relaxed_gate_of_several_routes_pushes_towards_useful_tokens() -> None:
    logits = torch.zeros(1, 3, requires_grad=True)
    gate = gumbel_top_k_gate(logits, ALL, 2, noise=False)
    (gate * torch.tensor([[0.0, 0.0, 1.0]])).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 2] > 0
    assert logits.grad[0, 0] < 0


def test_a_masked_token_gets_no_gradient_and_an_empty_row_no_nan() -> None:
    mask = torch.tensor([[True, False, True], [False, False, False]])
    logits = torch.zeros(2, 3, requires_grad=True)
    gumbel_top_k_gate(logits, mask, 2).mul(torch.randn(2, 3)).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 1] == 0
    assert logits.grad[1].tolist() == [0, 0, 0]


def test_gumbel_noise_chooses_as_often_as_the_softmax_says() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(20_000, 3)
    gate = gumbel_top_k_gate(logits, ALL.expand(20_000, 3), 1)
    torch.testing.assert_close(gate.mean(0), logits[0].softmax(-1), atol=0.015, rtol=0)


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        gumbel_top_k_gate(torch.zeros(1, 3), ALL, 1, temperature=0)


def test_half_precision_logits_give_a_gate_of_their_dtype() -> None:
    gate = gumbel_top_k_gate(torch.zeros(1, 3, dtype=torch.bfloat16), ALL, 2)
    assert gate.dtype == torch.bfloat16
    assert gate.sum() == 2


def loop_order(logits: list[float], states: torch.Tensor, penalty: float) -> list[int]:
    """Maximal marginal relevance by its definition: the places in the order of choice."""
    cosines = torch.nn.functional.cosine_similarity(states[:, None], states[None], dim=-1)
    chosen: list[int] = []

    def marginal(place: int) -> float:
        return logits[place] - penalty * max([0.0, *(float(cosines[place, c]) for c in chosen)])

    while len(chosen) < len(logits):
        left = [place for place in range(len(logits)) if place not in chosen]
        chosen.append(max(left, key=marginal))
    return chosen


@given(
    logits=st.lists(st.floats(-5, 5, width=16), min_size=1, max_size=7),
    penalty=st.sampled_from([0.0, 0.5, 3.0]),
    seed=st.integers(0, 1000),
)
def test_spread_out_logits_give_the_order_of_marginal_relevance(
    logits: list[float], penalty: float, seed: int
) -> None:
    torch.manual_seed(seed)
    states = torch.randn(1, len(logits) + 1, 3)
    mask = torch.tensor([[True] * len(logits) + [False]])
    given_logits = torch.tensor([[*logits, 99.0]])
    order = loop_order(logits, states[0, :-1], penalty)
    for num_routes in range(1, len(logits) + 1):
        found = spread_out(given_logits, states, mask, num_routes, penalty)
        assert found[0, -1] == 99  # may not be routed, and stays
        best = found[0, :-1].argsort(descending=True, stable=True)[:num_routes]
        assert best.tolist() == order[:num_routes]
        assert (found <= given_logits).all()


def test_spreading_out_passes_the_gradient_of_the_logits_alone() -> None:
    logits = torch.zeros(1, 3, requires_grad=True)
    states = torch.randn(1, 3, 4, requires_grad=True)
    spread_out(logits, states, ALL, 2, 3.0).sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[1, 1, 1]]
    assert states.grad is None


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
