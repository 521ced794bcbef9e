"""The training loss: values worked out by hand, and gradient caching that changes none."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fastlane_st import FastLaneEncoder
from fastlane_st.cached_loss import CachedRoutedContrastiveLoss
from fastlane_st.losses import (
    LossWeights,
    RoutedContrastiveLoss,
    Views,
    best_kept_matches,
    best_matches,
    divergence,
    kept_views,
    mean_over_views,
    router_entropy,
)
from tests.conftest import DOCUMENTS, QUERIES

NOTHING = {"routed": 0.0, "full": 0.0, "distillation": 0.0, "teacher": 0.0, "oracle": 0.0}
EVERYTHING = LossWeights(1.0, 0.5, 0.7, teacher=0.4, oracle=0.3, documents=0.2)


def views(
    embeddings: list[Any], mask: list[Any] | None = None, logits: list[Any] | None = None
) -> Views:
    vectors = torch.tensor(embeddings)
    shape = vectors.shape[:2]
    return Views(
        vectors,
        torch.tensor(logits) if logits else torch.zeros(shape),
        torch.tensor(mask, dtype=torch.bool) if mask else torch.ones(shape, dtype=torch.bool),
    )


@pytest.fixture
def query() -> Views:
    """The first query sees both axes, the second one only the first axis; nothing is dropped."""
    axes = [[1.0, 0.0], [0.0, 1.0]]
    made = views([axes, axes], mask=[[1, 1], [1, 0]])
    made.routed, made.gate = made.embeddings, made.mask.float()
    return made


@pytest.fixture
def documents() -> Views:
    """The second document's one view points away from the first axis; nothing is dropped."""
    made = views([[[1.0, 0.0], [0.6, 0.8]], [[-1.0, 0.0], [0.0, -1.0]]], mask=[[1, 1], [1, 0]])
    made.routed, made.gate = made.embeddings, made.mask.float()
    return made


MATCHES = [[[1.0, -1.0], [0.8, 0.0]]] * 2  # each view's best in each document


@pytest.fixture
def encoder(checkpoint: Path) -> FastLaneEncoder:
    return FastLaneEncoder(checkpoint)


def loss_with(weights: dict[str, float], **kwargs: Any) -> RoutedContrastiveLoss:
    model: Any = [SimpleNamespace(temperature=1.0, noise=True)]
    return RoutedContrastiveLoss(model, LossWeights(**{**NOTHING, **weights}), **kwargs)


def features(
    encoder: FastLaneEncoder, *, padding: int = 0, negatives: bool = False
) -> list[dict[str, Any]]:
    """The columns of a batch of four, as the collator gives them."""
    columns = [("query", QUERIES), ("document", DOCUMENTS[:4])]
    columns += [("document", DOCUMENTS[2:])] if negatives else []
    made = []
    for side, texts in columns:
        column: dict[str, Any] = encoder.preprocess(texts, task=side)
        for name, value in column.items():
            if isinstance(value, Tensor) and value.ndim == 2:
                fill = encoder.tokenizer.pad_token_id if name == "input_ids" else 0
                column[name] = torch.nn.functional.pad(value, (0, padding), value=fill)
        made.append({**column, "task": side})
    return made


def test_best_matches_take_the_largest_similarity_even_if_negative(
    query: Views, documents: Views
) -> None:
    torch.testing.assert_close(best_matches(query.embeddings, [documents]), torch.tensor(MATCHES))


def test_best_matches_line_up_all_columns_of_documents(query: Views, documents: Views) -> None:
    found = best_matches(query.embeddings, [documents, documents])
    assert found.shape == (2, 2, 4)
    torch.testing.assert_close(found[..., 2:], torch.tensor(MATCHES))


def test_best_matches_of_routed_documents_leave_out_what_is_not_kept(query: Views) -> None:
    gate = torch.tensor([[0.0, 1.0]], requires_grad=True)
    document = replace(views([[[0.6, 0.8], [0.8, 0.6]]]), gate=gate)
    document.routed = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])  # not its views in embeddings
    kept = kept_views(document)
    # The first axis finds only the second view, at similarity 0.
    found = best_kept_matches(query.embeddings[:1], [kept])
    torch.testing.assert_close(found, torch.tensor([[[0.0], [1.0]]]))
    found.sum().backward()
    # Each axis wants the view that it found, by its similarity's distance from -1.
    assert gate.grad is not None
    torch.testing.assert_close(gate.grad, torch.tensor([[0.0, 1.0 + 2.0]]))


def test_kept_views_of_shorter_documents_are_masked() -> None:
    document = views([[[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]] * 2)
    document.routed, document.gate = document.embeddings, torch.tensor([[1.0, 0, 1], [0, 1.0, 0]])
    kept = kept_views(document)
    assert kept.mask.tolist() == [[True, True], [True, False]]
    assert kept.routed is not None
    assert kept.routed[0].tolist() == [[1, 0], [0, 1]]
    torch.testing.assert_close(kept.routed[1, 0], torch.tensor([0.6, 0.8]))
    twice = torch.tensor([[[2.0, 0.0]]] * 2)  # a route that stands for two tokens
    torch.testing.assert_close(
        best_kept_matches(twice, [kept])[:, 0], torch.tensor([[2.0, 1.2]] * 2)
    )


def test_scores_are_the_mean_over_the_views_that_count(query: Views) -> None:
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


def test_the_oracle_prefers_views_that_rank_the_positive_well() -> None:
    loss = loss_with({"oracle": 1.0}, scale=1.0, oracle_scale=1.0)
    # Alone, the first view gives the positive ¾ and the second ½: the oracle wants .6 and .4.
    best = torch.tensor([[[math.log(3), 0.0], [0.0, 0.0]], [[0.0, 1.0], [9.0, 9.0]]])
    # The router gives .8 and .2; the second query has one view, so nothing to choose.
    router = views([[[0.0]] * 2] * 2, [[1, 1], [1, 0]], [[math.log(4), 0.0], [0.0, 7.0]])
    expected = -(0.6 * math.log(0.8) + 0.4 * math.log(0.2)) / 2
    assert loss.oracle(best, router).item() == pytest.approx(expected)


def test_full_is_the_cross_entropy_of_scaled_scores(query: Views, documents: Views) -> None:
    loss = loss_with({"full": 1.0}, scale=2.0)
    rows = [[1.8, -1.0], [2.0, -2.0]]  # scale · the means over views
    expected = [math.log(sum(map(math.exp, row))) - row[i] for i, row in enumerate(rows)]
    assert loss.total(query, [documents]).item() == pytest.approx(sum(expected) / 2)


def test_routed_scores_the_views_that_the_router_chooses(query: Views, documents: Views) -> None:
    query.gate = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    loss = loss_with({"routed": 1.0}, scale=2.0)
    rows = [[1.6, 0.0], [2.0, -2.0]]  # the first query's second view, the other's only one
    expected = [math.log(sum(map(math.exp, row))) - row[i] for i, row in enumerate(rows)]
    assert loss.total(query, [documents]).item() == pytest.approx(sum(expected) / 2)


def test_with_all_views_routed_there_is_nothing_to_distill(query: Views, documents: Views) -> None:
    loss = loss_with({"distillation": 1.0})
    assert loss.total(query, [documents]).item() == pytest.approx(0, abs=1e-6)


def test_parts_of_weight_zero_are_left_out(query: Views, documents: Views) -> None:
    loss = loss_with({"full": 2.0, "documents": 0.5})
    total = loss.total(query, [documents])
    assert list(loss.measures) == ["full", "documents", "router_entropy"]
    expected = 2 * loss.measures["full"] + 0.5 * loss.measures["documents"]
    torch.testing.assert_close(total, expected)


def test_router_entropy_counts_only_the_views_of_the_text() -> None:
    router = views([[[0.0]] * 3] * 2, [[1, 1, 0], [1, 0, 0]], [[3.0, 3.0, 9.0], [1.0, 1.0, 1.0]])
    assert router_entropy(router).item() == pytest.approx(math.log(2) / 2)


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
