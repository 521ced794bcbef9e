"""How long commands take from the shell, against encoding alone and against another version.

    git worktree add ../before 05d0b15^
    python -m benchmarks.speed.commands --before ../before --out benchmarks/results/commands.json
    python -m benchmarks.speed.commands --collection data/eval/nqgold \\
        --out benchmarks/results/commands_nqgold.json

In each round and for each backend the passages of Python's own documentation are encoded alone, in this
process, by a model that is loaded; `fastlane index` builds an index over them, and over one passage, which is
what starting takes. Both cut long passages, so that both encode the same. `fastlane demo` runs in an empty
cache, so that it also writes the checkpoint, and the graph where it runs one; so does that of --before, a
checkout of this repository, with that version's defaults. With --collection its documents are the passages,
and no demo is run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fastlane_st.data.collection import read_collection
from fastlane_st.demo.python_docs import python_documents

from ..common.encoding import encoder_by
from ..common.environment import command, environment
from ..common.results import write_results
from .encoding import call_seconds, spread


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backends", default="torch:float32,torch:bfloat16,onnx:int8")
    corpora = parser.add_mutually_exclusive_group()
    corpora.add_argument("--before", type=Path, help="checkout of another version")
    corpora.add_argument("--collection", type=Path, help="BEIR folder of the passages")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    names = options.backends.split(",")
    texts = passages(options.collection)
    encoders = {name: encoder_by(name, "fastlane-minilm") for name in names}
    seconds: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in names}
    before: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        whole, one = (Path(scratch, name) for name in ("whole.jsonl", "one.jsonl"))
        write_corpus(whole, texts)
        write_corpus(one, texts[:1])
        for number in range(options.rounds):
            if options.before is not None:
                home = str(Path(scratch, f"before-{number}"))
                old = {"PYTHONPATH": str(options.before.resolve()), "PYTHONSAFEPATH": "1"}
                old["FASTLANE_HOME"] = home
                before.append(call_seconds(partial(fastlane, "demo", **old)))
            for name, encoder in encoders.items():
                folder = Path(scratch, f"{name}-{number}".replace(":", "-"))
                encoder.encode_document(texts[:64])
                home = str(folder / "home")
                calls: dict[str, Callable[[], object]] = {
                    "encode": partial(encoder.encode_document, texts),
                    "index": partial(build, whole, folder / "whole", name),
                    "start": partial(build, one, folder / "one", name),
                }
                if options.collection is None:
                    calls["demo"] = partial(fastlane, "demo", *choice(name), FASTLANE_HOME=home)
                for called, call in calls.items():
                    seconds[name][called].append(call_seconds(call))
    results = {
        "command": command(),
        "environment": environment(),
        "rounds": options.rounds,
        "corpus": options.collection.name if options.collection else "Python's documentation",
        "documents": len(texts),
        "before": {"demo": statistics.median(before)} if before else None,
        "backends": {name: facts_of(found, before) for name, found in seconds.items()},
    }
    write_results(options.out, results)
    print(json.dumps(results, indent=2))


def passages(collection: Path | None) -> list[str]:
    """The documents of a judged collection, or the passages of Python's documentation."""
    if collection is None:
        return [document.content for document in python_documents()]
    return list(read_collection(collection).documents.values())


def choice(name: str) -> tuple[str, ...]:
    """The options of a command that choose a backend."""
    backend, _, dtype = name.partition(":")
    return "--backend", backend, "--dtype", dtype


def fastlane(*arguments: str, **variables: str) -> None:
    """Runs the command of this interpreter's environment."""
    own = [sys.executable, "-m", "fastlane_st.cli", *arguments]
    subprocess.run(own, check=True, capture_output=True, env=os.environ | variables)


def write_corpus(path: Path, texts: list[str]) -> None:
    rows = [{"id": str(number), "text": text} for number, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def build(corpus: Path, out: Path, name: str) -> None:
    fastlane("index", str(corpus), "--out", str(out), "--long-texts", "cut", *choice(name))


def facts_of(seconds: dict[str, list[float]], before: list[float]) -> dict[str, Any]:
    """Median seconds; the rate of `fastlane index` over that of encoding; the demo's over the older one's."""
    started = [
        whole - start for whole, start in zip(seconds["index"], seconds["start"], strict=True)
    ]
    found = {
        "seconds": {name: statistics.median(each) for name, each in seconds.items()},
        "index_over_encoding": ratios(seconds["encode"], seconds["index"]),
        "index_over_encoding_once_started": ratios(seconds["encode"], started),
    }
    if before:
        found["demo_over_before"] = ratios(before, seconds["demo"])
    return found


def ratios(above: list[float], below: list[float]) -> dict[str, float]:
    return spread([one / other for one, other in zip(above, below, strict=True)])


if __name__ == "__main__":
    main()
