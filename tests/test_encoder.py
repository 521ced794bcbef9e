"""FastLaneEncoder: what Sentence Transformers offers keeps working on a routed model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.multi_vector_encoder.losses import (
    MultiVectorMultipleNegativesRankingLoss,
)

from fastlane_st import FastLaneEncoder, FastLaneModel
from tests.conftest import DOCUMENTS, QUERIES


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> FastLaneEncoder:
    return FastLaneEncoder(checkpoint)


def test_similarity_is_maxsim_over_the_routed_views(encoder: FastLaneEncoder) -> None:
    queries = encoder.encode_query(QUERIES, num_routes=2)
    documents = encoder.encode_document(DOCUMENTS)
    expected = FastLaneModel.similarity(queries, documents)
    torch.testing.assert_close(encoder.similarity(queries, documents), expected)
    pairs = encoder.similarity_pairwise(queries, documents[: len(queries)])
    torch.testing.assert_close(pairs, expected.diagonal()[: len(queries)])


def test_numpy_single_texts_and_progress_work_as_ever(
    encoder: FastLaneEncoder, capsys: pytest.CaptureFixture[str]
) -> None:
    views = encoder.encode_query(
        "read a file", num_routes=1, convert_to_numpy=True, show_progress_bar=True
    )
    assert isinstance(views, np.ndarray)
    assert views.shape == (1, 4)
    assert "Encoding queries" in capsys.readouterr().err


def test_raw_output_shows_every_token_its_logit_and_what_was_kept(encoder: FastLaneEncoder) -> None:
    features = encoder.encode_query("read a file", num_routes=1, output_value=None)
    assert features["token_embeddings"].shape == (5, 4)
    assert features["router_logits"].shape == (5,)
    kept = features["attention_mask"].bool()
    assert kept.tolist() == [
        position == int(features["router_logits"][1:4].argmax()) + 1 for position in range(5)
    ]
    views = encoder.encode_query("read a file", num_routes=1)
    torch.testing.assert_close(features["token_embeddings"][kept], views)


@pytest.mark.slow
def test_two_processes_encode_like_one(encoder: FastLaneEncoder) -> None:
    texts = QUERIES * 3
    expected = encoder.encode_query(texts, num_routes=2)
    pool = encoder.start_multi_process_pool(["cpu", "cpu"])
    try:
        found = encoder.encode_query(texts, num_routes=2, pool=pool, chunk_size=4)
    finally:
        encoder.stop_multi_process_pool(pool)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_certainty_is_no_number_of_routes(encoder: FastLaneEncoder) -> None:
    for model in (encoder, encoder[0].model):
        for encode in (model.encode_query, model.encode_document):
            with pytest.raises(ValueError, match=r"got 'auto'; None keeps all tokens"):
                encode(QUERIES, num_routes="auto")


@pytest.mark.parametrize("num_routes", [0.25, 0.5, 2])
def test_documents_are_pooled_alike_wherever_they_are_encoded(
    num_routes: float, checkpoint: Path
) -> None:
    model = FastLaneModel.from_pretrained(checkpoint)
    encoder = FastLaneEncoder(checkpoint)
    preset = FastLaneEncoder(checkpoint, config_kwargs={"document_num_routes": num_routes})
    expected = model.encode_document(DOCUMENTS, num_routes=num_routes)
    shares = num_routes < 1
    for views, text in zip(expected, DOCUMENTS, strict=True):
        count = len(text.split())
        assert len(views) == (max(1, int(num_routes * count)) if shares else min(2, count))
        torch.testing.assert_close(views.norm(dim=-1), torch.ones(len(views)))
    for found in (
        encoder.encode_document(DOCUMENTS, num_routes=num_routes),
        preset.encode_document(DOCUMENTS),
        preset[0].model.encode_document(DOCUMENTS),
    ):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)
    built = encoder.build_index(DOCUMENTS[:3], num_routes=num_routes)
    built.add(DOCUMENTS[3:])
    for index in (built, preset.build_index(DOCUMENTS), model.build_index(DOCUMENTS[:3])):
        assert index.search(QUERIES[0], num_routes=None)
    exact = model.build_index(DOCUMENTS, num_routes=num_routes)
    hits = built.search(QUERIES, num_routes=None)
    scores = FastLaneModel.similarity(model.encode_query(QUERIES, num_routes=None), expected)
    for row, other, found_hits in zip(
        scores, exact.search(QUERIES, num_routes=None), hits, strict=True
    ):
        assert [(hit.id, hit.matches) for hit in other] == [
            (hit.id, hit.matches) for hit in found_hits
        ]
        for hit in found_hits:
            assert hit.score == pytest.approx(float(row[int(hit.id)]), abs=1e-5)
            words = len(DOCUMENTS[int(hit.id)].split())
            assert all(1 <= match.document_position <= words for match in hit.matches)  # not [CLS]


def test_documents_are_pooled_in_training_too(encoder: FastLaneEncoder) -> None:
    features = encoder.preprocess(DOCUMENTS, task="document")
    found = encoder.train()({**features}, task="document", num_routes=0.5)
    assert found["attention_mask"].sum(dim=1).tolist() == [3, 3, 3, 3, 2, 1]
    found["token_embeddings"][found["attention_mask"]][:, 0].sum().backward()
    assert encoder[0].model.projection.linear.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("num_routes", [0, -1, 2.5])
def test_a_wrong_number_of_routes_is_refused(encoder: FastLaneEncoder, num_routes: float) -> None:
    with pytest.raises(
        ValueError, match=f"num_routes must be a positive integer or None, got {num_routes}"
    ):
        encoder.encode_query(QUERIES, num_routes=num_routes)


def test_texts_without_a_task_are_documents(encoder: FastLaneEncoder) -> None:
    long = " ".join(["sort"] * 30)
    assert len(encoder.encode(long)) == len(encoder.encode_document(long)) == 10
    assert len(encoder.encode_query(long)) == 8


def test_training_gates_queries_and_leaves_no_trace_in_evaluation(checkpoint: Path) -> None:
    encoder = FastLaneEncoder(checkpoint, config_kwargs={"query_num_routes": 1})
    before = encoder.encode_query(QUERIES)
    encoder.train()
    encoder[0].temperature = 0.3
    features = encoder.preprocess(QUERIES, task="query")
    output = encoder({**features, "task": "query"})
    norms = output["token_embeddings"].norm(dim=-1)
    assert norms.round(decimals=5).sum(dim=-1).tolist() == [1, 1, 1, 1]
    assert output["attention_mask"].sum(dim=-1).tolist() == [6, 3, 8, 1]
    ungated = encoder({**encoder.preprocess(DOCUMENTS, task="document"), "task": "document"})
    assert (ungated["token_embeddings"].norm(dim=-1) > 0.99).all()
    for one, other in zip(encoder.encode_query(QUERIES), before, strict=True):
        assert torch.equal(one, other)


def test_a_stock_loss_trains_router_projection_and_backbone(checkpoint: Path) -> None:
    encoder = FastLaneEncoder(checkpoint, config_kwargs={"query_num_routes": 1})
    encoder.train()
    loss = MultiVectorMultipleNegativesRankingLoss(encoder, scale=10)
    positives = DOCUMENTS[: len(QUERIES)]
    optimizer = torch.optim.Adam(encoder.parameters(), lr=0.01)
    losses = []
    torch.manual_seed(0)
    for _ in range(40):
        columns = [
            {**encoder.preprocess(QUERIES, task="query"), "task": "query"},
            {**encoder.preprocess(positives, task="document"), "task": "document"},
        ]
        value = loss(columns, None)
        optimizer.zero_grad()
        value.backward()
        if not losses:
            model = encoder[0].model
            router = model.router
            for part in (router.logit, router.attention_input):
                assert part.weight.grad.abs().sum() > 0
            assert model.projection.linear.weight.grad.abs().sum() > 0
        optimizer.step()
        losses.append(float(value.detach()))
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_prompts_follow_the_checkpoint_both_ways(checkpoint: Path, tmp_path: Path) -> None:
    encoder = FastLaneEncoder(checkpoint, prompts={"query": "python "})
    assert len(encoder.encode_query("set", num_routes=None)) == 2
    encoder.save_pretrained(tmp_path / "prompted")
    model = FastLaneModel.from_pretrained(tmp_path / "prompted")
    assert model.config.query_prompt == "python "
    assert len(model.encode_query("set", num_routes=None)) == 2
    again = FastLaneEncoder(tmp_path / "prompted")
    assert again.prompts == {"query": "python ", "document": ""}


def test_lengths_follow_the_checkpoint_both_ways(checkpoint: Path, tmp_path: Path) -> None:
    encoder = FastLaneEncoder(checkpoint)
    assert encoder.max_seq_length == 12
    encoder[0].query_length = 5
    encoder.save_pretrained(tmp_path / "short")
    model = FastLaneModel.from_pretrained(tmp_path / "short")
    assert (model.config.query_length, model.config.document_length) == (5, 12)
    assert len(FastLaneEncoder(tmp_path / "short").encode_query(QUERIES[2])) == 3


def test_a_new_encoder_over_a_plain_backbone(
    backbone_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    encoder = FastLaneEncoder.from_backbone(
        backbone_folder("bert"), embedding_dim=4, router_dim=8, calibration_texts=DOCUMENTS
    )
    assert encoder.get_embedding_dimension() == 4
    encoder.save_pretrained(tmp_path / "new")
    again = FastLaneEncoder(tmp_path / "new")
    assert torch.equal(again.encode_query("read a file"), encoder.encode_query("read a file"))


def test_the_index_of_an_encoder_answers_in_the_order_of_similarity(
    encoder: FastLaneEncoder,
) -> None:
    index = encoder.build_index(DOCUMENTS)
    for num_routes in (1, 3, None):
        queries = encoder.encode_query(QUERIES, num_routes=num_routes)
        scores = encoder.similarity(queries, encoder.encode_document(DOCUMENTS))
        found = index.search(QUERIES, top_k=3, num_routes=num_routes)
        for row, hits in zip(scores, found, strict=True):
            best = torch.argsort(row, descending=True, stable=True)[:3].tolist()
            assert [hit.id for hit in hits] == best
            np.testing.assert_allclose([hit.score for hit in hits], row[best], atol=1e-6)


@pytest.mark.parametrize("kind", [FastLaneEncoder, FastLaneModel])
def test_push_to_hub_uploads_the_whole_folder(kind: type, checkpoint: Path) -> None:
    pushed: list[set[str]] = []

    def upload_folder(self: object, **kwargs: object) -> mock.Mock:
        pushed.append({path.name for path in Path(str(kwargs["folder_path"])).iterdir()})
        return mock.Mock(commit_url="commit")

    model = (
        FastLaneEncoder(checkpoint) if kind is FastLaneEncoder else kind.from_pretrained(checkpoint)
    )
    created = mock.Mock(repo_id="me/fastlane")
    with (
        mock.patch("huggingface_hub.HfApi.create_repo", return_value=created),
        mock.patch("huggingface_hub.HfApi.upload_folder", upload_folder),
        mock.patch("sentence_transformers.base.model.load_file_path", return_value=None),
    ):
        assert model.push_to_hub("me/fastlane") == "commit"
    [names] = pushed
    assert names >= {path.name for path in checkpoint.iterdir()}
    assert names >= {"README.md", "st_fastlane.py", "model.safetensors"}


def test_the_stock_class_asks_for_the_flag(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        MultiVectorEncoder(str(checkpoint))


@pytest.mark.parametrize(
    "device", ["cuda", "cuda:7", torch.device("cuda", 1), "mps", "xpu", "gpu", "", "CUDA", "cuda:x"]
)
def test_a_device_that_is_not_here_is_named(
    device: str | torch.device,
    checkpoint: Path,
    encoder: FastLaneEncoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for kind in ("cuda", "mps", "xpu"):
        monkeypatch.setattr(f"torch.{kind}.device_count", lambda: 0)
    calls: list[Callable[[], Any]] = [
        lambda: FastLaneEncoder(checkpoint, device=device),
        lambda: encoder.to(device),
        lambda: encoder.to(device=device),
        lambda: encoder.encode_query("set", device=device),
    ]
    for call in calls:
        with pytest.raises(
            ValueError, match=r'device must be "cpu", "cuda"|there is no device .*: torch sees 0 of'
        ):
            call()
    encoder.to("cpu").to(torch.float32)


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (41, "max_seq_length must be at most the backbone's positions, 40, got 41"),
        (1024, "max_seq_length must be at most the backbone's positions, 40, got 1024"),
        *(
            (wrong, "max_seq_length must be a positive integer")
            for wrong in (0, -1, 2.5, None, "8")
        ),
    ],
)
def test_a_max_seq_length_that_cannot_be_is_refused(
    length: Any, message: str, checkpoint: Path
) -> None:
    encoder = FastLaneEncoder(checkpoint)
    with pytest.raises(ValueError, match=message):
        encoder.max_seq_length = length
    assert encoder.max_seq_length == 12


def test_max_seq_length_is_that_of_both_sides(checkpoint: Path) -> None:
    encoder = FastLaneEncoder(checkpoint)
    encoder.max_seq_length = 40
    for encode in (encoder.encode_query, encoder.encode_document):
        assert encode("set " * 500, num_routes=None).shape == (38, 4)
