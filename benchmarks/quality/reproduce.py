"""Another run of a training beside the released one: the same settings on the same queries.

    accelerate launch training/train.py --config training/fastlane-minilm.yaml seed=1 output_dir=runs/seed-1
    python benchmarks/reproduce.py --model runs/seed-1 --released benchmarks/results/quality.json \\
        --data data/eval --sets cranfield,wikiqa:test --dtype bfloat16 --out benchmarks/results/seed.json

nDCG@10 of all views and of the router's routes, and how much better the other run is than what `quality.py`
found of the released one, with the 95 % bootstrap interval. The values a query are beside the JSON. A set
that it holds already isn't measured again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from judged import describe_checkpoint, limits, measure, read_set, sets_parser
from machine import environment
from quality_summary import load_results, load_rows, save

from fastlane_st import FastLaneEncoder
from fastlane_st.evaluation.metrics import macro_difference
from fastlane_st.evaluation.scoring import NUM_ROUTES

SETTINGS = ("full", *(f"router_{k}" for k in NUM_ROUTES))


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    encoder = FastLaneEncoder(options.model)
    settings = {
        "model": describe_checkpoint(options.model, encoder),
        "released": json.loads(options.released.read_text())["settings"]["model"],
        **limits(options),
    }
    found = load_results(options.out, settings)
    rows, released = load_rows(options.out), load_rows(options.released)
    for name in options.sets.split(","):
        if name in found["sets"]:
            continue
        measured = measure(read_set(name, options), encoder, options, SETTINGS)
        rows[name] = {
            setting: metrics["ndcg@10"].astype(np.float32) for setting, metrics in measured.items()
        }
        found["sets"][name] = {
            "command": shlex.join(["python", *sys.argv]),
            "environment": environment(),
            "ndcg@10": compare({name: rows[name]}, released),
        }
        found["over_sets"] = compare(rows, released)
        save(options.out, found, rows)
    for setting, one in found["over_sets"].items():
        print(f"{setting:9} {one['released']:.4f} {one['other']:.4f}", one["difference"])


def parse() -> argparse.Namespace:
    parser = sets_parser(__doc__)
    parser.add_argument("--model", required=True, help="folder that train.py wrote")
    parser.add_argument("--released", type=Path, required=True, help="JSON of quality.py")
    return parser.parse_args()


def compare(rows: dict[str, dict[str, Any]], released: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Both runs' means over the sets, each of which counts alike, and the second less the first."""
    found = {}
    for setting in SETTINGS:
        pairs = [
            (row[setting].astype(float), released[name][setting].astype(float))
            for name, row in rows.items()
        ]
        other, first = (float(np.mean([pair[i].mean() for pair in pairs])) for i in (0, 1))
        found[setting] = {
            "released": first,
            "other": other,
            "difference": macro_difference(pairs).to_dict(),
        }
    return found


if __name__ == "__main__":
    main()
