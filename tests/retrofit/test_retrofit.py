"""fastlane retrofit: from another library's folder to a checkpoint with routes, and every stop in between."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import MultiVectorEncoder

from fastlane_st import FastLaneEncoder, FastLaneIndex, FastLaneModel
from fastlane_st.cli.main import main
from fastlane_st.data.corpus import CorpusDocument
from fastlane_st.model_card.card import render_card
from fastlane_st.retrofit import training
from fastlane_st.retrofit.candidates import FETCHED, MINED, NearestDocuments, index_of
from fastlane_st.retrofit.queries import TrainingQuery, make_queries
from fastlane_st.retrofit.retrofit import gather, retrofit, split
from fastlane_st.retrofit.training import RouteTraining
from fastlane_st.retrofit.vectors import TokenVectors
from tests.conftest import DOCUMENTS, QUERIES, WORDS
from tests.support.late_interaction import halve, write_pylate

SHORT = RouteTraining(steps=20, batch_size=8, num_candidates=6, save_every=10)


def corpus(count: int, words: int = 14) -> list[CorpusDocument]:
    chance = random.Random(0)
    return [
        CorpusDocument(str(number), " ".join(chance.choices(WORDS, k=words)))
        for number in range(count)
    ]


def pairs(documents: list[CorpusDocument]) -> list[tuple[str, str]]:
    return [(" ".join(document.text.split()[2:7]), document.content) for document in documents]


def assert_equal(one: Path, other: Path) -> None:
    """Two checkpoints encode alike."""
    first, second = map(FastLaneModel.from_pretrained, (one, other))
    for num_routes in (1, 2, None):
        for a, b in zip(
            first.encode_query(QUERIES, num_routes=num_routes),
            second.encode_query(QUERIES, num_routes=num_routes),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_routes_come_nearer_to_maxsim_and_documents_stay_valid(tmp_path: Path) -> None:
    write_pylate("bert", tmp_path / "original")
    documents = corpus(300)
    settings = RouteTraining(
        steps=200,
        batch_size=16,
        num_candidates=12,
        layer_learning_rate=1e-2,
        router_learning_rate=1e-2,
        save_every=200,
    )
    report = retrofit(
        tmp_path / "original", tmp_path / "routed", documents, pairs(documents), training=settings
    )
    assert report.before["all views"] == report.after["all views"]
    first, *_, last = report.losses
    assert (first["step"], last["step"]) == (50, 200)
    assert last["distillation"] < 0.8 * first["distillation"]
    assert report.query_kind == "labelled"
    assert "1 route, reranked" in report.render()
    saved = json.loads((tmp_path / "routed" / "retrofit.json").read_text())
    assert saved["after"]["1 route"]["overlap"] == report.after["1 route"].overlap
    assert not (tmp_path / "routed.partial").exists()

    original = MultiVectorEncoder(str(tmp_path / "original"), device="cpu")
    routed = FastLaneEncoder(tmp_path / "routed")
    texts = [document.content for document in documents]
    stored = original.encode_document(texts)
    for one, other in zip(routed.encode_document(texts), stored, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    for one, other in zip(
        routed.encode_query(QUERIES, num_routes=None), original.encode_query(QUERIES), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)
    index = FastLaneIndex.from_embeddings(stored, texts=texts, encoder=routed)
    [hit] = index.search(texts[7], top_k=1, num_routes=None)
    assert hit.text == texts[7]
    assert len(index.search("sort a list", top_k=3)) == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["PyLate", "FastLane"])
def test_half_precision_is_trained_in_float32(
    kind: str, dtype: torch.dtype, checkpoint: Path, tmp_path: Path
) -> None:
    original = tmp_path / "original"
    if kind == "PyLate":
        write_pylate("bert", original)
        halve(original, dtype)
        expected = MultiVectorEncoder(
            str(original), device="cpu", model_kwargs={"dtype": torch.float32}
        ).float()
    else:
        FastLaneModel.from_pretrained(checkpoint).to(dtype).save_pretrained(original)
        expected = FastLaneEncoder(original, dtype="float32")
    retrofit(original, tmp_path / "routed", corpus(120), training=SHORT)
    routed = FastLaneEncoder(tmp_path / "routed")
    assert {weight.dtype for weight in routed.parameters()} == {torch.float32}
    for one, other in zip(
        routed.encode_document(DOCUMENTS), expected.encode_document(DOCUMENTS), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert routed.encode_query("sort", num_routes=1).shape == (1, 4)


@pytest.mark.parametrize("stop", ["documents", "training"])
def test_a_stopped_run_goes_on_to_the_same_checkpoint(
    stop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pylate("bert", tmp_path / "original")
    documents = corpus(150)

    def run(name: str, resume: bool = False) -> None:
        retrofit(
            tmp_path / "original",
            tmp_path / name,
            documents,
            pairs(documents[:30]),
            training=SHORT,
            resume=resume,
        )

    run("whole")
    with monkeypatch.context() as patch:
        if stop == "documents":
            patch.setattr("fastlane_st.retrofit.retrofit.ENCODED_AT_ONCE", 40)
            encode, calls = FastLaneModel.encode_document, []

            def encode_some(self: FastLaneModel, texts: list[str], **options: object) -> object:
                calls.append(len(texts))
                if len(calls) == 3:
                    raise KeyboardInterrupt
                return encode(self, texts, **options)

            patch.setattr(FastLaneModel, "encode_document", encode_some)
        else:
            step = training.training_step

            def step_until(*arguments: object) -> dict[str, float]:
                if arguments[-1] == 13:
                    raise KeyboardInterrupt
                return step(*arguments)  # type: ignore[arg-type]

            patch.setattr(training, "training_step", step_until)
        with pytest.raises(KeyboardInterrupt):
            run("stopped")
    assert not (tmp_path / "stopped").exists()
    with pytest.raises(FileExistsError, match="holds a run that was stopped: resume it"):
        run("stopped")
    if stop == "training":  # queries aren't encoded again either
        monkeypatch.setattr("fastlane_st.retrofit.retrofit.query_states", None)
    run("stopped", resume=True)
    assert_equal(tmp_path / "whole", tmp_path / "stopped")


def test_a_run_is_not_resumed_with_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pylate("bert", tmp_path / "original")

    def run(count: int, steps: int, **options: Any) -> None:
        settings = RouteTraining(steps=steps, batch_size=4, save_every=5)
        retrofit(
            tmp_path / "original",
            tmp_path / "out",
            corpus(count),
            training=settings,
            resume=True,
            **options,
        )

    monkeypatch.setattr(
        "fastlane_st.retrofit.retrofit.measure_routes", lambda *_: pytest.fail("stop")
    )
    with pytest.raises(pytest.fail.Exception):
        run(120, 10)
    with pytest.raises(ValueError, match="holds a run with other documents and queries"):
        run(121, 10)
    with pytest.raises(ValueError, match="holds a run with other num_route_layers: 2, got 1"):
        run(120, 10, num_route_layers=1)
    with pytest.raises(ValueError, match="holds a run with other steps: 10, got 11"):
        run(120, 11)
    with pytest.raises(pytest.fail.Exception):  # with the same it goes on
        run(120, 10)


def test_a_context_is_mixed_into_vectors_of_equal_weight(tmp_path: Path) -> None:
    write_pylate("bert", tmp_path / "original")
    documents = corpus(120)
    retrofit(
        tmp_path / "original", tmp_path / "mixed", documents, training=SHORT, context="document"
    )
    model = FastLaneModel.from_pretrained(tmp_path / "mixed")
    original = MultiVectorEncoder(str(tmp_path / "original"), device="cpu")
    for one, other in zip(
        model.encode_document(DOCUMENTS, num_routes=None),
        original.encode_document(DOCUMENTS),
        strict=True,
    ):
        mean = other.sum(dim=0)
        mixed = other + mean / mean.norm()
        np.testing.assert_allclose(one, mixed / mixed.norm(dim=1, keepdim=True), atol=1e-5)


def test_a_model_with_routes_is_trained_further(checkpoint: Path, tmp_path: Path) -> None:
    retrofit(checkpoint, tmp_path / "further", corpus(120), training=SHORT)
    before = FastLaneModel.from_pretrained(checkpoint)
    after = FastLaneModel.from_pretrained(tmp_path / "further")
    assert after.config.num_route_layers == 2
    for num_routes, is_same in ((None, True), (1, False)):
        one, other = (
            np.concatenate(
                model.encode_query(QUERIES, num_routes=num_routes, convert_to_numpy=True)
            )
            for model in (before, after)
        )
        assert np.allclose(one, other, atol=1e-5) == is_same
    for one, other in zip(
        before.encode_document(DOCUMENTS), after.encode_document(DOCUMENTS), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)
    with pytest.raises(ValueError, match="has 2 route layers, got 3: leave as many"):
        retrofit(tmp_path / "further", tmp_path / "more", corpus(120), num_route_layers=3)


def test_a_model_that_is_trained_further_gets_a_card_without_the_old_results(
    checkpoint: Path, tmp_path: Path
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(checkpoint, old)
    (old / "README.md").write_text("# Measured\n\nnDCG@10 is .987\n")
    retrofit(old, new, corpus(120), training=RouteTraining(steps=0))
    card = (new / "README.md").read_text()
    assert card == render_card(FastLaneModel.from_pretrained(new).config)
    assert "It answers with few routes by default" in card
    FastLaneEncoder(new).save(tmp_path / "again")
    assert (tmp_path / "again" / "README.md").read_text() == card


def test_too_little_to_train_on_is_said(tmp_path: Path) -> None:
    write_pylate("bert", tmp_path / "original")
    with pytest.raises(
        ValueError, match="there are 10 different documents, and routes need at least"
    ):
        retrofit(tmp_path / "original", tmp_path / "out", corpus(10))
    with pytest.raises(ValueError, match="there are 0 queries: no document is long enough"):
        retrofit(tmp_path / "original", tmp_path / "out", corpus(120, words=8))
    assert not (tmp_path / "out").exists()


def test_counts_are_checked_before_anything_is_written(tmp_path: Path) -> None:
    write_pylate("bert", tmp_path / "original")
    for options in ({"batch_size": 0}, {"max_documents": 0}, {"max_queries": -1}):
        [(name, value)] = options.items()
        with pytest.raises(ValueError, match=f"{name} must be a positive integer, got {value}"):
            retrofit(tmp_path / "original", tmp_path / "out", corpus(120), **options)
    with pytest.raises(ValueError, match="steps must be at least 0, got -5"):
        RouteTraining(steps=-5)
    assert [path.name for path in tmp_path.iterdir()] == ["original"]


def test_routes_can_be_left_untrained(tmp_path: Path) -> None:
    write_pylate("bert", tmp_path / "original")
    report = retrofit(
        tmp_path / "original", tmp_path / "out", corpus(120), training=RouteTraining(steps=0)
    )
    assert report.after == report.before
    assert report.losses == []
    assert not {"candidates", "training"} & set(report.seconds)
    shifts = FastLaneModel.from_pretrained(tmp_path / "out").route_layers.output
    assert not shifts.any()


# Queries


def test_pairs_come_first_and_documents_once() -> None:
    documents = corpus(150)
    given = [
        ("first", documents[3].content),
        ("second", documents[3].content),
        ("third", "another"),
    ]
    texts, queries = gather(documents, given, max_documents=120, max_queries=100, seed=0)
    assert len(texts) == len(set(texts)) == 120
    labelled = [(query.text, texts[query.document]) for query in queries if query.is_labelled]
    assert sorted(labelled) == sorted(given)
    assert all(texts[query.document].find(query.text) >= 0 for query in queries[3:])


def test_titles_and_crops_are_queries_of_their_document() -> None:
    text = " ".join(map(str, range(30)))
    made = make_queries([text, "too short"], [(1, "a title"), (0, " ")], seed=0)
    assert made[0] == TrainingQuery("a title", 1, False)
    [crop] = made[1:]
    assert crop.text in text
    assert crop.document == 0
    assert len(crop.text.split()) in (4, 6, 8, 10, 12, 16, 24)


def test_held_out_queries_are_of_one_kind() -> None:
    labelled = [TrainingQuery("q", 0, True)] * 40
    made = [TrainingQuery("m", 0, False)] * 60
    held_out, trained = split([*labelled, *made])
    assert (held_out, len(trained)) == (list(range(20)), 80)
    held_out, trained = split([*labelled[:30], *made])
    assert held_out == list(range(30, 48))
    assert set(held_out) | set(trained) == set(range(90))


def test_the_command_line_retrofits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pylate("bert", tmp_path / "original")
    lines = [json.dumps({"_id": one.id, "text": one.text}) for one in corpus(120)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    command = ["retrofit", str(tmp_path / "original"), "--out", str(tmp_path / "routed")]
    assert main(command) == 1
    assert "nothing to train on: give --corpus, --pairs or --index" in capsys.readouterr().err
    command += ["--corpus", str(tmp_path / "corpus.jsonl"), "--steps", "5"]
    assert main(command) == 0
    assert "held-out queries (made), 120 documents" in capsys.readouterr().out
    assert FastLaneEncoder(tmp_path / "routed").encode_query("sort").shape == (1, 4)


@pytest.mark.parametrize("step", [1, 2])
def test_candidates_are_the_documents_nearest_to_a_view(tmp_path: Path, step: int) -> None:
    chance = np.random.default_rng(0)
    vectors = TokenVectors(tmp_path / "documents.f16", 4)
    drawn = [chance.normal(size=(chance.integers(1, 9), 4)) for _ in range(200)]
    vectors.append([one / np.linalg.norm(one, axis=1, keepdims=True) for one in drawn])
    views = chance.normal(size=(5, 4)).astype(np.float32)
    nearest = NearestDocuments(index_of(vectors, step), FETCHED)
    for view, found in zip(views, nearest(views), strict=True):
        scores = np.array([(vectors[number][::step] @ view).max() for number in range(200)])
        assert len(found) == len(set(found.tolist())) == MINED
        assert len(set(found.tolist()) & set(np.argsort(scores)[-MINED:].tolist())) > 0.9 * MINED
        assert scores[found[0]] > scores.max() - 0.02  # of vectors stored as int8
