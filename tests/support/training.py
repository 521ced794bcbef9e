"""Tiny training runs: sources of random pairs, settings, interruptions, and comparisons of results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import TrainerCallback

from fastlane_st import FastLaneEncoder
from tests.conftest import WORDS
from training.train import train
from training.training_config import TrainingConfig

ROOT = Path(__file__).parents[2]
"""Where the commands start: `python -m training.train` finds its package there."""

Run = Callable[..., FastLaneEncoder]


class StopError(Exception):
    """What a test interrupts a run with."""


class StopAt(TrainerCallback):
    """Interrupts a run after a step; nothing is saved."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise StopError


def write_rows(path: Path, rows: Iterable[Any]) -> Path:
    """Writes a JSON Lines file; bytes are written as they are."""
    path.write_bytes(b"".join(row if isinstance(row, bytes) else as_line(row) for row in rows))
    return path


def as_line(row: Any) -> bytes:
    return json.dumps(row).encode() + b"\n"


def write_pairs(path: Path, count: int, seed: int) -> Path:
    """Writes pairs whose query is three words of its positive."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        words = [WORDS[i] for i in torch.randperm(len(WORDS), generator=generator)[:7]]
        rows.append({"query": " ".join(words[:3]), "positive": " ".join(words)})
    return write_rows(path, rows)


def short_run(checkpoint: Path, tmp_path: Path, paths: Iterable[Path]) -> dict[str, Any]:
    """Settings of a run of four steps over the pairs in `paths`, into `tmp_path/run`."""
    return {
        "output_dir": str(tmp_path / "run"),
        "model": str(checkpoint),
        "sources": [{"path": str(path)} for path in paths],
        "max_steps": 4,
        "batch_size": 4,
        "encoder_learning_rate": 1e-3,
        "projection_learning_rate": 2e-3,
        "router_learning_rate": 1e-2,
        "warmup": 0,
        "log_every": 1,
    }


def runner(settings: dict[str, Any]) -> Run:
    """Returns a function that trains with `settings`, some of them replaced."""

    def start(
        resume: bool = False, watch: TrainerCallback | None = None, **others: Any
    ) -> FastLaneEncoder:
        config = TrainingConfig.from_dict({**settings, **others})
        return train(config, resume=resume, callbacks=[watch] if watch else [])

    return start


def weights(folder: str | Path) -> dict[str, Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    lines = (Path(folder) / "log.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in after.items() if not value.equal(before[name])}


def assert_close(found: str | Path, expected: str | Path) -> None:
    """Compares the weights of two results."""
    for name, value in weights(expected).items():
        # Softmax ignores what is added to all keys or logits, and the states of a tiny BERT are all
        # as long: there Adam follows rounding errors.
        ignored = name.startswith("router") and name.endswith(("bias", "norm_weight"))
        if not ignored and "key.bias" not in name:
            torch.testing.assert_close(weights(found)[name], value, rtol=1e-3, atol=1e-4, msg=name)
