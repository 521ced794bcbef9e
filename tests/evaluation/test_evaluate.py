"""`fastlane evaluate` against our other evaluator, and against other tools on its run files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pytrec_eval import RelevanceEvaluator
from sentence_transformers.multi_vector_encoder.evaluation import (
    MultiVectorInformationRetrievalEvaluator,
    MultiVectorNanoBEIREvaluator,
)

from fastlane_st import FastLaneEncoder
from fastlane_st.data.collection import Collection, read_collection
from fastlane_st.evaluation.evaluate import ALL_ROUTES, Evaluation, run_evaluate
from fastlane_st.evaluation.metrics import METRICS, evaluate_run
from fastlane_st.evaluation.routes import measure_routes
from fastlane_st.evaluation.scoring import encode_documents, encode_queries
from tests.conftest import QUERIES
from tests.support.collections import QRELS, write_tiny_collection


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_collection(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> FastLaneEncoder:
    return FastLaneEncoder(checkpoint)


@pytest.fixture(scope="module")
def found(encoder: FastLaneEncoder, data: Path) -> Evaluation:
    return run_evaluate(encoder, data)


def test_the_numbers_are_those_of_the_views_one_by_one(
    found: Evaluation, encoder: FastLaneEncoder, data: Path
) -> None:
    names = {"1": "router_1", "2": "router_2", "4": "router_4", "8": "router_8", "all": "full"}
    assert list(found.metrics) == list(names)
    expected = measure_routes(
        read_collection(data),
        encode_queries(encoder, QUERIES),
        encode_documents(encoder, list(found.collection.documents.values())),
        names.values(),
    )
    for setting, name in names.items():
        for metric in METRICS:
            np.testing.assert_allclose(
                found.metrics[setting][metric], expected[name][metric], atol=1e-6
            )


def test_a_flat_index_finds_what_brute_force_finds(
    found: Evaluation, encoder: FastLaneEncoder, data: Path, tmp_path: Path
) -> None:
    texts = found.collection.documents
    encoder.build_index(texts.values(), texts.keys()).save(tmp_path / "index")
    searched = run_evaluate(encoder, data, index=tmp_path / "index")
    assert searched.searched == "index index, flat float32"
    for setting, run in found.runs.items():
        for query, scores in run.items():
            assert searched.runs[setting][query] == pytest.approx(scores, abs=1e-5)
    again = run_evaluate(encoder, data, routes=[1], index=tmp_path / "index", rerank=6)
    for query, scores in found.runs["all"].items():
        assert again.runs["1"][query] == pytest.approx(scores, abs=1e-5)

    encoder.build_index(list(texts.values())[:3], list(texts)[:3]).save(tmp_path / "small")
    with pytest.raises(ValueError, match=r"holds 3 documents, tiny has 6, 'd3' .* isn't there"):
        run_evaluate(encoder, data, index=tmp_path / "small")


@pytest.mark.slow
def test_texts_that_are_cut_are_said(
    encoder: FastLaneEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_tiny_collection(tmp_path / "tiny")
    run_evaluate(encoder, folder, routes=[1])
    assert "longer than" not in caplog.text
    corpus = (folder / "corpus.jsonl").read_text("utf-8").splitlines()
    first = json.loads(corpus[0])
    first["text"] *= 200
    (folder / "corpus.jsonl").write_text("\n".join([json.dumps(first), *corpus[1:]]), "utf-8")
    run_evaluate(encoder, folder, routes=[1])
    assert "1 document is longer than the" in caplog.text


def test_run_files_give_other_tools_the_same_numbers(
    found: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Query 3 has nothing relevant, which ranx leaves to its user."""
    monkeypatch.setattr("numba.config.DISABLE_JIT", True)  # compiling takes a minute
    from ranx import Qrels, Run, evaluate

    measures = {
        "ndcg@10": ("ndcg_cut_10", "ndcg@10"),
        "recall@100": ("recall_100", "recall@100"),
        "map@100": ("map", "map@100"),
        "mrr@10": (None, "mrr@10"),
    }
    names = {name for name, _ in measures.values() if name}
    evaluator = RelevanceEvaluator(QRELS, names)
    judged = {query: QRELS[query] for query in ("q0", "q1", "q2")}
    paths = found.write_runs(tmp_path)
    assert [path.name for path in paths] == [f"tiny-test-{k}.trec" for k in found.runs]
    for path, metrics in zip(paths, found.metrics.values(), strict=True):
        run: dict[str, dict[str, float]] = {}
        for line in path.read_text().splitlines():
            query, _, document, rank, score, _ = line.split()
            scores = run.setdefault(query, {})
            scores[document] = float(score)
            assert int(rank) == len(scores)
        theirs = evaluator.evaluate(run)
        ranked = Run.from_file(str(path), kind="trec")
        for metric, (trec, ranx) in measures.items():
            values = metrics[metric]
            if trec:
                np.testing.assert_allclose(values, [theirs[q][trec] for q in QRELS], atol=1e-9)
            others = evaluate(Qrels(judged), ranked, ranx, make_comparable=True)
            assert values[:3].mean() == pytest.approx(others, abs=1e-9), metric


def test_ties_and_missing_queries_are_treated_as_trec_eval_does() -> None:
    texts = {f"d{n}": "" for n in range(13)}
    collection = Collection(
        "c", "test", texts, {"q": "", "r": ""}, {"q": {"d1": 1}, "r": {"d1": 1}}
    )
    tied = dict.fromkeys(("d0", "d1", "d2"), 0.5)
    found = evaluate_run(collection, {"q": tied})
    assert found["mrr@10"].tolist() == [0.5, 0.0]  # d2, d1, d0: the greater id first
    assert found["ndcg@10"][0] == pytest.approx(1 / np.log2(3))
    # Eleven documents before it in trec_eval's order: beyond ten nothing counts.
    many = dict.fromkeys(texts, 1.0)
    assert evaluate_run(collection, {"q": many})["mrr@10"].tolist() == [0.0, 0.0]
    # Closer than float32 is a tie as well.
    close = {"d0": 1.0, "d1": 1.0 + 1e-12, "d2": 1.0}
    assert evaluate_run(collection, {"q": close})["mrr@10"][0] == 0.5
    assert evaluate_run(collection, {})["map@100"].tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="doesn't judge the query 'x'"):
        evaluate_run(collection, {"x": tied})
    with pytest.raises(ValueError, match="'q' has a score that is not finite"):
        evaluate_run(collection, {"q": {"d1": float("nan")}})


def test_sentence_transformers_evaluators_agree(
    found: Evaluation, encoder: FastLaneEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Theirs is of binary judgements, and its queries have each something relevant."""
    relevant = {q: {d for d, grade in judged.items() if grade} for q, judged in QRELS.items()}
    relevant.pop("q3")
    collection = found.collection
    queries = {id: collection.queries[id] for id in relevant}
    encoder = FastLaneEncoder.from_model(encoder[0].model)
    theirs = MultiVectorInformationRetrievalEvaluator(
        queries, dict(collection.documents), relevant, mrr_at_k=[10], show_progress_bar=False
    )(encoder)
    [name] = [key for key in theirs if key.endswith("mrr@10")]
    ours = found.metrics["all"]["mrr@10"][:3].mean()  # an untrained router: all views by default
    assert theirs[name] == pytest.approx(ours, abs=1e-6)

    rows = {
        "corpus": [{"_id": id, "text": text} for id, text in collection.documents.items()],
        "queries": [{"_id": id, "text": text} for id, text in queries.items()],
        "qrels": [
            {"query-id": query, "corpus-id": one} for query, ids in relevant.items() for one in ids
        ],
    }
    monkeypatch.setattr(
        MultiVectorNanoBEIREvaluator,
        "_load_dataset_subset_split",
        lambda self, subset, split, required_columns: rows[subset],
    )
    nano = MultiVectorNanoBEIREvaluator(["msmarco"], mrr_at_k=[10])(encoder)
    [name] = [key for key in nano if key.startswith("NanoMSMARCO") and key.endswith("mrr@10")]
    assert nano[name] == pytest.approx(ours, abs=1e-6)


def test_differences_are_paired_and_compare_with_the_last_setting(found: Evaluation) -> None:
    difference = found.difference("1", "all")
    means = found.to_dict()["means"]
    assert difference.mean == pytest.approx(means["1"]["ndcg@10"] - means["all"]["ndcg@10"])
    assert difference.num_queries == 4
    lines = found.render().splitlines()
    assert lines[0] == "tiny, test: 4 queries, 6 documents, brute force"
    assert len(lines) == 2 + len(ALL_ROUTES)
    assert f"{difference.mean:+.4f} [{difference.low:+.4f}" in lines[2]
    assert "[" not in lines[-1]


def test_an_id_with_white_space_fits_no_run_file(tmp_path: Path) -> None:
    collection = Collection("c", "test", {"a b": ""}, {"q": ""}, {"q": {"a b": 1}})
    run = {"q": {"a b": 1.0}}
    found = Evaluation(collection, "", "", {"1": run}, {"1": evaluate_run(collection, run)})
    with pytest.raises(ValueError, match="can't hold the id 'a b'"):
        found.write_runs(tmp_path)
