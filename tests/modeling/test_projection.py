"""ViewProjection: values worked out by hand."""

from __future__ import annotations

from math import exp

import pytest
import torch
from torch import Tensor

from fastlane_st import FastLaneConfig
from fastlane_st.modeling.projection_fastlane import FastLaneOutput, ViewProjection, mix_context
from fastlane_st.modeling.routing_fastlane import Task, unit


@pytest.fixture
def projection() -> ViewProjection:
    """Two dimensions, no rotation, c_r = c_d = 2 and a window of one token that weighs 1."""
    weights = {"route_context_weight": 2, "document_context_weight": 2, "window_size": 1}
    backbone = {"model_type": "bert", "hidden_size": 2}
    made = ViewProjection(FastLaneConfig(backbone_config=backbone, embedding_dim=2, **weights))
    made.linear.weight.data.copy_(torch.eye(2))
    return made


def forward(projection: ViewProjection, states: Tensor, mask: Tensor, task: Task) -> FastLaneOutput:
    """What a model's output holds of `projection`."""
    return FastLaneOutput(
        token_embeddings=projection(states, mask, task),
        token_mask=mask,
        last_hidden_state=states,
    )


def direction(*values: float) -> Tensor:
    return unit(torch.tensor(values, dtype=torch.float32))


def test_a_documents_view_is_its_token_in_the_context_of_window_and_text(
    projection: ViewProjection,
) -> None:
    # y counts three times as much as x; padding, far off, doesn't count.
    states, mask = torch.tensor([[[3.0, 0], [0, 9], [-99, -99]]]), torch.tensor([[1, 1, 0]]).bool()
    next_to = exp(-0.5)
    x, y = torch.tensor([1.0, 0]), torch.tensor([0, 1.0])
    text = direction(1, 3)
    expected = [
        unit(x + direction(1, 3 * next_to) + 2 * text),
        unit(y + direction(next_to, 3) + 2 * text),
    ]

    def views(task: Task) -> Tensor:
        return forward(projection, states, mask, task).token_embeddings[0, :2]

    torch.testing.assert_close(views("document"), torch.stack(expected))
    torch.testing.assert_close(views("query"), torch.eye(2))
    projection.config.window_context_weight = projection.config.document_context_weight = 0.0
    torch.testing.assert_close(views("document"), torch.eye(2))


def test_routed_views_worked_out_by_hand(projection: ViewProjection) -> None:
    # x stands for itself and for x', y for itself: of three tokens, two and one, over 1.5 a route.
    states = torch.tensor([[[3.0, 0], [4.8, 3.6], [0, 5], [-9, -9]]])
    mask = torch.tensor([[True, True, True, False]])
    routes = torch.tensor([[True, False, True, False]])
    output = forward(projection, states, mask, "query")
    views = projection.routed(output, routes)[0]
    torch.testing.assert_close(views[2], torch.tensor([0, 1 / 1.5]))
    mean = torch.tensor([1 + 4 * 0.8, 4 * 0.6])  # twice as long, x' counts four times as much as x
    mean /= mean.norm()
    view = torch.tensor([1.0, 0.0]) + 2 * mean
    torch.testing.assert_close(views[0], view / view.norm() * 2 / 1.5)
    in_its_place = torch.tensor([0.8, 0.6]) + 2 * mean
    torch.testing.assert_close(views[1], in_its_place / in_its_place.norm() * 2 / 1.5)


def test_route_layers_shift_a_view_before_its_direction_is_taken(
    projection: ViewProjection,
) -> None:
    states, mask = torch.tensor([[[1.0, 0], [0, 1.0]]]), torch.ones(1, 2, dtype=torch.bool)
    output = forward(projection, states, mask, "query")
    output.route_shifts = torch.tensor([[[0.0, 0.5], [7.0, 7.0]]])
    views = projection.routed(output, torch.tensor([[True, False]]))[0]
    # e + 2 m + s = (1, 0) + 2 (√½, √½) + (0, ½), and the route stands for both tokens: length 1
    torch.testing.assert_close(views[0], direction(1 + 2**0.5, 2**0.5 + 0.5))


def test_a_shift_counts_by_what_a_route_stands_for(projection: ViewProjection) -> None:
    states = torch.tensor([[[3.0, 0], [2.4, 1.8], [0, 5], [-9, -9]]])
    mask = torch.tensor([[True, True, True, False]])
    routes = torch.tensor([[True, False, True, False]])  # the first stands for one of two others
    output = forward(projection, states, mask, "query")
    output.route_shifts = torch.tensor([[[0.0, 3.0], [7.0, 7.0], [5.0, 5.0], [9.0, 9.0]]])
    views = projection.routed(output, routes)[0]
    torch.testing.assert_close(views[2], torch.tensor([0, 1 / 1.5]))  # its token's own view
    mean = direction(1.8, 0.6)
    view = torch.tensor([1.0, 0.0]) + 2 * mean + torch.tensor([0.0, 1.5])
    torch.testing.assert_close(views[0], view / view.norm() * 2 / 1.5)
    every = projection.routed(output, mask)
    torch.testing.assert_close(every[mask], output.token_embeddings[mask])  # plain MaxSim


def test_the_projection_comes_before_the_context(projection: ViewProjection) -> None:
    weight = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    projection.linear.weight.data.copy_(weight)
    states, mask = torch.tensor([[[3.0, 4.0], [0, 5]]]), torch.ones(1, 2, dtype=torch.bool)
    projection.config.window_context_weight = 0.0
    views = forward(projection, states, mask, "document").token_embeddings[0]
    tokens = torch.stack([direction(6, 4), direction(0, 1)])
    text = unit(tokens.mean(dim=0))
    torch.testing.assert_close(views, unit(tokens + 2 * text))


def test_a_window_goes_by_positions_in_the_text() -> None:
    embeddings = torch.eye(3)[None]
    all_alike = torch.full((1, 3), 1 / 3)
    mixed = mix_context(embeddings, all_alike, 1.0, 0.0, 1.0, torch.tensor([0, 1, 3]))
    near, far, farther = exp(-0.5), exp(-2), exp(-4.5)
    around = torch.tensor([[1, near, farther], [near, 1, far], [farther, far, 1]])
    torch.testing.assert_close(mixed[0], unit(torch.eye(3) + unit(around)))
