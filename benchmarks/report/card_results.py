"""Takes the results of a model card out of the JSON of `quality.py`.

python -m benchmarks.report.card_results QUALITY.json fastlane_st/weights/fastlane-minilm/results.json \\
    [--encoding benchmarks/results/backends.json]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from fastlane_st.model_card.card import Encoding, ResultRow, Results

ROUTES = {"router_1": 1, "router_2": 2, "router_4": 4, "router_8": 8, "full": None}
OTHERS = {"a random token": "random", "one dense vector": "dense_checkpoint"}
UNSEEN = ("cranfield", "xquad", "nqgold")
"""Collections that no training pair came from."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("quality", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--encoding", type=Path, help="JSON of benchmarks.speed.backends")
    options = parser.parse_args()
    measured = json.loads(options.quality.read_text())
    rows: list[ResultRow] = [
        {
            "dataset": name.partition(":")[0],
            "split": facts["split"],
            "num_routes": num_routes,
            "metric": "ndcg_at_10",
            "value": round(facts["means"][setting]["ndcg@10"], 4),
        }
        for name, facts in measured["sets"].items()
        for setting, num_routes in ROUTES.items()
    ]
    sets = measured["sets"].items()
    gain = measured["over_sets"]["differences"]["router_1 - random"]
    results: Results = {
        "command": next(iter(measured["sets"].values()))["command"],
        "rows": rows,
        "unseen": [name for name in UNSEEN if name in measured["sets"]],
        "others": {
            label: {
                name.partition(":")[0]: round(facts["means"][setting]["ndcg@10"], 4)
                for name, facts in sets
            }
            for label, setting in OTHERS.items()
            if all(setting in facts["means"] for _, facts in sets)
        },
        "router": {"mean": gain["mean"], "low": gain["low"], "high": gain["high"]},
    }
    if options.encoding is not None:
        results["encoding"] = encoding_of(json.loads(options.encoding.read_text()))
    options.results.write_text(json.dumps(results, indent=1) + "\n")


def encoding_of(measured: dict[str, Any]) -> Encoding:
    """Speeds by backend, out of the JSON of `benchmarks.speed.backends`."""
    return {
        "command": measured["command"],
        "processor": measured["environment"]["processor"],
        "rows": [
            {
                "backend": name.replace(":", ", "),
                "documents_per_second": facts["documents_per_second"],
                "query_ms": facts["query_ms"],
            }
            for name, facts in measured["backends"].items()
            if ":" in name  # not another library's
        ],
    }


if __name__ == "__main__":
    main()
