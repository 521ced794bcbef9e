"""Speed and memory of training, beside Sentence Transformers' own trainer.

    python -m benchmarks.speed.training --config training/fastlane-minilm.yaml --steps 8 \\
        --out benchmarks/results/training_speed.json

Each setting trains a few steps of the configuration in a process of its own, so that its peak memory
is its own; rounds over the settings let the machine's drift hit all of them. A round's number is the
median of its steps, batching and tokenising included, without the first two; reported are the median
of the rounds with the smallest and the largest, and the ratio of pairs per second to the reference's:
above 1 is faster.

The reference, `st_trainer`, is Sentence Transformers' MultiVectorEncoderTrainer with our loss, our
model, the same batches and arguments, without our checks and log. `st_trainer_st_loss` has its loss as
well, MaxSim with all views: the difference is what the routed parts of our loss cost.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from sentence_transformers import MultiVectorEncoderTrainer
from sentence_transformers.multi_vector_encoder import losses, scoring
from transformers import TrainerCallback

from training import train
from training.callbacks import peak_memory
from training.trainer import FastLaneTrainer, OriginCollator
from training.training_config import TrainingConfig

from ..common.environment import ROOT, command, environment
from ..common.results import write_results

REFERENCE = "st_trainer"
SETTINGS = (
    REFERENCE,
    "st_trainer_st_loss",
    "configured",
    "float32_sdpa",
    "gradient_caching",
    "gradient_accumulation",
)
WARM_UP = 2  # steps in which memory is first asked for and kernels are chosen
NUMBERS = ("dtype", "attention", "batch_size", "mini_batch_size", "gradient_accumulation")


def main() -> None:
    options = training_options()
    if options.only is not None:
        config = TrainingConfig.load(options.config, options.overrides)
        write_results(options.out, measure_setting(options.only, config, options.steps))
        return
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in options.settings}
    for number in range(options.rounds):
        for name in options.settings:
            rounds[name].append(run_in_process(name, options))
            print(f"round {number + 1}: {name} {round_seconds(rounds[name][-1]):.3f} s a step")
        results = {
            "command": command(),
            "environment": environment(),
            "steps": options.steps,
            "warm_up_steps": WARM_UP,
            "rounds": number + 1,
            "reference": REFERENCE,
            "settings": summarise_rounds(rounds),
        }
        write_results(options.out, results)
    print("\n".join(settings_table(results["settings"])))


def training_options() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="YAML file of a run")
    parser.add_argument("--steps", type=int, default=8, help=f"the first {WARM_UP} don't count")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--settings", default=",".join(SETTINGS), help="with commas")
    parser.add_argument("--only", choices=SETTINGS, help="measure one setting in this process")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="in place of the file's")
    options = parser.parse_args()
    chosen = set(options.settings.split(","))
    options.settings = [name for name in SETTINGS if name in chosen]
    if chosen - set(SETTINGS) or REFERENCE not in chosen:
        parser.error(f"--settings must be {REFERENCE} and some of {', '.join(SETTINGS[1:])}")
    if options.steps <= WARM_UP or options.rounds < 1:
        parser.error(f"--steps must be above {WARM_UP} and --rounds at least 1")
    return options


def run_in_process(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measures one setting in a process of its own.

    On Linux a process starts with its parent's peak memory: this one has imported what that one will,
    but holds neither model nor data.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        config = str(Path(options.config).resolve())
        arguments = ["--config", config, "--steps", str(options.steps), "--out", str(out)]
        module = [sys.executable, "-m", "benchmarks.speed.training", "--only", name]
        process = subprocess.run(
            [*module, *options.overrides, *arguments], capture_output=True, text=True, cwd=ROOT
        )
        if process.returncode:
            raise SystemExit(f"{name} failed:\n{process.stderr[-3000:]}")
        found: dict[str, Any] = json.loads(out.read_text("utf-8"))
    return found


def measure_setting(name: str, config: TrainingConfig, steps: int) -> dict[str, Any]:
    """Trains `steps` steps in this process, and returns their seconds and the peak memory."""
    config = configure(name, config)
    watch = StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        run = replace(
            config,
            output_dir=str(Path(folder) / "run"),
            max_steps=steps,
            epochs=None,
            save_every=steps,  # after the last step, which has been timed by then
            delta=False,
        )
        build_trainer: Any = FastLaneTrainer
        if name.startswith("st_trainer"):
            scale = config.scale if name == "st_trainer_st_loss" else None
            build_trainer = partial(build_plain_trainer, scale)
        with patch.object(train, "FastLaneTrainer", build_trainer):
            train.train(run, callbacks=[watch])
    return {
        "device": watch.device,
        **{key: getattr(config, key) for key in NUMBERS},
        "seconds": watch.seconds,
        "peak_memory": watch.peak_memory,
    }


def configure(name: str, config: TrainingConfig) -> TrainingConfig:
    """The configuration of a setting; only `gradient_caching` caches.

    Batches are drawn at random: topics cost nothing per step, but minutes before the first.
    """
    changes: dict[str, Any] = {"mini_batch_size": None, "topic_size": None}
    if name == "float32_sdpa":
        changes |= {"dtype": "float32", "attention": "sdpa"}
    if name == "gradient_caching":
        changes["mini_batch_size"] = config.mini_batch_size or max(1, config.batch_size // 4)
    if name == "gradient_accumulation":
        changes["batch_size"] = config.batch_size // 2
        changes["gradient_accumulation"] = 2 * config.gradient_accumulation
    if name == "st_trainer_st_loss":  # no teacher and no routes; the router stays frozen
        parts = {part.name: float(part.name == "full") for part in fields(config.loss_weights)}
        weights = replace(config.loss_weights, **parts)
        changes |= {"loss_weights": weights, "teacher": None, "query_num_routes": None}
    return replace(config, **changes)


class PlainTrainer(MultiVectorEncoderTrainer):
    """Sentence Transformers' trainer, for rows that hold more than texts."""

    data_collator_class = OriginCollator


def build_plain_trainer(
    scale: float | None, *, loss: Any, callbacks: list[Any], **others: Any
) -> PlainTrainer:
    """The plain trainer in place of ours; all else is the same.

    With a `scale` it also has its own loss, over the mean of MaxSim as in our part `full`.
    """
    if scale is not None:
        loss = losses.MultiVectorMultipleNegativesRankingLoss(
            others["model"], scale=scale, similarity_fct=scoring.mean_colbert_scores
        )
    timed: list[TrainerCallback] = [each for each in callbacks if isinstance(each, StepTimes)]
    return PlainTrainer(loss=loss, callbacks=timed, **others)


class StepTimes(TrainerCallback):
    """Notes the seconds of every step, and the peak memory in bytes."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.peak_memory = 0
        self.device = ""
        self.last = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.device = args.device.type
        self.last = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()  # the device runs behind
        now = time.perf_counter()
        self.seconds.append(now - self.last)
        self.last = now
        self.peak_memory = peak_memory()


def summarise_rounds(rounds: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Each setting's medians and ranges over its rounds, and its ratio to the reference."""
    references = [pairs_per_second(one) for one in rounds[REFERENCE]]
    found = {}
    for name, runs in rounds.items():
        rates = [pairs_per_second(one) for one in runs]
        ratios = [rate / reference for rate, reference in zip(rates, references, strict=True)]
        facts = {key: runs[0][key] for key in runs[0] if key not in ("seconds", "peak_memory")}
        found[name] = {
            **facts,
            "seconds_per_step": spread([round_seconds(one) for one in runs]),
            "pairs_per_second": spread(rates),
            "peak_memory_mib": spread([one["peak_memory"] / 2**20 for one in runs]),
            "ratio": {
                "of_medians": statistics.median(rates) / statistics.median(references),
                **{"min": min(ratios), "max": max(ratios)},  # within a round
            },
            "step_seconds": [one["seconds"] for one in runs],
        }
    return found


def round_seconds(run: dict[str, Any]) -> float:
    """The median seconds of a step, without those of the warm-up."""
    seconds: list[float] = run["seconds"][WARM_UP:]
    return statistics.median(seconds)


def pairs_per_second(run: dict[str, Any]) -> float:
    pairs: int = run["batch_size"] * run["gradient_accumulation"]
    return pairs / round_seconds(run)


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def settings_table(settings: dict[str, dict[str, Any]]) -> list[str]:
    """Lines of text: a heading, and a line for each setting, the reference first."""
    lines = [
        f"{'setting':22} {'numbers':17} {'s a step (range)':>22} {'pairs/s':>8} {'MiB':>7} ratio"
    ]
    for name, found in settings.items():
        seconds = found["seconds_per_step"]
        span = f"{seconds['median']:.3f} ({seconds['min']:.3f}–{seconds['max']:.3f})"
        numbers = f"{found['dtype']} {found['attention']}"
        rate, memory = (found[key]["median"] for key in ("pairs_per_second", "peak_memory_mib"))
        ratio = found["ratio"]["of_medians"]
        lines.append(f"{name:22} {numbers:17} {span:>22} {rate:8.1f} {memory:7.0f} {ratio:5.2f}")
    return lines


if __name__ == "__main__":
    main()
