"""The quality benchmark and its plots, end to end on a tiny checkpoint."""

from __future__ import annotations

import importlib
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from fastlane_st import FastLaneEncoder, hub
from fastlane_st.data.collection import read_collection
from fastlane_st.diagnostics.diagnose import run_diagnose
from fastlane_st.evaluation.controls import measure_controls
from fastlane_st.evaluation.scoring import encode_documents, encode_queries
from tests.conftest import DOCUMENTS, QUERIES

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def write_set(folder: Path, shift: int) -> None:
    (folder / "qrels").mkdir(parents=True)
    for name, texts in (("corpus", DOCUMENTS), ("queries", QUERIES)):
        rows = [json.dumps({"_id": f"{name}{n}", "text": text}) for n, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    rows = [f"queries{n}\tcorpus{n + shift}\t1" for n in range(len(QUERIES))]
    qrels = "\n".join(["query-id\tcorpus-id\tscore", *rows])
    (folder / "qrels" / "dev.tsv").write_text(qrels)


def run_on_one_set(
    script: str, checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *options: str
) -> dict[str, Any]:
    """The JSON that a benchmark's script leaves, of a set "one" in the folder."""
    write_set(folder / "one", 0)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    out = folder / "results" / "found.json"
    where = ["--data", str(folder), "--model", str(checkpoint), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [script, "--sets", "one", *options, *where])
    runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.fixture
def run(
    tmp_path: Path,
    checkpoint: Path,
    backbone_folder: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., dict[str, Any]]:
    """Runs the benchmark on some sets and gives the JSON that it leaves."""
    write_set(tmp_path / "one", 0)
    write_set(tmp_path / "two", 1)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    out = tmp_path / "results" / "quality.json"
    common = ["--data", str(tmp_path), "--model", str(checkpoint), "--out", str(out)]

    def call(sets: str, *options: str) -> dict[str, Any]:
        backbone = ["--backbone", str(backbone_folder("bert"))]
        arguments = ["quality.py", "--sets", sets, *common, *backbone, *options]
        monkeypatch.setattr(sys, "argv", arguments)
        runpy.run_path(str(BENCHMARKS / "quality.py"), run_name="__main__")
        found: dict[str, Any] = json.loads(out.read_text())
        return found

    return call


def test_sets_are_measured_once_and_summarised_together(
    run: Callable[..., dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run("one")
    capsys.readouterr()
    both = run("one,two:dev")
    assert "one: already in" in capsys.readouterr().out
    assert both["sets"]["one"] == first["sets"]["one"]
    assert both["over_sets"]["sets"] == ["one", "two:dev"]
    for setting in ("full", "router_1", "bm25", "dense_backbone", "maxsim_backbone"):
        means = [found["means"][setting]["ndcg@10"] for found in both["sets"].values()]
        assert both["over_sets"]["ndcg@10"][setting] == pytest.approx(np.mean(means))
        for name, mean in zip(("one", "two:dev"), means, strict=True):
            with np.load(tmp_path / "results" / "quality.npz") as rows:
                assert rows[f"{name}/{setting}"].mean() == pytest.approx(mean)
                assert rows[f"{name}/query_ids"].tolist() == [f"queries{n}" for n in range(4)]
    found = both["over_sets"]["differences"]["router_1 - first"]
    means = both["over_sets"]["ndcg@10"]
    assert found["mean"] == pytest.approx(means["router_1"] - means["first"])
    assert found["num_queries"] == 8


def test_the_numbers_are_those_of_the_library(
    run: Callable[..., dict[str, Any]], tmp_path: Path, checkpoint: Path
) -> None:
    means = run("one", "--storage", "float32")["sets"]["one"]["means"]
    encoder = FastLaneEncoder(checkpoint)
    collection = read_collection(tmp_path / "one")
    expected = measure_controls(
        collection,
        encode_queries(encoder, QUERIES),
        encode_documents(encoder, DOCUMENTS),
    )
    for setting, metrics in expected.items():
        for name, values in metrics.items():
            assert means[setting][name] == pytest.approx(values.mean()), (setting, name)


def test_a_dense_checkpoint_may_come_later(
    run: Callable[..., dict[str, Any]], tmp_path: Path, backbone_folder: Callable[[str], Path]
) -> None:
    dense = str(tmp_path / "dense")
    SentenceTransformer(str(backbone_folder("bert"))).save_pretrained(dense)  # pools the mean
    without = run("one")["sets"]["one"]
    later = run("one,two", "--dense", dense)
    assert without["means"].items() <= later["sets"]["one"]["means"].items()
    whole = run("one,two", "--dense", dense)
    assert whole == later
    for found in later["sets"].values():
        # The same encoder, untouched: the mean of its states, once more.
        assert found["means"]["dense_checkpoint"] == found["means"]["dense_backbone"]
        assert found["differences"]["router_1 - dense_checkpoint"]["num_queries"] == 4
        lengths = found["by_document_length"]["ndcg@10"]
        assert lengths["dense_checkpoint"] == lengths["dense_backbone"]
    assert "dense_checkpoint" in later["over_sets"]["ndcg@10"]
    with pytest.raises(SystemExit, match="asked for"):
        run("one")


def test_baselines_are_taken_from_results_that_were_measured_alike(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    old = run("one")["sets"]["one"]
    results = tmp_path / "results"
    for suffix in (".json", ".npz"):
        (results / "quality").with_suffix(suffix).rename((results / "old").with_suffix(suffix))
    new = run("one,two:dev", "--baselines", str(results / "old.json"))["sets"]
    assert new["one"]["means"] == old["means"]
    assert new["one"]["differences"] == old["differences"]
    assert new["one"]["baselines"]["command"] == old["command"]
    assert "baselines" not in new["two:dev"]  # not among the old results, so measured
    assert "maxsim_backbone" in new["two:dev"]["means"]
    (results / "quality.json").unlink()
    with pytest.raises(SystemExit, match="was measured with storage float16, asked for float32"):
        run("one", "--storage", "float32", "--baselines", str(results / "old.json"))


def test_results_of_other_settings_are_not_mixed(run: Callable[..., dict[str, Any]]) -> None:
    run("one")
    with pytest.raises(SystemExit, match=r"'storage': 'float16'.*asked for.*'float32'"):
        run("two", "--storage", "float32")


def test_zero_shot_measures_each_variant_once_and_drops_rows_of_other_fields(
    tmp_path: Path, backbone_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path / "one", 0)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(hub, "base_weights", lambda: backbone_folder("bert"))
    zero_shot = importlib.import_module("zero_shot")
    variants = [{**zero_shot.VARIANTS[row], "embedding_dim": 4} for row in (1, 5)]
    monkeypatch.setattr(zero_shot, "VARIANTS", variants)
    monkeypatch.setattr(zero_shot, "SETS", ("one",))
    out = tmp_path / "zero_shot.json"
    arguments = ["zero_shot.py", "--data", str(tmp_path), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    zero_shot.main()
    first, second = json.loads(out.read_text())["rows"]
    assert (first["use_special_tokens"], second["route_context_weight"]) == (True, 4.0)
    for row in (first, second):
        assert set(row["mean"]) == set(zero_shot.SETTINGS) > {"router_1", "router_8", "full"}
        assert row["mean"] == row["by_set"][0]
    before = {"embedding_dim": 4, "context_weight": 2.0, "use_special_tokens": False}
    kept = {**second, "mean": "as it stands"}
    out.write_text(json.dumps({"rows": [before, kept]}))
    zero_shot.main()
    assert json.loads(out.read_text())["rows"] == [kept, first]


def test_every_plot_is_drawn_from_json(
    run: Callable[..., dict[str, Any]],
    tmp_path: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run("one,two")
    diagnostics = run_diagnose(checkpoint, tmp_path / "one").to_dict()
    (tmp_path / "diagnostics.json").write_text(json.dumps(diagnostics))
    (tmp_path / "log.jsonl").write_text('{"step": 1, "router_entropy": 2.0}\n{"step": 2}\n')
    sources = {
        "logits": "diagnostics.json",
        "routes": "results/quality.json",
        "lengths": "results/quality.json",
        "entropy": "log.jsonl",
    }
    for plot, source in sources.items():
        out = tmp_path / f"{plot}.svg"
        monkeypatch.setattr(
            sys, "argv", ["plots.py", plot, str(tmp_path / source), "--out", str(out)]
        )
        runpy.run_path(str(BENCHMARKS / "plots.py"), run_name="__main__")
        assert "<svg" in out.read_text()


def test_a_table_has_a_row_for_each_setting_that_all_sets_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    tables = importlib.import_module("tables")
    means = {"full": {"ndcg@10": 0.5}, "router_1": {"ndcg@10": 0.25}, "first": {"ndcg@10": 0.1}}
    other = {"full": {"ndcg@10": 0.75}, "router_1": {"ndcg@10": 0.75}}
    quality = {
        "sets": {
            "one": {"queries": 1500, "means": means},
            "two:dev": {"queries": 7, "means": other},
        },
        "over_sets": {
            "ndcg@10": {"full": 0.625, "router_1": 0.5},
            "ratio_to_full": {"full": 1.0, "router_1": 0.8},
        },
    }
    assert tables.quality_table(quality).splitlines() == [
        "| nDCG@10 (queries) | one (1,500) | two (7) | mean | of all views |",
        "| --- | --- | --- | --- | --- |",
        "| **one route** | 0.250 | 0.750 | 0.500 | 80.0% |",
        "| all views | 0.500 | 0.750 | 0.625 | 100.0% |",
    ]


def test_readme_shows_the_table_of_the_committed_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    tables = importlib.import_module("tables")
    quality = json.loads((BENCHMARKS / "results" / "quality.json").read_text())
    assert tables.quality_table(quality) in (BENCHMARKS.parent / "README.md").read_text("utf-8")


def test_another_run_is_compared_with_the_released_one_query_by_query(
    run: Callable[..., dict[str, Any]],
    tmp_path: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    released = run("one,two:dev", "--storage", "float16")
    results = tmp_path / "results"

    def compare(sets: str) -> dict[str, Any]:
        command = [
            *("reproduce.py", "--data", str(tmp_path), "--model", str(checkpoint), "--sets", sets),
            *("--released", str(results / "quality.json"), "--out", str(results / "seed.json")),
        ]
        monkeypatch.setattr(sys, "argv", command)
        runpy.run_path(str(BENCHMARKS / "reproduce.py"), run_name="__main__")
        found: dict[str, Any] = json.loads((results / "seed.json").read_text())
        return found

    same = compare("one")
    both = compare("one,two:dev")
    assert both["sets"]["one"] == same["sets"]["one"]
    for setting, one in both["over_sets"].items():
        assert one["released"] == pytest.approx(released["over_sets"]["ndcg@10"][setting])
        assert one["other"] == pytest.approx(one["released"])  # the same checkpoint
        assert one["difference"]["mean"] == pytest.approx(0, abs=1e-6)
        assert one["difference"]["num_queries"] == 8

    with np.load(results / "quality.npz") as stored:
        rows = dict(stored)
    rows["one/full"] = rows["one/full"] - 0.5  # as if the released run were worse
    np.savez(results / "quality.npz", **rows)
    (results / "seed.json").unlink()
    worse = compare("one,two:dev")["over_sets"]
    assert worse["full"]["difference"]["mean"] == pytest.approx(0.25)
    assert worse["router_1"]["difference"]["mean"] == pytest.approx(0, abs=1e-6)
