"""What `quality.py` says of its values a query: comparisons, means over sets, and their files."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from judged import write_json

from fastlane_st.evaluation.metrics import PairedDifference, macro_difference

ONE_ROUTE_AGAINST = (
    "full first random idf mean_view oracle bm25 dense_backbone dense_checkpoint maxsim_backbone"
).split()
COMPARISONS = [
    *(("router_1", other) for other in ONE_ROUTE_AGAINST),
    *(("full", other) for other in ("dense_backbone", "dense_checkpoint", "maxsim_backbone")),
    *(("full_documents_0.25", other) for other in ("full", "dense_backbone")),
    ("router_1_documents_0.25", "router_1"),
    *((f"router_{k}", "full") for k in (2, 4, 8)),
]
LENGTH_BINS = 5
OF_QUERIES = ("query_ids", "relevant_views")  # values a query that are no setting's
Values = npt.NDArray[np.float32]


def describe(rows: Mapping[str, Any]) -> dict[str, Any]:
    """What the JSON says of one set's values a query, besides their means."""
    settings = {name: row for name, row in rows.items() if name not in OF_QUERIES}
    means = {name: float(row.mean(dtype=float)) for name, row in settings.items()}
    return {
        "ratio_to_full": ratios(means),
        "differences": differences([settings]),
        "by_document_length": by_length(rows["relevant_views"], settings),
    }


def by_length(lengths: Values, rows: Mapping[str, Values]) -> dict[str, Any]:
    """Mean nDCG@10 by the length of the relevant documents, in bins of about as many queries."""
    told = ~np.isnan(lengths)
    edges = np.unique(np.quantile(lengths[told], np.linspace(0, 1, LENGTH_BINS + 1)))
    bins = np.clip(np.searchsorted(edges, lengths, side="right") - 1, 0, max(0, len(edges) - 2))
    members = [told & (bins == number) for number in range(max(1, len(edges) - 1))]
    members = [one for one in members if one.any()]
    return {
        "mean_views": [float(lengths[one].mean()) for one in members],
        "queries": [int(one.sum()) for one in members],
        "ndcg@10": {
            setting: [float(row[one].mean(dtype=float)) for one in members]
            for setting, row in rows.items()
        },
    }


def summarise(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Over sets, each of which counts alike; only settings that all of them have."""
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
    return {name: mean / means["full"] for name, mean in means.items() if means["full"]}


def differences(rows: list[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """nDCG@10 of one setting less another's, by `one - other`."""
    found: dict[str, PairedDifference] = {}
    for one, other in COMPARISONS:
        if all(one in row and other in row for row in rows):
            pairs = [(row[one].astype(float), row[other].astype(float)) for row in rows]
            found[f"{one} - {other}"] = macro_difference(pairs)
    return {name: difference.to_dict() for name, difference in found.items()}


def load_results(
    out: Path, settings: dict[str, Any], may_come_later: Collection[str] = ()
) -> dict[str, Any]:
    """The results so far, or none; refuses those of other settings."""
    if not out.exists():
        return {"settings": settings, "over_sets": {}, "sets": {}}
    found: dict[str, Any] = json.loads(out.read_text())
    for key in may_come_later:
        if found["settings"][key] is None:
            found["settings"][key] = settings[key]
    if found["settings"] != settings:
        raise SystemExit(f"{out} holds {found['settings']}, asked for {settings}")
    return found


def load_rows(out: Path) -> dict[str, dict[str, Any]]:
    """Values by setting by set, from the .npz beside the JSON, whose keys are `set/setting`."""
    rows: dict[str, dict[str, Any]] = {}
    if out.exists():
        with np.load(out.with_suffix(".npz")) as stored:
            for key in stored.files:
                name, _, setting = key.partition("/")
                rows.setdefault(name, {})[setting] = stored[key]
    return rows


def save(out: Path, found: dict[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> None:
    """The values first: what the JSON names is then always there."""
    out.parent.mkdir(parents=True, exist_ok=True)
    flat = {f"{name}/{key}": value for name, row in rows.items() for key, value in row.items()}
    scratch = out.with_suffix(".tmp.npz")
    np.savez_compressed(scratch, **flat)
    os.replace(scratch, out.with_suffix(".npz"))
    write_json(out, found)
