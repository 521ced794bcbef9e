"""Plots of the JSON files of other commands.

    fastlane diagnose CHECKPOINT DATA --json diagnostics.json
    python -m benchmarks.report.plots logits diagnostics.json --out logits.svg
    python -m benchmarks.report.plots routes quality.json --out routes.svg
    python -m benchmarks.report.plots lengths quality.json --out lengths.svg
    python -m benchmarks.report.plots entropy log.jsonl --out entropy.svg
    python -m benchmarks.report.plots engines engines.json --out engines.svg
    python -m benchmarks.report.plots scale scale.json --out scale.svg
    python -m benchmarks.report.plots selections selections.json --out selections.svg

`logits`: the router's logits over the tokens of some queries, each query's lowest as 0, the route
dark. `routes`: quality against the number of routes, over sets and for each. `lengths`: quality
against the length of the relevant documents. `entropy`: `router_entropy` against `step`, from the
rows of a training log that have both. `engines`: quality against searches a second, the settings of one
index joined by a line. `growth`: building and opening. `scale`: latencies, memory and time of building
against documents. `selections`: queries with the same token, its logits as in `logits`, and below how much
each token of a row attends to each of the columns. The ending of --out chooses the format.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .tables import curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROUTE, VIEW, LINE, QUIET = "#a36f00", "#f5d9a3", "#3b76ab", "#bbbbbb"
LENGTH_SETTINGS = (
    "full",
    "router_1",
    "full_documents_0.25",
    "dense_backbone",
    "dense_checkpoint",
    "bm25",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("plot", choices=PLOTS)
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    figure = PLOTS[options.plot](options.source)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out)
    print(f"wrote {options.out}")


def new_figure(width: float, height: float, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure and its axes, one below the other."""
    try:
        import matplotlib
    except ImportError as error:
        raise SystemExit('plots need matplotlib: pip install "fastlane-st[plots]"') from error
    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "fastlane", "font.size": 9})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        rows, 1, figsize=(width, height), layout="constrained", squeeze=False
    )
    for one in axes[:, 0]:
        one.spines[["top", "right"]].set_visible(False)
    return figure, list(axes[:, 0])


def plot_logits(source: Path) -> Figure:
    examples = json.loads(source.read_text())["examples"]
    figure, axes = new_figure(8, 1.5 * len(examples), len(examples))
    for axis, example in zip(axes, examples, strict=True):
        draw_logits(axis, example)
    return figure


def draw_logits(axis: Axes, example: Mapping[str, Any]) -> None:
    lowest = min(example["logits"])  # a bar has to start somewhere: only differences count
    heights = [logit - lowest for logit in example["logits"]]
    colors = [ROUTE if n == example["route"] else VIEW for n in range(len(heights))]
    axis.bar(range(len(heights)), heights, color=colors)
    axis.set_xticks(range(len(heights)), shown_tokens(example), rotation=45, ha="right")
    axis.set_ylabel("logit")


def shown_tokens(example: Mapping[str, Any]) -> list[str]:
    return [token.replace("$", r"\$") for token in example["tokens"]]


def plot_selections(source: Path) -> Figure:
    examples = json.loads(source.read_text())["examples"]
    figure, axes = new_figure(7, 5 * len(examples), 2 * len(examples))
    for bars, weights, example in zip(axes[::2], axes[1::2], examples, strict=True):
        draw_logits(bars, example)
        bars.set_title(example["query"].replace("$", r"\$"), loc="left", fontsize=9)
        weights.imshow(example["attention"], cmap="Blues", aspect="auto", vmin=0)
        places = range(len(example["tokens"]))
        weights.set_xticks(places, shown_tokens(example), rotation=45, ha="right")
        weights.set_yticks(places, shown_tokens(example))
        weights.set_ylabel("attends to")
    return figure


def plot_routes(source: Path) -> Figure:
    quality = json.loads(source.read_text())
    figure, [axis] = new_figure(7, 4)
    for name, found in quality["sets"].items():
        means = {setting: metrics["ndcg@10"] for setting, metrics in found["means"].items()}
        draw_routes(axis, means, color=QUIET, label=None, name=name)
    means = quality["over_sets"]["ndcg@10"]
    draw_routes(axis, means, color=LINE, label="mean over sets", name=None)
    lines = {"full": "-", "random": ":", "dense_backbone": "--", "dense_checkpoint": "-."}
    for setting in [name for name in lines if name in means]:
        axis.axhline(means[setting], color="black", lw=0.8, ls=lines[setting], label=label(setting))
    axis.set_xlabel("routes of a query")
    axis.set_ylabel("nDCG@10")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def draw_routes(
    axis: Axes, means: Mapping[str, float], *, color: str, label: str | None, name: str | None
) -> None:
    routes = re.compile(r"router_(\d+)")
    matches = {key: routes.fullmatch(key) for key in means}
    found = {int(match[1]): means[key] for key, match in matches.items() if match}
    counts = sorted(found)
    axis.plot(counts, [found[k] for k in counts], "o-", color=color, label=label, ms=4)
    axis.set_xscale("log", base=2)
    axis.set_xticks(counts, [str(k) for k in counts])
    if name is not None:
        end = (counts[-1], found[counts[-1]])
        axis.annotate(name, end, (5, -2), textcoords="offset points", color="#777777", fontsize=7)


def plot_lengths(source: Path) -> Figure:
    sets = json.loads(source.read_text())["sets"]
    figure, axes = new_figure(6, 2.5 * len(sets), len(sets))
    for axis, (name, found) in zip(axes, sets.items(), strict=True):
        bins = found["by_document_length"]
        for setting in LENGTH_SETTINGS:
            if setting in bins["ndcg@10"]:
                axis.plot(
                    bins["mean_views"], bins["ndcg@10"][setting], "o-", label=label(setting), ms=4
                )
        axis.set_title(name, loc="left")
        axis.set_ylabel("nDCG@10")
    axes[-1].set_xlabel("token views of the relevant documents")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2, frameon=False)
    return figure


def plot_entropy(source: Path) -> Figure:
    rows = [json.loads(line) for line in source.read_text().splitlines() if line.strip()]
    logged = [row for row in rows if "step" in row and "router_entropy" in row]
    if not logged:
        raise SystemExit(f"{source} has no row with 'step' and 'router_entropy'")
    figure, [axis] = new_figure(6, 3)
    axis.plot(
        [row["step"] for row in logged], [row["router_entropy"] for row in logged], color=LINE
    )
    axis.set_xlabel("step")
    axis.set_ylabel("entropy of the choice, nats")
    axis.set_ylim(bottom=0)
    return figure


def plot_engines(source: Path) -> Figure:
    figure, [axis] = new_figure(7, 4.5)
    for run in json.loads(source.read_text())["runs"]:
        for name, settings in curves(run).items():
            points = sorted((one["queries_per_second_median"], one["ndcg@10"]) for one in settings)
            axis.plot(*zip(*points, strict=True), "o-", ms=3, lw=0.8, label=name)
    axis.set_xscale("log")
    axis.set_xlabel("queries a second, one thread, one at a time")
    axis.set_ylabel("nDCG@10")
    figure.legend(loc="outside right center", frameon=False, fontsize=7)
    return figure


def plot_scale(source: Path) -> Figure:
    sizes = json.loads(source.read_text())["sizes"]
    documents = list(map(int, sizes))
    figure, axes = new_figure(6, 6.5, 3)
    for number in range(len(next(iter(sizes.values()))["searches"])):
        searches = [found["searches"][number] for found in sizes.values()]
        axes[0].plot(
            documents,
            [one["p50_ms"] for one in searches],
            "o-",
            ms=4,
            label=f"effort {searches[0]['effort']:g}",
        )
    axes[0].set_ylabel("p50 of a search, ms")
    axes[0].legend(frameon=False)
    for phase in ("build", "search"):
        peaks = [found[f"{phase}_peak_bytes"] / 2**30 for found in sizes.values()]
        axes[1].plot(documents, peaks, "o-", ms=4, label=f"to {phase}")
    axes[1].set_ylabel("most memory, GiB")
    axes[1].legend(frameon=False)
    minutes = [found["build_seconds"] / 60 for found in sizes.values()]
    axes[2].plot(documents, minutes, "o-", color=LINE, ms=4)
    axes[2].set_ylabel("building, minutes")
    axes[2].set_xlabel("documents")
    for axis in axes:
        axis.set_xscale("log")
        axis.set_yscale("log")
    return figure


def plot_growth(source: Path) -> Figure:
    sizes = json.loads(source.read_text())["sizes"]
    documents = list(map(int, sizes))
    figure, axes = new_figure(6, 4.5, 2)
    for axis, key, name in (
        (axes[0], "build_seconds", "building, s"),
        (axes[1], "open_seconds", "opening, s"),
    ):
        axis.plot(documents, [one[key] for one in sizes.values()], "o-", color=LINE, ms=4)
        axis.set_ylabel(name)
        axis.set_xscale("log")
        axis.set_yscale("log")
    axes[1].set_xlabel("documents")
    return figure


def label(setting: str) -> str:
    """A setting's name for a reader."""
    names = {
        "full": "all views",
        "router_1": "one route",
        "full_documents_0.25": "all views, a quarter of the document",
        "dense_backbone": "one vector, untouched backbone",
        "dense_checkpoint": "one vector, trained",
        "bm25": "BM25",
        "random": "one random view",
    }
    return names[setting]


PLOTS: Mapping[str, Callable[[Path], Figure]] = {
    "logits": plot_logits,
    "routes": plot_routes,
    "lengths": plot_lengths,
    "entropy": plot_entropy,
    "engines": plot_engines,
    "scale": plot_scale,
    "growth": plot_growth,
    "selections": plot_selections,
}

if __name__ == "__main__":
    main()
