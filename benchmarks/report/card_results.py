"""Takes the results of a model card out of the JSON of `quality.py`.

python -m benchmarks.report.card_results QUALITY.json fastlane_st/weights/fastlane-minilm/results.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from fastlane_st.model_card.card import ResultRow, Results

ROUTES = {"router_1": 1, "router_2": 2, "router_4": 4, "router_8": 8, "full": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("quality", type=Path)
    parser.add_argument("results", type=Path)
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
    command = next(iter(measured["sets"].values()))["command"]
    results: Results = {"command": command, "rows": rows}
    options.results.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
