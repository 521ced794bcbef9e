"""Pushed through the real client to a local Hub, and loaded from there by all three ways."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastlane_st import FastLaneModel
from fastlane_st.publish.push import push
from tests.conftest import QUERIES
from tests.support.hub_server import TOKEN, Hub, local_hub

REPOSITORY = "me/fastlane-tiny"
THREE_WAYS = """
import sys
from sentence_transformers import MultiVectorEncoder
from transformers import AutoModel
name, query = sys.argv[1:3]
options = {"revision": sys.argv[3]} if len(sys.argv) > 3 else {}
model = AutoModel.from_pretrained(name, trust_remote_code=True, **options)
same = MultiVectorEncoder(name, trust_remote_code=True, **options)
from fastlane_st import FastLaneEncoder
encoder = FastLaneEncoder(name, **options)
for each in (model, same, encoder):
    print([round(float(x), 4) for x in each.encode_query(query, num_routes=1)[0]])
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with local_hub() as server:
        yield server


def run(
    hub: Hub, home: Path, *command: str, token: str | None = TOKEN
) -> subprocess.CompletedProcess[str]:
    """A process that knows only this Hub, with a cache of its own."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE", "TRANSFORMERS_CACHE")
    }
    environment |= {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **({} if token is None else {"HF_TOKEN": token}),
    }
    return subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=300
    )


def fastlane(hub: Hub, home: Path, *arguments: str, token: str | None = TOKEN) -> str:
    """What the command prints, or its error."""
    done = run(hub, home, "-m", "fastlane_st.cli", *arguments, token=token)
    return done.stdout if done.returncode == 0 else done.stderr


@pytest.mark.slow
def test_a_pushed_checkpoint_loads_by_its_name_in_all_three_ways(
    hub: Hub, checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(checkpoint, folder)
    (folder / "notes.bin").write_bytes(b"not to be pushed")
    said = fastlane(hub, tmp_path / "pusher", "push", str(folder), REPOSITORY, "--private")
    assert said.startswith(f"pushed {folder}: {hub.url}/{REPOSITORY}/commit/")
    repository = hub.repositories[REPOSITORY]
    assert repository.private
    assert len(repository.commits) == 2  # the empty one, and ours
    files = repository.commits[repository.branches["main"]]
    assert "notes.bin" not in files
    assert {"config.json", "model.safetensors", "modules.json", "README.md"} < set(files)
    card = files["README.md"].decode()
    assert f'"{REPOSITORY}"' in card
    assert "your-name" not in card

    done = run(hub, tmp_path / "user", "-c", THREE_WAYS, REPOSITORY, QUERIES[0])
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    model = FastLaneModel.from_pretrained(checkpoint)
    expected = model.encode_query(QUERIES[0], num_routes=1)[0].tolist()
    for line in lines:
        assert json.loads(line) == pytest.approx(expected, abs=2e-4)
    assert len(lines) == 3

    # Without a token nobody sees it.
    said = fastlane(hub, tmp_path / "other", "inspect", REPOSITORY, token=None)
    assert "the Hub has no repository of that name, or it is private" in said
    # Pushed again unchanged, nothing is committed.
    said = fastlane(hub, tmp_path / "pusher", "push", str(folder), REPOSITORY)
    assert said.startswith("pushed"), said
    assert len(repository.commits) == 2
    # What an older version pushed goes, what somebody else put there stays.
    older = {"old_fastlane.py": b"", "onnx/model.onnx": b"", "adapter_config.json": b"{}"}
    repository.commit("main", {**files, **older, "notes.md": b"mine"})
    said = fastlane(hub, tmp_path / "pusher", "push", str(folder), REPOSITORY)
    assert said.startswith("pushed"), said
    left = repository.commits[repository.branches["main"]]
    assert left == {**files, "notes.md": b"mine"}


@pytest.mark.slow
def test_a_branch_and_a_broken_connection(hub: Hub, checkpoint: Path, tmp_path: Path) -> None:
    said = fastlane(hub, tmp_path / "a", "push", str(checkpoint), REPOSITORY, "--revision", "v2")
    assert "pushed" in said
    repository = hub.repositories[REPOSITORY]
    assert not repository.commits[repository.branches["main"]]
    wrong = run(hub, tmp_path / "b", "-c", THREE_WAYS, REPOSITORY, QUERIES[0], "v3")
    assert wrong.returncode != 0
    assert "v3" in wrong.stderr
    user = tmp_path / "user"
    hub.broken = ("model.safetensors",)
    broken = run(hub, user, "-c", THREE_WAYS, REPOSITORY, QUERIES[0], "v2")
    assert broken.returncode != 0
    assert not [path for path in user.rglob("snapshots/*/model.safetensors") if path.exists()]
    hub.broken = ()
    done = run(hub, user, "-c", THREE_WAYS, REPOSITORY, QUERIES[0], "v2")
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.splitlines())) == 1


@pytest.mark.slow
def test_a_push_needs_a_login_and_a_checkpoint(hub: Hub, checkpoint: Path, tmp_path: Path) -> None:
    for token in (None, "hf_wrong"):
        said = fastlane(hub, tmp_path / "a", "push", str(checkpoint), REPOSITORY, token=token)
        assert "log in with 'hf auth login', or set HF_TOKEN" in said
        assert len(said.splitlines()) == 1, said
    assert not hub.repositories
    hub.url = "http://127.0.0.1:9"
    said = fastlane(hub, tmp_path / "a", "push", str(checkpoint), REPOSITORY)
    assert "the Hub can't be reached" in said
    assert len(said.splitlines()) == 1, said


def test_what_is_no_checkpoint_or_name_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no FastLane checkpoint and no adapter"):
        push(tmp_path, REPOSITORY)
    for name in ("fastlane", "a/b/c", "../b", "a b/c"):
        with pytest.raises(ValueError, match="a repository is owner/name"):
            push(checkpoint, name)
