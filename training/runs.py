"""Folders of a run: the checkpoint that it goes on from, and the backbone that it starts from."""

from __future__ import annotations

from pathlib import Path

from fastlane_st import FastLaneEncoder
from fastlane_st.hub import BASE_MODEL, base_weights

from .training_config import TrainingConfig

CONFIG_NAME = "training_config.yaml"
MAY_CHANGE = (
    *("output_dir", "log_every", "save_every", "keep_checkpoints"),
    *("query_num_routes", "delta"),
)
"""Settings that may differ when a run is resumed: they change no weight."""


def find_checkpoint(config: TrainingConfig, resume: bool) -> str | None:
    """Returns the newest complete checkpoint of the run to resume, or None for a new run.

    Raises:
        ValueError: A new run's `output_dir` isn't empty, a resumed run has no checkpoint, or its
            settings differ from those it was started with.
    """
    output = Path(config.output_dir)
    if not resume:
        if output.exists() and any(output.iterdir()):
            raise ValueError(f"{output} isn't empty; resume, delete it, or name a new output_dir")
        return None
    # trainer_state.json is the last file that is written.
    states = output.glob("checkpoints/checkpoint-*/trainer_state.json")
    folders = sorted((each.parent for each in states), key=lambda each: int(each.name[11:]))
    if not folders:
        raise ValueError(f"{output / 'checkpoints'} holds no checkpoint to resume from")
    # Learning rates come back with the optimiser's state, so that new ones would be ignored.
    old, new = (each.to_dict() for each in (TrainingConfig.load(output / CONFIG_NAME), config))
    changed = [
        f"{key} was {old[key]}" for key in new if new[key] != old[key] and key not in MAY_CHANGE
    ]
    if changed:
        raise ValueError(
            f"a resumed run keeps its settings, but {', '.join(changed)}; to change them, start a new "
            f"run with `model: {folders[-1]}`"
        )
    return str(folders[-1])


def backbone_folder(name: str) -> Path:
    """Returns where a backbone is loaded from; that of `fastlane-minilm` needs no download."""
    return base_weights() if name == BASE_MODEL else Path(name)


def find_base(config: TrainingConfig, encoder: FastLaneEncoder) -> Path:
    """Returns the folder or name of the backbone whose weights a delta is relative to.

    Raises:
        ValueError: The run's `model` doesn't say which backbone it was built over.
    """
    if config.backbone is not None:
        return backbone_folder(config.backbone)
    if encoder.fastlane_config.base_model == BASE_MODEL:
        return base_weights()
    raise ValueError(f"delta needs the backbone's weights, and those of {config.model} are unknown")
