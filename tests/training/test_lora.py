"""Training an adapter: what it trains and at which rate, what it leaves, and when it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from fastlane_st import FastLaneEncoder, hub
from fastlane_st.modeling.adapters_fastlane import loaded_adapters
from fastlane_st.modeling.fingerprint_fastlane import base_state
from tests.support.checkpoints import assert_same, embeddings_of
from tests.support.training import (
    ROOT,
    Run,
    StopAt,
    StopError,
    read_log,
    runner,
    short_run,
    write_pairs,
)
from training import train
from training.trainable import plain_name
from training.training_config import TrainingConfig


@pytest.fixture
def lora_settings(checkpoint: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        **short_run(checkpoint, tmp_path, [write_pairs(tmp_path / "domain.jsonl", 26, 0)]),
        "lora": {"rank": 2},
        "query_num_routes": None,  # as the checkpoint has it
    }


@pytest.fixture
def run(lora_settings: dict[str, Any]) -> Run:
    """Trains with `lora_settings`, some of them replaced."""
    return runner(lora_settings)


def adapter_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_a_run_lowers_the_loss_and_leaves_an_adapter_and_its_base_as_it_was(
    run: Run, checkpoint: Path, tmp_path: Path
) -> None:
    encoder = run(max_steps=24, log_every=6, encoder_learning_rate=1e-2)
    log = read_log(tmp_path / "run")
    assert log[-1]["loss"] < 0.9 * log[0]["loss"]
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        *("adapter_config.json", "adapter_model.safetensors"),
        *("training_config.yaml", "log.jsonl", "checkpoints"),
    }
    saved = load_file(checkpoint / "model.safetensors")
    for name, value in base_state(encoder[0].model).items():
        assert torch.equal(value, saved[name]), name
    described = json.loads((tmp_path / "run" / "adapter_config.json").read_text("utf-8"))
    assert described["base_model_name_or_path"] == str(checkpoint)
    assert described["modules_to_save"] == ["projection", "router"]

    trained = embeddings_of(encoder)
    loaded = FastLaneEncoder(checkpoint)
    before = embeddings_of(loaded)
    loaded.load_adapter(str(tmp_path / "run"))
    assert_same(embeddings_of(loaded), trained)
    assert abs(trained["query 0, 1 routes"] - before["query 0, 1 routes"]).max() > 0.01
    loaded.disable_adapters()
    assert_same(embeddings_of(loaded), before)


class Rates(TrainerCallback):
    """Keeps the learning rate of each parameter, and checks which of them have a gradient."""

    def __init__(self) -> None:
        self.rates: dict[str, float] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for name, parameter in kwargs["model"][0].model.named_parameters():
            assert parameter.requires_grad == (parameter.grad is not None), name

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        names = {id(each): name for name, each in kwargs["model"][0].model.named_parameters()}
        groups = kwargs["optimizer"].param_groups
        pairs = [
            (names[id(each)], group["lr"])
            for group in groups
            for each in group["params"]
            if each.requires_grad
        ]
        assert len(pairs) == len(dict(pairs))  # each in one group
        self.rates = dict(pairs)


def test_each_part_of_an_adapter_has_its_learning_rate(run: Run, tmp_path: Path) -> None:
    seen = Rates()
    encoder = run(max_steps=1, watch=seen)
    expected = {
        name: 1e-3 if ".lora_" in name else 2e-3 if name.startswith("projection") else 1e-2
        for name, _ in encoder[0].model.named_parameters()
        if ".lora_" in name or ".modules_to_save.default." in name
    }
    assert seen.rates == expected
    assert "projection.modules_to_save.default.linear.weight" in expected
    assert sum(".lora_" in name for name in expected) == 2 * 6  # A and B of a BERT layer's six
    (line,) = read_log(tmp_path / "run")
    rates = [line[f"{part}_learning_rate"] for part in ("encoder", "projection", "router")]
    assert rates == [1e-3, 2e-3, 1e-2]


@pytest.mark.parametrize("part", ["routed", "full", "oracle", "distillation"])
def test_what_a_loss_does_not_reach_of_an_adapter_is_frozen(run: Run, part: str) -> None:
    names = ("routed", "full", "distillation", "oracle")
    parts = {name: float(name == part) for name in names}
    run(loss_weights=parts, max_steps=1, watch=Rates())  # which looks at the gradients


def test_what_a_run_keeps_is_named_as_without_an_adapter(
    run: Run, checkpoint: Path, tmp_path: Path
) -> None:
    run(
        frozen=[r"attention\.self", r"projection\.linear\.weight$", r"^router\.attention"],
        encoder_learning_rate=0.1,
    )
    saved = load_file(checkpoint / "model.safetensors")
    found = {
        name.removeprefix("base_model.model."): value
        for name, value in adapter_weights(tmp_path / "run").items()
    }
    for name, value in found.items():
        is_frozen = "attention.self" in name or name.startswith(("router.attention", "projection"))
        if ".lora_B" in name:
            assert (value == 0).all() == is_frozen, name
        elif name in saved:
            assert torch.equal(value, saved[name]) == is_frozen, name


def test_names_of_an_adapters_weights_say_where_they_belong() -> None:
    names = {
        "projection.modules_to_save.default.linear.weight": "projection.linear.weight",
        "projection.original_module.linear.weight": "projection.linear.weight",
        "backbone.layers.0.mlp.Wi.base_layer.weight": "backbone.layers.0.mlp.Wi.weight",
        "backbone.layers.0.mlp.Wi.lora_A.default.weight": "backbone.layers.0.mlp.Wi.lora_A.weight",
        "router.norm.weight": "router.norm.weight",
    }
    assert {name: plain_name(name) for name in names} == names


@pytest.fixture(scope="module")
def moving(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a run that has ended in `output_dir`: eight steps, four in each epoch."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    settings = {
        **short_run(checkpoint, folder, [write_pairs(folder / "domain.jsonl", 18, 0)]),
        "query_num_routes": None,
        "max_steps": 8,
        "lora": {"rank": 2, "dropout": 0.3},
        "loss_weights": {"teacher": 0.2},
        "teacher": "initial",
        "frozen": [r"lora_A"],
    }
    runner(settings)()
    return settings


@pytest.mark.parametrize("stopped", [3, 7])  # resumed in the first epoch, in the second
def test_a_resumed_adapter_equals_an_uninterrupted_one(
    moving: dict[str, Any], tmp_path: Path, stopped: int
) -> None:
    run = runner({**moving, "output_dir": str(tmp_path / "run"), "save_every": 2})
    with pytest.raises(StopError):
        run(watch=StopAt(stopped))
    run(resume=True)
    expected = adapter_weights(Path(moving["output_dir"]))
    found = adapter_weights(tmp_path / "run")
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_half_precision_and_gradient_caching_train_adapters_as_well(
    run: Run, tmp_path: Path
) -> None:
    run(output_dir=str(tmp_path / "plain"))
    run(mini_batch_size=3, output_dir=str(tmp_path / "cached"))
    run(dtype="bfloat16", attention="eager", output_dir=str(tmp_path / "half"))
    plain, cached, half = (adapter_weights(tmp_path / name) for name in ("plain", "cached", "half"))
    assert {value.dtype for value in half.values()} == {torch.float32}
    for name, value in plain.items():
        # Softmax ignores what is added to all keys or logits, and the states of a tiny BERT are all
        # as long: there Adam follows rounding errors.
        ignored = ".router." in name and name.endswith(("bias", "norm_weight"))
        if not ignored and "self.key" not in name:
            torch.testing.assert_close(cached[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_a_teacher_of_the_initial_weights_stays_without_the_adapter(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    teachers: list[FastLaneEncoder] = []
    build_teacher = train.build_teacher
    monkeypatch.setattr(
        train, "build_teacher", lambda *args: teachers.append(build_teacher(*args)) or teachers[0]
    )
    encoder = run(teacher="initial", loss_weights={"teacher": 1.0}, max_steps=2)
    assert loaded_adapters(encoder[0].model)
    assert not loaded_adapters(teachers[0][0].model)


# Stops


def test_ten_pairs_are_too_few_for_a_batch(run: Run, tmp_path: Path) -> None:
    ten = write_pairs(tmp_path / "ten.jsonl", 10, 0)
    message = r"source ten has 10 rows, fewer than one batch of 32; lower batch_size"
    with pytest.raises(ValueError, match=message):
        run(sources=[{"path": str(ten)}], batch_size=32)
    assert not (tmp_path / "run").exists()


def test_target_modules_that_do_not_exist_stop_a_run_before_it_starts(
    run: Run, tmp_path: Path
) -> None:
    message = "got 'q_proj'; its layers end in dense, key, query, value"
    with pytest.raises(ValueError, match=message):
        run(lora={"target_modules": ["q_proj"]})
    assert not (tmp_path / "run").exists()


def test_runs_that_an_adapter_can_not_have_say_why(
    run: Run, backbone_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="lora trains an adapter of a checkpoint, so name it"):
        run(model=None, backbone=str(backbone_folder("bert")))
    with pytest.raises(ValueError, match="delta is what a model adds to its backbone"):
        run(delta=True)
    with pytest.raises(ValueError, match="goes by its base's query_num_routes, None, got 1"):
        run(query_num_routes=1)
    with pytest.raises(ValueError, match=r"unknown key lora\.r; the nearest is lora\.rank"):
        run(lora={"r": 8})
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        run(lora={"rank": 0})
    run(max_steps=1)
    adapter = str(tmp_path / "run")
    for lora in ({"rank": 2}, None):
        with pytest.raises(ValueError, match=r"run is an adapter; merge it into its base first"):
            run(model=adapter, lora=lora, output_dir=str(tmp_path / "next"))
    with pytest.raises(ValueError, match=r"keeps its settings, but lora was \{'rank': 2"):
        run(max_steps=1, lora={"rank": 4}, resume=True)


# Configuration


def test_an_adapters_configuration_survives_its_file(
    lora_settings: dict[str, Any], tmp_path: Path
) -> None:
    lora = {"rank": 4, "target_modules": ["query", "value"]}
    made = TrainingConfig.from_dict({**lora_settings, "lora": lora})
    made.save(tmp_path / "made.yaml")
    assert TrainingConfig.load(tmp_path / "made.yaml") == made
    assert made.lora is not None
    assert made.lora.target_modules == ("query", "value")


def test_the_domain_configuration_is_valid() -> None:
    made = TrainingConfig.load(ROOT / "training/medquad-lora.yaml")
    assert made.model == hub.DEFAULT_CHECKPOINT
    assert made.lora is not None
    assert made.lora.rank == 8
    assert [source.cap for source in made.sources] == [4000]
