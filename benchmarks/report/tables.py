"""Tables in Markdown, from the JSON of `quality.py`, `engines.py` or `scale.py`.

python -m benchmarks.report.tables benchmarks/results/quality.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
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
    "dense_checkpoint": "dense twin: one mean vector, same data and steps",
    "bm25": "BM25",
    "dense_backbone": "untouched backbone, one mean vector",
    "maxsim_backbone": "untouched backbone, MaxSim, 384 dimensions",
}

COLUMNS = (
    "engine",
    "nDCG@10",
    "of MaxSim's ten",
    "queries/s",
    "of a caller a core",
    "p50, p95, p99 ms",
    "bytes/document",
    "built in s",
    "GiB",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="JSON of quality.py, engines.py or scale.py")
    found = json.loads(parser.parse_args().results.read_text("utf-8"))
    for key, table in TABLES.items():
        if key in found:
            print(table(found))


def quality_table(quality: dict[str, Any]) -> str:
    """A row per setting, a column per set, their mean and its share of all views."""
    sets = quality["sets"]
    over = quality["over_sets"]
    names = [f"{name.partition(':')[0]} ({found['queries']:,})" for name, found in sets.items()]
    rows = []
    for setting in [setting for setting in ROWS if setting in over["ndcg@10"]]:
        values = [found["means"][setting]["ndcg@10"] for found in sets.values()]
        cells = [f"{value:.3f}" for value in (*values, over["ndcg@10"][setting])]
        share = f"{over['ratio_to_full'][setting]:.1%}"
        rows.append((ROWS[setting], *cells, share))
    columns = ("nDCG@10 (queries)", *names, "mean", "of all views")
    return "\n".join(markdown_table(columns, rows))


def engines_table(found: dict[str, Any]) -> str:
    """A row per index and way of searching it, at the fastest of its good settings."""
    rows = []
    for run in found["runs"]:
        if "failed" in run:
            rows.append(
                (run["engine"], f"did not run: {run['failed']}", *[""] * (len(COLUMNS) - 2))
            )
        for name, settings in curves(run).items():
            best = fastest_good(settings)
            rows.append(
                (
                    f"{name} {search_settings(best['search'])}".strip(),
                    f"{best['ndcg@10']:.4f}",
                    f"{best['overlap_maxsim']:.1%}" if "overlap_maxsim" in best else "",
                    f"{best['queries_per_second_median']:,.0f}",
                    callers_rate(best),
                    ", ".join(f"{best[f'p{p}_ms']:.1f}" for p in (50, 95, 99)),
                    f"{run['bytes_per_document']:,.0f}",
                    f"{run['build_seconds']:,.0f}",
                    f"{run['search_peak_bytes'] / 2**30:.1f}",
                )
            )
    return "\n".join(markdown_table(COLUMNS, rows))


def scale_table(found: dict[str, Any]) -> str:
    """A row per size; for each effort the p50 in ms, and in brackets the share of the best found."""
    efforts = [one["effort"] for one in next(iter(found["sizes"].values()))["searches"]]
    columns = (
        "documents",
        "vectors",
        "GB",
        "built in min",
        "GiB to build",
        "GiB to search",
        *(f"effort {effort:g}" for effort in efforts),
    )
    rows = (
        (
            f"{int(size):,}",
            f"{one['vectors']:,}",
            f"{one['bytes'] / 1e9:.2f}",
            f"{one['build_seconds'] / 60:.1f}",
            f"{one['build_peak_bytes'] / 2**30:.1f}",
            f"{one['search_peak_bytes'] / 2**30:.1f}",
            *(f"{search['p50_ms']:.1f} ({search['overlap']:.3f})" for search in one["searches"]),
        )
        for size, one in found["sizes"].items()
    )
    return "\n".join(markdown_table(columns, rows))


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    head = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    return head + [f"| {' | '.join(row)} |" for row in rows]


def processor(found: Mapping[str, Any]) -> str:
    """The machine's processor, and the threads that were used."""
    threads = found["environment"]["threads"]
    return f"{found['environment']['processor']}, {threads} thread{'s' * (threads > 1)}"


def mean_and_interval(found: dict[str, float], digits: int = 4) -> tuple[str, str]:
    """The mean of paired differences or correlations, and its interval."""
    mean, low, high = (f"{found[name]:+.{digits}f}" for name in ("mean", "low", "high"))
    return mean, f"{low} to {high}"


def curves(run: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The settings of one index, grouped by index and way of searching; a group differs in effort."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for setting in run.get("settings", []):
        kinds = [name for name in ("rerank", "one_route") if setting["search"].get(name)]
        built = [str(value) for value in run["build"].values()]
        found.setdefault(" ".join([run["engine"], *built, *kinds]), []).append(setting)
    return found


def fastest_good(settings: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The fastest of the settings within half a percent of the best nDCG@10."""
    best = max(one["ndcg@10"] for one in settings)
    good = [one for one in settings if one["ndcg@10"] >= 0.995 * best]
    return max(good, key=lambda one: one["queries_per_second_median"])


def callers_rate(setting: Mapping[str, Any]) -> str:
    """Queries per second by one caller per core, and in brackets how many callers."""
    if "queries_per_second_callers" not in setting:
        return ""
    return f"{setting['queries_per_second_callers']:,.0f} ({setting['callers']})"


def search_settings(search: Mapping[str, Any]) -> str:
    """The settings of a search that aren't in the name of its curve."""
    shown = {name: value for name, value in search.items() if name != "one_route"}
    return f"({', '.join(f'{name} {value}' for name, value in shown.items())})" if shown else ""


TABLES = {"over_sets": quality_table, "runs": engines_table, "sizes": scale_table}
"""The table of a file that has a key."""

if __name__ == "__main__":
    main()
