"""What a result depends on besides the code: command, processor, threads and versions."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
"""The repository, from which commands run."""
PACKAGES = (
    "fastlane-st",
    "torch",
    "sentence-transformers",
    "transformers",
    "numpy",
    "faiss-cpu",
    "bm25s",
    "pytrec-eval-terrier",
)


def command() -> str:
    """The command line of this process, as one types it in the repository root."""
    module = Path(sys.argv[0]).resolve().relative_to(ROOT).with_suffix("")
    return shlex.join(["python", "-m", ".".join(module.parts), *sys.argv[1:]])


def environment() -> dict[str, Any]:
    """Processor, threads and versions, for the JSON of a benchmark."""
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in PACKAGES},
    }


def processor() -> str:
    """The processor's name and how many cores the machine has."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    return f"{name}, {os.cpu_count()} cores"


def installed(name: str) -> str | None:
    """The version of an installed package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
