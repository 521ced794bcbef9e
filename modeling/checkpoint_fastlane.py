"""What makes a saved model a whole checkpoint: the files beside `config.json` and the weights."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils.hub import cached_file

if TYPE_CHECKING:
    from .modeling_fastlane import FastLaneModel

HUB_FILES = (
    "adapters_fastlane.py",
    "checkpoint_fastlane.py",
    "configuration_fastlane.py",
    "encoding_fastlane.py",
    "fingerprint_fastlane.py",
    "modeling_fastlane.py",
    "projection_fastlane.py",
    "routing_fastlane.py",
    "search_fastlane.py",
    "st_fastlane.py",
)
MODULES = [{"idx": 0, "name": "0", "path": "", "type": "st_fastlane.FastLaneTransformer"}]


def write_checkpoint_files(model: FastLaneModel, directory: str | os.PathLike[str]) -> None:
    """Completes a folder that holds the model's weights and configuration.

    Adds the tokenizer, our source files (so that the checkpoint loads where nothing of ours is
    installed), what Sentence Transformers reads, and a model card where there is none.
    """
    folder = Path(directory)
    model.tokenizer.save_pretrained(folder)
    for name in HUB_FILES:
        copy_checkpoint_file(name, model, folder)
    write_module_list(folder)
    write_encoder_settings(model, folder)
    if not (folder / "README.md").exists():
        write_card(model, folder)


def write_encoder_settings(model: FastLaneModel, folder: Path) -> None:
    """Writes what Sentence Transformers reads of the encoder; what it wrote there itself stays."""
    path = folder / "config_sentence_transformers.json"
    written = json.loads(path.read_text("utf-8")) if path.exists() else {}
    prompts = {"query": model.config.query_prompt, "document": model.config.document_prompt}
    settings = {
        "default_prompt_name": None,
        "similarity_fn_name": "maxsim",
        **written,
        "model_type": "MultiVectorEncoder",
        "prompts": {**written.get("prompts", {}), **prompts},
    }
    _write_json(path, settings)


def write_module_list(folder: Path) -> None:
    """Writes `modules.json`, which names our module by the source file beside it."""
    _write_json(folder / "modules.json", MODULES)


def write_card(model: FastLaneModel, folder: Path) -> None:
    """Writes the card: the one the model came with, or a new one where our package is installed.

    The one it came with isn't true any more once an adapter is merged.
    """
    try:
        if not model.has_merged_adapter:
            copy_checkpoint_file("README.md", model, folder)
            return
    except OSError:
        pass
    render = type(model).render_card
    if render is not None:
        (folder / "README.md").write_text(render(model.config), "utf-8")


def copy_checkpoint_file(name: str, model: FastLaneModel, folder: Path) -> None:
    """Copies a file from beside this one, from `model.code_folders`, or from the model's checkpoint.

    transformers caches only those of our files that the loaded class imports.

    Raises:
        OSError: The file is in neither place.
    """
    homes = (Path(__file__).parent, *model.code_folders)
    source = next((home / name for home in homes if (home / name).exists()), None)
    if source is None:
        options = dict(model._hub_options)
        commit = Path(__file__).parent.name  # where transformers keeps code from the Hub
        if re.fullmatch("[0-9a-f]{40}", commit):
            options["revision"] = commit
        source = Path(str(cached_file(str(model.name_or_path), name, **options)))
    target = folder / name
    if not (target.exists() and source.samefile(target)):
        shutil.copyfile(source, target)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
