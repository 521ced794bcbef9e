"""Encoders of every make are an index's: what can be digested is compared, what can't be is let in."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fastlane_st import FastLaneEncoder, FastLaneIndex, FastLaneModel
from fastlane_st.index.identity import encoder_digests
from tests.conftest import DOCUMENTS


def compiled(encoder: FastLaneEncoder) -> FastLaneEncoder:
    encoder[0].model.backbone = torch.compile(encoder[0].model.backbone, backend="eager")
    return encoder


SAME: dict[str, Callable[[FastLaneEncoder], Any]] = {
    "double": lambda encoder: encoder.double(),
    "bfloat16": lambda encoder: encoder.bfloat16(),
    "float16": lambda encoder: encoder.half(),
    "compiled": compiled,
    "copied": copy.deepcopy,
    "the model in it": lambda encoder: encoder[0].model,
}


@pytest.fixture(scope="module")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    saved = tmp_path_factory.mktemp("index")
    FastLaneIndex.build(FastLaneEncoder(checkpoint), DOCUMENTS).save(saved)
    return saved


@pytest.mark.parametrize("kind", SAME)
def test_an_encoder_in_another_form_is_the_same(kind: str, checkpoint: Path, folder: Path) -> None:
    encoder = SAME[kind](FastLaneEncoder(checkpoint))
    index = FastLaneIndex.load(folder, encoder)
    assert index.encoder is encoder
    assert FastLaneIndex.build(encoder, DOCUMENTS).checkpoint


def test_a_quantised_encoder_builds_loads_and_searches(
    checkpoint: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = torch.ao.quantization.quantize_dynamic(
        FastLaneEncoder(checkpoint), {nn.Linear}, dtype=torch.qint8
    )
    with caplog.at_level(logging.WARNING):
        index = FastLaneIndex.build(encoder, DOCUMENTS)
    assert "quantised or offloaded weights have no digest" in caplog.text
    assert index.checkpoint == []
    assert index.search("set", top_k=1)[0].id == 5
    assert FastLaneIndex.load(folder, encoder).search("set", top_k=1)[0].id == 5


def test_offloaded_weights_are_let_in(model: FastLaneModel, folder: Path) -> None:
    offloaded = copy.deepcopy(model)
    offloaded.projection.to("meta")
    assert encoder_digests(offloaded) == []


def test_a_model_inside_of_peft_is_its_base_and_adapter(checkpoint: Path, folder: Path) -> None:
    peft = pytest.importorskip("peft")
    base = FastLaneModel.from_pretrained(checkpoint)
    config = peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False)
    adapted = peft.get_peft_model(base, config)
    index = FastLaneIndex.build(adapted, DOCUMENTS)
    [digest, *_] = index.checkpoint
    assert digest.count("+") == 1
    with pytest.raises(ValueError, match="built with another checkpoint"):
        FastLaneIndex.load(folder, adapted)
    with adapted.disable_adapter():
        assert set(encoder_digests(adapted)) == set(FastLaneIndex.load(folder).checkpoint)


def test_another_checkpoint_is_still_refused(checkpoint: Path, folder: Path) -> None:
    other = FastLaneEncoder(checkpoint)
    with torch.no_grad():
        other[0].model.projection.linear.weight += 0.1
    with pytest.raises(ValueError, match="built with another checkpoint"):
        FastLaneIndex.load(folder, other)


def test_adapters_that_are_switched_under_an_index_are_noticed(checkpoint: Path) -> None:
    peft = pytest.importorskip("peft")
    encoder = FastLaneEncoder(checkpoint)
    index = FastLaneIndex.build(encoder, DOCUMENTS)
    before = index.search("set")
    config = peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False)
    encoder.add_adapter(config, "domain")
    for use in (lambda: index.search("set"), lambda: index.add(["a list"])):
        with pytest.raises(ValueError, match="built with another checkpoint than this encoder's"):
            use()
    encoder.disable_adapters()
    assert index.search("set") == before
    encoder.enable_adapters()
    encoder.merge_and_unload("domain")
    with pytest.raises(ValueError, match="built with another checkpoint"):
        index.search("set")
    assert len(index) == len(DOCUMENTS)
