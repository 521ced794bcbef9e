"""What `training_speed.py` runs in a process of its own: one setting, timed step by step.

    PYTHONPATH=training python benchmarks/training_setting.py configured --config CONFIG --steps 8 \\
        --out FILE.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import train
from callbacks import peak_memory
from sentence_transformers import MultiVectorEncoderTrainer
from sentence_transformers.multi_vector_encoder import losses, scoring
from trainer import FastLaneTrainer, OriginCollator
from training_config import TrainingConfig
from transformers import TrainerCallback

NUMBERS = ("dtype", "attention", "batch_size", "mini_batch_size", "gradient_accumulation")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure one setting of training_speed.py.")
    parser.add_argument("setting")
    parser.add_argument("--config", required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    config = TrainingConfig.load(options.config, options.overrides)
    found = measure_setting(options.setting, config, options.steps)
    options.out.write_text(json.dumps(found))


def configure(name: str, config: TrainingConfig) -> TrainingConfig:
    """The configuration of a setting; none but `gradient_caching` caches.

    Batches are drawn at random: topics cost nothing a step, but minutes before the first.
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


def measure_setting(name: str, config: TrainingConfig, steps: int) -> dict[str, Any]:
    """Trains `steps` steps in this process: their seconds, and the memory that they came to need."""
    config = configure(name, config)
    watch = StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        run = replace(
            config,
            output_dir=str(Path(folder) / "run"),
            max_steps=steps,
            epochs=None,
            save_every=steps,  # after the last one, which has been timed by then
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


class PlainTrainer(MultiVectorEncoderTrainer):
    """Sentence Transformers' trainer, for rows that hold more than texts."""

    data_collator_class = OriginCollator


def build_plain_trainer(
    scale: float | None, *, loss: Any, callbacks: list[Any], **others: Any
) -> PlainTrainer:
    """The plain trainer where `train` would build ours: all else is the same.

    With a `scale` it also has its own loss, over the mean of MaxSim as our part `full` has it.
    """
    if scale is not None:
        loss = losses.MultiVectorMultipleNegativesRankingLoss(
            others["model"], scale=scale, similarity_fct=scoring.mean_colbert_scores
        )
    timed = [each for each in callbacks if isinstance(each, StepTimes)]
    return PlainTrainer(loss=loss, callbacks=timed, **others)


class StepTimes(TrainerCallback):
    """Notes the seconds of every step, and the most bytes held so far."""

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


if __name__ == "__main__":
    main()
