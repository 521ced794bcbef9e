"""The dense twin: the same run with one mean-pooled vector."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from transformers import AutoModel, TrainerCallback

from fastlane_st import FastLaneConfig
from fastlane_st.data.collection import Collection
from fastlane_st.evaluation.baselines import rank_by_dense_encoder
from tests.conftest import DOCUMENTS, QUERIES
from tests.support.training import StopAt, StopError, changed, weights, write_pairs, write_rows
from training.dense_twin import DenseTrainer, build_twin, main, train_twin
from training.runs import how_to_start_from
from training.train import train
from training.trainer import FastLaneTrainer
from training.training_config import Source, TrainingConfig


def small_run(folder: Path, backbone: Path) -> TrainingConfig:
    """Two batches of each of two sources, over a tiny BERT, with settings that a twin ignores."""
    paths = [write_pairs(folder / f"{name}.jsonl", 10, seed) for seed, name in enumerate("ab")]
    return TrainingConfig(
        output_dir=str(folder / "twin"),
        sources=tuple(Source(path=str(path)) for path in paths),
        backbone=str(backbone),
        backbone_options={
            **{"embedding_dim": 4, "router_dim": 8, "router_num_heads": 2},
            **{"query_length": 10, "document_length": 12, "calibration_texts": DOCUMENTS},
        },
        teacher="initial",
        max_steps=2,
        batch_size=4,
        encoder_learning_rate=1e-3,
        warmup=0,
        log_every=1,
    )


@pytest.fixture
def config(backbone_folder: Callable[[str], Path], tmp_path: Path) -> TrainingConfig:
    return small_run(tmp_path, backbone_folder("bert"))


Trained = tuple[TrainingConfig, SentenceTransformer]


@pytest.fixture(scope="module")
def trained(
    backbone_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    """A run of 32 steps at a high rate, with frozen layers."""
    folder = tmp_path_factory.mktemp("trained")
    config = replace(
        small_run(folder, backbone_folder("bert")),
        max_steps=32,
        log_every=8,
        encoder_learning_rate=1e-2,
        frozen=(r"backbone\.embeddings\.position", r"^backbone\..*query"),
    )
    return config, train_twin(config)


def read_losses(config: TrainingConfig) -> list[float]:
    folder = Path(config.output_dir) / "checkpoints" / f"checkpoint-{config.max_steps}"
    history = json.loads((folder / "trainer_state.json").read_text("utf-8"))["log_history"]
    return [line["loss"] for line in history if "loss" in line]


def mean_states(model: Any, encoder: SentenceTransformer, text: str, length: int) -> Tensor:
    """One text's vector, computed with transformers alone."""
    features = encoder.tokenizer([text], truncation=True, max_length=length, return_tensors="pt")
    with torch.no_grad():
        mean: Tensor = model(**features).last_hidden_state[0].mean(0)
    return mean


def test_the_loss_falls_and_a_plain_checkpoint_is_left(trained: Trained) -> None:
    config, twin = trained
    losses = read_losses(config)
    assert losses[-1] < 0.8 * losses[0]
    loaded = SentenceTransformer(config.output_dir)
    assert [type(module).__name__ for module in loaded] == ["Transformer", "Pooling"]
    model = AutoModel.from_pretrained(config.output_dir)
    long = " ".join(DOCUMENTS)
    for text, length, encode in (
        *((query, 10, loaded.encode_query) for query in (*QUERIES, long)),
        *((document, 12, loaded.encode_document) for document in (*DOCUMENTS, long)),
    ):
        expected = mean_states(model, loaded, text, length)
        torch.testing.assert_close(encode(text, convert_to_tensor=True), expected)
    mine, theirs = (each.encode(DOCUMENTS, convert_to_tensor=True) for each in (twin, loaded))
    assert mine.equal(theirs)


def test_a_new_run_starts_from_a_twin_as_its_backbone(trained: Trained, tmp_path: Path) -> None:
    config, _ = trained
    saved = Path(config.output_dir) / "checkpoints" / f"checkpoint-{config.max_steps}"
    assert how_to_start_from(saved) == f"with `backbone: {saved}`"
    output = str(tmp_path / "next")
    train_twin(replace(config, backbone=str(saved), max_steps=1, output_dir=output))


def test_a_missing_source_is_named_before_anything_is_loaded(config: TrainingConfig) -> None:
    missing = replace(config, backbone="/nowhere", sources=(Source(path="nowhere.jsonl"),))
    with pytest.raises(FileNotFoundError, match=r"no file nowhere.jsonl: name your own pairs"):
        train_twin(missing)
    assert not Path(config.output_dir).exists()


def test_the_quality_benchmark_ranks_by_its_cosine(trained: Trained) -> None:
    config, twin = trained
    queries, documents = (
        {str(number): text for number, text in enumerate(texts)} for texts in (QUERIES, DOCUMENTS)
    )
    collection = Collection("tiny", "test", documents, queries, qrels={})
    rankings = rank_by_dense_encoder(collection, SentenceTransformer(config.output_dir))
    similarities = twin.similarity(twin.encode_query(QUERIES), twin.encode_document(DOCUMENTS))
    for ranking, row in zip(rankings, similarities, strict=True):
        assert ranking.tolist() == row.argsort(descending=True).tolist()


@pytest.mark.parametrize(("sampling", "topic_size"), [("round_robin", None), ("proportional", 5)])
def test_batches_arguments_and_rates_are_those_of_the_run(
    config: TrainingConfig,
    sampling: str,
    topic_size: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [{"query": f"a {d}", "positive": d, "negative": f"not {d}"} for d in DOCUMENTS]
    hard = Source(path=str(write_rows(tmp_path / "hard.jsonl", rows)))
    config = replace(
        config,
        sources=(*config.sources, hard),
        source_sampling=sampling,
        topic_size=topic_size,
        query_length=5,
        document_length=6,
        backbone_options={**config.backbone_options, "query_prompt": "how do i "},
        max_steps=None,
        epochs=2,
    )
    seen: dict[str, list[dict[str, Tensor]]] = {"FastLaneTrainer": [], "DenseTrainer": []}
    arguments: dict[str, Any] = {}
    for owner in (FastLaneTrainer, DenseTrainer):

        def spy(
            self: Any, model: Any, inputs: Any, *rest: Any, of: Any = owner.compute_loss, **kw: Any
        ) -> Any:
            columns = {name: ids for name, ids in inputs.items() if name.endswith("input_ids")}
            seen[type(self).__name__].append(columns)
            arguments[type(self).__name__] = self.args.to_dict()
            return of(self, model, inputs, *rest, **kw)

        monkeypatch.setattr(owner, "compute_loss", spy)
    train(replace(config, output_dir=str(tmp_path / "run")))
    train_twin(config)

    expected, found = seen.values()
    # Two batches of two sources and one of the third, which ends an epoch of turns.
    assert len(found) == len(expected) == 2 * (3 if sampling == "round_robin" else 5)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.keys() == theirs.keys()
        assert all(ids.equal(theirs[name]) for name, ids in mine.items())
    assert found[0]["query_input_ids"].shape == (4, 5)
    assert {len(batch) for batch in found} == {2, 3}  # with and without hard negatives
    free = ("output_dir", "logging_dir", "learning_rate_mapping")
    twins, runs = arguments["DenseTrainer"], arguments["FastLaneTrainer"]
    assert {name for name in runs if twins[name] != runs[name]} - set(free) == set()
    assert twins["learning_rate"] == 1e-3
    assert twins["learning_rate_mapping"] == {}


def test_the_first_loss_is_that_of_the_untouched_backbone(
    config: TrainingConfig, backbone_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    pairs = list(zip(QUERIES, DOCUMENTS, strict=False))
    rows = [{"query": query, "positive": document} for query, document in pairs]
    source = Source(path=str(write_rows(tmp_path / "four.jsonl", rows)))
    config = replace(config, sources=(source,), max_steps=1, scale=7.0)
    twin = train_twin(config)
    model = AutoModel.from_pretrained(backbone_folder("bert"))
    total = 0.0
    for position, (query, _) in enumerate(pairs):
        vector = mean_states(model, twin, query, 10)
        cosines = [
            torch.cosine_similarity(vector, mean_states(model, twin, document, 12), dim=0)
            for _, document in pairs
        ]
        total -= float((7.0 * torch.stack(cosines)).log_softmax(0)[position])
    assert read_losses(config) == pytest.approx([total / 4], abs=1e-4)


def test_frozen_layers_stay_by_the_names_of_the_run(
    trained: Trained, backbone_folder: Callable[[str], Path]
) -> None:
    config, _ = trained
    moved = changed(weights(backbone_folder("bert")), weights(config.output_dir))
    assert any(name.endswith("attention.self.value.weight") for name in moved)
    assert any(name.startswith("embeddings.word") for name in moved)
    assert not any(name.startswith("embeddings.position") or "query" in name for name in moved)
    assert not any(name.startswith("pooler") for name in moved)


def test_dropout_and_attention_are_those_of_the_configuration(config: TrainingConfig) -> None:
    config = replace(config, dropout=0.3, attention="eager")
    twin = build_twin(config, FastLaneConfig())
    dropouts = [each.p for each in twin.modules() if isinstance(each, torch.nn.Dropout)]
    assert dropouts
    assert set(dropouts) == {0.3}
    assert twin[0].model.config._attn_implementation == "eager"
    assert twin[0].model.config.hidden_dropout_prob == 0.1  # what is saved


def test_a_resumed_twin_equals_an_uninterrupted_one(config: TrainingConfig, tmp_path: Path) -> None:
    config = replace(config, max_steps=4, dropout=0.3, warmup=0.5, save_every=2)
    train_twin(replace(config, output_dir=str(tmp_path / "whole")))
    with pytest.raises(StopError):
        train_twin(config, callbacks=[StopAt(3)])
    train_twin(config, resume=True)
    assert not changed(weights(tmp_path / "whole"), weights(config.output_dir))
    with pytest.raises(ValueError, match=r"keeps its settings, but scale was 20\.0"):
        train_twin(replace(config, scale=10.0), resume=True)


def test_gradient_caching_trains_to_the_same_weights(
    config: TrainingConfig, tmp_path: Path
) -> None:
    train_twin(replace(config, output_dir=str(tmp_path / "plain")))
    train_twin(replace(config, mini_batch_size=3))
    plain = weights(tmp_path / "plain")
    for name, value in weights(config.output_dir).items():
        if "key.bias" not in name:  # softmax ignores it, so that Adam follows rounding errors
            torch.testing.assert_close(value, plain[name], rtol=1e-3, atol=1e-4, msg=name)


def test_bfloat16_keeps_float32_weights(config: TrainingConfig) -> None:
    class InLowPrecision(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            assert args.bf16

    config = replace(config, dtype="bfloat16", attention="eager")
    train_twin(config, callbacks=[InLowPrecision()])
    assert {value.dtype for value in weights(config.output_dir).values()} == {torch.float32}


def test_the_command_line_takes_the_configuration_of_the_run(
    config: TrainingConfig, tmp_path: Path
) -> None:
    config.save(tmp_path / "run.yaml")
    output = tmp_path / "elsewhere"
    arguments = ["--config", str(tmp_path / "run.yaml"), "--output", str(output), "max_steps=1"]
    assert main(arguments) == 0
    assert len(SentenceTransformer(str(output)).encode(["set"])[0]) == 8
    card = (output / "README.md").read_text("utf-8")
    assert str(tmp_path) not in card
    assert "jsonl" not in card
    assert not Path(config.output_dir).exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": None, "model": "fine", "backbone_options": {}}, "checkpoint fine; set model"),
        (
            {"encoder_learning_rate": 0},
            "nothing of the twin is trained: encoder_learning_rate is 0",
        ),
        ({"frozen": ("backbone",)}, r"is 0\.001 and frozen is \['backbone'\]"),
        ({"document_length": 13}, "document_length must be at most the model's own, 12, got 13"),
    ],
)
def test_twins_that_can_not_be_say_why(
    config: TrainingConfig, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train_twin(replace(config, **changes))
