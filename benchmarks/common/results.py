"""Results in a JSON file, and for sets the values per query in an .npz beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .environment import command, environment

Facts: TypeAlias = dict[str, Any]
"""What the JSON says of a set."""
Values: TypeAlias = npt.NDArray[np.float32]
Rows: TypeAlias = dict[str, Any]
"""Arrays of one value per query, by setting: nDCG@10, or facts about the query."""


def write_results(path: Path, found: Mapping[str, Any]) -> None:
    """Writes JSON; a command that is stopped leaves the old file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp.json")
    scratch.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", "utf-8")
    os.replace(scratch, path)


def load_rows(out: Path) -> dict[str, Rows]:
    """Values per query by set and setting, from the .npz beside a JSON file."""
    rows: dict[str, Rows] = {}
    if out.exists():
        with np.load(out.with_suffix(".npz")) as stored:
            for key in stored.files:
                name, _, setting = key.partition("/")
                rows.setdefault(name, {})[setting] = stored[key]
    return rows


class SetResults:
    """What a command has measured of its sets.

    Args:
        out: The JSON file. If it exists, its results are kept.
        settings: What all numbers of the file depend on.
        may_come_later: Keys of `settings` that may be None in the file and get a value now.

    Attributes:
        sets: The facts of each set.
        over_sets: The summary.
        rows: Values per query by set and setting; keys of the .npz are `set/setting`.

    Raises:
        SystemExit: The file was measured with other settings.
    """

    def __init__(
        self, out: Path, settings: dict[str, Any], may_come_later: Collection[str] = ()
    ) -> None:
        self.out = out
        self.settings = settings
        self.sets: dict[str, Facts] = {}
        self.over_sets: Facts = {}
        self.rows = load_rows(out)
        if out.exists():
            stored = json.loads(out.read_text("utf-8"))
            known = stored["settings"]
            known |= {key: settings[key] for key in may_come_later if known[key] is None}
            if known != settings:
                raise SystemExit(f"{out} holds {known}, asked for {settings}")
            self.sets, self.over_sets = stored["sets"], stored["over_sets"]

    def save(self) -> None:
        """Writes the values before the JSON, so that those of every set in the JSON are there."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        flat = {
            f"{name}/{key}": row for name, rows in self.rows.items() for key, row in rows.items()
        }
        scratch = self.out.with_suffix(".tmp.npz")
        np.savez_compressed(scratch, **flat)
        os.replace(scratch, self.out.with_suffix(".npz"))
        write_results(
            self.out,
            {"settings": self.settings, "over_sets": self.over_sets, "sets": self.sets},
        )


def measure_sets(
    results: SetResults,
    names: Iterable[str],
    measure: Callable[[str], tuple[Facts, Rows]],
    summarise: Callable[[SetResults], Facts] | None = None,
    is_whole: Callable[[str], bool] = lambda name: True,
    shown: Callable[[Facts], Mapping[str, Any]] = lambda facts: facts["ndcg@10"],
) -> None:
    """Measures every set that the results lack, and saves after each.

    Args:
        results: Gets the sets.
        names: What to measure, in this order.
        measure: Returns a set's facts and values per query. Facts of a set that was measured
            before name their own command and environment.
        summarise: Returns the new `over_sets`.
        is_whole: Whether a set in the results needs no measuring.
        shown: The part of a set's facts to print.
    """
    for name in names:
        if name in results.sets and is_whole(name):
            print(f"{name}: already in {results.out}")
            continue
        facts, rows = measure(name)
        results.sets[name] = {"command": command(), "environment": environment(), **facts}
        results.rows[name] = rows
        if summarise is not None:
            results.over_sets = summarise(results)
        results.save()
        for setting, found in shown(results.sets[name]).items():
            print(f"{name}  {setting:26} {json.dumps(found)}", flush=True)
