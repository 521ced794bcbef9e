"""MTEB's own task classes over local data: what they measure is what our evaluator measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mteb
import pytest
from datasets import Dataset
from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

from fastlane_st import FastLaneEncoder
from fastlane_st.data.collection import Collection
from fastlane_st.evaluation.evaluate import encode_all, search_all
from fastlane_st.evaluation.metrics import evaluate_run, mean_metrics
from fastlane_st.evaluation.mteb_models import IndexedModel, RoutedModel
from tests.conftest import DOCUMENTS, QUERIES

QRELS = {"q0": {"d0": 2, "d1": 1}, "q1": {"d1": 1, "d2": 1}, "q2": {"d2": 1}, "q3": {"d5": 1}}
CANDIDATES = {query: ["d0", "d1", "d2", "d5"] for query in QRELS}
CORPUS = [
    {"id": f"d{n}", "title": "python" if n % 2 else "", "text": text}
    for n, text in enumerate(DOCUMENTS)
]
COLLECTION = Collection(
    "tiny",
    "test",
    {row["id"]: f"{row['title']} {row['text']}".strip() for row in CORPUS},
    {f"q{n}": text for n, text in enumerate(QUERIES)},
    QRELS,
)
SETTINGS = {"encode_kwargs": {"show_progress_bar": False}, "cache": None, "co2_tracker": False}


def make_task(kind: str) -> AbsTaskRetrieval:
    """A task of MTEB that reads the data above in place of the Hub's."""

    class Tiny(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=f"Tiny{kind}",
            description="Made by a test.",
            reference=None,
            dataset={"path": "local/tiny", "revision": "1"},
            type=kind,
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
            date=None,
            domains=[],
            task_subtypes=[],
            license=None,
            annotations_creators=None,
            dialect=[],
            sample_creation=None,
            bibtex_citation=None,
        )

        def load_data(self, *args: Any, **kwargs: Any) -> None:
            queries = [{"id": id, "text": text} for id, text in COLLECTION.queries.items()]
            split = {
                "corpus": Dataset.from_list(CORPUS),
                "queries": Dataset.from_list(queries),
                "relevant_docs": QRELS,
                "top_ranked": CANDIDATES if kind == "Reranking" else None,
            }
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return Tiny()


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> FastLaneEncoder:
    return FastLaneEncoder(checkpoint)


def expected(
    encoder: FastLaneEncoder, num_routes: int | None, document_routes: Any, kind: str
) -> dict[str, float]:
    """What our own evaluator finds, by MTEB's names, and rounded where MTEB rounds."""
    documents = encode_all(encoder, COLLECTION, document_routes, 32, False)
    run = search_all(encoder, documents, COLLECTION, num_routes, 32)
    if kind == "Reranking":
        run = {q: {id: scores[id] for id in CANDIDATES[q]} for q, scores in run.items()}
    found = evaluate_run(COLLECTION, run)
    means = mean_metrics(found)
    return {
        "ndcg_at_10": round(means["ndcg@10"], 5),
        "map_at_100": round(means["map@100"], 5),
        "mrr_at_10": means["mrr@10"],
    }


def scores(model: Any, kind: str, **options: Any) -> dict[str, float]:
    result = mteb.evaluate(model, make_task(kind), **(SETTINGS | options))
    [found] = result.task_results[0].scores["test"]
    return dict(found)


@pytest.mark.parametrize("kind", ["Retrieval", "Reranking"])
@pytest.mark.parametrize(("num_routes", "document_routes"), [(1, None), (2, 0.5), (None, None)])
def test_mteb_measures_what_we_measure(
    encoder: FastLaneEncoder, kind: str, num_routes: int | None, document_routes: float | None
) -> None:
    routes: dict[str, Any] = {"num_routes": num_routes, "document_routes": document_routes}
    wanted = expected(encoder, num_routes, document_routes, kind)
    for model in (RoutedModel(encoder, **routes), IndexedModel(encoder, **routes)):
        found = scores(model, kind)
        assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("kind", ["Retrieval", "Reranking"])
@pytest.mark.parametrize("rerank", [None, 1000])
@pytest.mark.parametrize("blank", [{"q1": ""}, {"q0": " \n", "q3": ""}, dict.fromkeys(QRELS, "")])
def test_an_empty_query_stops_no_task(
    encoder: FastLaneEncoder,
    kind: str,
    rerank: int | None,
    blank: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for id, text in blank.items():
        monkeypatch.setitem(COLLECTION.queries, id, text)
    found = scores(IndexedModel(encoder, num_routes=1, rerank=rerank), kind)
    if rerank is None:
        assert found["ndcg_at_10"] == scores(RoutedModel(encoder, num_routes=1), kind)["ndcg_at_10"]
    assert found["ndcg_at_10"] > 0


def test_an_encoder_is_a_model_of_mteb_as_it_is(encoder: FastLaneEncoder) -> None:
    wanted = expected(encoder, None, None, "Retrieval")  # an untrained router's default
    for model in (encoder, RoutedModel(encoder), IndexedModel(encoder)):
        found = scores(model, "Retrieval")
        assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-6)
    assert IndexedModel(encoder).mteb_model_meta.experiment_kwargs["num_routes"] == "all"


def test_results_are_kept_apart_by_routes_and_index(
    encoder: FastLaneEncoder, tmp_path: Path
) -> None:
    cache = mteb.ResultCache(tmp_path)
    models = [
        RoutedModel(encoder, num_routes=1, name="us/tiny"),
        RoutedModel(encoder, num_routes=2, name="us/tiny"),
        IndexedModel(encoder, num_routes=1, kind="ivf", storage="int8", name="us/tiny"),
        IndexedModel(encoder, num_routes=1, rerank=1000, name="us/tiny"),
    ]
    for model in models:
        scores(model, "Retrieval", cache=cache)
    assert len(list(tmp_path.rglob("TinyRetrieval.json"))) == 4
    meta = models[2].mteb_model_meta
    assert meta.model_type == ["late-interaction"]
    assert meta.similarity_fn_name == "MaxSim"
    assert meta.experiment_kwargs == {
        "num_routes": 1,
        "document_routes": "all",
        "kind": "ivf",
        "storage": "int8",
    }
    assert meta.n_parameters == sum(one.numel() for one in encoder.parameters())


def test_what_mteb_records_loads_the_same_model_again(checkpoint: Path) -> None:
    meta = IndexedModel(str(checkpoint), num_routes=2, kind="flat").mteb_model_meta
    again = meta.loader(str(checkpoint), None, **meta.loader_kwargs)
    assert again.mteb_model_meta == meta
    assert meta.name == f"fastlane-st/{checkpoint.name}"
    assert meta.training_datasets is None  # unknown of a checkpoint that isn't ours


def test_the_released_model_is_declared_for_the_leaderboard() -> None:
    meta = RoutedModel("fastlane-minilm").mteb_model_meta
    assert meta.name == "fastlane-st/fastlane-minilm"
    assert meta.experiment_kwargs == {"num_routes": 1, "document_routes": "all"}
    assert meta.embed_dim == 384
    assert "MSMARCO" in meta.get_training_datasets()  # of the model that it is adapted from
    published = RoutedModel("fastlane-minilm", "abc", name="us/fastlane-minilm").mteb_model_meta
    assert (published.name, published.revision) == ("us/fastlane-minilm", "abc")


def test_searching_needs_an_index_first(encoder: FastLaneEncoder) -> None:
    with pytest.raises(ValueError, match="call index first"):
        IndexedModel(encoder).search(
            Dataset.from_list([]),
            task_metadata=make_task("Retrieval").metadata,
            hf_split="test",
            hf_subset="default",
            top_k=1,
            encode_kwargs={},
        )
