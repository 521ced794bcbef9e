"""Comparisons and means that `quality.py` makes of its values per query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastlane_st.evaluation.metrics import PairedDifference, macro_difference

from ..common.results import Facts, Rows, Values

ONE_ROUTE_AGAINST = (
    "full first random idf mean_view bm25 dense_backbone dense_checkpoint maxsim_backbone"
).split()
COMPARISONS = [
    *(("router_1", other) for other in ONE_ROUTE_AGAINST),
    *(("full", other) for other in ("dense_backbone", "dense_checkpoint", "maxsim_backbone")),
    *(("full_documents_0.25", other) for other in ("full", "dense_backbone")),
    ("router_1_documents_0.25", "router_1"),
    *((f"router_{k}", "full") for k in (2, 4, 8)),
]
LENGTH_BINS = 5
OF_QUERIES = ("query_ids", "relevant_views")
"""Rows that hold facts about queries; the others are settings."""


def describe_set(rows: Rows) -> Facts:
    """Ratios, differences and the effect of document length in one set."""
    settings = {name: row for name, row in rows.items() if name not in OF_QUERIES}
    means = {name: float(row.mean(dtype=float)) for name, row in settings.items()}
    return {
        "ratio_to_full": ratios(means),
        "differences": differences([settings]),
        "by_document_length": by_document_length(rows["relevant_views"], settings),
    }


def by_document_length(lengths: Values, rows: Mapping[str, Values]) -> Facts:
    """Mean nDCG@10 by the length of the relevant documents, in bins of about equally many queries."""
    is_known = ~np.isnan(lengths)
    edges = np.unique(np.quantile(lengths[is_known], np.linspace(0, 1, LENGTH_BINS + 1)))
    bins = np.clip(np.searchsorted(edges, lengths, side="right") - 1, 0, max(0, len(edges) - 2))
    members = [is_known & (bins == number) for number in range(max(1, len(edges) - 1))]
    members = [one for one in members if one.any()]
    return {
        "mean_views": [float(lengths[one].mean()) for one in members],
        "queries": [int(one.sum()) for one in members],
        "ndcg@10": {
            setting: [float(row[one].mean(dtype=float)) for one in members]
            for setting, row in rows.items()
        },
    }


def summarise_sets(rows: Mapping[str, Rows]) -> Facts:
    """Means over sets, each with the same weight, of the settings that all of them have."""
    found = list(rows.values())
    shared = [
        name for name in found[0] if name not in OF_QUERIES and all(name in one for one in found)
    ]
    means = {
        name: float(np.mean([one[name].mean(dtype=float) for one in found])) for name in shared
    }
    return {
        "sets": list(rows),
        "ndcg@10": means,
        "ratio_to_full": ratios(means),
        "differences": differences(found),
    }


def ratios(means: Mapping[str, float]) -> dict[str, float]:
    """Each setting's share of what all views reach."""
    return {name: mean / means["full"] for name, mean in means.items() if means["full"]}


def differences(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """nDCG@10 of one setting minus another's, by `one - other`."""
    found: dict[str, PairedDifference] = {}
    for one, other in COMPARISONS:
        if all(one in row and other in row for row in rows):
            pairs = [(row[one].astype(float), row[other].astype(float)) for row in rows]
            found[f"{one} - {other}"] = macro_difference(pairs)
    return {name: difference.to_dict() for name, difference in found.items()}
