"""Checkpoints in all ways in: what they encode, processes without the package, an emulated Hub cache."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np

from tests.conftest import DOCUMENTS, QUERIES

ROUTES = (1, 4, None)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def embeddings_of(model: object) -> dict[str, np.ndarray]:
    """Every query's and document's embeddings at every number of routes."""
    found = {}
    for side, texts in (("query", QUERIES), ("document", DOCUMENTS)):
        for num_routes in ROUTES:
            encode = getattr(model, f"encode_{side}")
            for number, views in enumerate(encode(texts, num_routes=num_routes)):
                found[f"{side} {number}, {num_routes} routes"] = views.numpy()
    return found


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=1e-5, err_msg=name)


def saved_embeddings(file: Path) -> dict[str, np.ndarray]:
    """What `save_embeddings` of `run_without_package` wrote."""
    with np.load(file) as saved:
        return dict(saved)


WITHOUT_PACKAGE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "fastlane_st" or name.startswith("fastlane_st."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import numpy as np
from sentence_transformers import MultiVectorEncoder
from transformers import AutoModel
QUERIES, DOCUMENTS, ROUTES = %r, %r, (1, 4, None)
def save_embeddings(model, path):
    found = {}
    for side, texts in (("query", QUERIES), ("document", DOCUMENTS)):
        for k in ROUTES:
            for n, views in enumerate(getattr(model, f"encode_{side}")(texts, num_routes=k)):
                found[f"{side} {n}, {k} routes"] = views.numpy()
    np.savez(path, **found)
"""


def run_without_package(code: str, folder: Path) -> str:
    """Runs `code` in `folder`, in a process where fastlane_st can't be imported; gives what it printed.

    Its standard input stays open, as a terminal's does: a question to the user would be seen.
    """
    setup = WITHOUT_PACKAGE % (QUERIES, DOCUMENTS)
    home = folder / "hf"
    environment = {"PATH": "/usr/bin:/bin", "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    with (
        (folder / "errors.txt").open("w+", encoding="utf-8") as log,
        subprocess.Popen(
            [sys.executable, "-c", setup + textwrap.dedent(code)],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        printed = process.stdout.read()
        process.wait()
        log.seek(0)
        errors = log.read()
    assert process.returncode == 0, errors
    assert "[y/N]" not in printed + errors
    return printed


def lay_into_hub_cache(
    folder: Path, home: Path, name: str, commit: str = COMMIT, branch: str | None = "main"
) -> None:
    """Lays a checkpoint folder into HF_HOME as a download from the Hub leaves it.

    Args:
        folder: The checkpoint.
        home: HF_HOME.
        name: Repository, `owner/name`.
        commit: Its commit.
        branch: Which branch the commit is the head of, if any.
    """
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    (repository / "blobs").mkdir(parents=True, exist_ok=True)
    (repository / "refs").mkdir(exist_ok=True)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for path in sorted(folder.iterdir()):
        blob = repository / "blobs" / f"{commit[:8]}-{path.name}"
        shutil.copyfile(path, blob)
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    if branch is not None:
        (repository / "refs" / branch).write_text(commit)
