"""What a checkpoint holds, without running any of it: code, weights, licence, base, results."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeAlias

import yaml
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError

from ..files import sha256_of
from ..loading import ADAPTER_CONFIG, ask_hub
from ..modeling.checkpoint_fastlane import HUB_FILES

State: TypeAlias = Literal["this package's", "different", "not this package's"]

CODE = ".py"
WEIGHTS = (
    ".safetensors",
    ".onnx",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".pickle",
    ".h5",
    ".msgpack",
)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
NAMING_CODE = ("*config*.json", "modules.json")
"""Files, of any folder, whose references to code, also of other repositories, loaders follow.

transformers reads such as `config.5.0.0.json` in place of a config.json that lists it.
"""
REFERENCE = re.compile(r"(\S+)--[^\s.]+\.\w+")


@dataclass(frozen=True)
class CodeFile:
    """A file that `trust_remote_code=True` may run.

    Attributes:
        name: Its path in the checkpoint.
        bytes: Its size.
        sha256: Of its content.
        state: Whether it equals the file of that name in this package.
    """

    name: str
    bytes: int
    sha256: str
    state: State


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights, as the list of files says.

    Attributes:
        name: Its path in the checkpoint.
        bytes: Its size.
        sha256: Of its content, where it is known without a download.
        is_pickle: Whether loading it would run code; nothing here ever loads such a file.
    """

    name: str
    bytes: int
    sha256: str | None
    is_pickle: bool


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint says of itself.

    Attributes:
        name: The folder or repository.
        commit: Of a repository.
        kind: "fastlane", "adapter", or what else its configuration says.
        base: The backbone, or an adapter's base.
        licence: The card's.
        code_elsewhere: Repositories from which the configuration of any of its parts takes code.
        code: Its own code.
        weights: All files of weights.
        results: The card's: collection, number of routes, metric, value.
    """

    name: str
    commit: str | None
    kind: str
    base: str | None
    licence: str | None
    code_elsewhere: tuple[str, ...]
    code: tuple[CodeFile, ...]
    weights: tuple[WeightsFile, ...]
    results: tuple[tuple[str, str, str, float], ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def render(self) -> str:
        """Gives it for the terminal."""
        facts = {
            "checkpoint": self.name,
            "commit": self.commit,
            "kind": self.kind,
            "base": self.base,
            "licence": self.licence,
            "code from elsewhere": ", ".join(self.code_elsewhere) or "none",
        }
        lines = [
            f"{name:20} {'not said' if fact is None else fact}" for name, fact in facts.items()
        ]
        lines += [
            "",
            "code that trust_remote_code=True runs" if self.code else "no code of its own",
        ]
        lines += [
            f"  {one.sha256[:16]} {one.bytes:>9,}  {one.name}: {one.state}" for one in self.code
        ]
        lines += ["", "weights" if self.weights else "no weights"]
        for one in self.weights:
            note = ": a pickle, which is never loaded" if one.is_pickle else ""
            lines.append(
                f"  {(one.sha256 or 'not known')[:16]:16} {one.bytes:>13,}  {one.name}{note}"
            )
        lines += ["", "results of the card" if self.results else "no results in the card"]
        lines += [f"  {row[0]:24} {row[1]:16} {row[2]:12} {row[3]:.4f}" for row in self.results]
        return "\n".join(lines)


def inspect(
    name_or_path: str | os.PathLike[str], revision: str | None = None, token: str | None = None
) -> Inspection:
    """Reads a checkpoint's list of files, its code, configuration and card; weights aren't downloaded.

    Args:
        name_or_path: A folder, or a repository on the Hub.
        revision: Branch, tag or commit of a repository.
        token: Of the Hub; by default the one that you logged in with.

    Raises:
        FileNotFoundError: There is neither such a folder nor such a repository or revision, or the Hub can't
            be asked.
        ValueError: A folder isn't a checkpoint of any kind, or its configuration is no JSON.
    """
    name = str(name_or_path)
    files = FolderFiles(Path(name)) if Path(name).is_dir() else HubFiles(name, revision, token)
    found: dict[str, Any] = {}
    for path in sorted(files.sizes):
        if any(fnmatchcase(PurePosixPath(path).name, pattern) for pattern in NAMING_CODE):
            try:
                found[path] = json.loads(files.read(path).decode("utf-8", "replace"))
            except ValueError as error:
                raise ValueError(f"{name}: {path} is no JSON: {error}") from None
    config: dict[str, Any] = {}
    for path in (ADAPTER_CONFIG, "config.json"):
        if not isinstance(found.get(path, {}), dict):
            raise ValueError(f"{name}: {path} is no JSON object")
        config |= found.get(path, {})
    if not config:
        raise ValueError(
            f"{name} holds no config.json and no {ADAPTER_CONFIG}: it is no checkpoint"
        )
    has_card = "README.md" in files.sizes
    card = card_of(files.read("README.md").decode("utf-8", "replace") if has_card else "")
    is_adapter = ADAPTER_CONFIG in found and "config.json" not in found
    code = tuple(
        code_file(path, files.read(path)) for path in sorted(files.sizes) if path.endswith(CODE)
    )
    weights = tuple(
        WeightsFile(path, size, files.hashes.get(path), path.endswith(PICKLES))
        for path, size in sorted(files.sizes.items())
        if path.endswith(WEIGHTS)
    )
    return Inspection(
        name=name,
        commit=files.commit,
        kind="adapter" if is_adapter else str(config.get("model_type")),
        base=config.get("base_model") or config.get("base_model_name_or_path"),
        licence=card.get("license"),
        code_elsewhere=elsewhere(found.values()),
        code=code,
        weights=weights,
        results=results_of(card),
    )


class FolderFiles:
    """The files of a folder."""

    commit: str | None = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        paths = [path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts]
        self.sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
        self.hashes = {
            name: sha256_of(folder / name) for name in self.sizes if name.endswith(WEIGHTS)
        }

    def read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()


class HubFiles:
    """The files of a repository; only those that are read are downloaded."""

    def __init__(self, repository: str, revision: str | None, token: str | None) -> None:
        ask_hub(repository, revision=revision, token=token)
        self._api = HfApi(token=token)
        try:
            info = self._api.model_info(repository, revision=revision, files_metadata=True)
        except HfHubHTTPError as error:
            raise FileNotFoundError(f"{repository} can't be read: {error}") from error
        self._repository = repository
        self.commit = info.sha
        siblings = info.siblings or []
        self.sizes = {one.rfilename: one.size or 0 for one in siblings}
        self.hashes = {one.rfilename: one.lfs.sha256 for one in siblings if one.lfs is not None}

    def read(self, name: str) -> bytes:
        path = self._api.hf_hub_download(self._repository, name, revision=self.commit)
        return Path(path).read_bytes()


def code_file(name: str, content: bytes) -> CodeFile:
    """Compares a file with the one of the same name in this package."""
    state: State = "not this package's"
    if name in HUB_FILES:
        ours = (Path(__file__).parents[1] / "modeling" / name).read_bytes()
        state = "this package's" if ours == content else "different"
    return CodeFile(name, len(content), hashlib.sha256(content).hexdigest(), state)


def elsewhere(contents: Iterable[Any]) -> tuple[str, ...]:
    """The repositories whose code some files name, as `owner/repo--module.Class`; a folder counts as one."""
    named = (REFERENCE.fullmatch(text) for content in contents for text in texts_of(content))
    return tuple(sorted({found[1] for found in named if found}))


def texts_of(content: Any) -> Iterator[str]:
    """All texts in a JSON value but for names."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict | list):
        for one in content.values() if isinstance(content, dict) else content:
            yield from texts_of(one)


def card_of(text: str) -> dict[str, Any]:
    """The metadata of a card; nothing of one that can't be read."""
    try:
        return dict(ModelCard(text, ignore_metadata_errors=True).data.to_dict())
    except (TypeError, ValueError, yaml.YAMLError):
        return {}


def results_of(card: Mapping[str, Any]) -> tuple[tuple[str, str, str, float], ...]:
    """Rows of the card's `model-index`."""
    rows = []
    for model in card.get("model-index") or []:
        for result in model.get("results") or []:
            dataset = result.get("dataset") or {}
            for metric in result.get("metrics") or []:
                value = metric.get("value")
                if isinstance(value, int | float):
                    about = (dataset.get("name"), dataset.get("config"), metric.get("type"))
                    rows.append((*(str(one or "") for one in about), float(value)))
    return tuple(rows)  # type: ignore[arg-type]  # three texts and a number
