"""A released model before and after its second stage, from the values per query that `quality.py` wrote.

    python -m benchmarks.quality.stages --before benchmarks/results/first_stage.json \\
        --after benchmarks/results/quality.json --out benchmarks/results/stages.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from fastlane_st.evaluation.metrics import macro_difference

from ..common.environment import command
from ..common.results import load_rows, write_results

SETTINGS = ("router_1", "router_2", "router_4", "router_8", "random", "full")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, required=True, help="JSON of quality.py")
    parser.add_argument("--after", type=Path, required=True, help="JSON of quality.py")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    measured = [options.before, options.after]
    found: dict[str, Any] = {
        "command": command(),
        "before": settings_of(options.before),
        "after": settings_of(options.after),
        "settings": {},
    }
    before, after = map(load_rows, measured)
    if list(before) != list(after):
        raise SystemExit(f"{options.before} has the sets {list(before)}, the other {list(after)}")
    found["sets"] = list(after)
    for setting in SETTINGS:
        pairs = [
            (after[name][setting].astype(float), before[name][setting].astype(float))
            for name in after
        ]
        found["settings"][setting] = {
            "before": float(np.mean([pair[1].mean() for pair in pairs])),
            "after": float(np.mean([pair[0].mean() for pair in pairs])),
            "difference": macro_difference(pairs).to_dict(),
        }
        print(setting, found["settings"][setting])
    write_results(options.out, found)


def settings_of(path: Path) -> dict[str, Any]:
    """The model of a results file, and the dtype that it was measured in."""
    settings = json.loads(path.read_text("utf-8"))["settings"]
    return {"model": settings["model"], "dtype": settings["dtype"]}


if __name__ == "__main__":
    main()
