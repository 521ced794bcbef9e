"""Checkpoints in all ways in: what they encode, processes without the package, an emulated Hub cache."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass
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


WITHOUT_PACKAGE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "fastlane_st" or name.startswith("fastlane_st."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import contextlib, io, json, os, traceback
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
home, outcomes = os.getcwd(), {}
for name, code in %r.items():
    os.makedirs(name, exist_ok=True)
    os.chdir(name)
    printed, error = io.StringIO(), ""
    try:
        with contextlib.redirect_stdout(printed):
            exec(code, dict(globals()))
    except Exception:
        error = traceback.format_exc()
    os.chdir(home)
    outcomes[name] = [printed.getvalue(), error]
with open("outcomes.json", "w") as file:
    json.dump(outcomes, file)
"""


@dataclass(frozen=True)
class Runs:
    """What blocks of code did in `run_without_package`, each in the folder of its name.

    Attributes:
        folder: Holds their folders.
        outcomes: By name what a block printed, and the traceback of its error or "".
    """

    folder: Path
    outcomes: dict[str, tuple[str, str]]

    def finished(self, name: str) -> str:
        """Asserts that a block raised no error and asked the user nothing; gives what it printed."""
        printed, error = self.outcomes[name]
        assert not error, error
        assert "[y/N]" not in printed
        return printed

    def embeddings(self, name: str, file: str) -> dict[str, np.ndarray]:
        """What a block wrote with `save_embeddings(model, file)`."""
        with np.load(self.folder / name / file) as saved:
            return dict(saved)


def run_without_package(blocks: dict[str, str], folder: Path) -> Runs:
    """Runs blocks of code in one process where fastlane_st can't be imported.

    One process, since importing torch and Sentence Transformers takes seconds. Each block has names of its
    own and works in `folder / name`; HF_HOME is `folder / "hf"`. Standard input stays open, as a terminal's
    does: a question to the user would be seen.
    """
    code = {name: textwrap.dedent(block) for name, block in blocks.items()}
    with (
        (folder / "errors.txt").open("w+", encoding="utf-8") as log,
        subprocess.Popen(
            [sys.executable, "-c", WITHOUT_PACKAGE % (QUERIES, DOCUMENTS, code)],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        ) as process,
    ):
        process.wait()
        log.seek(0)
        errors = log.read()
    assert process.returncode == 0, errors
    assert "[y/N]" not in errors
    return Runs(folder, json.loads((folder / "outcomes.json").read_text()))


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
