"""Another run of a training beside the released one: the same settings on the same queries.

    accelerate launch -m training.train --config training/fastlane-minilm.yaml seed=1 output_dir=runs/seed-1
    python -m benchmarks.quality.reproduce --model runs/seed-1 --released benchmarks/results/quality.json \\
        --data data/eval --sets cranfield,wikiqa:test --dtype bfloat16 --out benchmarks/results/seed.json

nDCG@10 of all views and of the router's routes, and how much better the other run is than what `quality.py`
found of the released one, with the 95 % bootstrap interval. An .npz beside the JSON holds the values per
query. A set in the JSON isn't measured again.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from fastlane_st import FastLaneEncoder
from fastlane_st.evaluation.metrics import macro_difference

from ..common.encoding import (
    ROUTES_AND_ALL,
    describe_checkpoint,
    fastlane_model,
    measure_router,
    ndcg_by_query,
    read_set,
)
from ..common.options import limits, parse, sets_parser
from ..common.results import Facts, Rows, SetResults, load_rows, measure_sets


def main() -> None:
    parser = sets_parser(__doc__)
    parser.add_argument("--model", required=True, help="folder that training.train wrote")
    parser.add_argument("--released", type=Path, required=True, help="JSON of quality.py")
    options = parse(parser)
    encoder = FastLaneEncoder(options.model)
    settings = {
        "model": describe_checkpoint(options.model, fastlane_model(encoder)),
        "released": json.loads(options.released.read_text("utf-8"))["settings"]["model"],
        **limits(options),
    }
    results = SetResults(options.out, settings)
    released = load_rows(options.released)

    def measure(name: str) -> tuple[Facts, Rows]:
        collection = read_set(name, options)
        rows = ndcg_by_query(measure_router(collection, encoder, options, ROUTES_AND_ALL))
        return {"ndcg@10": against_released({name: rows}, released)}, rows

    measure_sets(
        results,
        options.sets.split(","),
        measure,
        lambda found: against_released(found.rows, released),
    )
    for setting, one in results.over_sets.items():
        print(f"{setting:9} {one['released']:.4f} {one['other']:.4f}", one["difference"])


def against_released(rows: dict[str, Rows], released: dict[str, Rows]) -> Facts:
    """Both runs' means over sets, each with the same weight, and the other minus the released one."""
    found = {}
    for setting in ROUTES_AND_ALL:
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
