"""The folder in which a run keeps its work, beside the one that it writes: of one process at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..lock import locked
from .queries import TrainingQuery


@contextmanager
def work_folder(output: Path, resume: bool) -> Iterator[Path]:
    """Gives the folder for the work of a run that writes `output`, which no other process takes meanwhile.

    Raises:
        FileExistsError: `output` exists, or the work of another run is there and `resume` is false.
        BlockingIOError: Another process is at work there.
    """
    work = output.with_name(f"{output.name}.partial")
    lock_file = output.with_name(f"{work.name}.lock")
    output.parent.mkdir(parents=True, exist_ok=True)
    with locked(work, lock_file):
        try:
            if output.exists():
                raise FileExistsError(f"{output} exists: name a new folder")
            if work.exists() and not resume:
                raise FileExistsError(
                    f"{work} holds a run that was stopped: resume it, or delete that folder to start again"
                )
            yield work
        finally:
            lock_file.unlink(missing_ok=True)


def check_run(
    work: Path,
    texts: Sequence[str],
    queries: Sequence[TrainingQuery],
    settings: Mapping[str, Any],
) -> None:
    """Writes what a run depends on, or raises a ValueError if a stopped one depended on something else."""
    digest = hashlib.sha256()
    for text in (*texts, *(query.text for query in queries)):
        digest.update(hashlib.sha256(text.encode()).digest())
    asked = json.loads(json.dumps({**settings, "documents and queries": digest.hexdigest()}))
    path = work / "run.json"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asked), "utf-8")
        return
    for name, value in json.loads(path.read_text("utf-8")).items():
        if asked[name] != value:
            raise ValueError(
                f"{work} holds a run with other {name}: {value!r}, got {asked[name]!r}; go on with the "
                "same, or delete that folder to start again"
            )
