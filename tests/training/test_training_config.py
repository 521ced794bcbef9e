"""The configuration: from and to its file, and the values that it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastlane_st import hub
from tests.support.training import ROOT, Run
from training.training_config import TrainingConfig

MINIMAL = {"output_dir": "out", "sources": [{"path": "p.jsonl"}], "model": "m", "max_steps": 9}


def test_a_configuration_survives_its_file(settings: dict[str, Any], tmp_path: Path) -> None:
    made = TrainingConfig.from_dict(
        {**settings, "loss_weights": {"oracle": 0.5}, "num_routes": [1, 2], "seed": 3}
    )
    made.save(tmp_path / "made.yaml")
    assert TrainingConfig.load(tmp_path / "made.yaml") == made


def test_a_run_keeps_a_copy_of_its_configuration(
    run: Run, settings: dict[str, Any], tmp_path: Path
) -> None:
    run(max_steps=1)
    made = TrainingConfig.from_dict({**settings, "max_steps": 1})
    assert TrainingConfig.load(tmp_path / "run" / "training_config.yaml") == made


def test_the_command_line_replaces_values_of_the_file(tmp_path: Path) -> None:
    TrainingConfig.from_dict(MINIMAL).save(tmp_path / "c.yaml")
    overrides = ["batch_size=8", "loss_weights.oracle=0", "router_learning_rate=5e-4"]
    made = TrainingConfig.load(tmp_path / "c.yaml", overrides)
    assert made.batch_size == 8
    assert made.loss_weights.oracle == 0
    assert made.router_learning_rate == 5e-4
    with pytest.raises(ValueError, match="expected key=value, got 'resume'"):
        TrainingConfig.load(tmp_path / "c.yaml", ["resume"])


def test_the_released_configuration_is_valid() -> None:
    made = TrainingConfig.load(ROOT / "training/fastlane-minilm.yaml")
    assert made.backbone == hub.BASE_MODEL
    assert made.delta


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batchsize": 8}, "unknown key batchsize; the nearest is batch_size"),
        (
            {"loss_weights": {"fulll": 1}},
            r"unknown key loss_weights\.fulll; the nearest is loss_weights\.full",
        ),
        ({"sources": [{"file": "x"}]}, r"unknown key sources\[0\]\.file; the nearest is"),
        ({"sources": []}, "sources must not be empty"),
        ({"sources": ["x"]}, r"sources\[0\] must be a mapping, got 'x'"),
        ({"sources": [{"path": "x", "dataset": "y"}]}, "either a path or a dataset"),
        ({"sources": [{"path": "x", "split": "y"}]}, "subset and split belong to a dataset"),
        ({"sources": [{"path": "x", "cap": 0}]}, "cap must be at least 1 or None, got 0"),
        ({"sources": [{"path": "x", "join": 0}]}, "join must be at least 1, got 0"),
        ({"sources": [{"path": "x", "num_negatives": -1}]}, "num_negatives must be at least 0"),
        ({"sources": [{"path": "a/x.jsonl"}, {"path": "b/x.jsonl.gz"}]}, "names of their own"),
        ({"batch_size": "many"}, "batch_size must be a whole number, got 'many'"),
        ({"batch_size": True}, "batch_size must be a whole number, got True"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"mini_batch_size": 32}, r"mini_batch_size must be below batch_size \(32\) or None"),
        ({"dtype": "float16"}, "dtype must be one of float32, bfloat16, got 'float16'"),
        ({"delta": "yes"}, "delta must be true or false, got 'yes'"),
        ({"router_learning_rate": -1}, "router_learning_rate must be at least 0, got -1"),
        ({"router_learning_rate": float("inf")}, "router_learning_rate must be finite, got inf"),
        ({"loss_weights": {"full": float("nan")}}, "the weight of full must be finite, got nan"),
        ({"router_learning_rate": "hot"}, "router_learning_rate must be a number, got 'hot'"),
        ({"epochs": 1}, r"set either max_steps or epochs, got \['max_steps', 'epochs'\]"),
        ({"model": None}, "set either model or backbone, got neither"),
        ({"backbone_options": {"embedding_dim": 4}}, "backbone_options belong to a backbone"),
        ({"frozen": ["backbone("]}, r"frozen holds no regex: 'backbone\('"),
        ({"num_routes": [1, 0]}, r"num_routes must each be at least 1, got \[1, 0\]"),
        ({"dropout": 1}, r"dropout must be in \[0, 1\), got 1"),
        ({"temperature_end": 0.5}, "belongs to a temperature_schedule other than constant"),
        ({"temperature_schedule": "cosine"}, "temperature_end belongs to a temperature_schedule"),
        ({"loss_weights": {"teacher": 1}}, "so name a teacher"),
        (
            {"teacher": "initial", "loss_weights": {"distillation": 0}},
            "the weight of both is 0",
        ),
        ({"loss_weights": {"full": -1}}, "the weight of full must be at least 0"),
        (
            {"loss_weights": dict.fromkeys(("routed", "full", "distillation", "oracle"), 0)},
            "one of loss_weights must be above 0",
        ),
        (
            {f"{part}_learning_rate": 0 for part in ("encoder", "projection", "router")},
            "or nothing is trained",
        ),
    ],
)
def test_impossible_configurations_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingConfig.from_dict({**MINIMAL, **values})


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match="output_dir is missing"):
        TrainingConfig.from_dict({"sources": [{"path": "x"}]})
    with pytest.raises(ValueError, match="a configuration must be a mapping, got None"):
        TrainingConfig.from_dict(None)
