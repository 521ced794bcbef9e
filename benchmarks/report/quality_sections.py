"""Sections of the report on retrieval quality: a function per JSON file."""

from __future__ import annotations

from typing import Any

from .tables import markdown_table, mean_and_interval, processor, quality_table

TRAINED_ON = {
    "stackexchange": "same sites",
    "scitldr": "same collection",
    "xquad": "SQuAD's other paragraphs",
    "wikiqa": "Wikipedia, not these questions",
    "nqgold": "Wikipedia, not these questions",
}
"""Training data of `training/fastlane-minilm.yaml` from a set's domain; the other sets have none."""

ROUTE_COLUMNS = {
    "router_1": "one route",
    "router_2": "two",
    "router_4": "four",
    "router_8": "eight",
    "full": "all views",
}


def quality_section(found: dict[str, Any]) -> str:
    """Settings by sets, and where fewer vectors lose."""
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
                (pair, *mean_and_interval(one), f"{one['p_value']:.4f}")
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
    """What one route keeps on domains that training never saw, and for the longest documents."""
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


def seed_section(found: dict[str, Any]) -> str:
    """Another run of the same configuration."""
    rows = (
        (
            name,
            f"{one['released']:.4f}",
            f"{one['other']:.4f}",
            *mean_and_interval(one["difference"]),
        )
        for name, one in found["over_sets"].items()
    )
    columns = ("setting", "released", "another seed", "difference", "interval")
    return "\n".join(markdown_table(columns, rows))


VARIED = "Mined negatives are two a row of the sources whose passages aren't joined."
VARIED_BEFORE = (
    "Of when documents had a router of their own; mined negatives are one a row of four sources."
)


def variants_section(found: dict[str, Any], remark: str = VARIED) -> str:
    """Changes to the recipe, in short runs."""
    asked = found["settings"]
    rows = (
        (
            name.replace("_", " "),
            *(f"{mean:.4f}" for mean in one["ndcg@10"].values()),
            *(f"{one['ratio_to_full'][setting]:.1%}" for setting in ("router_2", "router_8")),
            *mean_and_interval(one["gain"]["router_1"]),
        )
        for name, one in found["sets"].items()
    )
    columns = ("run", *next(iter(found["sets"].values()))["ndcg@10"], "2 / full", "8 / full")
    return "\n".join(
        [
            f"{asked['steps']} steps with the released recipe, and with one change to it: mean nDCG@10 over "
            f"{asked['sets'].replace(',', ', ')}, {asked['limit_queries']} queries and "
            f"{asked['limit_documents']:,} documents of each at most, and how much better one route is than "
            f"in the first run. {remark} `benchmarks/quality/variants.py` says what the changes are.",
            "",
            *markdown_table((*columns, "one route's gain", "interval"), rows),
        ]
    )


BEFORE = (
    "The model as it was trained, with learned salience, centrality and spread, with one mechanism switched "
    "off and without training again. The last line is what is released."
)
RELEASED = (
    "The released model with one mechanism switched off and without training again. "
    "`benchmarks/quality/ablation.py` says what each line changes."
)


def ablation_section(found: dict[str, Any], what: str = RELEASED) -> str:
    """A model without each of its mechanisms."""
    return gains_over_first("switched off", found, what)


def backends_quality_section(found: dict[str, Any]) -> str:
    """What the numbers of each backend cost."""
    named = {name.replace(":", ", "): one for name, one in found["sets"].items()}
    what = "Queries and documents encoded by the same backend."
    return gains_over_first("backend", {**found, "sets": named}, what)


def trained_section(found: dict[str, Any]) -> str:
    """What training gave on test splits."""
    what = (
        "A new FastLane model over the backbone, and the released one, which was trained from it. In "
        f"{found['settings']['dtype']}."
    )
    return gains_over_first("model", found, what)


def gains_over_first(column: str, found: dict[str, Any], what: str) -> str:
    """Means over sets by number of routes, and what one route and all views gain over the first line."""
    asked = found["settings"]
    settings = {"full": ROUTE_COLUMNS["full"], **ROUTE_COLUMNS}
    gains = ("router_1", "full")
    rows = (
        (
            name.replace("_", " "),
            *(f"{one['ndcg@10'][setting]:.4f}" for setting in settings),
            *(cell for each in gains for cell in mean_and_interval(one["gain"][each])),
        )
        for name, one in found["sets"].items()
    )
    gained = [
        cell
        for each in gains
        for cell in (f"{ROUTE_COLUMNS[each]}: gain", f"{ROUTE_COLUMNS[each]}: interval")
    ]
    return "\n".join(
        [
            f"{what} Mean nDCG@10 over {asked['sets'].replace(',', ', ')}, {asked['limit_queries']} queries "
            f"and {asked['limit_documents']:,} documents of each at most, and the gain over the first line.",
            "",
            *markdown_table((column, *settings.values(), *gained), rows),
        ]
    )


def pooling_section(found: dict[str, Any]) -> str:
    """Pooled documents beside routed ones, of when the model had a router of documents."""
    over = found["over_sets"]
    rows = (
        (
            "all views" if setting.startswith("full") else "one route",
            setting.rpartition("_")[2],
            *(f"{one[way]:.4f}" for way in ("routed", "pooled")),
            *mean_and_interval(one["difference"]),
        )
        for setting, one in over.items()
        if "routed" in one
    )
    return "\n".join(
        [
            f"Mean nDCG@10 over {', '.join(found['sets'])}, brute force: documents by a router that "
            "the model had then, and by token pooling of all their views to as many. With all of a "
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


def long_documents_section(found: dict[str, Any]) -> str:
    """Long documents cut at the encoder's length, and as windows."""
    asked, sets = found["settings"], found["sets"]
    limited = (
        "all queries" if asked["limit_queries"] is None else f"{asked['limit_queries']} queries"
    )
    rows = (
        (
            name,
            "all views" if setting == "full" else "one route",
            f"{one['documents']:,}",
            f"{one['long'] / one['documents']:.0%}",
            *(f"{one[f'vectors_per_document_{way}']:.0f}" for way in ("cut", "window")),
            *(f"{measured[way]:.4f}" for way in ("cut", "window")),
            *mean_and_interval(measured["difference"]),
        )
        for name, one in sets.items()
        for setting, measured in one["ndcg@10"].items()
    )
    return "\n".join(
        [
            f"{asked['join']} documents of a set joined to one, in the order of its corpus; a query looks "
            f"for the one that holds its document. nDCG@10, brute force, {limited} of each set at most. "
            "Cut at the checkpoint's length, and as overlapping windows:",
            "",
            *markdown_table(
                (
                    "set",
                    "of the query",
                    "documents",
                    "long",
                    "vectors, cut",
                    "windows",
                    "nDCG@10, cut",
                    "windows",
                    "gain",
                    "interval",
                ),
                rows,
            ),
        ]
    )


def selections_section(found: dict[str, Any]) -> str:
    """What the router's choice depends on, and what it is worth."""
    shares = found["share_of_variance"]
    attention, interval = mean_and_interval(found["attention"], digits=3)
    rows = (
        (
            name.partition(":")[0],
            str(one["queries"]),
            *mean_and_interval(one["rank_correlation"], digits=3),
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


def domain_section(found: dict[str, Any]) -> str:
    """Quality without an adapter and with it."""
    rows = (
        (
            name,
            setting,
            f"{one['before']:.4f}",
            f"{one['after']:.4f}",
            *mean_and_interval(one["difference"]),
        )
        for name, measured in found["sets"].items()
        for setting, one in measured["ndcg@10"].items()
    )
    columns = ("collection", "setting", "before", "after", "difference", "interval")
    return "\n".join(markdown_table(columns, rows))


MIXED = {
    "none": "untouched",
    "none-untrained": "untouched, routes untrained",
    "none-50000": "untouched, routes trained over 50,000 documents",
    "both": "with context mixed in",
    "both-untrained": "with context mixed in, routes untrained",
    "untrained": "a new FastLane model, untrained",
    "fastlane-minilm": "`fastlane-minilm`, as released",
}


def retrofit_section(found: dict[str, Any]) -> str:
    """Routes for a plain late-interaction model: what they keep of its MaxSim, and the time."""
    runs, asked = found["retrofits"], found["settings"]
    encoding = sum(part["seconds"] for part in found["encoding"]["parts"])
    rows = (
        (
            MIXED[context],
            ranking,
            *(f"{run[when][ranking]['overlap']:.3f}" for when in ("before", "after")),
            *(f"{run[when][ranking]['reciprocal_rank']:.3f}" for when in ("before", "after")),
        )
        for context, run in runs.items()
        for ranking in run["after"]
    )
    times = (
        (
            MIXED[context],
            *(f"{seconds / 60:.1f}" for seconds in run["seconds"].values()),
            f"{sum(run['seconds'].values()) / 60:.0f}",
            f"{run['peak_memory'] / 2**30:.1f}",
        )
        for context, run in runs.items()
    )
    one = next(iter(runs.values()))
    return "\n".join(
        [
            "A plain late-interaction model, the untouched backbone's states of unit length, gets routes "
            f"over an index of its own vectors of {asked['documents']:,} documents: {asked['steps']:,} "
            f"steps, the query side alone, with {asked['pairs']:,} pairs and made queries. On "
            f"{one['num_queries']:,} held-out pairs over {one['num_documents']:,} documents, the share of "
            "MaxSim's ten best documents that are among the ten best, before training and after:",
            "",
            *markdown_table(
                (
                    "documents' vectors",
                    "of the query",
                    "of the ten best, before",
                    "after",
                    "MRR@10, before",
                    "after",
                ),
                rows,
            ),
            "",
            f"Minutes by phase, on {processor(one)}; the index took {encoding / 60:.1f} to encode before:",
            "",
            *markdown_table(("documents' vectors", *one["seconds"], "in all", "GiB"), times),
        ]
    )


def retrofit_quality_section(found: dict[str, Any]) -> str:
    """Both retrofits on judged collections, as shares of the plain model's own MaxSim."""
    asked = found["settings"]
    maxsim = found["sets"]["none"]["ndcg@10"]["full"]
    rows = (
        (
            MIXED.get(name, name),
            *(
                f"{one['ndcg@10'][setting]:.4f} ({one['ndcg@10'][setting] / maxsim:.1%})"
                for setting in ROUTE_COLUMNS
            ),
        )
        for name, one in found["sets"].items()
    )
    return "\n".join(
        [
            f"Mean nDCG@10 over {asked['sets'].replace(',', ', ')}, {asked['limit_queries']} queries and "
            f"{asked['limit_documents']:,} documents of each at most, brute force; in brackets the share of "
            "the model's own MaxSim, which is all views of the query over untouched vectors.",
            "",
            *markdown_table(("documents' vectors", *ROUTE_COLUMNS.values()), rows),
            "",
            "A new FastLane model and the released one are no retrofits: the one has the same backbone, and "
            "the other was trained from it.",
        ]
    )
