"""The digest of a graph: equal for equal checkpoints, another if a graph would compute something else."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedConfig

from fastlane_st import FastLaneConfig, FastLaneEncoder, FastLaneModel
from fastlane_st.onnx.graph import graph_digest
from tests.conftest import DOCUMENTS, QUERIES

WRITTEN: dict[str, Any] = {
    "route_context_weight": 1.5,
    "window_context_weight": 0.5,
    "document_context_weight": 0.5,
    "window_size": 3.0,
    "query_length_power": 1.0,
    "document_length_power": 0.5,
    "router_num_heads": 4,
    "special_token_ids": [0, 1],
    "use_special_tokens": True,
    "query_skip_ids": [9],
    "document_skip_ids": [9],
    "query_expansion": {"strategy": "min", "length": 7, "attend": True},
}
BEFORE_OR_AFTER: dict[str, Any] = {  # of tokenising and of routing, which torch does
    "query_num_routes": 2,
    "document_num_routes": 0.5,
    "query_length": 7,
    "document_length": 7,
    "query_prompt": "find ",
    "document_prompt": "text ",
    "base_model": "org/other",
}
OF_SHAPE = {"backbone_config", "embedding_dim", "router_dim", "num_route_layers"}


def test_every_field_of_a_configuration_is_looked_at() -> None:
    inherited = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    fields = {field.name for field in dataclasses.fields(FastLaneConfig)} - inherited
    assert fields == {*WRITTEN, *BEFORE_OR_AFTER, *OF_SHAPE}


def test_equal_checkpoints_have_equal_digests(any_model: FastLaneModel, tmp_path: Path) -> None:
    expected = graph_digest(any_model)
    any_model.save_pretrained(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    FastLaneEncoder(tmp_path / "two").save(tmp_path / "three")
    for name in ("one", "two", "three"):
        assert graph_digest(FastLaneEncoder(tmp_path / name)[0].model) == expected
        loaded = FastLaneModel.from_pretrained(tmp_path / name)
        assert graph_digest(loaded) == expected
        loaded.encode_query(QUERIES)
        assert graph_digest(loaded) == expected
    for name, value in BEFORE_OR_AFTER.items():
        setattr(loaded.config, name, value)
        assert graph_digest(loaded) == expected, name


def test_the_dtype_of_loading_is_no_part_of_a_digest(checkpoint: Path, tmp_path: Path) -> None:
    FastLaneModel.from_pretrained(checkpoint, dtype=torch.bfloat16).save_pretrained(tmp_path)
    digests = {
        graph_digest(FastLaneModel.from_pretrained(tmp_path, dtype=dtype))
        for dtype in (torch.bfloat16, torch.float32)
    }
    assert len(digests) == 1
    assert graph_digest(FastLaneModel.from_pretrained(checkpoint)) not in digests  # other weights


def test_a_field_that_a_graph_depends_on_changes_its_digest(checkpoint: Path) -> None:
    expected = graph_digest(FastLaneModel.from_pretrained(checkpoint))
    found = {expected}
    for name, value in WRITTEN.items():
        model = FastLaneModel.from_pretrained(checkpoint)
        assert getattr(model.config, name) != value
        setattr(model.config, name, value)
        found.add(graph_digest(model))
    model = FastLaneModel.from_pretrained(checkpoint)
    model.router.logit.bias.data += 1
    found.add(graph_digest(model))
    assert len(found) == len(WRITTEN) + 2


@pytest.mark.parametrize(
    ("any_model", "name", "value"),
    [
        ("bert", "num_attention_heads", 4),
        ("bert", "hidden_act", "relu"),
        ("bert", "layer_norm_eps", 0.1),
        ("modernbert", "norm_eps", 0.1),
        ("modernbert", "hidden_activation", "relu"),
        ("modernbert", "rope_parameters", {"rope_type": "default", "rope_theta": 10.0}),
        ("xlm-roberta", "pad_token_id", 3),
    ],
    indirect=["any_model"],
)
def test_a_backbone_of_equal_weights_that_computes_otherwise_has_another_digest(
    any_model: FastLaneModel, name: str, value: Any, tmp_path: Path
) -> None:
    model = copy.deepcopy(any_model)
    torch.manual_seed(0)
    for parameter in model.backbone.parameters():  # of tiny weights each layer hardly matters
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    backbone = config["backbone_config"]
    if name == "rope_parameters":
        value = {kind: {**one, **value} for kind, one in backbone[name].items()}
    assert backbone[name] != value
    backbone[name] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    other = FastLaneModel.from_pretrained(tmp_path)
    found, expected = (
        torch.cat(each.encode_document(DOCUMENTS, num_routes=None)) for each in (other, model)
    )
    assert (found - expected).abs().max() > 1e-3
    assert graph_digest(other) != graph_digest(model)
