"""Writes `benchmarks/README.md` and the plots in `docs/`, from the JSON that other commands wrote alone.

python benchmarks/report.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from plots import PLOTS
from tables import engines_table, markdown_table, quality_table, scale_table

HERE = Path(__file__).parent
RESULTS = HERE / "results"
REPORT = HERE / "README.md"
DOCS = HERE.parent / "docs"
DRAWN = {
    "routes": ("routes", "quality.json"),
    "lengths": ("lengths", "quality.json"),
    "logits": ("logits", "diagnostics.json"),
    "entropy": ("entropy", "fastlane-minilm.log.jsonl"),
    "engines": ("engines", "engines.json"),
    "peers": ("engines", "peers.json"),
    "small": ("engines", "small.json"),
    "scale": ("scale", "scale.json"),
    "selections": ("selections", "selections.json"),
}
"""Each figure's plot and what it is of."""
TRAINED_ON = {
    "stackexchange": "same sites",
    "scitldr": "same collection",
    "xquad": "SQuAD's other paragraphs",
    "wikiqa": "Wikipedia, not these questions",
    "nqgold": "Wikipedia, not these questions",
}
"""What `training/fastlane-minilm.yaml` trains on of a set's domain; nothing of the others."""
INTRODUCTION = """# Benchmarks

Written from the JSON in [`results/`](results), plots included. The last section names the command of each
file; with the collections in `data/` two commands run them all, about a day on two CPU cores, and write this
anew:

```bash
benchmarks/measure.sh runs/results
python benchmarks/report.py --results runs/results
```

Intervals are of 95 %, by paired bootstrap over queries."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="a folder of JSON files")
    results: Path = parser.parse_args().results
    REPORT.write_text(render(read(results)), "utf-8")
    for figure, (plot, name) in DRAWN.items():
        if (results / name).exists():
            PLOTS[plot](results / name).savefig(DOCS / f"{figure}.svg", metadata={"Date": None})


def read(folder: Path) -> dict[str, Any]:
    """What each JSON file holds, by its name without the ending."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")}


def render(found: dict[str, Any]) -> str:
    """The report in Markdown; what wasn't measured is left out."""
    parts = [INTRODUCTION]
    for name, (title, section) in SECTIONS.items():
        if name in found:
            parts.append(f"## {title}\n\n{section(found[name])}")
    parts.append(f"## Commands\n\n{commands(found)}")
    return "\n\n".join(parts) + "\n"


def quality(found: dict[str, Any]) -> str:
    """Settings by sets, and where the fewer vectors lose."""
    over, sets = found["over_sets"], found["sets"]
    lost = {
        "one route is behind the dense twin": ("router_1", "dense_checkpoint"),
        "all views are behind the untouched backbone's MaxSim": ("full", "maxsim_backbone"),
        "one route is behind BM25": ("router_1", "bm25"),
    }
    lines = [
        "One vector, FastLane with k routes, full late interaction: one backbone, brute force, test splits.",
        "",
        quality_table(found),
        "",
        "![nDCG@10 against the number of routes](../docs/routes.svg)",
        "",
        *markdown_table(
            ("difference of means", "nDCG@10", "interval", "p"),
            (
                (pair, *said(one), f"{one['p_value']:.4f}")
                for pair, one in over["differences"].items()
            ),
        ),
        "",
        "Where we lose:",
        "",
    ]
    for what, (ours, theirs) in lost.items():
        behind = [
            name.partition(":")[0]
            for name, one in sets.items()
            if ours in one["means"]
            and theirs in one["means"]
            and one["means"][ours]["ndcg@10"] < one["means"][theirs]["ndcg@10"]
        ]
        lines.append(f"- {what} on {', '.join(behind) or 'none'};")
    worst = min(sets, key=lambda name: sets[name]["ratio_to_full"]["router_1"])
    share = sets[worst]["ratio_to_full"]["router_1"]
    lines.append(f"- one route keeps least on {worst.partition(':')[0]}: {share:.1%} of all views.")
    return "\n".join([*lines, "", *domains_and_lengths(sets)])


def domains_and_lengths(sets: dict[str, Any]) -> list[str]:
    """What one route keeps on domains that training never saw, and of the longest documents."""
    rows = []
    for name, one in sets.items():
        binned = one["by_document_length"]
        means = binned["ndcg@10"]
        ends = (
            f"{means['router_1'][end] / means['full'][end]:.1%} ({binned['mean_views'][end]:.0f} views)"
            for end in (0, -1)
        )
        short = name.partition(":")[0]
        share = one["ratio_to_full"]["router_1"]
        rows.append((short, TRAINED_ON.get(short, "no"), f"{share:.1%}", *ends))
    columns = ("set", "in training", "one route of all views", "shortest documents", "longest")
    return [
        "One route on domains that training never saw, and for the queries with the shortest and with the "
        "longest relevant documents, of five parts (fewer where many documents are as long as the limit):",
        "",
        *markdown_table(columns, rows),
        "",
        "![nDCG@10 against the length of the relevant documents](../docs/lengths.svg)",
    ]


def seed(found: dict[str, Any]) -> str:
    """Another run of the same configuration."""
    rows = (
        (name, f"{one['released']:.4f}", f"{one['other']:.4f}", *said(one["difference"]))
        for name, one in found["over_sets"].items()
    )
    columns = ("setting", "released", "another seed", "difference", "interval")
    return "\n".join(markdown_table(columns, rows))


def variants(found: dict[str, Any]) -> str:
    """Changes to the recipe, in short runs."""
    asked = found["settings"]
    rows = (
        (
            name.replace("_", " "),
            *(f"{mean:.4f}" for mean in one["ndcg@10"].values()),
            *(f"{one['ratio_to_full'][setting]:.1%}" for setting in ("router_2", "router_8")),
            *said(one["gain"]["router_1"]),
        )
        for name, one in found["sets"].items()
    )
    columns = ("run", *next(iter(found["sets"].values()))["ndcg@10"], "2 / full", "8 / full")
    return "\n".join(
        [
            f"{asked['steps']} steps with the released recipe, and with one change to it: mean nDCG@10 over "
            f"{asked['sets'].replace(',', ', ')}, {asked['limit_queries']} queries and "
            f"{asked['limit_documents']:,} documents of each at most, and how much better one route is than "
            "in the first run. `benchmarks/variants.py` says what each change is.",
            "",
            *markdown_table((*columns, "one route's gain", "interval"), rows),
        ]
    )


def engines(found: dict[str, Any], figure: str = "engines") -> str:
    """One row an index, at its fastest good setting."""
    facts = found["collection"]
    return "\n".join(
        [
            f"{facts['documents']:,} documents, {found['vectors']:,} vectors: each document keeps "
            f"{facts['routes']:.0%} of its views. All engines are given the same vectors, each in an "
            "environment and a process of its own; queries come one at a time, on one thread, and then "
            "from a caller a core (in brackets how many), each on a thread. A row is the fastest setting "
            "within half a percent of its index's best nDCG@10."
            + (f" {found['remarks']}" if found.get("remarks") else ""),
            "",
            engines_table(found),
            "",
            f"![nDCG@10 against queries a second](../docs/{figure}.svg)",
        ]
    )


def scale(found: dict[str, Any]) -> str:
    """Cost against documents."""
    facts = found["collection"]
    return "\n".join(
        [
            "One route in an index of kind auto, int8, each document a quarter of its views. Of these "
            f"{facts['documents']:,} are real, the others are these with noise. Below each effort stands "
            "the p50 in ms of searches one at a time on one thread, memory-mapped, and in brackets the share "
            "that they found of the ten best of exhaustive search over the same stored vectors. Memory is "
            "without the pages of mapped files, building without encoding.",
            "",
            scale_table(found),
            "",
            "![Cost against documents](../docs/scale.svg)",
        ]
    )


def pooling(found: dict[str, Any]) -> str:
    """Routed documents beside pooled ones."""
    over = found["over_sets"]
    rows = (
        (
            "all views" if setting.startswith("full") else "one route",
            setting.rpartition("_")[2],
            *(f"{one[way]:.4f}" for way in ("routed", "pooled")),
            *said(one["difference"]),
        )
        for setting, one in over.items()
        if "routed" in one
    )
    return "\n".join(
        [
            f"Mean nDCG@10 over {', '.join(found['sets'])}, brute force: documents by our router, and by "
            "Sentence Transformers' `HierarchicalTokenPooling` of all their views to as many. With all of a "
            f"document's views, all views of the query have {over['full']['all']:.4f} and one route "
            f"{over['router_1']['all']:.4f}.",
            "",
            *markdown_table(
                (
                    "of the query",
                    "views kept",
                    "routed",
                    "pooled",
                    "routed less pooled",
                    "interval",
                ),
                rows,
            ),
        ]
    )


def by_routes(found: dict[str, Any]) -> str:
    """Quality and latency against the number of routes."""
    settings = found["settings"]
    rows = (
        (
            setting.replace("router_", ""),
            f"{one['views']:.1f}",
            f"{one['ndcg@10']:.4f}",
            f"{one['p50_ms']:.1f}, {one['p95_ms']:.1f}",
        )
        for setting, one in found["over_sets"].items()
    )
    return "\n".join(
        [
            f"Mean nDCG@10 over {', '.join(found['sets'])}, brute force; and latencies of the same queries, "
            f"one at a time on one thread, in an index of {settings['documents']:,} passages "
            f"({settings['vectors']:,} vectors, ivf, int8), where each of several routes proposes a hundred "
            "documents. A query has as many routes as asked for, or all of its views.",
            "",
            *markdown_table(("routes", "views of a query", "nDCG@10", "p50, p95 ms"), rows),
        ]
    )


def selections(found: dict[str, Any]) -> str:
    """What the router's choice depends on, and what it is worth."""
    shares = found["share_of_variance"]
    attention, interval = said(found["attention"], digits=3)
    rows = (
        (
            name.partition(":")[0],
            str(one["queries"]),
            *said(one["rank_correlation"], digits=3),
            f"{one['as_good_as_the_oracle']:.1%}",
            f"{one['as_good_by_chance']:.1%}",
        )
        for name, one in found["sets"].items()
    )
    return "\n".join(
        [
            f"Are selections a query's own? Over {found['queries']:,} queries the token alone tells "
            f"{shares['token']:.0%} of the variance of logits within queries, its place alone "
            f"{shares['place']:.0%}. A list of words, each with its mean logit in other queries, chooses the "
            f"router's token in {found['same_as_by_words']:.0%} of the queries, chance in "
            f"{found['same_by_chance']:.0%}. The attention that a token gets and its logit have a rank "
            f"correlation of {attention} ({interval}).",
            "",
            "Do router scores follow what a token is worth? Its worth is the margin by which it finds a "
            "relevant document as the one route; the oracle takes the best nDCG@10 that any token has.",
            "",
            *markdown_table(
                (
                    "set",
                    "queries",
                    "rank correlation",
                    "interval",
                    "as good as the oracle",
                    "by chance",
                ),
                rows,
            ),
            "",
            "![Logits and attention over queries with the same token](../docs/selections.svg)",
        ]
    )


def recall(found: dict[str, Any]) -> str:
    """What each kind of index finds of the best."""
    kinds = found["recall"]
    storages = list(next(iter(kinds.values())))
    lines = [
        "The share of the ten best documents of exhaustive search with one route, over "
        f"{found['documents']:,} passages ({found['vectors']:,} vectors) and {found['queries']} queries, at "
        "the default effort:",
        "",
        *markdown_table(
            ("kind", *storages),
            (
                (kind, *(f"{shares[one]:.3f}" if one in shares else "" for one in storages))
                for kind, shares in kinds.items()
            ),
        ),
    ]
    return "\n".join(lines)


def brute_force(found: dict[str, Any]) -> str:
    """The paper's latencies and comparisons."""
    comparisons = found["comparisons_per_query"]
    ratio = comparisons["summaxsim"] / comparisons["one_route"]
    return (
        f"{found['documents']:,} documents, {found['vectors']:,} vectors, {found['queries']} queries of "
        f"{found['query_views']} views, on {found['device']}: SumMaxSim takes {found['ratio_median']:.1f} "
        f"times as long as one route ({found['ratio_smallest']:.1f} to {found['ratio_largest']:.1f} in "
        f"{len(found['seconds'])} rounds), for {ratio:.0f} times the comparisons. The paper has 112.04 s "
        "against 14.48 s: 7.7 times."
    )


def medquad(found: dict[str, Any]) -> str:
    """An adapter before and after."""
    rows = (
        (name, setting, f"{one['before']:.4f}", f"{one['after']:.4f}", *said(one["difference"]))
        for name, measured in found["sets"].items()
        for setting, one in measured["ndcg@10"].items()
    )
    columns = ("collection", "setting", "before", "after", "difference", "interval")
    return "\n".join(markdown_table(columns, rows))


def said(found: dict[str, float], digits: int = 4) -> tuple[str, str]:
    """A mean, of paired differences or correlations, and its interval."""
    mean, low, high = (f"{found[name]:+.{digits}f}" for name in ("mean", "low", "high"))
    return mean, f"{low} to {high}"


def soak(found: dict[str, Any]) -> str:
    """An index folder under faults."""
    faults, kills, mutations = found["faults"], found["kills"], found["mutations"]
    readers = found["readers"]
    return (
        f"{faults['points']:,} faults at writes: the folder held the last commit "
        f"{faults['kept the last commit']:,} times, the new one {faults['held the new commit']:,}. "
        f"{kills['kills']} processes killed in the middle of {kills['commits']:,} commits. "
        f"{mutations['mutations']:,} damaged files: {mutations['refused']:,} refused, "
        f"{mutations['unchanged']:,} read as they were. {readers['searches']:,} searches and "
        f"{readers['loads']:,} loads beside {readers['changes']:,} changes in {readers['seconds']} s."
    )


def commands(found: dict[str, Any]) -> str:
    """How each file came about."""
    rows = []
    for name, content in sorted(found.items()):
        told = [content.get("command"), *(one.get("command") for one in sets_of(content))]
        for command in dict.fromkeys(one for one in told if one):
            rows.append((f"[`{name}.json`](results/{name}.json)", f"`{command}`"))
    return "\n".join(markdown_table(("file", "by"), rows))


def sets_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    """What was measured a set, where each has a command of its own."""
    sets = content.get("sets")
    return list(sets.values()) if isinstance(sets, dict) else []


SECTIONS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "quality": ("Quality", quality),
    "seed": ("Another seed", seed),
    "variants": ("What was tried of the recipe", variants),
    "engines": ("Search engines", engines),
    "peers": ("Search engines, with xtr-warp-rs", partial(engines, figure="peers")),
    "small": ("Every search engine, over few documents", partial(engines, figure="small")),
    "scale": ("Growth", scale),
    "recall": ("Kinds of index", recall),
    "pooling": ("Fewer vectors a document", pooling),
    "by_routes": ("From one route to all views", by_routes),
    "selections": ("What the router chooses", selections),
    "brute_force": ("Comparisons and latency, as in the paper", brute_force),
    "medquad": ("A domain of one's own", medquad),
    "soak": ("An index folder under faults", soak),
}

if __name__ == "__main__":
    main()
