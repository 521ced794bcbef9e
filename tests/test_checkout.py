"""A checkout stays clean: what the examples of README and docs write there is ignored by git."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.test_readme import BLOCK, GUIDE, README, ROOT

WRITTEN = re.compile(
    r"""(?:
        (?: --out | --json | --runs | fastlane\ export | mkdir\ -p | > )\s+
        | \.save\(\s*" | save_pretrained\(" | "(?=checkpoints")
    )([a-z][\w.-]*)""",
    re.VERBOSE,
)
PAGES = [page for page in (README, *GUIDE) if BLOCK.search(page.read_text("utf-8"))]


@pytest.mark.skipif(
    shutil.which("git") is None or not (ROOT / ".git").exists(), reason="needs a git checkout"
)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_git_ignores_what_the_examples_write(page: Path) -> None:
    blocks = [found[2] for found in BLOCK.finditer(page.read_text("utf-8"))]
    written = sorted({name for block in blocks for name in WRITTEN.findall(block)})
    asked = subprocess.run(
        ["git", "check-ignore", *written], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert asked.stdout.splitlines() == written
