"""ViewProjection: values worked out by hand, and every model's views against their definition."""

from __future__ import annotations

from copy import deepcopy
from math import exp, log

import pytest
import torch
from torch import Tensor

from fastlane_st import FastLaneConfig, FastLaneModel
from fastlane_st.modeling.output_fastlane import FastLaneOutput
from fastlane_st.modeling.projection_fastlane import ViewProjection, window_weights
from fastlane_st.modeling.routing_fastlane import (
    Task,
    assign_to_routes,
    salience_weights,
    top_k_mask,
    unit,
)
from tests.conftest import DOCUMENTS, QUERIES


@pytest.fixture
def projection() -> ViewProjection:
    """Two dimensions, no rotation, c_r = c_d = 2 and a window of one token that weighs 1."""
    weights = {"route_context_weight": 2, "document_context_weight": 2, "window_size": 1}
    backbone = {"model_type": "bert", "hidden_size": 2}
    made = ViewProjection(FastLaneConfig(backbone_config=backbone, embedding_dim=2, **weights))
    made.linear.weight.data.copy_(torch.eye(2))
    return made


def forward(
    projection: ViewProjection, states: Tensor, mask: Tensor, salience: Tensor, task: Task
) -> FastLaneOutput:
    """What a model's output holds of `projection`."""
    contextual, projected = projection(states, mask, salience, task)
    return FastLaneOutput(
        token_embeddings=unit(projected),
        salience=salience,
        token_mask=mask,
        contextual_states=contextual,
        projected_states=projected,
        last_hidden_state=states,
    )


def direction(*values: float) -> Tensor:
    return unit(torch.tensor(values, dtype=torch.float32))


def test_a_documents_view_is_its_token_in_the_context_of_window_and_text(
    projection: ViewProjection,
) -> None:
    # y counts three times as much as x; padding, far off, doesn't count.
    states, mask = torch.tensor([[[3.0, 0], [0, 5], [-9, -9]]]), torch.tensor([[1, 1, 0]]).bool()
    salience = torch.tensor([[0.0, log(3), 99]])
    next_to = exp(-0.5)
    x, y = torch.tensor([1.0, 0]), torch.tensor([0, 1.0])
    text = direction(1, 3)
    expected = [
        unit(x + direction(1, 3 * next_to) + 2 * text),
        unit(y + direction(next_to, 3) + 2 * text),
    ]

    def views(task: Task) -> Tensor:
        return forward(projection, states, mask, salience, task).token_embeddings[0, :2]

    torch.testing.assert_close(views("document"), torch.stack(expected))
    torch.testing.assert_close(views("query"), torch.eye(2))
    for weight in (projection.window_context_weight, projection.document_context_weight):
        weight.data.zero_()
    torch.testing.assert_close(views("document"), torch.eye(2))


def test_routed_views_worked_out_by_hand(projection: ViewProjection) -> None:
    # x stands for itself and for x', y for itself: of three tokens, two and one, over 1.5 a route.
    states = torch.tensor([[[3.0, 0], [0.8, 0.6], [0, 5], [-9, -9]]])
    mask = torch.tensor([[True, True, True, False]])
    routes = torch.tensor([[True, False, True, False]])
    salience = torch.tensor([[0.0, log(3), 9, 99]])  # x' counts three times as much as x
    output = forward(projection, states, mask, salience, "query")
    views = projection.routed(output, routes, "query")[0]
    torch.testing.assert_close(views[2], torch.tensor([0, 1 / 1.5]))
    mean = torch.tensor([1 + 3 * 0.8, 3 * 0.6])
    mean /= mean.norm()
    view = torch.tensor([1.0, 0.0]) + 2 * mean
    torch.testing.assert_close(views[0], view / view.norm() * 2 / 1.5)
    in_its_place = torch.tensor([0.8, 0.6]) + 2 * mean
    torch.testing.assert_close(views[1], in_its_place / in_its_place.norm() * 2 / 1.5)

    output = forward(projection, states, mask, salience, "document")
    tokens = output.token_embeddings[0]  # the projection is no rotation here
    views = projection.routed(output, routes, "document")[0]
    torch.testing.assert_close(views[0], unit(tokens[0] + 2 * unit(tokens[0] + 3 * tokens[1])))
    torch.testing.assert_close(views[2], tokens[2])


# A model's views by their definition: W comes last, and all of the context before it.


def slow_context(projection: ViewProjection, output: FastLaneOutput, task: Task) -> Tensor:
    directions = unit(output.last_hidden_state)
    if task == "query":
        return directions
    weights = salience_weights(output.salience, output.token_mask).to(directions.dtype)
    weighted = weights.unsqueeze(-1) * directions
    window = window_weights(directions.shape[1], projection.window_size).to(directions)
    around, text = unit(window @ weighted), unit(weighted.sum(dim=1, keepdim=True))
    c_w, c_d = projection.window_context_weight, projection.document_context_weight
    return unit(directions + c_w * around + c_d * text)


def slow_views(projection: ViewProjection, output: FastLaneOutput, task: Task) -> Tensor:
    return unit(projection.linear(slow_context(projection, output, task)))


def slow_routed(
    projection: ViewProjection, output: FastLaneOutput, routes: Tensor, task: Task
) -> Tensor:
    states = slow_context(projection, output, task)
    shares = assign_to_routes(output.last_hidden_state, output.token_mask, routes)
    weights = salience_weights(output.salience.unsqueeze(1), shares.transpose(1, 2) > 0)
    means = unit(weights.to(states.dtype) @ states)
    mixed = states + projection.route_context_weight * (shares @ means)
    views = unit(projection.linear(mixed))
    if task == "document":
        return views
    sizes = shares @ shares.sum(dim=1).unsqueeze(-1)
    mean_sizes = (output.token_mask.sum(1) / routes.sum(1)).to(sizes.dtype)
    return sizes / mean_sizes[:, None, None] * views


SIDES: list[tuple[Task, list[str]]] = [("query", QUERIES), ("document", DOCUMENTS)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize(("task", "texts"), SIDES)
def test_views_that_are_projected_once_are_those_of_their_definition(
    any_model: FastLaneModel, task: Task, texts: list[str], dtype: torch.dtype, tolerance: float
) -> None:
    model = deepcopy(any_model).to(dtype).eval()
    with torch.inference_mode():
        output = model(**model.tokenize(texts, task), task=task)
        expected = slow_views(model.projection, output, task)
        torch.testing.assert_close(output.token_embeddings, expected, rtol=0, atol=tolerance)
        for num_routes in (1, 2, 4, 0.5):
            routes = top_k_mask(output.router_logits, output.token_mask, num_routes)
            found = model.projection.routed(output, routes, task)
            expected = slow_routed(model.projection, output, routes, task)
            assert found.dtype == dtype
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("num_routes", [1, 2])
@pytest.mark.parametrize(("task", "texts"), SIDES)
def test_gradients_are_those_of_the_definition(
    any_model: FastLaneModel, task: Task, texts: list[str], num_routes: int
) -> None:
    model = deepcopy(any_model).eval()  # without dropout
    output = model(**model.tokenize(texts, task), task=task)
    routes = top_k_mask(output.router_logits, output.token_mask, num_routes)
    torch.manual_seed(0)
    usefulness = torch.randn(2, *output.token_embeddings.shape)

    def gradients(views: Tensor, routed: Tensor) -> dict[str, Tensor]:
        loss = (usefulness * torch.stack([views, routed])).sum() / len(texts)
        named = dict(model.named_parameters())
        found = torch.autograd.grad(
            loss, list(named.values()), retain_graph=True, allow_unused=True
        )
        return {name: each for name, each in zip(named, found, strict=True) if each is not None}

    found = gradients(output.token_embeddings, model.projection.routed(output, routes, task))
    expected = gradients(
        slow_views(model.projection, output, task),
        slow_routed(model.projection, output, routes, task),
    )
    assert found.keys() == expected.keys()
    assert {"projection.linear.weight", "projection.route_context_weight"} <= found.keys()
    for name, each in expected.items():
        scale = max(1.0, float(each.abs().max()))  # up to 100 at the tiny embedding layers
        torch.testing.assert_close(found[name] / scale, each / scale, rtol=0, atol=1e-5, msg=name)
