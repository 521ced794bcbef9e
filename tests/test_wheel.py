"""What pip installs from a built wheel works by itself: nothing is taken from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("LICENSE", "README.md", "fastlane_st", "model_card", "modeling", "pyproject.toml")


def run(*command: str | Path, cwd: Path) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(cwd), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of an environment that has the wheel, and this one's packages but for the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, symlinks=True)
        else:
            shutil.copyfile(path, source / name)
    pip = (sys.executable, "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", source, "-w", folder, cwd=folder)
    shutil.rmtree(source)
    home = folder / "environment"
    venv.create(home, with_pip=False)
    packages = sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)})
    # A path file adds the packages themselves; the checkout's own path file there isn't read.
    Path(packages, "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    [wheel] = folder.glob("*.whl")
    scripts = sysconfig.get_path("scripts", vars={"base": str(home), "platbase": str(home)})
    python = Path(scripts, "python")
    run(*pip, f"--python={python}", "install", "--no-deps", "--no-index", wheel, cwd=folder)
    return Path(scripts)


@pytest.mark.slow
def test_a_wheel_imports_exports_indexes_and_searches(commands: Path, tmp_path: Path) -> None:
    where = run(
        commands / "python", "-c", "import fastlane_st; print(fastlane_st.__file__)", cwd=tmp_path
    )
    assert Path(where.strip()).is_relative_to(commands.parent)
    (tmp_path / "corpus.jsonl").write_text(
        '{"_id": "json", "text": "json.loads parses a string of JSON."}\n'
        '{"_id": "paris", "text": "Paris is the capital of France."}\n'
    )
    fastlane = commands / "fastlane"
    run(fastlane, "export", "checkpoint", cwd=tmp_path)
    run(fastlane, "index", "corpus.jsonl", "--out", "index", "--model", "checkpoint", cwd=tmp_path)
    printed = run(fastlane, "search", "index", "how do I read JSON?", "--top-k", "1", cwd=tmp_path)
    assert "  json\n" in printed
    assert "Paris" not in printed
