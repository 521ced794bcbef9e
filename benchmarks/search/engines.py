"""Search engines side by side over the same vectors: quality, speed, bytes, memory, time to build.

    python -m benchmarks.search.engines --collection runs/peers/vectors --scratch runs/peers \
        --out benchmarks/results/engines.json

`vectors.py` makes the collection. Each engine runs in a virtual environment of its own, made in the scratch
folder at first use, and in a process of its own; measurements are kept there, so that a run that was stopped
goes on. Indexes are built on all cores. Searches are on one thread, one query at a time.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastlane_st.data.collection import Collection
from fastlane_st.evaluation.metrics import evaluate_rankings, paired_difference

from ..common.environment import ROOT, command, environment
from ..common.results import write_results
from .peers.collection import VectorCollection

MEASURE = "benchmarks.search.peers.measure"
REQUIREMENTS = Path(__file__).parent / "peers" / "requirements"
EFFORTS = (0.25, 0.5, 1, 2, 4)
SAMPLED = 20_000
"""Documents that fast-plaid fits clusters to: its default, 59,000, takes twice as long."""


@dataclass(frozen=True)
class Run:
    """One index of one engine, and the settings that it is searched with.

    Attributes:
        engine: Module of `peers/engines`.
        build: Settings of the index.
        search: Settings of searches, each of which is measured.
        environment: Name of a file in `peers/requirements`; None for this environment.
    """

    engine: str
    build: dict[str, Any] = field(default_factory=dict)
    search: tuple[dict[str, Any], ...] = ({},)
    environment: str | None = None

    @property
    def name(self) -> str:
        """The name of the index's folder."""
        return "-".join([self.engine, *(Path(str(value)).name for value in self.build.values())])

    def with_model(self, folder: Path) -> Run:
        """The same run with the dense model in a folder."""
        return replace(self, build={**self.build, "model": str(folder)})


class Reference(NamedTuple):
    """The rankings of exhaustive search by document number, and its nDCG@10 per query."""

    rankings: list[list[int]]
    ndcg: npt.NDArray[np.float64]


def efforts(**options: Any) -> tuple[dict[str, Any], ...]:
    """Search settings with each of `EFFORTS`."""
    return tuple({"effort": effort, **options} for effort in EFFORTS)


RUNS = (
    Run("exhaustive", search=({}, {"one_route": True})),
    Run("maxsim"),
    *(
        Run(
            "fastlane",
            {"kind": "ivf", "storage": storage},
            (*efforts(), *efforts(rerank=20), *efforts(rerank=100)),
        )
        for storage in ("int8", "int4", "pq")
    ),
    Run(
        "plaid",
        {"nbits": 4, "n_samples_kmeans": SAMPLED},
        tuple(
            {"n_ivf_probe": probe, "n_full_scores": scores}
            for probe, scores in ((2, 256), (4, 1024), (8, 1024), (8, 4096), (32, 4096))
        ),
        "torch_2_11",
    ),
    Run(
        "warp",
        # Its quantiles fail on more vectors of 384 dimensions.
        {"nbits": 4, "n_samples_kmeans": 15_000, "codec_sample_max_tokens": 40_000},
        # By default it skips centroids whose cosine to the query is below .5: for our queries most.
        (
            *({}, {"nprobe": 1}, {"nprobe": 8}, {"nprobe": 32}),
            *({"nprobe": probe, "centroid_score_threshold": 0.0} for probe in (2, 8, 32, 64)),
        ),
        "torch_2_11",
    ),
    *(Run("dense", {"codec": codec}) for codec in ("Flat", "HNSW32")),
    Run("bm25", search=({}, {"rerank": 100}, {"rerank": 1000})),
    Run(
        "muvera",
        {"codec": "IVF512,SQ8"},
        tuple(
            {"nprobe": nprobe, "rerank": rerank}
            for rerank in (0, 100, 400)
            for nprobe in (8, 32, 128)
        ),
    ),
    Run("pylate_voyager", search=({"candidates": 10}, {"candidates": 100}), environment="pylate"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--collection", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True, help="indexes and environments")
    parser.add_argument("--engines", help="or their indexes: names with commas, all by default")
    parser.add_argument(
        "--dense", type=Path, help="a dense model; the untouched backbone without it"
    )
    parser.add_argument("--queries", type=int, help="for a trial: the first N")
    parser.add_argument("--remarks", help="a remark for the report")
    parser.add_argument("--limit-s", type=int, default=7200, help="of one engine, in seconds")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    collection = VectorCollection(options.collection)
    named = options.engines and set(options.engines.split(","))
    chosen = [run for run in RUNS if named is None or named & {run.engine, run.name}]
    if options.dense is not None:
        chosen = [run.with_model(options.dense) if run.engine == "dense" else run for run in chosen]
    found: dict[str, Any] = {
        "command": command(),
        "collection": collection.facts,
        "vectors": collection.num_vectors,
        "remarks": options.remarks,
        "environment": environment(),
        "runs": [],
    }
    measured = [(run, measure_run(run, options)) for run in chosen]
    exhaustive: list[dict[str, Any]] = next(
        (one["settings"] for run, one in measured if run.engine == "exhaustive"), []
    )
    references = {
        name: Reference(setting["rankings"], ndcg(collection, setting["rankings"]))
        for name, setting in zip(("maxsim", "one_route"), exhaustive, strict=bool(exhaustive))
    }
    for run, one in measured:
        found["runs"].append(summary(run, one, collection, references))
        write_results(options.out, found)


def measure_run(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """What `peers/measure.py` writes, or why it failed."""
    out: Path = options.scratch / "measured" / f"{run.name}.json"
    if not out.exists():
        try:
            run_in_environment(run, options, out)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            return {"failed": str(error)}
    measured: dict[str, Any] = json.loads(out.read_text("utf-8"))
    return measured


def run_in_environment(run: Run, options: argparse.Namespace, out: Path) -> None:
    """Runs `peers/measure.py` in the engine's environment."""
    python = python_of(run.environment, options.scratch)
    arguments = [
        *(python, "-m", MEASURE, run.engine),
        *("--collection", str(options.collection)),
        *("--index", str(options.scratch / "indexes" / run.name)),
        *("--build", json.dumps(run.build)),
        *("--search", json.dumps(run.search)),
        *("--out", str(out)),
        *(("--queries", str(options.queries)) if options.queries else ()),
    ]
    print(shlex.join(arguments), flush=True)
    subprocess.run(arguments, check=True, timeout=options.limit_s, cwd=ROOT)


def python_of(name: str | None, scratch: Path) -> str:
    """The interpreter of an environment, which is made at first use."""
    if name is None:
        return sys.executable
    folder = scratch / "environments" / name
    python = folder / "bin" / "python"
    if not (folder / "done").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        requirements = REQUIREMENTS / f"{name}.txt"
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)], check=True
        )
        (folder / "done").touch()
    return str(python)


def summary(
    run: Run,
    measured: dict[str, Any],
    collection: VectorCollection,
    references: Mapping[str, Reference],
) -> dict[str, Any]:
    """The measurements, with quality in place of the rankings."""
    if "failed" in measured:
        return {"engine": run.engine, "build": run.build, **measured}
    kept = {name: value for name, value in measured.items() if name != "settings"}
    kept["bytes_per_document"] = measured["bytes"] / len(collection)
    kept["settings"] = [
        {name: value for name, value in setting.items() if name != "rankings"}
        | quality_of(setting["rankings"], collection, references)
        for setting in measured["settings"]
    ]
    return kept


def quality_of(
    rankings: list[list[int]], collection: VectorCollection, references: Mapping[str, Reference]
) -> dict[str, Any]:
    """nDCG@10, and against exhaustive MaxSim and one route: its difference, and overlaps of the ten best."""
    ours = ndcg(collection, rankings)
    found: dict[str, Any] = {"ndcg@10": float(ours.mean())}
    for name, best in references.items():
        found[f"overlap_{name}"] = overlap(rankings, best.rankings)
        found[f"ndcg@10_less_{name}"] = paired_difference(ours, best.ndcg).to_dict()
    return found


def ndcg(collection: VectorCollection, rankings: list[list[int]]) -> npt.NDArray[np.float64]:
    """nDCG@10 of the first queries, `(queries,)`."""
    queries = collection.queries[: len(rankings)]
    judged = Collection(
        "vectors",
        "all",
        dict.fromkeys(collection.ids, ""),
        {query["id"]: query["text"] for query in queries},
        {query["id"]: query["relevant"] for query in queries},
    )
    arrays = [np.array(ranking, dtype=np.intp) for ranking in rankings]
    return evaluate_rankings(judged, arrays)["ndcg@10"]


def overlap(rankings: list[list[int]], best: list[list[int]]) -> float:
    """The mean share of `best` that the rankings hold."""
    pairs = zip(rankings, best, strict=True)
    return float(np.mean([len(set(one) & set(other)) / len(other) for one, other in pairs]))


if __name__ == "__main__":
    main()
