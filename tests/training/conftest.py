"""A short run over two sources of pairs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.training import Run, runner, short_run, write_pairs


@pytest.fixture(scope="package", autouse=True)
def frozen_heap() -> Iterator[None]:
    """Keeps the imported modules out of the garbage collection at the end of each run.

    The trainer collects all generations, which takes a third of a run of one step.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def settings(checkpoint: Path, tmp_path: Path) -> dict[str, Any]:
    """Six batches of each of two sources, in `tmp_path/run`."""
    paths = [write_pairs(tmp_path / f"{name}.jsonl", 26, seed) for seed, name in enumerate("ab")]
    return short_run(checkpoint, tmp_path, paths)


@pytest.fixture
def run(settings: dict[str, Any]) -> Run:
    """Trains with `settings`, some of them replaced."""
    return runner(settings)
