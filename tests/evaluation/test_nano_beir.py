"""NanoBEIR by number of routes, over a local stand-in; and what is said of data that isn't there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from sentence_transformers.multi_vector_encoder.evaluation import MultiVectorNanoBEIREvaluator

from fastlane_st import FastLaneEncoder
from fastlane_st.evaluation.evaluate import run_evaluate
from fastlane_st.evaluation.nano_beir import DATA_SETS, NanoBeirEvaluation, run_nano_beir
from tests.conftest import DOCUMENTS, QUERIES

pytest.importorskip("datasets")
pytest.importorskip("pyarrow")
from tests.support.nano_beir import RELEVANT, two_data_sets, write_nano_beir


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> FastLaneEncoder:
    return FastLaneEncoder(checkpoint)


def as_beir(folder: Path) -> Path:
    """NQ of the stand-in as a folder for `run_evaluate`, which wants every query judged."""
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{n}", "text": text} for n, text in enumerate(DOCUMENTS)]
    queries = [{"_id": f"q{n}", "text": text} for n, text in enumerate(QUERIES)][: len(RELEVANT)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines = [f"{query}\t{id}\t1" for query, ids in RELEVANT.items() for id in ids]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]))
    return folder


@pytest.mark.parametrize("document_routes", ["default", 2])
def test_the_numbers_are_those_of_run_evaluate(
    encoder: FastLaneEncoder, tmp_path: Path, document_routes: int | str
) -> None:
    options = {"routes": (1, 2, 4, None), "document_routes": document_routes}
    data = two_data_sets(tmp_path / "nano")
    found = run_nano_beir(encoder, data_sets=["NQ", "msmarco"], nano_beir_data=data, **options)  # type: ignore[arg-type]
    expected = run_evaluate(encoder, as_beir(tmp_path / "beir"), **options)  # type: ignore[arg-type]
    means = expected.to_dict()["means"]
    assert list(found.metrics) == list(means) == ["1", "2", "4", "all"]
    for setting, metrics in found.metrics.items():
        for metric in ("ndcg@10", "mrr@10", "map@100"):
            assert metrics["NanoNQ"][metric] == pytest.approx(means[setting][metric], abs=1e-6)
            mean = (metrics["NanoNQ"][metric] + metrics["NanoMSMARCO"][metric]) / 2
            assert metrics["mean"][metric] == pytest.approx(mean)
    assert len({metrics["NanoNQ"]["ndcg@10"] for metrics in found.metrics.values()}) > 1


def test_all_views_give_the_numbers_of_the_evaluator_as_it_is(
    checkpoint: Path, tmp_path: Path
) -> None:
    encoder = FastLaneEncoder(checkpoint)
    encoder.fastlane_config.query_num_routes = None
    data = two_data_sets(tmp_path / "nano")
    theirs = MultiVectorNanoBEIREvaluator(["nq", "msmarco"], str(data))(encoder)
    found = run_nano_beir(
        encoder, data_sets=["nq", "msmarco"], nano_beir_data=data, routes=["default", None]
    )
    for setting in ("default", "all"):
        for name, metrics in found.metrics[setting].items():
            prefix = f"{'NanoBEIR_mean' if name == 'mean' else name}_maxsim_"
            assert metrics == pytest.approx(
                {key.removeprefix(prefix): theirs[key] for key in theirs if key.startswith(prefix)}
            )


def test_the_table_and_the_json_have_each_data_set_and_the_mean() -> None:
    metrics = {
        "1": {
            "NanoNQ": {"ndcg@10": 0.25},
            "NanoMSMARCO": {"ndcg@10": 0.5},
            "mean": {"ndcg@10": 0.375},
        },
        "all": {
            "NanoNQ": {"ndcg@10": 0.5},
            "NanoMSMARCO": {"ndcg@10": 1},
            "mean": {"ndcg@10": 0.75},
        },
    }
    sizes = {"NanoNQ": (50, 5035), "NanoMSMARCO": (50, 5043)}
    found = NanoBeirEvaluation("nano-beir", "abc", sizes, metrics)
    assert found.render().splitlines() == [
        "NanoBEIR from nano-beir, nDCG@10 by number of routes, brute force",
        "data set           queries  documents         1       all",
        "NanoNQ                  50      5,035    0.2500    0.5000",
        "NanoMSMARCO             50      5,043    0.5000    1.0000",
        "mean                                     0.3750    0.7500",
    ]
    written = found.to_dict()
    assert written["means"] == {"1": {"ndcg@10": 0.375}, "all": {"ndcg@10": 0.75}}
    assert written["data_sets"]["NanoNQ"] == {
        "queries": 50,
        "documents": 5035,
        "metrics": {"1": {"ndcg@10": 0.25}, "all": {"ndcg@10": 0.5}},
    }


def test_data_that_is_not_there_is_named_with_the_way_to_get_it(tmp_path: Path) -> None:
    get = r"; 'hf download sentence-transformers/NanoBEIR-en --repo-type dataset --local-dir nano-beir'"
    with pytest.raises(
        ValueError, match=rf"NanoClimateFEVER can't be read: Couldn't reach .*{get}"
    ):
        run_nano_beir("no-such-checkpoint")
    with pytest.raises(ValueError, match="'hf download a/NanoBEIR-de --repo-type dataset"):
        run_nano_beir("no-such-checkpoint", nano_beir_data="a/NanoBEIR-de")
    two_data_sets(tmp_path / "nano")
    with pytest.raises(ValueError, match=rf"NanoFEVER can't be read: .*NanoFEVER.*{get}"):
        run_nano_beir(
            "no-such-checkpoint", data_sets=["nq", "fever"], nano_beir_data=tmp_path / "nano"
        )
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=rf"NanoNQ can't be read: .*{get}"):
        run_nano_beir("no-such-checkpoint", data_sets=["nq"], nano_beir_data=tmp_path / "empty")


def test_broken_data_is_named(tmp_path: Path) -> None:
    for folder, relevant, texts, message in (
        ("unjudged", {"q9": ["d0"]}, DOCUMENTS, "NanoNQ of .*unjudged has no judged queries"),
        ("blank", RELEVANT, ["", ""], "NanoNQ of .*blank has no documents"),
        ("null", RELEVANT, ["a", None], "NanoNQ can't be read"),
    ):
        data = write_nano_beir(tmp_path / folder, {"NanoNQ": relevant}, texts)
        with pytest.raises(ValueError, match=message):
            run_nano_beir("no-such-checkpoint", data_sets=["nq"], nano_beir_data=data)


def test_arguments_are_checked_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for options, message in (
        (
            {"data_sets": ["nq", "nqq"]},
            r"data_sets must be different ones of climatefever, .*got nqq$",
        ),
        ({"data_sets": ["nq", "NQ"]}, "got nq, nq$"),
        ({"data_sets": []}, "got none$"),
        ({"routes": (1, 1)}, "routes must be different settings, got 1, 1"),
        ({"routes": (0,)}, "num_routes must be a positive integer or None, got 0"),
        ({"document_routes": 1.5}, "document_routes must be a positive integer, a fraction"),
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            run_nano_beir("no-such-checkpoint", **options)  # type: ignore[arg-type]
    for name in ("json", "nowhere", "../no/where", "a/b/c"):
        with pytest.raises(
            FileNotFoundError, match=f"there is no folder {name}, and that is no name"
        ):
            run_nano_beir("no-such-checkpoint", nano_beir_data=name)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="NanoBEIR is read by datasets: pip install datasets"):
        run_nano_beir("no-such-checkpoint")
    assert len(DATA_SETS) == 13
