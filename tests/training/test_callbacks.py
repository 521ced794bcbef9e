"""Callbacks: the gate's schedule, what the log holds, and out of memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.training import Run, read_log
from training.callbacks import explain_out_of_memory, temperature_at
from training.training_config import Source, TrainingConfig


def test_the_log_holds_what_a_plot_needs(run: Run, tmp_path: Path) -> None:
    run(temperature_schedule="linear", temperature_end=0.25)
    log = read_log(tmp_path / "run")
    assert [line["temperature"] for line in log] == pytest.approx([1, 0.75, 0.5, 0.25])
    assert [line["router_learning_rate"] for line in log] == pytest.approx(
        [0.01, 0.0075, 0.005, 0.0025]
    )
    parts = {"routed": 1.0, "full": 1.0, "distillation": 1.0, "oracle": 0.3}
    for line in log:
        assert line["loss"] == pytest.approx(sum(w * line[name] for name, w in parts.items()), 0.01)
        assert line["router_entropy"] >= 0
        assert line["pairs_per_second"] > 0
        assert line["peak_memory_mb"] > 1


@pytest.mark.parametrize(
    ("schedule", "end", "expected"),
    [
        ("constant", None, [4, 4, 4]),
        ("linear", 1.0, [4, 2.5, 1]),
        ("exponential", 1.0, [4, 2, 1]),
        ("cosine", 1.0, [4, 2.5, 1]),
    ],
)
def test_temperature_schedules(schedule: str, end: float | None, expected: list[float]) -> None:
    made = TrainingConfig(
        output_dir="x",
        sources=(Source(path="x"),),
        model="x",
        max_steps=1,
        temperature_start=4.0,
        temperature_end=end,
        temperature_schedule=schedule,
    )
    found = [temperature_at(made, progress) for progress in (0, 0.5, 1)]
    assert found == pytest.approx(expected)


def test_out_of_memory_names_what_to_lower(settings: dict[str, Any]) -> None:
    made = TrainingConfig.from_dict({**settings, "document_length": 8})
    message = r"lower batch_size \(4\), document_length \(8\), mini_batch_size \(None\)"
    for error in (
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        MemoryError(),
    ):
        with pytest.raises(MemoryError, match=message), explain_out_of_memory(made):
            raise error
    with pytest.raises(RuntimeError, match="shapes"), explain_out_of_memory(made):
        raise RuntimeError("shapes do not fit")
