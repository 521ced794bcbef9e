"""Routing as pure functions: values worked out by hand, and properties over random logits."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastlane_st.modeling.routing_fastlane import (
    check_num_routes,
    gumbel_top_k_gate,
    length_weights,
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


def test_length_weights_worked_out_by_hand() -> None:
    states = torch.tensor([[[3.0, 4.0], [0.0, 1.0], [2.0, 0.0], [9.0, 9.0]]])  # lengths 5, 1, 2, …
    mask = torch.tensor([[[1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]]).bool()
    expected = torch.tensor([[25, 1, 4, 0], [0, 6, 24, 0], [0, 0, 0, 0]]) / 30
    torch.testing.assert_close(length_weights(states, mask, 2)[0], expected)
    assert length_weights(states, mask, 0)[0, 1].tolist() == [0, 0.5, 0.5, 0]
    half = length_weights(states.half() * 1e4, mask, 2.0)  # whose squares no float16 holds
    torch.testing.assert_close(half[0], expected, rtol=1e-3, atol=1e-4)
