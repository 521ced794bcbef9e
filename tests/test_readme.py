"""README's examples, run as they stand and in order, in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"```(python|bash)\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
SLOW = ("make ", "pip install", "training/", "runs/")  # the last two need training data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


@pytest.mark.parametrize(
    ("language", "code", "printed"),
    [
        pytest.param(*block, id=f"{block[0]}-{number}")
        for number, block in enumerate(BLOCK.findall(README.read_text("utf-8")))
        if not any(word in block[1] for word in SLOW)
    ],
)
def test_example_runs_and_prints_what_it_says(
    language: str, code: str, printed: str, folder: Path
) -> None:
    commands = Path(sys.executable).parent
    environment = os.environ | {
        "FASTLANE_HOME": str(folder / "home"),
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
    }
    program = [sys.executable, "-c"] if language == "python" else ["bash", "-euc"]
    done = subprocess.run(
        [*program, code],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if printed:
        assert done.stdout == printed
