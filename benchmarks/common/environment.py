"""What a result depends on besides the code: processor, threads and versions."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "fastlane-st",
    "torch",
    "sentence-transformers",
    "transformers",
    "numpy",
    "faiss-cpu",
    "bm25s",
)


def environment() -> dict[str, Any]:
    """For the JSON of a benchmark."""
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in (*PACKAGES, "pytrec-eval-terrier")},
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
    try:
        return version(name)
    except PackageNotFoundError:
        return None
