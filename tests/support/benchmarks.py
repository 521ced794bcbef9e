"""Runs the commands of `benchmarks/` on tiny judged collections."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import DOCUMENTS, QUERIES

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"


def write_set(folder: Path, shift: int) -> None:
    """A BEIR folder in which query n has the document n + shift."""
    (folder / "qrels").mkdir(parents=True)
    for name, texts in (("corpus", DOCUMENTS), ("queries", QUERIES)):
        rows = [json.dumps({"_id": f"{name}{n}", "text": text}) for n, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    rows = [f"queries{n}\tcorpus{n + shift}\t1" for n in range(len(QUERIES))]
    qrels = "\n".join(["query-id\tcorpus-id\tscore", *rows])
    (folder / "qrels" / "dev.tsv").write_text(qrels)


def run_command(name: str, *arguments: object) -> None:
    """Runs `python -m benchmarks.<name>` in this process, from the repository root."""
    module = import_module(f"benchmarks.{name}")
    with pytest.MonkeyPatch.context() as patches:
        patches.chdir(ROOT)
        patches.setattr(sys, "argv", [str(module.__file__), *map(str, arguments)])
        module.main()


def run_on_one_set(name: str, checkpoint: Path, folder: Path, *options: object) -> dict[str, Any]:
    """The JSON that a command writes about a set "one" in the folder."""
    write_set(folder / "one", 0)
    out = folder / "results" / "found.json"
    where = ["--data", folder, "--model", checkpoint, "--out", out]
    run_command(name, "--sets", "one", *options, *where)
    found: dict[str, Any] = json.loads(out.read_text())
    return found
