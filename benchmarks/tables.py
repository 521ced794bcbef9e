"""README's table of quality, from the JSON of `quality.py` alone.

python benchmarks/tables.py benchmarks/results/quality.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

ROWS = {
    "router_1": "**one route**",
    "router_2": "two routes",
    "router_4": "four",
    "router_8": "eight",
    "full": "all views",
    "full_documents_0.25": "all views, a quarter of the documents' views",
    "router_1_documents_0.25": "one route, a quarter of the documents' views",
    "first": "first token as the one route",
    "random": "random token as the one route",
    "idf": "rarest token as the one route",
    "mean_view": "the query's mean view",
    "oracle": "best token as the one route, with hindsight",
    "dense_checkpoint": "dense twin: one mean vector, same data and steps",
    "bm25": "BM25",
    "dense_backbone": "untouched backbone, one mean vector",
    "maxsim_backbone": "untouched backbone, MaxSim, 384 dimensions",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("quality", type=Path)
    print(quality_table(json.loads(parser.parse_args().quality.read_text())))


def quality_table(quality: dict[str, Any]) -> str:
    """Markdown: a row a setting, a column a set, their mean and its share of all views."""
    sets = quality["sets"]
    over = quality["over_sets"]
    names = [f"{name.partition(':')[0]} ({found['queries']:,})" for name, found in sets.items()]
    lines = [
        f"| nDCG@10 (queries) | {' | '.join(names)} | mean | of all views |",
        "| --- |" + " --- |" * (len(sets) + 2),
    ]
    for setting in [setting for setting in ROWS if setting in over["ndcg@10"]]:
        values = [found["means"][setting]["ndcg@10"] for found in sets.values()]
        cells = [f"{value:.3f}" for value in (*values, over["ndcg@10"][setting])]
        share = f"{over['ratio_to_full'][setting]:.1%}"
        lines.append(f"| {' | '.join((ROWS[setting], *cells, share))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
