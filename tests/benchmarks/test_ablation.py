"""benchmarks.quality.ablation: known states change nothing, and a mechanism comes back after its turn."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.common.known_states import KnownStates, StateFiles
from benchmarks.quality.ablation import CONTROL, MECHANISMS, changed
from fastlane_st import FastLaneModel
from tests.conftest import DOCUMENTS, QUERIES


def views(model: FastLaneModel) -> list[np.ndarray]:
    """Everything that a mechanism may change: logits, and the views of both sides."""
    scored = model.encode_query(QUERIES, output_value=None)
    found = [one["router_logits"][one["token_mask"]].detach().numpy() for one in scored]
    for num_routes in (1, 2, 3, None):
        found += model.encode_query(QUERIES, num_routes=num_routes, convert_to_numpy=True)
    return [*found, *model.encode_document(DOCUMENTS, num_routes=None, convert_to_numpy=True)]


def are_alike(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.allclose(a, b, rtol=1e-2, atol=4e-3) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", MECHANISMS)
def test_a_mechanism_is_switched_off_and_comes_back(name: str, model: FastLaneModel) -> None:
    model = deepcopy(model).eval()
    torch.manual_seed(4)
    # The norm of the last layer as well, so that states differ in length.
    for part in (model.router, model.projection, model.backbone.encoder.layer[-1].output.LayerNorm):
        for parameter in part.parameters():
            parameter.data.add_(0.5 * torch.randn_like(parameter))
    before = views(model)
    with changed(model, MECHANISMS[name]):
        assert are_alike(views(model), before) == (name == CONTROL)
    for one, other in zip(views(model), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_known_states_are_computed_once(model: FastLaneModel) -> None:
    check_known(model, {})


def test_known_states_are_kept_in_files(model: FastLaneModel, tmp_path: Path) -> None:
    states = StateFiles(tmp_path, at_once=3)
    check_known(model, states)
    states.flush()
    check_known(model, StateFiles(tmp_path))


def check_known(model: FastLaneModel, states: Any) -> None:
    """The same views with a backbone's states, with no backbone, and with another checkpoint's head."""
    model = deepcopy(model).eval()
    expected = views(model)
    backbone = model.backbone
    if not states:
        model.backbone = KnownStates(backbone, states)
        assert are_alike(views(model), expected)
    backbone.forward = None
    model.backbone = KnownStates(backbone, states)
    assert are_alike(views(model), expected)
