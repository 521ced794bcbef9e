"""The training loss: its parts by values worked out by hand, and what it does with an encoder."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fastlane_st import FastLaneEncoder
from fastlane_st.losses import CachedRoutedContrastiveLoss, LossWeights, RoutedContrastiveLoss
from fastlane_st.losses.column_views import ColumnViews
from tests.conftest import QUERIES
from tests.support.losses import NOTHING, features, views


def loss_with(weights: dict[str, float], **kwargs: Any) -> RoutedContrastiveLoss:
    model: Any = [SimpleNamespace(temperature=1.0, noise=True)]
    return RoutedContrastiveLoss(model, LossWeights(**{**NOTHING, **weights}), **kwargs)


def test_the_oracle_prefers_views_that_rank_the_positive_well() -> None:
    loss = loss_with({"oracle": 1.0}, scale=1.0, oracle_scale=1.0)
    # Alone, the first view gives the positive ¾ and the second ½: the oracle wants .6 and .4.
    best = torch.tensor([[[math.log(3), 0.0], [0.0, 0.0]], [[0.0, 1.0], [9.0, 9.0]]])
    # The router gives .8 and .2; the second query has one view, so nothing to choose.
    router = views([[[0.0]] * 2] * 2, [[1, 1], [1, 0]], [[math.log(4), 0.0], [0.0, 7.0]])
    expected = -(0.6 * math.log(0.8) + 0.4 * math.log(0.2)) / 2
    assert loss.oracle(best, router).item() == pytest.approx(expected)


def test_full_is_the_cross_entropy_of_scaled_scores(
    query: ColumnViews, documents: ColumnViews
) -> None:
    loss = loss_with({"full": 1.0}, scale=2.0)
    rows = [[1.8, -1.0], [2.0, -2.0]]  # scale · the means over views
    expected = [math.log(sum(map(math.exp, row))) - row[i] for i, row in enumerate(rows)]
    assert loss.total(query, [documents]).item() == pytest.approx(sum(expected) / 2)


def test_routed_scores_the_views_that_the_router_chooses(
    query: ColumnViews, documents: ColumnViews
) -> None:
    query.gate = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    loss = loss_with({"routed": 1.0}, scale=2.0)
    rows = [[1.6, 0.0], [2.0, -2.0]]  # the first query's second view, the other's only one
    expected = [math.log(sum(map(math.exp, row))) - row[i] for i, row in enumerate(rows)]
    assert loss.total(query, [documents]).item() == pytest.approx(sum(expected) / 2)


def test_with_all_views_routed_there_is_nothing_to_distill(
    query: ColumnViews, documents: ColumnViews
) -> None:
    loss = loss_with({"distillation": 1.0})
    assert loss.total(query, [documents]).item() == pytest.approx(0, abs=1e-6)


def test_parts_of_weight_zero_are_left_out(query: ColumnViews, documents: ColumnViews) -> None:
    loss = loss_with({"full": 2.0, "routed": 0.5})
    total = loss.total(query, [documents])
    assert list(loss.measures) == ["routed", "full", "router_entropy"]
    expected = 2 * loss.measures["full"] + 0.5 * loss.measures["routed"]
    torch.testing.assert_close(total, expected)


def test_the_loss_is_the_same_however_a_batch_is_padded(encoder: FastLaneEncoder) -> None:
    encoder.eval()  # dropout would differ
    loss = RoutedContrastiveLoss(encoder, LossWeights(), num_routes=(50,))
    torch.testing.assert_close(
        loss(features(encoder, padding=5)), loss(features(encoder)), rtol=1e-5, atol=1e-6
    )


def test_a_teacher_equal_to_the_model_has_nothing_to_teach(
    encoder: FastLaneEncoder, checkpoint: Path
) -> None:
    encoder.eval()
    teacher = FastLaneEncoder(checkpoint)
    weights = LossWeights(**{**NOTHING, "full": 1.0, "teacher": 1.0})
    loss = RoutedContrastiveLoss(encoder, weights, teacher=teacher)
    loss(features(encoder)).backward()
    assert loss.measures["teacher"].item() == pytest.approx(0, abs=1e-6)
    assert all(each.grad is None for each in teacher.parameters())
    assert not any("teacher" in name for name in loss.state_dict())


def test_impossible_losses_are_refused(encoder: FastLaneEncoder) -> None:
    with pytest.raises(ValueError, match=r"the weight of oracle must be at least 0, got -1"):
        LossWeights(oracle=-1)
    with pytest.raises(ValueError, match="so pass a teacher"):
        RoutedContrastiveLoss(encoder, LossWeights(teacher=1.0))
    with pytest.raises(ValueError, match="needs queries and positives, got 1 column"):
        RoutedContrastiveLoss(encoder)(features(encoder)[:1])
    with pytest.raises(ValueError, match="mini_batch_size must be at least 1, got 0"):
        CachedRoutedContrastiveLoss(encoder, mini_batch_size=0)


def test_a_query_is_encoded_whole_and_routed_with_the_steps_number(
    encoder: FastLaneEncoder,
) -> None:
    loss = RoutedContrastiveLoss(encoder, num_routes=(2,))
    loss.draw_num_routes()
    for is_training in (True, False):
        encoder.train(is_training)
        views = loss.encode_query(features(encoder)[0])
        assert views.routed is not None
        assert views.gate is not None
        assert views.gate.sum(dim=1).tolist() == [2, 2, 2, 1]
        assert not (views.gate.bool() & ~views.mask).any()
    whole = encoder.encode_query(QUERIES, num_routes=None)
    two = encoder.encode_query(QUERIES, num_routes=2)
    for row in range(4):  # in evaluation as the encoder has it
        torch.testing.assert_close(views.embeddings[row][views.mask[row]], whole[row])
        torch.testing.assert_close(views.routed[row][views.gate[row].bool()], two[row])
