"""The benchmark of training: what is compared, and how its numbers come about."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers.base.trainer import BaseTrainer

from benchmarks.speed import training as training_speed
from tests.support.benchmarks import run_command
from tests.support.training import write_pairs
from training.training_config import Source, TrainingConfig

STEPS = 4
# Trainer, loss, and what differs from the configuration.
OURS, THEIRS = "RoutedContrastiveLoss", "MultiVectorMultipleNegativesRankingLoss"
SETTINGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "st_trainer": ("PlainTrainer", OURS, {}),
    "st_trainer_st_loss": ("PlainTrainer", THEIRS, {}),
    "configured": ("FastLaneTrainer", OURS, {}),
    "float32_sdpa": ("FastLaneTrainer", OURS, {"dtype": "float32", "attention": "sdpa"}),
    "gradient_caching": ("FastLaneTrainer", f"Cached{OURS}", {"mini_batch_size": 1}),
    "gradient_accumulation": (
        "FastLaneTrainer",
        OURS,
        {"batch_size": 2, "gradient_accumulation": 2},
    ),
}


@pytest.fixture
def config(checkpoint: Path, tmp_path: Path) -> TrainingConfig:
    return TrainingConfig(
        output_dir=str(tmp_path / "never"),
        sources=(Source(path=str(write_pairs(tmp_path / "pairs.jsonl", 26, 0))),),
        model=str(checkpoint),
        epochs=1,
        batch_size=4,
        dtype="bfloat16",
        attention="eager",
        encoder_learning_rate=1e-3,
    )


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What every call of the loss was made by, and gave."""
    seen: list[dict[str, Any]] = []
    compute_loss = BaseTrainer.compute_loss

    def spy(self: Any, model: Any, inputs: dict[str, Any], *rest: Any, **others: Any) -> Any:
        features, _ = self.collect_features(inputs)
        found = compute_loss(self, model, inputs, *rest, **others)
        seen.append(
            {
                "trainer": type(self).__name__,
                "loss": type(self.loss).__name__,
                "value": found.item(),
                "full": getattr(self.loss, "measures", {}).get("full"),
                "ids": [column["input_ids"].tolist() for column in features],
            }
        )
        return found

    monkeypatch.setattr(BaseTrainer, "compute_loss", spy)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_what_its_name_says(
    name: str, config: TrainingConfig, losses: list[dict[str, Any]]
) -> None:
    trainer, loss, numbers = SETTINGS[name]
    found = training_speed.measure_setting(name, config, STEPS)
    configured = {
        **{"dtype": "bfloat16", "attention": "eager", "batch_size": 4},
        **{"mini_batch_size": None, "gradient_accumulation": 1},
    }
    assert found.pop("device") in ("cpu", "cuda", "mps")
    assert found.pop("peak_memory") > 2**20
    assert len([second for second in found.pop("seconds") if second > 0]) == STEPS
    assert found == {**configured, **numbers}
    assert len(losses) == STEPS * found["gradient_accumulation"]
    assert {each["trainer"] for each in losses} == {trainer}
    assert {each["loss"] for each in losses} == {loss}
    assert {len(each["ids"]) for each in losses} == {2}  # where a row came from is no document
    assert not Path(config.output_dir).exists()


@pytest.mark.slow
def test_the_reference_differs_by_its_trainer_alone(
    config: TrainingConfig, losses: list[dict[str, Any]]
) -> None:
    config = replace(config, dtype="float32")
    for name in ("configured", "st_trainer", "st_trainer_st_loss"):
        training_speed.measure_setting(name, config, STEPS)
    ours, reference, other = losses[:STEPS], losses[STEPS : 2 * STEPS], losses[2 * STEPS :]
    for key in ("ids", "value"):
        assert [each[key] for each in ours] == [each[key] for each in reference]
    assert [each["ids"] for each in other] == [each["ids"] for each in ours]
    assert other[0]["value"] == pytest.approx(ours[0]["full"].item(), rel=1e-5)


def test_no_setting_caches_or_clusters_unless_its_name_says_so(
    config: TrainingConfig,
) -> None:
    config = replace(config, mini_batch_size=3, topic_size=8, gradient_accumulation=3)
    for name in SETTINGS:
        made = training_speed.configure(name, config)
        assert made.topic_size is None
        assert made.mini_batch_size == (3 if name == "gradient_caching" else None)
        is_doubled = name == "gradient_accumulation"
        numbers = (made.batch_size, made.gradient_accumulation)
        assert numbers == ((2, 6) if is_doubled else (4, 3))


def run_of(seconds: list[float], batch_size: int, accumulation: int = 1) -> dict[str, Any]:
    return {
        "dtype": "float32",
        "attention": "sdpa",
        "batch_size": batch_size,
        "gradient_accumulation": accumulation,
        "seconds": seconds,
        "peak_memory": 3 * 2**20,
    }


def test_ratios_are_quotients_of_medians_without_the_warm_up() -> None:
    rounds = {
        "st_trainer": [run_of([99, 99, 1, 2, 9], 8), run_of([99, 99, 4], 8), run_of([9, 9, 8], 8)],
        "configured": [
            run_of([99, 99, 1, 1, 1], 4, 2),
            run_of([99, 99, 4], 4, 2),
            run_of([9, 9, 2], 4, 2),
        ],
    }
    found = training_speed.summarise_rounds(rounds)
    reference, ours = found.values()
    assert reference["seconds_per_step"] == {"median": 4, "min": 2, "max": 8}
    assert reference["pairs_per_second"] == {"median": 2, "min": 1, "max": 4}
    assert reference["ratio"] == {"of_medians": 1, "min": 1, "max": 1}
    assert reference["step_seconds"] == [[99, 99, 1, 2, 9], [99, 99, 4], [9, 9, 8]]
    assert ours["seconds_per_step"] == {"median": 2, "min": 1, "max": 4}
    assert ours["pairs_per_second"] == {"median": 4, "min": 2, "max": 8}
    assert ours["ratio"] == {"of_medians": 2, "min": 1, "max": 4}
    assert ours["peak_memory_mib"] == {"median": 3, "min": 3, "max": 3}
    header, first, second = training_speed.settings_table(found)
    assert header.split()[-2:] == ["MiB", "ratio"]
    assert first.split() == "st_trainer float32 sdpa 4.000 (2.000–8.000) 2.0 3 1.00".split()
    assert second.split() == "configured float32 sdpa 2.000 (1.000–4.000) 4.0 3 2.00".split()


@pytest.fixture
def run(config: TrainingConfig, tmp_path: Path) -> Callable[..., Any]:
    """Runs the benchmark as a command and gives the JSON that it leaves."""
    config.save(tmp_path / "run.yaml")
    out = tmp_path / "results" / "speed.json"

    def call(*options: str) -> Any:
        run_command("speed.training", "--config", tmp_path / "run.yaml", "--out", out, *options)
        return json.loads(out.read_text())

    return call


@pytest.mark.slow
def test_every_setting_runs_in_a_process_of_its_own(
    run: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = "gradient_accumulation,st_trainer"
    found = run("--steps", "3", "--rounds", "1", "--settings", settings, "batch_size=6")
    assert list(found["settings"]) == ["st_trainer", "gradient_accumulation"]
    assert (found["steps"], found["rounds"], found["warm_up_steps"]) == (3, 1, 2)
    assert found["reference"] == "st_trainer"
    assert "threads" in found["environment"]
    reference, ours = found["settings"].values()
    assert (reference["batch_size"], reference["gradient_accumulation"]) == (6, 1)
    assert (ours["batch_size"], ours["gradient_accumulation"]) == (3, 2)
    for each in (reference, ours):
        [(*_, last)] = each["step_seconds"]
        assert each["seconds_per_step"] == {"median": last, "min": last, "max": last}
        assert each["pairs_per_second"]["median"] == pytest.approx(6 / last)
    rates = [each["pairs_per_second"]["median"] for each in (ours, reference)]
    assert ours["ratio"]["of_medians"] == pytest.approx(rates[0] / rates[1])
    assert "round 1: st_trainer" in capsys.readouterr().out


@pytest.mark.slow
def test_a_setting_that_fails_says_why(run: Callable[..., Any]) -> None:
    with pytest.raises(SystemExit, match=r"(?s)st_trainer failed:.*batch_size must be at least 1"):
        run("batch_size=0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--settings", "configured"], "must be st_trainer and some of st_trainer_st_loss"),
        (["--settings", "st_trainer,fast"], "must be st_trainer and some of"),
        (["--steps", "2"], "--steps must be above 2 and --rounds at least 1"),
        (["--rounds", "0"], "--rounds at least 1"),
    ],
)
def test_impossible_options_are_refused(
    options: list[str], message: str, run: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(*options)
    assert message in capsys.readouterr().err


def test_all_settings_are_run_by_default() -> None:
    assert tuple(SETTINGS) == training_speed.SETTINGS
