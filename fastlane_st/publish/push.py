"""Uploads a checkpoint folder to the Hub, in one commit."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # whichever it uses

from ..loading import ADAPTER_CONFIG, HUB_NAME, is_fastlane

PLACEHOLDER = re.compile(r"\byour-name/[\w.-]+")
"""The checkpoint's name in the card of a folder that was never pushed."""
PUSHED = ("*.json", "*.txt", "*.py", "*.md", "*.safetensors", "*.model", "onnx/*.onnx")
REPLACED = ("*_fastlane.py", "*.safetensors", "onnx/*.onnx", ADAPTER_CONFIG)
"""What an older push may have left: code, weights and graphs of another checkpoint."""
LOGIN = "log in with 'hf auth login', or set HF_TOKEN"


def push(
    directory: str | os.PathLike[str],
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    token: str | None = None,
) -> str:
    """Pushes a checkpoint's folder, or an adapter's, to a repository, which is created if it isn't there.

    The repository holds all of the folder or, after an error, nothing of it: there is one commit. Only files
    of a checkpoint are pushed, and code and weights that the folder doesn't have are deleted. In the card,
    the name of the repository takes the place of "your-name/…".

    Args:
        directory: What `save_pretrained`, `fastlane export` or a training wrote.
        repository: `owner/name`.
        private: Of a new repository.
        revision: A branch, which is created if it isn't there; "main" by default.
        message: Of the commit.
        token: Of the Hub; by default the one that you logged in with.

    Returns:
        The commit's address.

    Raises:
        ValueError: The folder holds no checkpoint, or that is no name of a repository.
        PermissionError: There is no token, or it may not write there.
        ConnectionError: The Hub can't be reached, or refuses the upload.
    """
    folder = Path(directory)
    if not is_fastlane(folder / "config.json") and not (folder / ADAPTER_CONFIG).exists():
        raise ValueError(
            f"{folder} holds no FastLane checkpoint and no adapter: save one there first"
        )
    if not HUB_NAME.fullmatch(repository) or "/" not in repository:
        raise ValueError(f"a repository is owner/name, got {repository!r}")
    api = HfApi(token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        if revision not in (None, "main"):
            api.create_branch(repository, branch=revision, exist_ok=True)
        added = list(additions(folder, repository))
        there = api.list_repo_files(repository, revision=revision)
        commit = api.create_commit(
            repository,
            [*added, *deletions(there, {one.path_in_repo for one in added})],
            commit_message=message or "Push a FastLane checkpoint",
            revision=revision,
        )
    except LocalTokenNotFoundError as error:
        raise PermissionError(f"{repository} can't be written without a token: {LOGIN}") from error
    except RepositoryNotFoundError as error:
        raise PermissionError(
            f"there is no repository {repository}, or this token may not see it: {LOGIN} of its owner"
        ) from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise PermissionError(
                f"{repository} can't be written with this token ({status}): {LOGIN} with one that may "
                "write"
            ) from error
        raise ConnectionError(f"the Hub refused {folder}: {error}") from error
    except (httpx.TransportError, OSError) as error:
        raise ConnectionError(f"the Hub can't be reached: {error}") from error
    return str(commit.commit_url)


def additions(folder: Path, repository: str) -> Iterator[CommitOperationAdd]:
    """Yields the files of a checkpoint; the card with the repository's name."""
    for path in sorted({path for pattern in PUSHED for path in folder.glob(pattern)}):
        name = path.relative_to(folder).as_posix()
        content: Path | bytes = path
        if name == "README.md":
            content = PLACEHOLDER.sub(repository, path.read_text("utf-8")).encode()
        yield CommitOperationAdd(name, content)


def deletions(there: Iterable[str], added: set[str]) -> Iterator[CommitOperationDelete]:
    """Yields the files of a repository that an older push put there and this one has not."""
    for name in there:
        if name not in added and any(fnmatch(name, pattern) for pattern in REPLACED):
            yield CommitOperationDelete(name)
