"""Whole checkpoint folders: a model loads with its tokenizer and is saved with everything it needs."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from .adapters_fastlane import AdaptableModel, loaded_adapters
from .configuration_fastlane import FastLaneConfig

HUB_FILES = (
    "adapters_fastlane.py",
    "checkpoint_fastlane.py",
    "configuration_fastlane.py",
    "encoding_fastlane.py",
    "fingerprint_fastlane.py",
    "modeling_fastlane.py",
    "projection_fastlane.py",
    "router_fastlane.py",
    "routing_fastlane.py",
    "search_fastlane.py",
    "st_fastlane.py",
)
MODULES = [{"idx": 0, "name": "0", "path": "", "type": "st_fastlane.FastLaneTransformer"}]
HUB_OPTIONS = ("cache_dir", "local_files_only", "revision", "token")
"""Arguments of `from_pretrained` that say where a checkpoint's files are."""


class CheckpointModel(AdaptableModel):
    """The methods of `FastLaneModel` that load and save checkpoint folders."""

    config: FastLaneConfig
    render_card: Callable[[FastLaneConfig], str] | None = None
    """Writes the model card of a checkpoint that has none yet; set by the installed package."""
    keeps_card: bool = False
    """Whether the card of the checkpoint that the model came from describes these weights."""
    code_folders: Sequence[Path] = ()
    """Folders with source files of the checkpoint that transformers did not put beside this one."""
    _tokenizer: PreTrainedTokenizerBase | None = None
    _hub_options: dict[str, Any] = {}  # noqa: RUF012  # how the checkpoint's other files are found

    @classmethod
    def from_pretrained(  # type: ignore[override]  # all but these pass through by keyword
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *args: Any,
        load_tokenizer: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Loads a checkpoint as transformers does, with the tokenizer of the same revision.

        The tokenizer is read at once, so that the model still encodes after its folder is deleted or
        the working directory has changed. Without `load_tokenizer` set `model.tokenizer` yourself.
        """
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.keeps_card = True
        model._hub_options = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
        commit = getattr(model.config, "_commit_hash", None)  # where older transformers keeps it
        if commit is not None:
            model._hub_options["revision"] = commit
        if load_tokenizer:
            with suppress(OSError):  # a folder of weights alone: the first text raises
                model.tokenizer = model._load_tokenizer()
        return loaded

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the checkpoint that the model came from."""
        if self._tokenizer is None:
            self._tokenizer = self._load_tokenizer()
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def _load_tokenizer(self) -> PreTrainedTokenizerBase:
        # Given the configuration, transformers neither looks for it nor asks to trust its code.
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            self.name_or_path, config=self.config, **self._hub_options
        )
        return tokenizer

    def save_pretrained(  # type: ignore[override]  # all but these pass through by keyword
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> None:
        """Saves the whole checkpoint folder: weights, configuration, tokenizer, Hub files, card.

        With `push_to_hub`, uploads the folder to `repo_id` (default: the folder's name).
        """
        repo_id = kwargs.pop("repo_id", os.path.basename(os.path.normpath(save_directory)))
        super().save_pretrained(save_directory, **kwargs)
        if kwargs.get("is_main_process", True):
            if not loaded_adapters(self):  # an adapter is saved alone
                write_checkpoint_files(self, save_directory)
            if push_to_hub:
                self.push_to_hub(repo_id, token=kwargs.get("token"))

    def push_to_hub(  # type: ignore[override]  # a folder has no shards to size
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload FastLane checkpoint",
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        **save_kwargs: Any,
    ) -> str:
        """Uploads the whole checkpoint folder, card included, and gives the commit's address.

        transformers' own method would put a bare card in place of ours.
        """
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, **save_kwargs)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message,
                revision=revision,
                create_pr=create_pr,
            )
        return str(commit.pr_url if create_pr else commit.commit_url)


def write_checkpoint_files(model: CheckpointModel, directory: str | os.PathLike[str]) -> None:
    """Completes a folder that holds the model's weights and configuration.

    Adds the tokenizer, our source files (so that the checkpoint loads where this package is not
    installed), the settings of Sentence Transformers, and a model card where there is none.
    """
    folder = Path(directory)
    model.tokenizer.save_pretrained(folder)
    for name in HUB_FILES:
        copy_checkpoint_file(name, model, folder)
    write_module_list(folder)
    write_encoder_settings(model, folder)
    if not (folder / "README.md").exists():
        write_card(model, folder)


def write_encoder_settings(model: CheckpointModel, folder: Path) -> None:
    """Writes the encoder's settings for Sentence Transformers; keeps those that it has written itself."""
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


def write_card(model: CheckpointModel, folder: Path) -> None:
    """Writes the card: the one the model came with, or a new one where our package is installed."""
    if model.keeps_card and not model.has_merged_adapter:
        with suppress(OSError):
            copy_checkpoint_file("README.md", model, folder)
            return
    render = type(model).render_card
    if render is not None:
        (folder / "README.md").write_text(render(model.config), "utf-8")


def copy_checkpoint_file(name: str, model: CheckpointModel, folder: Path) -> None:
    """Copies a file from beside this one, from `model.code_folders`, or from the model's checkpoint.

    transformers caches only those of our files that the loaded class imports.

    Raises:
        OSError: The file is in none of these places.
    """
    homes = (Path(__file__).parent, *model.code_folders)
    source = next((home / name for home in homes if (home / name).exists()), None)
    if source is None:
        options, repository = dict(model._hub_options), str(model.name_or_path)
        commit = Path(__file__).parent.name  # where transformers keeps code from the Hub
        if name in HUB_FILES and re.fullmatch("[0-9a-f]{40}", commit):
            options["revision"] = commit
            reference = (getattr(model.config, "auto_map", None) or {}).get("AutoModel", "")
            repository = reference.rpartition("--")[0] or repository  # maybe another one's code
        source = Path(str(cached_file(repository, name, **options)))
    target = folder / name
    if not (target.exists() and source.samefile(target)):
        shutil.copyfile(source, target)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
