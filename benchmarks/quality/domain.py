"""What an adapter gains on its domain, and what it forgets elsewhere.

    python -m benchmarks.quality.domain --base fastlane-minilm --adapter runs/medquad --data data/eval \\
        --target medquad --others nqgold --out benchmarks/results/medquad.json

Every set is encoded and ranked twice, without the adapter and with it, on the same queries; `name:split`
names the judgements where there are several. nDCG@10 of one route and of all views, with the 95 %
bootstrap interval of the difference per query. The verdict is on one route: the target gained if its
interval lies above zero, another set is kept if it loses at most the share --allowed-loss.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fastlane_st import FastLaneEncoder
from fastlane_st.evaluation.metrics import paired_difference

from ..common.encoding import describe_checkpoint, fastlane_model, measure_router, read_set
from ..common.environment import command, environment
from ..common.options import collection_parser, limits, parse
from ..common.results import Facts, write_results

Floats: TypeAlias = npt.NDArray[np.float64]
SETTINGS = {"router_1": "one route", "full": "all views"}


def main() -> None:
    parser = collection_parser(__doc__)
    parser.add_argument("--base", default="fastlane-minilm")
    parser.add_argument("--adapter", type=Path, required=True, help="folder of an adapter")
    parser.add_argument("--target", required=True, help="the adapter's domain")
    parser.add_argument("--others", default="", help="sets to remember, with commas")
    parser.add_argument("--allowed-loss", type=float, default=0.02, help="a share of nDCG@10")
    options = parse(parser)
    encoder = FastLaneEncoder(options.base)
    encoder.load_adapter(str(options.adapter))
    found: dict[str, Any] = {
        "command": command(),
        "environment": environment(),
        "settings": {
            "base": describe_checkpoint(options.base, fastlane_model(encoder)),
            "adapter": describe_adapter(options.adapter),
            "device": str(encoder.device),
            "batch_size": options.batch_size,
            **limits(options),
        },
        "allowed_loss": options.allowed_loss,
        "target": options.target,
        "sets": {},
    }
    others = [name for name in options.others.split(",") if name]
    for name in (options.target, *others):
        found["sets"][name] = measure_adapter(name, encoder, options)
        print_set(name, found["sets"][name])
    found["verdict"] = verdict_on(found, others)
    print_verdict(found)
    write_results(options.out, found)


def describe_adapter(folder: Path) -> dict[str, Any]:
    """An adapter's folder name, the digest of its file, and its size."""
    weights = (folder / "adapter_model.safetensors").read_bytes()
    return {
        "name": folder.name,
        "sha256": hashlib.sha256(weights).hexdigest()[:16],
        "megabytes": round(len(weights) / 1e6, 2),
    }


def measure_adapter(name: str, encoder: FastLaneEncoder, options: argparse.Namespace) -> Facts:
    """A set's nDCG@10 without the adapter and with it."""
    collection = read_set(name, options)
    start = time.perf_counter()
    encoder.disable_adapters()
    before = measure_router(collection, encoder, options, SETTINGS, num_routes=(1,))
    encoder.enable_adapters()
    after = measure_router(collection, encoder, options, SETTINGS, num_routes=(1,))
    return {
        "split": collection.split,
        "queries": len(collection.queries),
        "documents": len(collection.documents),
        "seconds": round(time.perf_counter() - start, 1),
        "ndcg@10": {
            setting: before_and_after(before[setting]["ndcg@10"], after[setting]["ndcg@10"])
            for setting in SETTINGS
        },
    }


def before_and_after(before: Floats, after: Floats) -> dict[str, Any]:
    """Both means of values per query, their difference, and the share that is gained."""
    mean = float(before.mean())
    return {
        "before": mean,
        "after": float(after.mean()),
        "difference": paired_difference(after, before).to_dict(),
        "relative": (float(after.mean()) - mean) / mean if mean else None,
    }


def verdict_on(found: dict[str, Any], others: list[str]) -> dict[str, Any]:
    """Whether the target gained, and which other sets kept what they had."""
    one_route = {name: each["ndcg@10"]["router_1"] for name, each in found["sets"].items()}
    losses = {name: -(one_route[name]["relative"] or 0.0) for name in others}
    return {
        "gained": one_route[found["target"]]["difference"]["low"] > 0,
        "kept": {name: loss <= found["allowed_loss"] for name, loss in losses.items()},
    }


def print_set(name: str, each: dict[str, Any]) -> None:
    print(f"{name}: {each['queries']:,} queries, {each['documents']:,} documents, nDCG@10")
    for setting, label in SETTINGS.items():
        row = each["ndcg@10"][setting]
        difference = row["difference"]
        relative = "" if row["relative"] is None else f", {row['relative']:+.1%}"
        print(
            f"  {label}: {row['before']:.4f} → {row['after']:.4f} ({difference['mean']:+.4f}, "
            f"95 % interval {difference['low']:+.4f} to {difference['high']:+.4f}{relative})"
        )


def print_verdict(found: dict[str, Any]) -> None:
    gained = "gained" if found["verdict"]["gained"] else "no sure gain"
    print(f"{found['target']}: {gained}, one route after against one route before")
    for name, is_kept in found["verdict"]["kept"].items():
        relation = "at most" if is_kept else "more than"
        print(
            f"{name}: {'kept' if is_kept else 'forgotten'}, loses {relation} {found['allowed_loss']:.0%}"
        )


if __name__ == "__main__":
    main()
