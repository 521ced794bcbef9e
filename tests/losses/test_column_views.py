"""Scores between the views of columns, by values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from fastlane_st.losses.column_views import (
    ColumnViews,
    best_matches,
    divergence,
    mean_over_views,
    router_entropy,
)
from tests.support.losses import views

MATCHES = [[[1.0, -1.0], [0.8, 0.0]]] * 2  # each view's best in each document


def test_best_matches_take_the_largest_similarity_even_if_negative(
    query: ColumnViews, documents: ColumnViews
) -> None:
    torch.testing.assert_close(best_matches(query.embeddings, [documents]), torch.tensor(MATCHES))


def test_best_matches_line_up_all_columns_of_documents(
    query: ColumnViews, documents: ColumnViews
) -> None:
    found = best_matches(query.embeddings, [documents, documents])
    assert found.shape == (2, 2, 4)
    torch.testing.assert_close(found[..., 2:], torch.tensor(MATCHES))


def test_scores_are_the_mean_over_the_views_that_count(query: ColumnViews) -> None:
    scores = mean_over_views(torch.tensor(MATCHES), query.mask)
    torch.testing.assert_close(scores, torch.tensor([[0.9, -0.5], [1.0, -1.0]]))
    gate = torch.tensor([[0.0, 1.0], [0.0, 0.0]])  # nothing routed is no division by zero
    scores = mean_over_views(torch.tensor(MATCHES), gate)
    torch.testing.assert_close(scores, torch.tensor([[0.8, 0.0], [0.0, 0.0]]))


def test_divergence_is_kullback_leibler_without_a_gradient_to_its_target() -> None:
    target = torch.tensor([[math.log(3), 0.0], [5.0, 5.0]], requires_grad=True)  # ¾, ¼ and ½, ½
    scores = torch.zeros(2, 2, requires_grad=True)
    found = divergence(target, scores)
    assert found.item() == pytest.approx((0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2)
    found.backward()
    assert target.grad is None
    assert scores.grad is not None


def test_router_entropy_counts_only_the_views_of_the_text() -> None:
    router = views([[[0.0]] * 3] * 2, [[1, 1, 0], [1, 0, 0]], [[3.0, 3.0, 9.0], [1.0, 1.0, 1.0]])
    assert router_entropy(router).item() == pytest.approx(math.log(2) / 2)
