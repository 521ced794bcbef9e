"""Folders of a run: where a new one may write, what a resumed one goes on from, and its backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastlane_st import FastLaneEncoder, hub
from tests.support.training import Run
from training.runs import backbone_folder, find_base, find_checkpoint
from training.training_config import TrainingConfig


@pytest.fixture
def config(settings: dict[str, Any]) -> TrainingConfig:
    return TrainingConfig.from_dict(settings)


def write_checkpoint(config: TrainingConfig, step: int, is_complete: bool = True) -> Path:
    folder = Path(config.output_dir) / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    if is_complete:
        (folder / "trainer_state.json").write_text("{}")
    config.save(Path(config.output_dir) / "training_config.yaml")
    return folder


def test_a_new_run_has_no_checkpoint_and_needs_an_empty_folder(config: TrainingConfig) -> None:
    assert find_checkpoint(config, resume=False) is None
    Path(config.output_dir).mkdir()
    assert find_checkpoint(config, resume=False) is None
    write_checkpoint(config, 1)
    with pytest.raises(ValueError, match="isn't empty; resume, delete it, or name a new"):
        find_checkpoint(config, resume=False)


def test_a_resumed_run_goes_on_from_the_newest_complete_checkpoint(config: TrainingConfig) -> None:
    write_checkpoint(config, 9)
    newest = write_checkpoint(config, 10)
    write_checkpoint(config, 11, is_complete=False)
    assert find_checkpoint(config, resume=True) == str(newest)


def test_a_folder_without_a_checkpoint_can_not_be_resumed(config: TrainingConfig) -> None:
    with pytest.raises(ValueError, match="holds no checkpoint to resume from"):
        find_checkpoint(config, resume=True)
    write_checkpoint(config, 11, is_complete=False)
    with pytest.raises(ValueError, match="holds no checkpoint to resume from"):
        find_checkpoint(config, resume=True)


def test_a_resumed_run_keeps_its_settings_but_for_those_that_change_no_weight(
    settings: dict[str, Any], config: TrainingConfig
) -> None:
    newest = write_checkpoint(config, 2)
    free = {"log_every": 9, "save_every": 9, "keep_checkpoints": 1, "query_num_routes": None}
    made = TrainingConfig.from_dict({**settings, **free, "delta": True})
    assert find_checkpoint(made, resume=True) == str(newest)
    made = TrainingConfig.from_dict({**settings, "scale": 10})
    message = rf"keeps its settings, but scale was 20\.0; to change .* `model: {newest}`"
    with pytest.raises(ValueError, match=message):
        find_checkpoint(made, resume=True)


def test_a_run_can_start_only_in_a_new_folder_or_as_it_was(run: Run) -> None:
    with pytest.raises(ValueError, match="holds no checkpoint to resume from"):
        run(resume=True)
    with pytest.raises(ValueError, match="delta needs the backbone's weights"):
        run(delta=True)
    run(max_steps=1)
    with pytest.raises(ValueError, match="isn't empty; resume, delete it, or name a new"):
        run(max_steps=1)
    with pytest.raises(ValueError, match=r"keeps its settings, but scale was 20\.0; to change"):
        run(max_steps=1, scale=10, resume=True)


def test_the_base_of_a_delta_is_the_backbone_or_that_of_the_released_model(
    settings: dict[str, Any], config: TrainingConfig, checkpoint: Path
) -> None:
    encoder = FastLaneEncoder(checkpoint)
    assert backbone_folder("some/encoder") == Path("some/encoder")
    assert backbone_folder(hub.BASE_MODEL) == hub.base_weights()
    made = TrainingConfig.from_dict({**settings, "model": None, "backbone": "some/encoder"})
    assert find_base(made, encoder) == Path("some/encoder")
    with pytest.raises(ValueError, match=f"those of {checkpoint} are unknown"):
        find_base(config, encoder)
    encoder.fastlane_config.base_model = hub.BASE_MODEL
    assert find_base(config, encoder) == hub.base_weights()
