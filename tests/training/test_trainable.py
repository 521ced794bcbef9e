"""Parameters that a run freezes: by learning rate, by name, and those that no loss reaches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from tests.support.training import Run, changed, weights


def test_frozen_parts_stay(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    run(encoder_learning_rate=0)
    moved = changed(weights(checkpoint), weights(tmp_path / "run"))
    assert any(name.startswith("projection") for name in moved)
    assert any(name.startswith("router") for name in moved)
    assert not any(name.startswith("backbone") for name in moved)


def test_parameters_named_by_a_pattern_stay(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    run(frozen=[r"backbone\.embeddings", r"projection\.linear"])
    moved = changed(weights(checkpoint), weights(tmp_path / "run"))
    assert any(name.startswith("backbone.encoder") for name in moved)
    assert any(name.startswith("router") for name in moved)
    assert not any(name.startswith("backbone.embeddings") for name in moved)
    assert "projection.linear.weight" not in moved


@pytest.mark.parametrize(
    ("part", "frozen"),
    [
        ("routed", set()),
        ("full", {"router"}),
        ("distillation", set()),
        ("oracle", {"projection"}),
    ],
)
def test_what_a_loss_does_not_reach_is_frozen(run: Run, part: str, frozen: set[str]) -> None:
    class AllHaveGradients(TrainerCallback):  # DistributedDataParallel would wait for them
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            for name, parameter in kwargs["model"].named_parameters():
                assert parameter.requires_grad == (parameter.grad is not None), name

    names = ("routed", "full", "distillation", "oracle")
    parts = {name: float(name == part) for name in names}
    encoder = run(loss_weights=parts, max_steps=1, watch=AllHaveGradients())
    for name, parameter in encoder[0].model.named_parameters():
        is_frozen = any(name.startswith(prefix) for prefix in frozen)
        assert parameter.requires_grad != is_frozen, name
