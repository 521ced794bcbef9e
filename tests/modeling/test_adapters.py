"""Adapters load in all three ways in, switch with their head, know their base, and merge."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from sentence_transformers import MultiVectorEncoder
from transformers import AutoModel
from transformers.dynamic_module_utils import get_imports

from fastlane_st import FastLaneEncoder, FastLaneIndex, FastLaneModel
from fastlane_st.adapters import LoraSettings, linear_layers, lora_config
from fastlane_st.modeling import checkpoint_fastlane
from fastlane_st.modeling.adapters_fastlane import loaded_adapters
from fastlane_st.modeling.checkpoint_fastlane import HUB_FILES
from tests.conftest import build_model
from tests.support.checkpoints import (
    assert_same,
    embeddings_of,
    run_without_package,
)

Embeddings = dict[str, np.ndarray]
NAMES = ("one", "two")
WAYS: dict[str, Callable[[str], Any]] = {
    "AutoModel": lambda path: AutoModel.from_pretrained(path, trust_remote_code=True),
    "MultiVectorEncoder": lambda path: MultiVectorEncoder(path, trust_remote_code=True),
    "FastLaneEncoder": FastLaneEncoder,
}


def save_adapter(base: Path, folder: Path, seed: int) -> Embeddings:
    """An adapter of random weights, and what its model encodes."""
    model = FastLaneModel.from_pretrained(base)
    model.add_adapter(lora_config(model, LoraSettings(rank=2)))
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.numel() > 1:
            torch.nn.init.normal_(parameter, std=0.5)
        elif parameter.requires_grad:
            parameter.data += 1  # a context weight near -1 would cancel the views out
    model.save_pretrained(folder)
    return embeddings_of(model)


def is_equal(one: Embeddings, other: Embeddings) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def folders(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters of `checkpoint`, by name."""
    folder = tmp_path_factory.mktemp("adapters")
    return {name: folder / name for name in NAMES}


@pytest.fixture(scope="module")
def expected(checkpoint: Path, folders: dict[str, Path]) -> dict[str, Embeddings]:
    """What the base and each adapter encode; writes the adapters."""
    found = {"base": embeddings_of(FastLaneModel.from_pretrained(checkpoint))}
    for seed, (name, folder) in enumerate(folders.items()):
        found[name] = save_adapter(checkpoint, folder, seed)
    assert not np.allclose(found["one"]["query 0, 1 routes"], found["two"]["query 0, 1 routes"])
    assert not np.allclose(found["one"]["query 0, 1 routes"], found["base"]["query 0, 1 routes"])
    return found


@pytest.mark.parametrize("way", WAYS)
def test_adapters_switch_back_and_forth_exactly(
    way: str, checkpoint: Path, folders: dict[str, Path], expected: dict[str, Embeddings]
) -> None:
    model = WAYS[way](str(checkpoint))
    seen = {"base": embeddings_of(model)}
    for name in NAMES:
        model.load_adapter(str(folders[name]), name)
        seen[name] = embeddings_of(model)
    for name, embeddings in seen.items():
        assert_same(embeddings, expected[name])
    for name in ("one", "two", "one"):
        model.set_adapter(name)
        assert model.active_adapters() == [name]
        assert is_equal(embeddings_of(model), seen[name])
        model.disable_adapters()
        assert is_equal(embeddings_of(model), seen["base"])
        model.enable_adapters()
        assert is_equal(embeddings_of(model), seen[name])
    model.delete_adapter("one")
    model.set_adapter("two")
    assert is_equal(embeddings_of(model), seen["two"])


@pytest.mark.parametrize("way", WAYS)
def test_an_index_belongs_to_the_adapter_that_it_was_built_with(
    way: str, checkpoint: Path, folders: dict[str, Path], expected: dict[str, Embeddings]
) -> None:
    model = WAYS[way](str(checkpoint))
    of_base = FastLaneIndex.build(model, ["read a file"])
    model.load_adapter(str(folders["one"]), "one")
    of_one = FastLaneIndex.build(model, ["read a file"])
    of_one.encoder = model
    with pytest.raises(ValueError, match="the index was built with another checkpoint"):
        of_base.encoder = model
    model.disable_adapters()
    of_base.encoder = model
    with pytest.raises(ValueError, match="the index was built with another checkpoint"):
        of_one.encoder = model


@pytest.mark.parametrize("way", WAYS)
def test_a_merged_adapter_is_a_checkpoint_for_every_way_in(
    way: str,
    checkpoint: Path,
    folders: dict[str, Path],
    expected: dict[str, Embeddings],
    tmp_path: Path,
) -> None:
    model = WAYS[way](str(checkpoint))
    for name in NAMES:
        model.load_adapter(str(folders[name]), name)
    model.disable_adapters()
    merging = model.transformers_model if way == "MultiVectorEncoder" else model
    merging.merge_and_unload("one")
    assert_same(embeddings_of(model), expected["one"])
    model.save_pretrained(str(tmp_path / "merged"))
    names = set(load_file(tmp_path / "merged" / "model.safetensors"))
    assert names == set(load_file(checkpoint / "model.safetensors"))
    for load in WAYS.values():
        assert_same(embeddings_of(load(str(tmp_path / "merged"))), expected["one"])


@pytest.mark.slow
def test_adapters_work_without_the_package(
    checkpoint: Path, folders: dict[str, Path], expected: dict[str, Embeddings], tmp_path: Path
) -> None:
    one, two = (str(folders[name]) for name in NAMES)
    code = f"""
    for name, way in (("auto", AutoModel.from_pretrained), ("st", MultiVectorEncoder)):
        model = way({str(checkpoint)!r}, trust_remote_code=True)
        model.load_adapter({one!r}, "one")
        model.load_adapter({two!r}, "two")
        save_embeddings(model, f"{{name}}-two.npz")
        model.set_adapter("one")
        save_embeddings(model, f"{{name}}-one.npz")
        model.disable_adapters()
        save_embeddings(model, f"{{name}}-base.npz")
        try:
            model.load_adapter({one!r}, "query")
        except ValueError:
            pass
        else:
            raise AssertionError("a name of the model's own was taken")
        merging = model if name == "auto" else model.transformers_model
        merging.merge_and_unload("two")
        model.save_pretrained(f"{{name}}-merged")
    adapted = AutoModel.from_pretrained({one!r}, trust_remote_code=True)
    save_embeddings(adapted, "from-adapter.npz")
    """
    runs = run_without_package({"adapters": code}, tmp_path)
    runs.finished("adapters")
    for way in ("auto", "st"):
        for name in ("base", "one", "two"):
            assert_same(runs.embeddings("adapters", f"{way}-{name}.npz"), expected[name])
        merged = FastLaneEncoder(tmp_path / "adapters" / f"{way}-merged")
        assert_same(embeddings_of(merged), expected["two"])
    assert_same(runs.embeddings("adapters", "from-adapter.npz"), expected["one"])


@pytest.mark.parametrize("way", ["AutoModel", "FastLaneEncoder"])
def test_an_adapters_folder_loads_with_its_base(
    way: str, folders: dict[str, Path], expected: dict[str, Embeddings]
) -> None:
    assert_same(embeddings_of(WAYS[way](str(folders["one"]))), expected["one"])


def test_an_adapter_is_saved_alone(
    checkpoint: Path, folders: dict[str, Path], expected: dict[str, Embeddings], tmp_path: Path
) -> None:
    encoder = FastLaneEncoder(folders["one"])
    encoder.save_pretrained(str(tmp_path / "again"))
    for folder in (folders["one"], tmp_path / "again"):
        names = {path.name for path in folder.iterdir()}
        assert names == {"adapter_config.json", "adapter_model.safetensors"}
    encoder = FastLaneEncoder(checkpoint)
    encoder.load_adapter(str(tmp_path / "again"))
    assert_same(embeddings_of(encoder), expected["one"])
    names = load_file(tmp_path / "again" / "adapter_model.safetensors").keys()
    assert "base_model.model.projection.linear.weight" in names
    assert "base_model.model.router.logit.bias" in names
    assert not [name for name in names if "embeddings" in name]


def test_every_family_adapts_all_linear_layers_of_its_backbone(
    any_model: FastLaneModel, tmp_path: Path
) -> None:
    any_model.save_pretrained(tmp_path / "base")
    expected = save_adapter(tmp_path / "base", tmp_path / "adapter", 3)
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors").keys()
    adapted = {name.rpartition(".lora_A")[0] for name in names if ".lora_A" in name}
    layers = linear_layers(any_model)
    assert adapted == {f"base_model.model.backbone.{name}" for name in layers}
    assert len(layers) >= 4
    encoder = FastLaneEncoder(tmp_path / "adapter")
    assert_same(embeddings_of(encoder), expected)
    assert_same(embeddings_of(encoder.merge_and_unload()), expected)


def test_everything_asked_of_the_head_reaches_the_active_adapter(checkpoint: Path) -> None:
    model = FastLaneModel.from_pretrained(checkpoint)
    before = embeddings_of(model)
    weight = model.projection.linear.weight.clone()
    model.add_adapter(lora_config(model))
    model.projection.linear.weight.data.copy_(-weight)
    model.router.logit.weight.data.neg_()
    after = embeddings_of(model)
    changed = {name for name in before if not np.allclose(before[name], after[name], atol=1e-4)}
    assert changed == before.keys()
    assert model.router.logit.weight.requires_grad
    model.disable_adapters()
    assert torch.equal(model.projection.linear.weight, weight)
    assert not model.router.logit.weight.requires_grad
    assert is_equal(embeddings_of(model), before)


def test_an_adapter_without_a_head_takes_the_bases(
    checkpoint: Path, folders: dict[str, Path], expected: dict[str, Embeddings]
) -> None:
    model = FastLaneModel.from_pretrained(checkpoint)
    model.load_adapter(str(folders["one"]), "one")
    model.add_adapter(LoraConfig(r=2, target_modules=["dense"]), "plain")  # which starts at none
    assert is_equal(embeddings_of(model), expected["base"])
    model.set_adapter("one")
    assert_same(embeddings_of(model), expected["one"])
    model.merge_and_unload("plain")
    assert is_equal(embeddings_of(model), expected["base"])


def test_without_its_last_adapter_a_model_is_the_base_again(
    checkpoint: Path, folders: dict[str, Path], expected: dict[str, Embeddings], tmp_path: Path
) -> None:
    encoder = FastLaneEncoder(folders["one"])
    encoder.delete_adapter("default")
    assert is_equal(embeddings_of(encoder), embeddings_of(FastLaneEncoder(checkpoint)))
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    encoder.save_pretrained(str(tmp_path / "base"))
    saved = load_file(tmp_path / "base" / "model.safetensors")
    for name, value in load_file(checkpoint / "model.safetensors").items():
        assert torch.equal(saved[name], value), name
    encoder.load_adapter(str(folders["two"]), "two")
    assert_same(embeddings_of(encoder), expected["two"])


# Bases


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_adapter_for_another_base_is_refused_by_name(
    dtype: torch.dtype,
    checkpoint: Path,
    folders: dict[str, Path],
    expected: dict[str, Embeddings],
    tmp_path: Path,
) -> None:
    other = FastLaneModel.from_pretrained(checkpoint)
    other.router.logit.bias.data += 0.125
    other.save_pretrained(tmp_path / "other")
    model = FastLaneModel.from_pretrained(checkpoint, dtype=dtype)
    model.load_adapter(str(folders["one"]), "one")
    assert model.dtype == dtype
    other = FastLaneModel.from_pretrained(tmp_path / "other", dtype=dtype)
    message = rf"one was made for the base {checkpoint} \(\w+ in {dtype}\), this is .*other \(\w+\)"
    with pytest.raises(ValueError, match=message):
        other.load_adapter(str(folders["one"]), "one")
    assert not loaded_adapters(other)
    # Neither do adapters that are there already change what the base is.
    model.load_adapter(str(folders["two"]), "two")


def test_another_backbone_is_another_base(
    backbone_folder: Callable[[str], Path], folders: dict[str, Path], expected: object
) -> None:
    with pytest.raises(ValueError, match=r"this is a new model"):
        build_model(backbone_folder("xlm-roberta")).load_adapter(str(folders["one"]))


def test_an_adapter_that_names_no_weights_is_loaded_with_a_warning(
    checkpoint: Path,
    folders: dict[str, Path],
    expected: dict[str, Embeddings],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    change_config(folders["one"], tmp_path / "plain", auto_mapping=None)
    model = FastLaneModel.from_pretrained(checkpoint)
    model.load_adapter(str(tmp_path / "plain"))
    assert "plain doesn't tell its base, which isn't checked" in caplog.text
    assert_same(embeddings_of(model), expected["one"])


def change_config(adapter: Path, copy: Path, **values: object) -> None:
    """Copies an adapter and replaces values of its configuration."""
    copy.mkdir()
    weights = (adapter / "adapter_model.safetensors").read_bytes()
    (copy / "adapter_model.safetensors").write_bytes(weights)
    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    (copy / "adapter_config.json").write_text(json.dumps({**config, **values}), "utf-8")


# Stops


def test_a_broken_adapter_is_named_and_leaves_the_model_as_it_was(
    checkpoint: Path, folders: dict[str, Path], expected: dict[str, Embeddings], tmp_path: Path
) -> None:
    change_config(folders["one"], tmp_path / "cut")
    weights = load_file(folders["one"] / "adapter_model.safetensors")
    del weights["base_model.model.router.norm.weight"]
    save_file(weights, tmp_path / "cut" / "adapter_model.safetensors", {"format": "pt"})
    model = FastLaneModel.from_pretrained(checkpoint)
    with pytest.raises(ValueError, match=r"cut is broken.*router\.modules_to_save\.one\.norm"):
        model.load_adapter(str(tmp_path / "cut"), "one")
    assert not loaded_adapters(model)
    assert is_equal(embeddings_of(model), expected["base"])


@pytest.mark.parametrize("name", ["query", "router", "a.b"])
def test_names_that_peft_would_confuse_are_refused(
    name: str, checkpoint: Path, folders: dict[str, Path], expected: object
) -> None:
    model = FastLaneModel.from_pretrained(checkpoint)
    message = f"must not be one of the model's own names, nor hold a dot, got {name!r}"
    with pytest.raises(ValueError, match=message):
        model.load_adapter(str(folders["one"]), name)
    with pytest.raises(ValueError, match=message):
        model.add_adapter(lora_config(model), name)


def test_adapters_that_are_not_there_are_named(
    checkpoint: Path, folders: dict[str, Path], expected: object, tmp_path: Path
) -> None:
    model = FastLaneModel.from_pretrained(checkpoint)
    with pytest.raises(ValueError, match=r"must be one of \[\], got 'one'"):
        model.set_adapter("one")
    model.load_adapter(str(folders["one"]), "one")
    with pytest.raises(ValueError, match=r"adapter_name must be one of \['one'\], got 'two'"):
        model.set_adapter("two")
    with pytest.raises(ValueError, match="one already exists"):
        model.load_adapter(str(folders["two"]), "one")
    change_config(folders["one"], tmp_path / "lost", base_model_name_or_path=None)
    with pytest.raises(
        ValueError, match="lost doesn't name its base; load that, then load_adapter"
    ):
        FastLaneEncoder(tmp_path / "lost")


def test_target_modules_that_do_not_exist_are_named_with_those_that_do(checkpoint: Path) -> None:
    model = FastLaneModel.from_pretrained(checkpoint)
    message = "got 'q_proj'; its layers end in dense, key, query, value"
    with pytest.raises(ValueError, match=message):
        lora_config(model, LoraSettings(target_modules=("query", "q_proj")))
    with pytest.raises(ValueError, match="got 'linear'"):  # of the projection
        lora_config(model, LoraSettings(target_modules=("linear",)))
    chosen = lora_config(model, LoraSettings(target_modules=("query", "output.dense")))
    model.add_adapter(chosen)
    names = {name.rpartition(".lora_A")[0] for name, _ in model.named_parameters()} - {""}
    ends = ("self.query", "attention.output.dense", "0.output.dense")
    assert len(names) == 3
    assert all(name.endswith(ends) for name in names)


def test_an_adapter_that_finds_no_module_leaves_the_model_usable(
    checkpoint: Path, tmp_path: Path
) -> None:
    model = FastLaneModel.from_pretrained(checkpoint)
    with pytest.raises(ValueError, match="not found in the base model"):
        model.add_adapter(LoraConfig(target_modules=["nowhere"]))
    model.save_pretrained(tmp_path / "whole")
    assert (tmp_path / "whole" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"alpha": 0}, "alpha must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1\.0"),
        ({"target_modules": ()}, "target_modules must name a layer, or be None"),
    ],
)
def test_impossible_adapters_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoraSettings(**values)


def test_a_checkpoint_loads_without_peft() -> None:
    # transformers demands of whoever loads it what its files import outside of a try block.
    folder = Path(checkpoint_fastlane.__file__).parent
    assert not [name for name in HUB_FILES if "peft" in get_imports(folder / name)]
    assert "adapters_fastlane.py" in HUB_FILES


def test_without_peft_the_error_says_what_to_install(
    checkpoint: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = FastLaneModel.from_pretrained(checkpoint)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match="adapters need peft: pip install peft"):
        model.load_adapter(str(folders["one"]))
    with pytest.raises(ImportError, match=r"pip install \"fastlane-st\[train\]\""):
        lora_config(model)
