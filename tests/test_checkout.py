"""A checkout stays clean as its examples are run, and a wheel has all of it."""

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


def test_a_wheel_has_every_package() -> None:
    """They are listed by hand, since two of them are links."""
    [listed] = re.findall(
        r"^packages = \[\n(.*?)^\]", (ROOT / "pyproject.toml").read_text("utf-8"), re.M | re.S
    )
    source = ROOT / "fastlane_st"
    folders = [source, *(path.parent for path in source.glob("*/__init__.py"))]
    folders += [path.parent for path in source.glob("*/*/__init__.py")]
    names = {folder.relative_to(ROOT).as_posix().replace("/", ".") for folder in folders}
    assert set(re.findall(r'"([\w.]+)"', listed)) == names
