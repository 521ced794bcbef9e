"""Whole runs: what they leave, that they can be resumed, and what stops them before they start."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from fastlane_st import FastLaneEncoder
from fastlane_st.hub import apply_delta
from tests.conftest import build_model
from tests.support.training import (
    ROOT,
    Run,
    StopAt,
    StopError,
    assert_close,
    changed,
    read_log,
    runner,
    short_run,
    weights,
    write_pairs,
)
from training.command_line import announce
from training.train import train
from training.training_config import TrainingConfig


def test_training_lowers_the_loss_and_leaves_a_whole_checkpoint(run: Run, tmp_path: Path) -> None:
    encoder = run(max_steps=40, log_every=10, query_num_routes=2)
    log = read_log(tmp_path / "run")
    assert [line["step"] for line in log] == [10, 20, 30, 40]
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]
    assert log[-1]["full"] < log[0]["full"]
    loaded = FastLaneEncoder(tmp_path / "run")
    texts = ["parse a json string", "set"]
    for mine, saved in zip(encoder.encode_query(texts), loaded.encode_query(texts), strict=True):
        torch.testing.assert_close(mine, saved, rtol=0, atol=0)
    assert [len(views) for views in loaded.encode_query(texts)] == [2, 1]
    assert loaded.fastlane_config.document_length == 12
    assert not list((tmp_path / "run").rglob("training_args.bin"))  # a pickle


def test_each_part_has_its_learning_rate(run: Run) -> None:
    seen: list[dict[str, float]] = []

    class Rates(TrainerCallback):
        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            names = {id(each): name for name, each in kwargs["model"].named_parameters()}
            groups = kwargs["optimizer"].param_groups
            pairs = [(names[id(each)], g["lr"]) for g in groups for each in g["params"]]
            assert len(pairs) == len(dict(pairs))  # each in one group
            seen.append(dict(pairs))

    run(max_steps=1, watch=Rates())
    (rates,) = seen
    assert {rate for name, rate in rates.items() if ".backbone." in name} == {1e-3}
    assert {rate for name, rate in rates.items() if ".projection." in name} == {2e-3}
    assert {rate for name, rate in rates.items() if ".router." in name} == {1e-2}
    assert "0.model.projection.linear.weight" in rates


@pytest.fixture(scope="module")
def moving(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a run that has ended in `output_dir`: eight steps, four in each epoch.

    All that draws or moves is on: dropout, noise, number of routes, schedules.
    """
    folder = tmp_path_factory.mktemp("uninterrupted")
    paths = [write_pairs(folder / f"{name}.jsonl", 18, seed) for seed, name in enumerate("ab")]
    settings = {
        **short_run(checkpoint, folder, paths),
        "max_steps": 8,
        "gradient_accumulation": 2,
        "dropout": 0.3,
        "warmup": 0.5,
        "temperature_schedule": "exponential",
        "temperature_end": 0.1,
        "loss_weights": {"teacher": 0.2},
        "teacher": "initial",
    }
    runner(settings)()
    return settings


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [3, 5, 7])  # resumed in the first epoch, between, in the second
def test_a_resumed_run_equals_an_uninterrupted_one(
    moving: dict[str, Any], tmp_path: Path, stopped: int
) -> None:
    run = runner({**moving, "output_dir": str(tmp_path / "run"), "save_every": 2})
    with pytest.raises(StopError):
        run(watch=StopAt(stopped))
    run(resume=True)
    assert not changed(weights(moving["output_dir"]), weights(tmp_path / "run"))
    measured = ("pairs_per_second", "peak_memory_mb")
    logs = [
        [{key: line[key] for key in line if key not in measured} for line in read_log(each)]
        for each in (moving["output_dir"], tmp_path / "run")
    ]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("is_resumed", [False, True])
def test_a_run_says_what_it_does_before_its_first_step(
    is_resumed: bool, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    settings: dict[str, Any] = {
        "sources": [{"path": str(path), "join": 2}],
        "topic_size": 13,
        "save_every": 1,
    }
    with pytest.raises(StopError):
        run(watch=StopAt(2), **settings)
    if is_resumed:
        capsys.readouterr()
        run(resume=True, **settings)
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in printed if line.startswith("a: ")] == [
        "a: 26 rows",
        "a: joining near positives, 2 to a passage",
        "a: encoding 26 queries, for 2 topics",
    ]
    assert any(line.startswith("going on from ") for line in printed) == is_resumed


def test_of_several_processes_the_first_says_what_a_run_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        announce(f"process {rank}")
    assert capsys.readouterr().out == "process 0\n"


def test_gradient_caching_trains_to_the_same_weights(run: Run, tmp_path: Path) -> None:
    run(output_dir=str(tmp_path / "plain"))
    run(mini_batch_size=3)
    assert_close(tmp_path / "run", tmp_path / "plain")


def test_bfloat16_computes_low_and_keeps_float32_weights(run: Run, tmp_path: Path) -> None:
    run(dtype="bfloat16", attention="eager", teacher="initial", loss_weights={"teacher": 1.0})
    assert {value.dtype for value in weights(tmp_path / "run").values()} == {torch.float32}
    assert read_log(tmp_path / "run")[0]["teacher"] == pytest.approx(0, abs=1e-3)


def test_a_backbone_becomes_a_model_and_a_delta(
    run: Run, backbone_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    encoder = run(
        model=None,
        backbone=str(backbone_folder("bert")),
        backbone_options={"embedding_dim": 4, "router_dim": 8, "router_num_heads": 2},
        encoder_learning_rate=0,
        delta=True,
    )
    delta = load_file(tmp_path / "run" / "delta" / "delta.safetensors")
    assert not any(name.startswith("backbone") for name in delta)
    model = apply_delta(tmp_path / "run" / "delta", backbone_folder("bert"))
    assert not changed(encoder[0].model.state_dict(), model.state_dict())
    assert model.config.query_num_routes == 1


def test_runs_that_can_not_start_say_why(
    run: Run, backbone_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="document_length must be at most the model's own, 12"):
        run(document_length=13)
    build_model(backbone_folder("xlm-roberta")).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="has another tokenizer than the model"):
        run(teacher=str(tmp_path / "other"))


def launch(*command: str) -> subprocess.Popen[str]:
    """Starts a module in two processes, as users do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = (sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu")
    settings = ("--num_processes", "2", "--main_process_port", str(port))
    return subprocess.Popen(
        [*launcher, *settings, "-m", *command],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_average_gradients_and_resume(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """Two processes do what one does with two batches a step, with and without caching.

    A run of two that is resumed in its second epoch, of six steps each, is the same, too.
    """
    plain, cached = tmp_path / "plain.yaml", tmp_path / "cached.yaml"
    # Only the full part, which draws nothing: processes draw noise of their own.
    parts = {"routed": 0.0, "distillation": 0.0, "oracle": 0.0}
    shared = {**settings, "loss_weights": parts, "max_steps": 9}
    for path, mini_batch_size in ((plain, None), (cached, 3)):
        own = {"output_dir": str(path.with_suffix("")), "mini_batch_size": mini_batch_size}
        TrainingConfig.from_dict({**shared, **own, "save_every": 7}).save(path)
    process = launch(
        "tests.support.two_processes", str(plain), str(cached), str(tmp_path / "uninterrupted")
    )
    train(TrainingConfig.from_dict({**shared, "gradient_accumulation": 2}))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    expected = [line["loss"] for line in read_log(tmp_path / "run")]
    for result in (tmp_path / "plain", tmp_path / "cached"):
        assert_close(result, tmp_path / "run")
        assert [line["loss"] for line in read_log(result)] == pytest.approx(expected, rel=1e-3)
    assert not changed(weights(tmp_path / "uninterrupted"), weights(tmp_path / "cached"))


def test_a_source_that_is_not_there_stops_a_run_before_a_model_is_built(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def built(config: TrainingConfig) -> None:
        raise AssertionError

    monkeypatch.setattr("training.train.build_encoder", built)
    missing = tmp_path / "pairs.jsonl"
    config = short_run(checkpoint, tmp_path, [missing])
    with pytest.raises(
        FileNotFoundError, match=r"there is no file .*pairs\.jsonl: name your own pairs"
    ):
        train(TrainingConfig.from_dict(config))
    assert not (tmp_path / "run").exists()
