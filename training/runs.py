"""Folders of a run: the checkpoint that it goes on from, and the backbone that it starts from."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

from fastlane_st import FastLaneEncoder
from fastlane_st.hub import BASE_MODEL, base_weights
from fastlane_st.loading import ADAPTER_CONFIG, is_fastlane

from .command_line import announce
from .training_config import TrainingConfig

CONFIG_NAME = "training_config.yaml"
MAY_CHANGE = (
    *("output_dir", "log_every", "save_every", "keep_checkpoints"),
    *("query_num_routes", "delta"),
)
"""Settings that may differ when a run is resumed: they change no weight."""


def find_checkpoint(config: TrainingConfig, resume: bool) -> str | None:
    """Returns the newest undamaged checkpoint of the run to resume, or None for a new run.

    A damaged one, as a full disk leaves it, is named and passed over.

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
    while folders and (broken := broken_file(folders[-1])):
        announce(f"{folders.pop()} is damaged ({broken}) and passed over")
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
            f"run {how_to_start_from(folders[-1])}"
        )
    announce(f"going on from {folders[-1]}")
    return str(folders[-1])


def broken_file(checkpoint: Path) -> str | None:
    """Returns the name of a file of the checkpoint that is cut off or empty."""
    for path in sorted(checkpoint.iterdir()):
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, "pt"):
                    pass  # it compares the length with its header
            elif path.suffix == ".json":
                json.loads(path.read_text("utf-8"))
            elif path.suffix in (".pt", ".pth") and not zipfile.is_zipfile(path):
                return path.name
        except (SafetensorError, ValueError):
            return path.name
    return None


def how_to_start_from(checkpoint: Path) -> str:
    """Says how a new run starts from the weights of a checkpoint: a model, an adapter or a dense twin."""
    if (checkpoint / ADAPTER_CONFIG).exists():
        return (
            f"with `model: merged` after FastLaneEncoder({str(checkpoint)!r}).merge_and_unload()"
            ".save_pretrained('merged')"
        )
    if is_fastlane(checkpoint / "config.json"):
        return f"with `model: {checkpoint}` and no `backbone`"
    return f"with `backbone: {checkpoint}`"


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
