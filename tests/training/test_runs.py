"""Folders of a run: where a new one may write, what a resumed one goes on from, and its backbone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastlane_st import FastLaneEncoder, hub
from tests.support.training import (
    Run,
    StopAt,
    StopError,
    changed,
    runner,
    short_run,
    weights,
    write_pairs,
)
from training.runs import backbone_folder, find_base, find_checkpoint, how_to_start_from
from training.training_config import TrainingConfig


@pytest.fixture
def config(settings: dict[str, Any]) -> TrainingConfig:
    return TrainingConfig.from_dict(settings)


def write_checkpoint(config: TrainingConfig, step: int, is_complete: bool = True) -> Path:
    folder = Path(config.output_dir) / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    if is_complete:
        (folder / "trainer_state.json").write_text("{}")
        (folder / "config.json").write_text('{"model_type": "fastlane"}')
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


@pytest.fixture(scope="module")
def interrupted(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a run that was interrupted in its fifth step of six; it has checkpoints 3 and 4."""
    folder = tmp_path_factory.mktemp("interrupted")
    settings = short_run(checkpoint, folder, [write_pairs(folder / "a.jsonl", 26, 0)])
    settings |= {"max_steps": 6, "save_every": 1}
    with pytest.raises(StopError):
        runner(settings)(watch=StopAt(5))
    return settings


FILES = [
    *("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"),
    *("trainer_state.json", "config.json"),
]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("left", [0.0, 0.5, 0.99])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    name: str,
    left: float,
    interrupted: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(interrupted["output_dir"], tmp_path / "run")
    older, newest = (tmp_path / "run" / "checkpoints" / f"checkpoint-{step}" for step in (3, 4))
    config = TrainingConfig.from_dict({**interrupted, "output_dir": str(tmp_path / "run")})
    assert find_checkpoint(config, resume=True) == str(newest)
    cut(newest / name, left)
    capsys.readouterr()
    assert find_checkpoint(config, resume=True) == str(older)
    printed = capsys.readouterr().out
    assert printed == f"{newest} is damaged ({name}) and passed over\ngoing on from {older}\n"
    cut(older / "model.safetensors", left)
    with pytest.raises(ValueError, match="holds no checkpoint to resume from"):
        find_checkpoint(config, resume=True)


def cut(path: Path, left: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content))])


@pytest.mark.slow
def test_a_run_resumed_from_an_older_checkpoint_equals_an_uninterrupted_one(
    interrupted: dict[str, Any], tmp_path: Path
) -> None:
    shutil.copytree(interrupted["output_dir"], tmp_path / "run")
    cut(tmp_path / "run" / "checkpoints" / "checkpoint-4" / "optimizer.pt", 0.5)
    run = runner({**interrupted, "output_dir": str(tmp_path / "run")})
    run(resume=True)
    run(output_dir=str(tmp_path / "whole"))
    assert not changed(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def test_a_new_run_starts_from_a_checkpoint_as_the_message_says(
    run: Run,
    checkpoint: Path,
    backbone_folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    small = {"embedding_dim": 4, "router_dim": 8, "router_num_heads": 2}
    over = {"model": None, "backbone": str(backbone_folder("bert")), "backbone_options": small}
    lora = {"lora": {"rank": 2}, "query_num_routes": None}
    for kind, given in {"whole": {}, "over": over, "adapter": lora}.items():
        run(max_steps=1, output_dir=kind, **given)
        saved = Path(kind) / "checkpoints" / "checkpoint-1"
        said = how_to_start_from(saved)
        if kind == "adapter":
            exec(said.partition(" after ")[2], {"FastLaneEncoder": FastLaneEncoder})
            assert "with `model: merged`" in said
            run(max_steps=1, output_dir=f"{kind}-2", model="merged", **lora)
        else:
            assert said == f"with `model: {saved}` and no `backbone`"
            run(max_steps=1, output_dir=f"{kind}-2", model=str(saved))


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
