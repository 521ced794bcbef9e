"""Callbacks of a training run: the gate's schedule, the log, and checks that stop it."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size  # type: ignore[import-untyped]
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fastlane_st.modeling.st_fastlane import FastLaneTransformer

from .training_config import TrainingConfig


def temperature_at(config: TrainingConfig, progress: float) -> float:
    """Returns the Gumbel gate's temperature at a progress from 0 (first step) to 1 (last step)."""
    start, end = config.temperature_start, config.temperature_end
    if end is None:
        return start
    if config.temperature_schedule == "linear":
        return start + (end - start) * progress
    if config.temperature_schedule == "exponential":
        return float(start * (end / start) ** progress)
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


class GateSchedule(TrainerCallback):
    """Sets the Gumbel gate's temperature and noise before each step, from the step's number alone."""

    def __init__(self, config: TrainingConfig) -> None:
        self.config = config

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Sets temperature and noise of the step that begins."""
        progress = state.global_step / max(1, state.max_steps - 1)
        module = module_of(kwargs["model"])
        module.temperature = temperature_at(self.config, progress)
        module.noise = state.global_step < self.config.noise * state.max_steps


class FiniteGradients(TrainerCallback):
    """Checks the gradients before the optimiser applies them to the weights."""

    def __init__(self, check_finite: Callable[[str, Tensor], None]) -> None:
        self.check_finite = check_finite

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Passes the sum of all gradient norms to `check_finite`."""
        gradients = [each.grad for each in kwargs["model"].parameters() if each.grad is not None]
        self.check_finite("gradient", torch.stack([grad.norm() for grad in gradients]).sum())


class JsonLog(TrainerCallback):
    """Writes a JSON object for each logging step to `log.jsonl`.

    An object holds the step, the loss and its parts (means over the steps since the last line, parts
    without their weights), the router's entropy in nats, the gradient's norm, learning rates,
    temperature, pairs per second of all processes, and this process's peak memory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rates: dict[str, float] = {}
        self.since = (0.0, 0)  # the time and the step of the last line

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Removes the lines of steps that a resumed run repeats."""
        self.since = (time.perf_counter(), state.global_step)
        if state.is_world_process_zero:
            lines = self.path.read_text("utf-8").splitlines() if self.path.exists() else []
            kept = [line for line in lines if json.loads(line)["step"] <= state.global_step]
            self.path.write_text("".join(f"{line}\n" for line in kept), "utf-8")

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Notes the learning rates of this step: at `on_log` they are already those of the next."""
        groups = kwargs["optimizer"].param_groups
        rates = {id(each): group["lr"] for group in groups for each in group["params"]}
        for name, part in parts_of(kwargs["model"]).items():
            trained = (rates.get(id(each)) for each in part.parameters() if each.requires_grad)
            self.rates[f"{name}_learning_rate"] = next(filter(None, trained), 0.0)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Writes a line; the summary at the end of the run gets none."""
        logs = dict(kwargs["logs"])
        if "loss" not in logs or not state.is_world_process_zero:
            return
        logs.pop("learning_rate", None)
        module = module_of(kwargs["model"])
        now, (then, last_step) = time.perf_counter(), self.since
        self.since = (now, state.global_step)
        pairs = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        line = {
            "step": state.global_step,
            **logs,
            **self.rates,
            "temperature": module.temperature,
            "pairs_per_second": pairs * (state.global_step - last_step) / (now - then),
            "peak_memory_mb": peak_memory() / 2**20,
        }
        with self.path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")


def module_of(encoder: torch.nn.Module) -> FastLaneTransformer:
    """Returns the only module of a FastLane encoder."""
    module = next(encoder.children())
    assert isinstance(module, FastLaneTransformer)
    return module


def parts_of(encoder: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Returns the model's parts by the names that their learning rates have."""
    model = module_of(encoder).model
    return {"encoder": model.backbone, "projection": model.projection, "router": model.router}


def peak_memory() -> int:
    """Returns the peak memory in bytes: of tensors on the GPU or, without one, of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextmanager
def explain_out_of_memory(config: TrainingConfig) -> Iterator[None]:
    """Raises an out-of-memory error as a MemoryError that names the settings to lower."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not isinstance(error, MemoryError) and not should_reduce_batch_size(error):
            raise
        names = ("batch_size", "document_length", "mini_batch_size")
        settings = ", ".join(f"{name} ({getattr(config, name)})" for name in names)
        raise MemoryError(
            f"out of memory; lower {settings}; mini_batch_size bounds the encoder's share of it and "
            "keeps the batch's negatives"
        ) from error
