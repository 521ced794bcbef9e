"""The quality command, end to end on a tiny checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from benchmarks.quality.quality import FRACTIONS, OVER_FRACTIONS, SETTINGS
from fastlane_st import FastLaneEncoder
from fastlane_st.data.collection import read_collection
from fastlane_st.evaluation.routes import measure_routes
from fastlane_st.evaluation.scoring import encode_documents, encode_queries
from tests.conftest import DOCUMENTS, QUERIES


def test_sets_are_measured_once_and_summarised_together(
    measure_quality: Callable[..., dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = measure_quality("one")
    assert first["sets"]["one"]["command"].startswith(
        "python -m benchmarks.quality.quality --sets one --data "
    )
    capsys.readouterr()
    both = measure_quality("one,two:dev")
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
    measure_quality: Callable[..., dict[str, Any]], tmp_path: Path, checkpoint: Path
) -> None:
    means = measure_quality("one", "--storage", "float32")["sets"]["one"]["means"]
    encoder = FastLaneEncoder(checkpoint)
    collection = read_collection(tmp_path / "one")
    expected = measure_routes(
        collection,
        encode_queries(encoder, QUERIES),
        encode_documents(encoder, DOCUMENTS, fractions=FRACTIONS),
        [*SETTINGS, *(f"{setting}_documents_0.25" for setting in OVER_FRACTIONS)],
    )
    for setting, metrics in expected.items():
        for name, values in metrics.items():
            assert means[setting][name] == pytest.approx(values.mean()), (setting, name)


def test_a_dense_checkpoint_may_come_later(
    measure_quality: Callable[..., dict[str, Any]],
    tmp_path: Path,
    backbone_folder: Callable[[str], Path],
) -> None:
    dense = str(tmp_path / "dense")
    SentenceTransformer(str(backbone_folder("bert"))).save_pretrained(dense)  # pools the mean
    without = measure_quality("one")["sets"]["one"]
    later = measure_quality("one,two", "--dense", dense)
    assert without["means"].items() <= later["sets"]["one"]["means"].items()
    whole = measure_quality("one,two", "--dense", dense)
    assert whole == later
    for found in later["sets"].values():
        # The same encoder, untouched: the mean of its states, once more.
        assert found["means"]["dense_checkpoint"] == found["means"]["dense_backbone"]
        assert found["differences"]["router_1 - dense_checkpoint"]["num_queries"] == 4
        lengths = found["by_document_length"]["ndcg@10"]
        assert lengths["dense_checkpoint"] == lengths["dense_backbone"]
    assert "dense_checkpoint" in later["over_sets"]["ndcg@10"]
    with pytest.raises(SystemExit, match="asked for"):
        measure_quality("one")


def test_baselines_are_taken_from_results_that_were_measured_alike(
    measure_quality: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    old = measure_quality("one")["sets"]["one"]
    results = tmp_path / "results"
    for suffix in (".json", ".npz"):
        (results / "quality").with_suffix(suffix).rename((results / "old").with_suffix(suffix))
    new = measure_quality("one,two:dev", "--baselines", str(results / "old.json"))["sets"]
    assert new["one"]["means"] == old["means"]
    assert new["one"]["differences"] == old["differences"]
    assert new["one"]["baselines"]["command"] == old["command"]
    assert "full" not in new["one"]["baselines"]["settings"]
    assert "baselines" not in new["two:dev"]  # not among the old results, so measured
    assert "maxsim_backbone" in new["two:dev"]["means"]
    (results / "quality.json").unlink()
    options = (
        "--baselines",
        str(results / "old.json"),
        "--unchanged",
        "full",
        "--dtype",
        "bfloat16",
        "--fractions",
        "",
    )
    shared = measure_quality("one", *options)["sets"]["one"]
    assert shared["means"]["full"] == old["means"]["full"]
    assert shared["baselines"]["settings"][-1] == "full"
    assert not [setting for setting in shared["means"] if "documents" in setting]
    assert shared["baselines"]["measured_with"]["dtype"] == "float32"
    (results / "quality.json").unlink()
    with pytest.raises(SystemExit, match="was measured with storage float16, asked for float32"):
        measure_quality("one", "--storage", "float32", "--baselines", str(results / "old.json"))


def test_results_of_other_settings_are_not_mixed(
    measure_quality: Callable[..., dict[str, Any]],
) -> None:
    measure_quality("one")
    with pytest.raises(SystemExit, match=r"'storage': 'float16'.*asked for.*'float32'"):
        measure_quality("two", "--storage", "float32")
