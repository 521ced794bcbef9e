"""Gradient caching changes neither loss nor gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fastlane_st import FastLaneEncoder
from fastlane_st.losses import CachedRoutedContrastiveLoss, LossWeights, RoutedContrastiveLoss
from tests.support.losses import NOTHING, features

EVERYTHING = LossWeights(1.0, 0.5, 0.7, teacher=0.4, oracle=0.3)


@pytest.mark.parametrize(
    ("mini_batch_size", "dropout"),
    [(1, 0.0), (3, 0.0), (4, 0.5)],  # in one piece, noise is drawn in the order of the plain loss
)
def test_gradient_caching_changes_neither_loss_nor_gradients(
    encoder: FastLaneEncoder,
    checkpoint: Path,
    mini_batch_size: int,
    dropout: float,
) -> None:
    encoder[0].noise = mini_batch_size == 4  # otherwise each would draw noise of its own
    teacher = FastLaneEncoder(checkpoint)
    plain = RoutedContrastiveLoss(encoder, EVERYTHING, teacher=teacher)
    cached = CachedRoutedContrastiveLoss(
        encoder, EVERYTHING, teacher=teacher, mini_batch_size=mini_batch_size
    )
    for layer in encoder.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = dropout
    encoder.train()
    values, gradients = [], []
    for loss in (plain, cached):
        encoder.zero_grad()
        torch.manual_seed(3)  # the same Gumbel noise and number of routes
        value = loss(features(encoder, negatives=True))
        value.backward()
        values.append(value.detach())
        gradients.append({n: p.grad for n, p in encoder.named_parameters()})
    torch.testing.assert_close(values[0], values[1])
    assert all(gradient is not None for gradient in gradients[0].values())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-3)
    for name, measured in plain.measures.items():
        torch.testing.assert_close(cached.measures[name], measured)


def test_a_cached_loss_without_gradients_is_a_number(encoder: FastLaneEncoder) -> None:
    encoder.eval()
    weights = LossWeights(**{**NOTHING, "full": 1.0})
    cached = CachedRoutedContrastiveLoss(encoder, weights, mini_batch_size=2)
    with torch.no_grad():
        value = cached(features(encoder))
        torch.testing.assert_close(
            value, RoutedContrastiveLoss(encoder, weights)(features(encoder))
        )
