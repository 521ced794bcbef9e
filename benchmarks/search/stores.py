"""Vector stores beside FastLaneIndex over the same vectors: what one route finds, and in what time.

    python -m benchmarks.search.stores --collection runs/peers-14k/vectors --documents 8000 --queries 200 \
        --partitions 16 64 --scratch runs/stores --out benchmarks/results/stores.json

`vectors.py` makes the collection. The best documents are those of exhaustive search. Each setting of a store
is compared with the fastest setting of FastLaneIndex that finds at least as much; `ratio` is the store's time
over that. One query at a time, on the threads that OMP_NUM_THREADS allows. Engines that aren't installed are
left out.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from fastlane_st import FastLaneIndex, Hit
from fastlane_st.modeling.search_fastlane import FloatArray
from fastlane_st.stores import Store, create_store, export_vectors, open_store
from fastlane_st.stores.lancedb import LanceSearch, LanceStore
from fastlane_st.stores.settings import StoreSettings

from ..common.environment import command, environment
from ..common.results import write_results
from .engines import EFFORTS, overlap
from .peers.collection import VectorCollection

Search = Callable[[Sequence[FloatArray]], list[list[Hit]]]

PACKAGES = {"lancedb": "lancedb", "qdrant": "qdrant_client", "milvus": "milvus_lite"}
PROBES = (4, 16, 64)
REFINES = (2, 10, 30)


class Setting(NamedTuple):
    """One way to search: its name, its options, and the search."""

    name: str
    options: dict[str, Any]
    search: Search


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--collection", type=Path, required=True)
    parser.add_argument("--documents", type=int, help="the first N")
    parser.add_argument("--queries", type=int, help="the first N")
    parser.add_argument("--stores", default=",".join(PACKAGES), help="names with commas")
    parser.add_argument(
        "--partitions", type=int, nargs="+", help="of LanceDB's indexes; by default its own number"
    )
    parser.add_argument("--rounds", type=int, default=3, help="each query is timed so often")
    parser.add_argument("--scratch", type=Path, required=True, help="a folder for the stores")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    collection = VectorCollection(options.collection)
    documents = list(islice(collection.documents(), options.documents))
    queries = list(collection.routed[: options.queries, None])
    stored = [one.astype(np.float16) for one in documents]
    index = FastLaneIndex.from_embeddings(stored, kind="flat")
    best = ids_of(index.search(queries))
    found: dict[str, Any] = {
        "command": command(),
        "environment": environment(),
        "documents": len(documents),
        "vectors": sum(map(len, documents)),
        "queries": len(queries),
        "rounds": options.rounds,
        "settings": [],
    }
    ours: list[dict[str, Any]] = []
    for setting in fastlane_settings(stored):
        ours.append(measured(setting, queries, best, options.rounds))
        found["settings"].append(ours[-1])
    for name in options.stores.split(","):
        if find_spec(PACKAGES[name]) is None:
            print(f"{name}: not installed")
            continue
        for setting in store_settings(name, index, options.scratch, options.partitions):
            one = measured(setting, queries, best, options.rounds)
            found["settings"].append(one | compared(one, ours))
            write_results(options.out, found)


def fastlane_settings(documents: Sequence[Any]) -> Iterator[Setting]:
    """FastLaneIndex, exhaustive and in clusters with each effort."""
    for kind in ("flat", "ivf"):
        index = FastLaneIndex.from_embeddings(documents, kind=kind, storage="float16")
        for effort in EFFORTS if kind == "ivf" else (1,):
            index.vectors = replace(index.vectors, effort=effort)
            yield Setting("fastlane", {"kind": kind, "effort": effort}, index.search)


def store_settings(
    name: str, index: FastLaneIndex, scratch: Path, partitions: Sequence[int] | None
) -> Iterator[Setting]:
    """A store, filled from the index, with each way to search it."""
    place = scratch / (f"{name}.db" if name == "milvus" else name)
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    store = filled(f"{name}:{place}", index)
    try:
        if isinstance(store, LanceStore):
            store.how = LanceSearch(exact=True)  # an export has built an index of many vectors
        yield Setting(name, {"exact": True}, store.search)
        if isinstance(store, LanceStore):
            yield from lance_settings(store, partitions)
    finally:
        store.close()


def filled(address: str, index: FastLaneIndex) -> Store:
    """A store with the documents of an index, without the engine's index of vectors."""
    storage: Any = "float32" if address.startswith("milvus") else "float16"
    distance: Any = "cosine" if address.startswith("lancedb") else "dot"
    create_store(address, StoreSettings(index.dim, storage=storage, distance=distance)).close()
    started = time.perf_counter()
    export_vectors(index, address)
    print(f"{address} filled in {time.perf_counter() - started:.1f} s", flush=True)
    return open_store(address)


def lance_settings(store: LanceStore, partitions: Sequence[int] | None) -> Iterator[Setting]:
    """LanceDB with each kind of index, clusters looked into, and refinement."""
    builds: list[dict[str, Any]] = [
        {"kind": "IVF_RQ", "num_bits": 1},
        {"kind": "IVF_RQ", "num_bits": 3},
        {"kind": "IVF_SQ"},
        {"kind": "IVF_FLAT"},
        {"kind": "IVF_HNSW_SQ"},
    ]
    counts = [{"num_partitions": count} for count in partitions] if partitions else [{}]
    for build in (kind | count for kind in builds for count in counts):
        try:
            store.create_index(**build)
        except ValueError as error:  # such as bits that this LanceDB doesn't have
            print(f"lancedb {build}: {error}")
            continue
        for nprobes in PROBES:
            for refine in REFINES:
                store.how = LanceSearch(nprobes=nprobes, refine_factor=refine)
                how = {"nprobes": nprobes, "refine_factor": refine}
                yield Setting("lancedb", build | how, store.search)


def measured(
    setting: Setting, queries: Sequence[FloatArray], best: list[list[int]], rounds: int
) -> dict[str, Any]:
    """The overlap with the best, and the median time of a query."""
    found = ids_of([setting.search([query])[0] for query in queries])
    times = []
    for _ in range(rounds):
        for query in queries:
            started = time.perf_counter()
            setting.search([query])
            times.append(time.perf_counter() - started)
    one = {
        "engine": setting.name,
        "options": setting.options,
        "overlap": overlap(found, best),
        "ms_median": 1000 * median(times),
        "ms_p95": 1000 * float(np.quantile(times, 0.95)),
    }
    print(
        f"{one['engine']} {one['options']} {one['overlap']:.3f} {one['ms_median']:.2f} ms",
        flush=True,
    )
    return one


def compared(one: dict[str, Any], ours: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The fastest of our settings that finds at least as much, and the time over its time."""
    equal = [each for each in ours if each["overlap"] >= one["overlap"]]
    if not equal:
        return {"equal": None, "ratio": None}
    fastest = min(equal, key=lambda each: float(each["ms_median"]))
    return {"equal": fastest["options"], "ratio": one["ms_median"] / fastest["ms_median"]}


def ids_of(found: Sequence[Sequence[Hit]]) -> list[list[int]]:
    """The document numbers of rankings."""
    return [[int(hit.id) for hit in hits] for hits in found]


if __name__ == "__main__":
    main()
