"""Loads checkpoints by name, without the flag for remote code and without transformers' notes.

Importing this module tells transformers of our classes, so that its AutoConfig and AutoModel know them.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from transformers import AutoConfig, AutoModel
from transformers.utils import logging

from .hub import DEFAULT_CHECKPOINT, default_checkpoint
from .model_card.card import render_card
from .modeling.configuration_fastlane import FastLaneConfig
from .modeling.modeling_fastlane import FastLaneModel

if TYPE_CHECKING:
    from .encoder import FastLaneEncoder

HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
ADAPTER_CONFIG = "adapter_config.json"

AutoConfig.register(FastLaneConfig.model_type, FastLaneConfig, exist_ok=True)
AutoModel.register(FastLaneConfig, FastLaneModel, exist_ok=True)
FastLaneModel.render_card = staticmethod(render_card)


class Checkpoint(NamedTuple):
    """A checkpoint's folder or Hub name, and the folder of an adapter to load into it, if any."""

    name: str
    adapter: str | None


def find_checkpoint(name_or_path: str | os.PathLike[str]) -> Checkpoint:
    """Resolves the name of a checkpoint, the folder of an adapter, or `"fastlane-minilm"`.

    Raises:
        FileNotFoundError: It is neither a folder nor can it be the name of a repository.
        ValueError: A folder holds no FastLane checkpoint, or an adapter that doesn't name its base.
    """
    name, adapter = str(name_or_path), None
    folder = Path(name)
    if (folder / ADAPTER_CONFIG).exists() and not (folder / "config.json").exists():
        name, adapter = _base_of(folder), name
    if name == DEFAULT_CHECKPOINT:
        name = str(default_checkpoint())
    if not Path(name).is_dir() and not HUB_NAME.fullmatch(name):
        raise FileNotFoundError(
            f"there is no folder {name}, and that is no name of a Hub repository"
        )
    if Path(name).is_dir() and not _is_fastlane(Path(name) / "config.json"):
        raise no_checkpoint(name)
    return Checkpoint(name, adapter)


def no_checkpoint(name: str) -> ValueError:
    """Gives the error for a folder or repository that holds no FastLane checkpoint."""
    return ValueError(
        f"{name} is no FastLane checkpoint (its config.json has no model_type 'fastlane'); "
        "FastLaneEncoder.from_backbone builds a new model over a plain encoder"
    )


def load_model(name: str) -> FastLaneModel:
    """Loads the model of a checkpoint for a command that only encodes; transformers prints only errors.

    Unlike `load_encoder` it doesn't import Sentence Transformers, which takes a quarter of a command's start.
    """
    quiet_transformers()
    checkpoint, adapter = find_checkpoint(name)
    config = AutoConfig.from_pretrained(checkpoint)
    if not isinstance(config, FastLaneConfig):
        raise no_checkpoint(checkpoint)
    model: FastLaneModel = FastLaneModel.from_pretrained(checkpoint, config=config)
    if adapter is not None:
        model.load_adapter(adapter)
    return model


def load_encoder(name: str) -> FastLaneEncoder:
    """Loads the encoder of a checkpoint for a command; transformers prints only errors."""
    quiet_transformers()
    from .encoder import FastLaneEncoder

    return FastLaneEncoder(name)


def quiet_transformers() -> None:
    """Keeps transformers from printing anything but errors."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()


def _base_of(adapter: Path) -> str:
    base = json.loads((adapter / ADAPTER_CONFIG).read_text("utf-8"))["base_model_name_or_path"]
    if not base:
        raise ValueError(
            f"the adapter {adapter} doesn't name its base; load that, then "
            f"load_adapter({str(adapter)!r})"
        )
    return str(base)


def _is_fastlane(config: Path) -> bool:
    if not config.exists():
        return False
    settings = json.loads(config.read_text("utf-8"))
    return bool(settings.get("model_type") == FastLaneConfig.model_type)
