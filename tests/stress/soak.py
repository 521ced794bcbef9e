"""Breaks saving and loading of an index in many ways, and counts what happens.

    python -m tests.stress.soak --out benchmarks/results/soak.json

Four parts, each with counts of its own. *Faults*: changes and commits during which a write fails, at every
write there is: a full disk, a write cut short, a crash. *Kills*: a process that commits all the time is
killed with SIGKILL. After each the folder has to open with the last commit or the one that was being
written, and take another. *Mutations*: files of a good index are flipped, cut, swapped and stuffed; loading
has to refuse, or give the documents that were saved. *Readers* load and search for a minute while a
writer commits.
"""

from __future__ import annotations

import argparse
import builtins
import errno
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.common.environment import command, environment
from benchmarks.common.results import write_results
from fastlane_st.index.index import FastLaneIndex

State = list[tuple[Any, str | None, list[list[float]]]]
"""The documents of an index in their order: id, text and vectors."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=16, help="of faults at every write")
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="of readers with a writer")
    options = parser.parse_args()
    found: dict[str, Any] = {
        "command": command(),
        "environment": environment(),
    }
    parts: dict[str, Callable[[Path], dict[str, int]]] = {
        "faults": lambda folder: try_faults(folder, options.rounds),
        "kills": lambda folder: try_kills(folder, options.kills),
        "mutations": lambda folder: try_mutations(folder, options.mutations),
        "readers": lambda folder: try_readers(folder, options.seconds),
    }
    for name, part in parts.items():
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            found[name] = part(Path(folder) / "index")
            found[name]["seconds"] = round(time.perf_counter() - start)
        print(f"{name}: {found[name]}", flush=True)
    write_results(options.out, found)


def first_index() -> FastLaneIndex:
    """An index of both parts that a segment can have: of its own vectors and of those merged."""
    rng = np.random.default_rng(0)
    documents = [rng.normal(size=(1 + n % 3, 4)).astype(np.float32) for n in range(12)]
    return FastLaneIndex.from_embeddings(
        documents,
        ids=[*range(6), *"abcdef"],
        texts=[f"text {n}" for n in range(12)],
        metadata=[{"n": n} for n in range(12)],
    )


def change(index: FastLaneIndex, rng: random.Random) -> None:
    """One or two changes at random."""
    for _ in range(rng.randint(1, 2)):
        vectors = [[rng.gauss(0, 1) for _ in range(4)] for _ in range(rng.randint(1, 3))]
        kind = rng.choice(["add", "upsert", "delete", "compact"])
        if kind == "add":
            index.add([vectors], texts=[f"text {rng.random()}"])
        elif kind == "upsert":
            index.upsert([vectors], ids=[rng.choice("abcdefgh")], texts=[f"text {rng.random()}"])
        elif kind == "delete" and len(index) > 4:
            index.delete(rng.sample(index.ids, 2))
        else:
            index.compact()


def state_of(index: FastLaneIndex) -> State:
    """All that an index says of its documents."""
    vectors = {
        document.id: document.views.vectors.tolist()
        for part in index._contents.parts
        for document in part.documents()
    }
    return [(id, index.text(id), vectors[id]) for id in index.ids]


class CrashError(BaseException):
    """Stands for the end of the process: nothing cleans up after it."""


@contextmanager
def failing(at: int, how: str) -> Iterator[Callable[[], int]]:
    """Makes the `at`-th write, SQL statement, sync or move of a save fail; gives how many there were."""
    count = 0
    real_open, real_fsync, real_replace = builtins.open, os.fsync, os.replace
    real_connect = sqlite3.connect

    def fail() -> None:
        raise CrashError if how == "crash" else OSError(errno.ENOSPC, "No space left on device")

    def is_due() -> bool:
        nonlocal count
        count += 1
        return count == at

    class Failing:
        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, data: bytes) -> int:
            if is_due():
                if how != "full":
                    self.file.write(bytes(data)[: len(data) // 2])
                    self.file.flush()
                fail()
            return int(self.file.write(data))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> Failing:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

    class FailingConnection(sqlite3.Connection):
        """Fails before a statement, with what the statements before have written."""

        def execute(self, statement: str, /, *values: Any) -> sqlite3.Cursor:
            self._try()
            return super().execute(statement, *values)

        def executemany(self, statement: str, rows: Any, /) -> sqlite3.Cursor:
            self._try()
            return super().executemany(statement, rows)

        def _try(self) -> None:
            if is_due():
                if how == "crash":
                    raise CrashError
                raise sqlite3.OperationalError("database or disk is full")

    def connect(path: Any, **options: Any) -> sqlite3.Connection:
        is_read = options.get("uri", False)
        return real_connect(
            path, factory=sqlite3.Connection if is_read else FailingConnection, **options
        )

    def opened(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        file = real_open(path, mode, *args, **kwargs)
        return Failing(file) if mode == "wb" else file

    def fsync(descriptor: int) -> None:
        if is_due():
            fail()
        real_fsync(descriptor)

    def replace(source: Any, target: Any) -> None:
        if is_due():
            fail()
        real_replace(source, target)

    with (
        mock.patch.object(builtins, "open", opened),
        mock.patch.object(os, "fsync", fsync),
        mock.patch.object(os, "replace", replace),
        mock.patch.object(sqlite3, "connect", connect),
    ):
        yield lambda: count


def try_faults(folder: Path, rounds: int) -> dict[str, int]:
    """Fails every write of `rounds` commits, one after another, in each way."""
    found: Counter[str] = Counter()
    for round_number in range(rounds):
        for how in ("full", "short", "crash"):
            at = 1
            while True:
                shutil.rmtree(folder, ignore_errors=True)
                rng = random.Random(round_number)
                index = first_index()
                index.save(folder)
                for _ in range(round_number % 3):
                    change(index, rng)
                    index.save(folder)
                before = state_of(index)
                change(index, rng)
                after = state_of(index)
                try:
                    with failing(at, how) as count:
                        index.save(folder)
                except (CrashError, OSError):
                    found["points"] += 1
                    if how != "crash":  # the process goes on, and tries again
                        check_retry(index, folder, before, after)
                    found[check_folder(folder, before, after)] += 1
                    at += 1
                    continue
                assert count() < at
                break
    return dict(found)


def check_retry(index: FastLaneIndex, folder: Path, before: State, after: State) -> None:
    """The index of a save that failed can be saved, from a copy of what the failure left."""
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    assert state_of(FastLaneIndex.load(folder)) in (before, after)
    index.save(folder)
    assert state_of(FastLaneIndex.load(folder)) == after
    shutil.rmtree(folder)
    copy.rename(folder)


def check_folder(folder: Path, before: State, after: State) -> str:
    """Which commit the folder holds; it must take another one."""
    loaded = FastLaneIndex.load(folder)
    state = state_of(loaded)
    assert state in (before, after), "neither the last commit nor the new one"
    loaded.upsert([[[1.0, 2.0, 3.0, 4.0]]], ids=["after"])
    loaded.save(folder)
    assert state_of(FastLaneIndex.load(folder)) == state_of(loaded)
    return "kept the last commit" if state == before else "held the new commit"


def commit_for_ever(folder: str, seed: int) -> None:
    """What is killed: every commit has all documents say its number."""
    index = FastLaneIndex.load(folder)
    number = int(str(index.text(0)).split()[-1])
    rng = random.Random(seed)
    while True:
        number += 1
        ids = [0, *rng.sample(range(1, 500), 20)]
        rows = [[[float(number), 1.0, 0.0, 0.0]]] * len(ids)
        index.upsert(rows, ids=ids, texts=[f"commit {number}"] * len(ids))
        index.metadata["commit"] = number
        index.save(folder)


def try_kills(folder: Path, kills: int) -> dict[str, int]:
    """Kills a process that commits; whatever it got to, document and metadata agree."""
    index = FastLaneIndex.from_embeddings([[[0.0, 1.0, 0.0, 0.0]]], texts=["commit 0"])
    index.metadata["commit"] = 0
    index.save(folder)
    rng, last = random.Random(0), 0
    context = multiprocessing.get_context("fork")
    for number in range(kills):
        process = context.Process(target=commit_for_ever, args=(str(folder), number))
        process.start()
        time.sleep(rng.uniform(0.02, 0.4))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        loaded = FastLaneIndex.load(folder)
        commit = loaded.metadata["commit"]
        assert loaded.text(0) == f"commit {commit}"
        [hit] = loaded.search([[[1.0, 0.0, 0.0, 0.0]]], ids=[0])[0]
        assert hit.score == commit >= last
        last = commit
    return {"kills": kills, "commits": last}


def mutate(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Bytes of a file, damaged in some way."""
    how = rng.choice(["flip", "cut", "grow", "swap", "zero", "repeat", "other"])
    place = rng.randrange(max(1, len(data)))
    end = min(len(data), place + rng.randint(1, 64))
    if how == "flip":
        flipped = bytearray(data)
        flipped[place] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    if how == "cut":
        return data[:place]
    if how == "grow":
        return data[:place] + rng.randbytes(rng.randint(1, 64)) + data[place:]
    if how == "swap":
        return data[:place] + rng.randbytes(end - place) + data[end:]
    if how == "zero":
        return data[:place] + bytes(end - place) + data[end:]
    if how == "repeat":
        return data[:end] + data[place:]
    return rng.choice(others)


def try_mutations(folder: Path, mutations: int) -> dict[str, int]:
    """Loads an index after each of many mutations of one file."""
    index = first_index()
    index.save(folder)
    index.add([[[1.0, 0.0, 0.0, 0.0]]], ids=["more"])
    index.delete(["a"])
    index.save(folder)
    good = state_of(index)
    files = {path: path.read_bytes() for path in sorted(folder.iterdir()) if path.stat().st_size}
    rng, found = random.Random(0), Counter[str]()
    for _ in range(mutations):
        path = rng.choice(list(files))
        damaged = mutate(files[path], list(files.values()), rng)
        path.write_bytes(damaged)
        try:
            state = state_of(FastLaneIndex.load(folder))
        except (ValueError, FileNotFoundError):
            found["refused"] += 1
        else:
            assert state == good, f"{path.name} was damaged, and nothing said so"
            found["unchanged"] += 1  # the damage left the same bytes, or JSON of the same meaning
        path.write_bytes(files[path])
    return {"mutations": mutations, **found}


def try_readers(folder: Path, seconds: float) -> dict[str, int]:
    """Loads and searches in three threads while a fourth changes and commits."""
    index = FastLaneIndex.from_embeddings([[[0.0, 1.0]]] * 20, texts=["0"] * 20)
    index.save(folder)
    end = time.monotonic() + seconds

    def load() -> int:
        count = 0
        while time.monotonic() < end:
            check(FastLaneIndex.load(folder))
            count += 1
        return count

    def search() -> int:
        count = 0
        while time.monotonic() < end:
            check(index)
            count += 1
        return count

    def check(index: FastLaneIndex) -> None:
        hits = index.search([[[1.0, 0.0]]], top_k=20)[0]
        assert len(hits) == 20
        assert {(hit.score, hit.text) for hit in hits} == {(hits[0].score, f"{hits[0].score:.0f}")}

    def write() -> int:
        count = 0
        while time.monotonic() < end:
            count += 1
            rows = [[[float(count), 1.0]]] * 20
            index.upsert(rows, ids=range(20), texts=[str(count)] * 20)
            if count % 5 == 0:
                index.save(folder)
        return count

    with ThreadPoolExecutor() as pool:
        jobs = {"loads": pool.submit(load), "more_loads": pool.submit(load)}
        jobs |= {"searches": pool.submit(search), "changes": pool.submit(write)}
        return {name: job.result() for name, job in jobs.items()}


if __name__ == "__main__":
    main()
