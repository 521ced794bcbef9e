"""The comparison of engines, over a small collection of random vectors."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.index.vectors.test_store import units

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "peers" / "engines"))

import engines
import muvera
import plots
import scale
import tables
from collection import VectorCollection
from paper import brute_force

NUM_DOCUMENTS, NUM_QUERIES = 60, 5


@pytest.fixture
def collection(tmp_path: Path) -> VectorCollection:
    """Sixty documents; each query is one of them, and that is relevant."""
    folder = tmp_path / "vectors"
    folder.mkdir()
    documents = [units(3 + number % 4, number) for number in range(NUM_DOCUMENTS)]
    for number, start in enumerate((0, 40)):
        shard = documents[start : start + 40]
        np.save(folder / f"vectors-{number:04d}.npy", np.concatenate(shard).astype(np.float16))
        np.save(folder / f"counts-{number:04d}.npy", np.array([len(one) for one in shard]))
    ids = [f"d{number}" for number in range(NUM_DOCUMENTS)]
    queries = [documents[10 * number] for number in range(NUM_QUERIES)]
    np.save(folder / "queries-full.npy", np.concatenate(queries))
    np.save(folder / "queries-counts.npy", np.array([len(one) for one in queries]))
    np.save(folder / "queries-routed.npy", np.stack([one[0] for one in queries]))
    for name, content in {
        "ids": ids,
        "texts": [f"text {id}" for id in ids],
        "collection": {"command": "made by a test"},
        "queries": [
            {"id": f"q{n}", "text": "", "relevant": {f"d{10 * n}": 1}} for n in range(NUM_QUERIES)
        ],
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return VectorCollection(folder)


def test_a_collection_gives_back_what_was_written(collection: VectorCollection) -> None:
    documents = list(collection.documents())
    rows, firsts = collection.read()
    assert len(collection) == len(documents) == len(firsts) == NUM_DOCUMENTS
    assert collection.num_vectors == len(rows)
    for number, document in enumerate(documents):
        np.testing.assert_allclose(document, units(3 + number % 4, number), atol=1e-3)
        np.testing.assert_array_equal(
            rows[firsts[number] : firsts[number] + len(document)], document
        )


def test_engines_are_measured_alike(
    collection: VectorCollection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    backbone_folder: Callable[[str], Path],
) -> None:
    runs = (
        engines.Run("exhaustive", search=({}, {"one_route": True})),
        engines.Run("fastlane", {"kind": "flat", "storage": "float32"}, ({}, {"rerank": 60})),
        engines.Run("muvera", {"codec": "IVF2,SQ8"}, ({"nprobe": 2, "rerank": 60},)),
        engines.Run("maxsim"),
        engines.Run("dense", {"codec": "Flat", "model": str(backbone_folder("bert"))}),
        engines.Run("missing"),
    )
    monkeypatch.setattr(engines, "RUNS", runs)
    out = tmp_path / "engines.json"
    command = ["engines.py", "--collection", str(collection.folder), "--scratch", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [*command, "--out", str(out)])
    engines.main()
    exhaustive, fastlane, fixed, scored, dense, missing = json.loads(out.read_text())["runs"]
    assert "returned non-zero exit status" in missing["failed"]
    for one in (exhaustive, fastlane):
        assert one["threads"] == 1
        assert [setting["ndcg@10"] for setting in one["settings"]] == [1.0, 1.0]
        assert all(setting["p50_ms"] <= setting["p99_ms"] for setting in one["settings"])
        assert all(setting["queries_per_second_callers"] > 0 for setting in one["settings"])
    full, one_route = exhaustive["settings"]
    assert full["ndcg@10_less_one_route"]["mean"] == 0.0
    assert full["overlap_maxsim"] == one_route["overlap_one_route"] == 1.0
    assert full["overlap_one_route"] < 1.0
    one_route, cascade = fastlane["settings"]
    assert one_route["overlap_one_route"] == cascade["overlap_maxsim"] == 1.0
    assert fixed["settings"][0]["overlap_maxsim"] == 1.0  # as good as what is ranked again
    assert scored["settings"][0]["overlap_maxsim"] == 1.0
    assert dense["bytes"] > 4 * 8 * NUM_DOCUMENTS
    assert fastlane["bytes_per_document"] > 4 * 16 * 3
    assert list(tables.curves(fastlane)) == [
        "fastlane flat float32",
        "fastlane flat float32 rerank",
    ]
    head, _, *rows = tables.engines_table(json.loads(out.read_text())).splitlines()
    assert [row.count("|") for row in rows] == [head.count("|")] * 8
    assert rows[3].startswith("| fastlane flat float32 rerank (rerank 60) | 1.0000 | 100.0% | ")
    assert rows[7].startswith("| missing | did not run: ")
    pytest.importorskip("matplotlib")
    plots.plot_engines(out).savefig(tmp_path / "engines.svg")
    assert "fastlane flat float32" in (tmp_path / "engines.svg").read_text()


def test_an_index_of_a_dense_model_is_named_by_its_folder() -> None:
    run = engines.Run("dense", {"codec": "Flat"}).with_model(Path("runs/twin"))
    assert run.build == {"codec": "Flat", "model": "runs/twin"}
    assert run.name == "dense-Flat-twin"


def test_an_index_grows_beyond_the_real_documents(
    collection: VectorCollection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "scale.json"
    command = [scale.__file__, "--collection", str(collection.folder), "--out", str(out)]
    options = ["--scratch", str(tmp_path / "indexes"), "--sizes", "50,150", "--commit-every", "40"]
    monkeypatch.setattr(sys, "argv", [*command, *options])
    (tmp_path / "indexes").mkdir()
    scale.main()
    small, large = json.loads(out.read_text())["sizes"].values()
    assert small["vectors"] == sum(3 + number % 4 for number in range(50))
    assert large["vectors"] == 2 * collection.num_vectors + sum(3 + n % 4 for n in range(30))
    assert small["bytes"] < large["bytes"]
    for size in (small, large):
        assert [one["effort"] for one in size["searches"]] == [0.5, 1, 2, 4]
        assert size["searches"][-1]["overlap"] == 1.0  # int8 is compared with int8
    pytest.importorskip("matplotlib")
    plots.plot_scale(out).savefig(tmp_path / "scale.svg")
    assert "documents" in (tmp_path / "scale.svg").read_text()
    columns, _, *rows = tables.scale_table(json.loads(out.read_text())).splitlines()
    assert [row.count("|") for row in rows] == [columns.count("|")] * 2


def test_a_fixed_encoding_is_the_sum_over_buckets_of_projected_vectors() -> None:
    views, query = units(9, 0), units(4, 1)
    encoding = muvera.Encoding(views.shape[1])
    expected, wanted = [], []
    for repetition in range(muvera.REPETITIONS):
        planes = encoding.hyperplanes[:, repetition]
        projection = encoding.projections[:, repetition]
        codes = [
            int("".join("01"[int(bit > 0)] for bit in (one @ planes)[::-1]), 2) for one in views
        ]
        for bucket in range(2**muvera.HYPERPLANES):
            members = [one for one, code in zip(views, codes, strict=True) if code == bucket]
            distances = [(bucket ^ code).bit_count() for code in codes]
            nearest = views[int(np.argmin(distances))]
            expected.append((np.mean(members, axis=0) if members else nearest) @ projection)
            above = query @ planes > 0
            mine = query[(above @ (1 << np.arange(muvera.HYPERPLANES))) == bucket]
            wanted.append(mine.sum(axis=0) @ projection)
    np.testing.assert_allclose(encoding.document(views), np.concatenate(expected), atol=1e-5)
    np.testing.assert_allclose(encoding.query(query), np.concatenate(wanted), atol=1e-5)


def test_the_fastest_of_the_good_settings_speaks_for_an_index() -> None:
    settings = [
        {"ndcg@10": ndcg, "queries_per_second_median": rate, "search": {"effort": rate}}
        for ndcg, rate in ((0.500, 10), (0.498, 40), (0.497, 90), (0.300, 200))
    ]
    best = tables.fastest_good(settings)
    assert tables.said(best["search"]) == "(effort 40)"


def test_brute_force_scores_are_maxsim(collection: VectorCollection) -> None:
    documents = brute_force.Documents(collection, "cpu")
    queries = np.stack([views[:3] for views in collection.full])
    scores = documents.score(torch.from_numpy(queries))
    expected = [
        [(query @ views.T).max(axis=1).sum() for views in collection.documents()]
        for query in queries
    ]
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-5, atol=1e-5)
