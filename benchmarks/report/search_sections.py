"""Sections of the report on indexes and search: a function per JSON file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .tables import engines_table, markdown_table, scale_table


def engines_section(found: dict[str, Any], figure: str = "engines") -> str:
    """One row per index, at its fastest good setting."""
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


def scale_section(found: dict[str, Any]) -> str:
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


def growth_section(found: dict[str, Any]) -> str:
    """What documents cost besides their vectors."""
    rows = (
        (
            f"{int(count):,}",
            f"{one['build_seconds']:.0f} s in {one['commits']} commits",
            f"{1000 * one['build_seconds'] / int(count):.2f} ms",
            f"{one['open_seconds']:.2f} s",
            f"{one['open_bytes'] / 2**20:.0f} MiB",
            f"{one['search_ms']:.1f} ms",
            f"{one['filtered_search_ms']:.1f} ms",
        )
        for count, one in found["sizes"].items()
    )
    header = ("documents", "building", "a document", "opening", "memory", "search", "with a filter")
    return "\n".join(
        [
            "What an index costs besides encoding and vectors: documents have two random vectors in 16 "
            "dimensions, int8, a text and two metadata fields. Opening is memory-mapped, in a process of its "
            "own; searches are medians, one at a time.",
            "",
            *markdown_table(header, rows),
            "",
            "![Cost of documents](../docs/growth.svg)",
        ]
    )


def by_routes_section(found: dict[str, Any]) -> str:
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


def recall_section(found: dict[str, Any]) -> str:
    """The share of the best documents that each kind of index finds."""
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


def brute_force_section(found: dict[str, Any]) -> str:
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


def soak_section(found: dict[str, Any]) -> str:
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


def stores_section(found: dict[str, Any]) -> str:
    """Vector stores beside FastLaneIndex over the same vectors."""
    efforts = ("effort", "nprobes", "refine_factor")
    builds: dict[str, list[dict[str, Any]]] = {}
    for one in found["settings"]:
        builds.setdefault(build_label(one, efforts), []).append(one)
    rows = []
    for build, settings in builds.items():
        best = max(one["overlap"] for one in settings)
        good = [one for one in settings if one["overlap"] >= 0.99 * best]
        one = min(good, key=lambda each: float(each["ms_median"]))
        how = [f"{name} {one['options'][name]:g}" for name in efforts if name in one["options"]]
        compared = f"{one['ratio']:.1f}" if one.get("ratio") else ""
        times = (f"{one['ms_median']:.1f}", f"{one['ms_p95']:.1f}")
        rows.append((build, ", ".join(how), f"{one['overlap']:.3f}", *times, compared))
    return "\n".join(
        [
            f"One route over {found['documents']:,} passages ({found['vectors']:,} vectors, all of the same "
            "numbers), one query at a time: the share of the ten best documents that a store finds, and its "
            "time. A row is the fastest of a build's settings within 1 % of the most that it finds; the last "
            "column is its time over that of the fastest FastLaneIndex that finds at least as much.",
            "",
            *markdown_table(
                ("store", "setting", "of the ten best", "p50 ms", "p95 ms", "times FastLaneIndex"),
                rows,
            ),
        ]
    )


def build_label(setting: dict[str, Any], efforts: Sequence[str]) -> str:
    """A store and how its index was built, such as "lancedb, IVF_RQ, 64 partitions"."""
    built = {key: value for key, value in setting["options"].items() if key not in efforts}
    named = {"num_bits": "{} bits", "num_partitions": "{} partitions", "exact": "exact"}
    return ", ".join(
        [setting["engine"], *(named.get(key, "{}").format(value) for key, value in built.items())]
    )
