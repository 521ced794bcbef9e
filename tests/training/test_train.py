"""Training: data, configuration, and runs that can be trusted to do what they say."""

from __future__ import annotations

import doctest
import gzip
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import TrainerCallback

from fastlane_st import FastLaneEncoder, hub
from fastlane_st.hub import apply_delta
from tests.conftest import WORDS, build_model

TRAINING = Path(__file__).parents[2] / "training"
sys.path.insert(0, str(TRAINING))  # where `python training/train.py` finds its modules
callbacks, data, trainer = (import_module(name) for name in ("callbacks", "data", "trainer"))
train = import_module("train")
config = import_module("training_config")

Run = Callable[..., FastLaneEncoder]


class StopError(Exception):
    """What a test interrupts a run with."""


class StopAt(TrainerCallback):
    """Interrupts a run after a step, without any goodbye."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise StopError


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def write_pairs(path: Path, count: int, seed: int) -> Path:
    """Pairs whose query is three words of its positive."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        words = [WORDS[i] for i in torch.randperm(len(WORDS), generator=generator)[:7]]
        rows.append({"query": " ".join(words[:3]), "positive": " ".join(words)})
    return write_rows(path, rows)


@pytest.fixture
def settings(checkpoint: Path, tmp_path: Path) -> dict[str, Any]:
    """Six batches of each of two sources, in `tmp_path/run`."""
    paths = [write_pairs(tmp_path / f"{name}.jsonl", 26, seed) for seed, name in enumerate("ab")]
    return short_run(checkpoint, tmp_path, paths)


def short_run(checkpoint: Path, tmp_path: Path, paths: list[Path]) -> dict[str, Any]:
    """Settings of a run of four steps over the pairs in `paths`."""
    return {
        "output_dir": str(tmp_path / "run"),
        "model": str(checkpoint),
        "sources": [{"path": str(path)} for path in paths],
        "max_steps": 4,
        "batch_size": 4,
        "encoder_learning_rate": 1e-3,
        "projection_learning_rate": 2e-3,
        "router_learning_rate": 1e-2,
        "warmup": 0,
        "log_every": 1,
    }


@pytest.fixture
def run(settings: dict[str, Any]) -> Run:
    """Trains with `settings` and some in their place."""
    return runner(settings)


def runner(settings: dict[str, Any]) -> Run:
    """What trains with `settings` and some in their place."""

    def start(resume: bool = False, watch: TrainerCallback | None = None, **others: Any) -> Any:
        made = config.TrainingConfig.from_dict({**settings, **others})
        return train.train(made, resume=resume, callbacks=[watch] if watch else [])

    return start


def weights(folder: str | Path) -> dict[str, Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def read_log(folder: str | Path) -> list[dict[str, Any]]:
    lines = (Path(folder) / "log.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def assert_close(found: str | Path, expected: str | Path) -> None:
    """Compares the weights of two results."""
    for name, value in weights(expected).items():
        # Softmax ignores what is added to all keys or logits, and the states of a tiny BERT are all
        # as long: there Adam follows rounding errors.
        ignored = name.startswith("router") and name.endswith(("bias", "norm_weight"))
        if not ignored and "key.bias" not in name:
            torch.testing.assert_close(weights(found)[name], value, rtol=1e-3, atol=1e-4, msg=name)


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in after.items() if not value.equal(before[name])}


# Runs


def test_training_lowers_the_loss_and_leaves_a_whole_checkpoint(run: Run, tmp_path: Path) -> None:
    encoder = run(max_steps=40, log_every=10, query_num_routes=2)
    log = read_log(tmp_path / "run")
    assert [line["step"] for line in log] == [10, 20, 30, 40]
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]
    assert log[-1]["full"] < log[0]["full"]
    loaded = FastLaneEncoder(tmp_path / "run")
    texts = ["parse a json string", "set"]
    for mine, saved in zip(encoder.encode_query(texts), loaded.encode_query(texts), strict=True):
        torch.testing.assert_close(mine, saved, rtol=0, atol=0)
    assert [len(views) for views in loaded.encode_query(texts)] == [2, 1]
    assert loaded.fastlane_config.document_length == 12
    assert not list((tmp_path / "run").rglob("training_args.bin"))  # a pickle


def test_the_log_holds_what_a_plot_needs(run: Run, tmp_path: Path) -> None:
    run(temperature_schedule="linear", temperature_end=0.25)
    log = read_log(tmp_path / "run")
    assert [line["temperature"] for line in log] == pytest.approx([1, 0.75, 0.5, 0.25])
    assert [line["router_learning_rate"] for line in log] == pytest.approx(
        [0.01, 0.0075, 0.005, 0.0025]
    )
    parts = {"routed": 1.0, "full": 1.0, "distillation": 1.0, "oracle": 0.3}
    for line in log:
        assert line["loss"] == pytest.approx(sum(w * line[name] for name, w in parts.items()), 0.01)
        assert line["router_entropy"] >= 0
        assert line["pairs_per_second"] > 0
        assert line["peak_memory_mb"] > 1
        assert line["route_context_weight"] == pytest.approx(4, abs=0.1)
        assert line["window_context_weight"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("schedule", "end", "expected"),
    [
        ("constant", None, [4, 4, 4]),
        ("linear", 1.0, [4, 2.5, 1]),
        ("exponential", 1.0, [4, 2, 1]),
        ("cosine", 1.0, [4, 2.5, 1]),
    ],
)
def test_temperature_schedules(schedule: str, end: float | None, expected: list[float]) -> None:
    made = config.TrainingConfig(
        output_dir="x",
        sources=(config.Source(path="x"),),
        model="x",
        max_steps=1,
        temperature_start=4.0,
        temperature_end=end,
        temperature_schedule=schedule,
    )
    found = [callbacks.temperature_at(made, progress) for progress in (0, 0.5, 1)]
    assert found == pytest.approx(expected)


DOCUMENT_LOGIT = {f"router.document_scorer.{part}" for part in ("logit", "centrality_weight")}
QUERY_SALIENCE = {f"router.query_scorer.{part}" for part in ("salience", "norm_weight")}


def test_frozen_parts_stay(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    run(encoder_learning_rate=0)
    moved = changed(weights(checkpoint), weights(tmp_path / "run"))
    assert any(name.startswith("projection") for name in moved)
    assert any(name.startswith("router") for name in moved)
    assert not any(name.startswith("backbone") for name in moved)
    assert not any(name.startswith(tuple(DOCUMENT_LOGIT)) for name in moved)  # no documents part


def test_parameters_named_by_a_pattern_stay(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    run(frozen=[r"backbone\.embeddings", r"projection\.linear"])
    moved = changed(weights(checkpoint), weights(tmp_path / "run"))
    assert any(name.startswith("backbone.encoder") for name in moved)
    assert "projection.route_context_weight" in moved
    assert not any(name.startswith("backbone.embeddings") for name in moved)
    assert "projection.linear.weight" not in moved


@pytest.mark.parametrize(
    ("part", "frozen"),
    [
        ("routed", DOCUMENT_LOGIT),
        ("full", {"router.query_", "projection.route_context_weight", *DOCUMENT_LOGIT}),
        ("distillation", DOCUMENT_LOGIT),
        ("oracle", {"projection", "router.document_", *QUERY_SALIENCE}),
        ("documents", set()),
    ],
)
def test_what_a_loss_does_not_reach_is_frozen(run: Run, part: str, frozen: set[str]) -> None:
    class AllHaveGradients(TrainerCallback):  # DistributedDataParallel would wait for them
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            for name, parameter in kwargs["model"].named_parameters():
                assert parameter.requires_grad == (parameter.grad is not None), name

    names = ("routed", "full", "distillation", "oracle", "documents")
    parts = {name: float(name == part) for name in names}
    encoder = run(loss_weights=parts, max_steps=1, watch=AllHaveGradients())
    for name, parameter in encoder[0].model.named_parameters():
        is_frozen = any(name.startswith(prefix) for prefix in frozen)
        assert parameter.requires_grad != is_frozen, name


def test_each_part_has_its_learning_rate(run: Run) -> None:
    seen: list[dict[str, float]] = []

    class Rates(TrainerCallback):
        def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            names = {id(each): name for name, each in kwargs["model"].named_parameters()}
            groups = kwargs["optimizer"].param_groups
            pairs = [(names[id(each)], g["lr"]) for g in groups for each in g["params"]]
            assert len(pairs) == len(dict(pairs))  # each in one group
            seen.append(dict(pairs))

    run(max_steps=1, watch=Rates())
    (rates,) = seen
    assert {rate for name, rate in rates.items() if ".backbone." in name} == {1e-3}
    assert {rate for name, rate in rates.items() if ".projection." in name} == {2e-3}
    assert {rate for name, rate in rates.items() if ".router." in name} == {1e-2}
    assert "0.model.projection.route_context_weight" in rates


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the trainer gets to see of each batch."""
    seen: list[dict[str, Any]] = []
    compute_loss = trainer.FastLaneTrainer.compute_loss

    def spy(self: Any, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        seen.append(dict(inputs))
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(trainer.FastLaneTrainer, "compute_loss", spy)
    return seen


@pytest.mark.parametrize("sampling", ["proportional", "round_robin"])
def test_a_batch_comes_from_one_source(
    run: Run, batches: list[dict[str, Any]], sampling: str
) -> None:
    run(max_steps=None, epochs=1, source_sampling=sampling)
    sources = [{origin.rpartition(":")[0][-7:] for origin in each["origins"]} for each in batches]
    assert all(len(each) == 1 for each in sources)
    assert sorted(each.pop() for each in sources) == ["a.jsonl"] * 6 + ["b.jsonl"] * 6
    assert all(len(set(each["origins"])) == 4 for each in batches)


def test_prompts_and_training_lengths_reach_the_batches(
    run: Run, batches: list[dict[str, Any]], model: Any, tmp_path: Path
) -> None:
    encoder = FastLaneEncoder.from_model(model)
    encoder.prompts.update(query="how do i ", document="the ")
    encoder.save_pretrained(str(tmp_path / "prompted"))
    run(model=str(tmp_path / "prompted"), query_length=5, document_length=6, max_steps=1)
    (batch,) = batches
    tokens = encoder.tokenizer.convert_ids_to_tokens
    assert tokens(batch["query_input_ids"][0, 1:4]) == ["how", "do", "i"]
    assert tokens(batch["positive_input_ids"][0, 1:2]) == ["the"]
    assert batch["query_input_ids"].shape == (4, 5)
    assert batch["positive_input_ids"].shape == (4, 6)
    assert FastLaneEncoder(tmp_path / "run").fastlane_config.document_length == 12


@pytest.mark.parametrize("stopped", [5, 7, 10])  # in the first epoch, between, in the second
def test_a_resumed_run_equals_an_uninterrupted_one(run: Run, tmp_path: Path, stopped: int) -> None:
    # Six steps an epoch. Everything that draws or moves is on: dropout, noise, k, schedules.
    moving = {
        "max_steps": 12,
        "gradient_accumulation": 2,
        "dropout": 0.3,
        "warmup": 0.5,
        "temperature_schedule": "exponential",
        "temperature_end": 0.1,
        "loss_weights": {"documents": 0.5, "teacher": 0.2},
        "teacher": "initial",
    }
    run(**moving, output_dir=str(tmp_path / "whole"))
    with pytest.raises(StopError):
        run(**moving, save_every=3, watch=StopAt(stopped))
    run(**moving, save_every=3, resume=True)
    assert not changed(weights(tmp_path / "whole"), weights(tmp_path / "run"))
    measured = ("pairs_per_second", "peak_memory_mb")
    logs = [
        [{key: line[key] for key in line if key not in measured} for line in read_log(each)]
        for each in (tmp_path / "whole", tmp_path / "run")
    ]
    assert logs[0] == logs[1]


def test_gradient_caching_trains_to_the_same_weights(run: Run, tmp_path: Path) -> None:
    run(output_dir=str(tmp_path / "plain"))
    run(mini_batch_size=3)
    assert_close(tmp_path / "run", tmp_path / "plain")


def test_bfloat16_computes_low_and_keeps_float32_weights(run: Run, tmp_path: Path) -> None:
    run(dtype="bfloat16", attention="eager", teacher="initial", loss_weights={"teacher": 1.0})
    assert {value.dtype for value in weights(tmp_path / "run").values()} == {torch.float32}
    assert read_log(tmp_path / "run")[0]["teacher"] == pytest.approx(0, abs=1e-3)


def test_a_backbone_becomes_a_model_and_a_delta(
    run: Run, backbone_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    encoder = run(
        model=None,
        backbone=str(backbone_folder("bert")),
        backbone_options={"embedding_dim": 4, "router_dim": 8, "router_num_heads": 2},
        encoder_learning_rate=0,
        delta=True,
    )
    delta = load_file(tmp_path / "run" / "delta" / "delta.safetensors")
    assert not any(name.startswith("backbone") for name in delta)
    model = apply_delta(tmp_path / "run" / "delta", backbone_folder("bert"))
    assert not changed(encoder[0].model.state_dict(), model.state_dict())
    assert model.config.query_num_routes == 1


# Stops


def test_a_broken_loss_names_step_and_rows_and_keeps_the_weights(
    run: Run, checkpoint: Path, tmp_path: Path
) -> None:
    encoder = FastLaneEncoder(checkpoint)
    word = encoder.tokenizer.convert_tokens_to_ids("short")
    encoder[0].model.backbone.embeddings.word_embeddings.weight.data[word] = torch.nan
    encoder.save_pretrained(str(tmp_path / "broken"))
    words = [word for word in WORDS if word != "short"]
    rows = [{"query": word, "positive": f"a {word}"} for word in words[:16]]
    rows[6]["query"] = "short"
    broken = write_rows(tmp_path / "broken.jsonl", rows)
    with pytest.raises(FloatingPointError, match="the loss is not finite at step") as raised:
        run(model=str(tmp_path / "broken"), sources=[{"path": str(broken)}])
    (numbers,) = re.findall(rf"in {broken}:([\d, ]+)\. Look", str(raised.value))
    assert len(numbers.split(", ")) == 4
    assert "7" in numbers.split(", ")
    (saved,) = (tmp_path / "run" / "checkpoints").glob("checkpoint-*")
    assert str(saved) in str(raised.value)
    assert FastLaneEncoder(saved).fastlane_config.query_num_routes == 1


def test_a_broken_gradient_never_reaches_the_weights(
    run: Run, checkpoint: Path, tmp_path: Path
) -> None:
    class Breaks(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            weight = kwargs["model"][0].model.router.norm.weight
            weight.register_hook(lambda gradient: gradient * torch.nan)

    with pytest.raises(FloatingPointError, match="the gradient is not finite at step 1") as raised:
        run(gradient_accumulation=2, watch=Breaks())
    (rows,) = re.findall(r"step 1, in (.*)\. Look", str(raised.value))
    assert len(re.findall(r"\d+(?:, |;|$)", rows)) == 8  # of both batches
    assert not changed(weights(checkpoint), weights(tmp_path / "run/checkpoints/checkpoint-0"))


def test_out_of_memory_names_what_to_lower(settings: dict[str, Any]) -> None:
    made = config.TrainingConfig.from_dict({**settings, "document_length": 8})
    message = r"lower batch_size \(4\), document_length \(8\), mini_batch_size \(None\)"
    for error in (
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        MemoryError(),
    ):
        with pytest.raises(MemoryError, match=message), callbacks.explain_out_of_memory(made):
            raise error
    with pytest.raises(RuntimeError, match="shapes"), callbacks.explain_out_of_memory(made):
        raise RuntimeError("shapes do not fit")


def test_runs_that_can_not_start_say_why(
    run: Run, backbone_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="holds no checkpoint to resume from"):
        run(resume=True)
    with pytest.raises(ValueError, match="document_length must be at most the model's own, 12"):
        run(document_length=13)
    build_model(backbone_folder("xlm-roberta")).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="has another tokenizer than the model"):
        run(teacher=str(tmp_path / "other"))
    with pytest.raises(ValueError, match="delta needs the backbone's weights"):
        run(delta=True)
    run(max_steps=1)
    with pytest.raises(ValueError, match="isn't empty; resume, delete it, or name a new"):
        run(max_steps=1)
    with pytest.raises(ValueError, match=r"keeps its settings, but scale was 20\.0; to change"):
        run(max_steps=1, scale=10, resume=True)


# Several processes


RESUMES = """
import sys
from dataclasses import replace
sys.path[:0] = sys.argv[1:3]
from tests.training.test_train import StopAt, StopError, config, train
made = config.TrainingConfig.load(sys.argv[3])
train.train(replace(made, output_dir=sys.argv[4]))
try:
    train.train(made, callbacks=[StopAt(8)])
except StopError:
    train.train(made, resume=True)
"""


def launch(*command: str) -> subprocess.Popen[str]:
    """Starts a script in two processes, as users do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = (sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu")
    settings = ("--num_processes", "2", "--main_process_port", str(port))
    return subprocess.Popen(
        [*launcher, *settings, *command],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_two_processes_average_gradients_and_resume(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """Two processes do what one does with two batches a step, with and without caching.

    A run of two that is resumed in its second epoch, of six steps each, is the same, too.
    """
    plain, cached = tmp_path / "plain.yaml", tmp_path / "cached.yaml"
    # Only the full part, which draws nothing: processes draw noise of their own.
    parts = {"routed": 0.0, "distillation": 0.0, "oracle": 0.0, "documents": 0.0}
    shared = {**settings, "loss_weights": parts, "max_steps": 9}
    for path, mini_batch_size in ((plain, None), (cached, 3)):
        own = {"output_dir": str(path.with_suffix("")), "mini_batch_size": mini_batch_size}
        config.TrainingConfig.from_dict({**shared, **own, "save_every": 7}).save(path)
    folders = (str(TRAINING.parent), str(TRAINING))
    (tmp_path / "resumes.py").write_text(RESUMES)
    started = [
        launch(str(TRAINING / "train.py"), "--config", str(plain)),
        launch(
            str(tmp_path / "resumes.py"), *folders, str(cached), str(tmp_path / "uninterrupted")
        ),
    ]
    train.train(config.TrainingConfig.from_dict({**shared, "gradient_accumulation": 2}))
    for process in started:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    expected = [line["loss"] for line in read_log(tmp_path / "run")]
    for result in (tmp_path / "plain", tmp_path / "cached"):
        assert_close(result, tmp_path / "run")
        assert [line["loss"] for line in read_log(result)] == pytest.approx(expected, rel=1e-3)
    assert not changed(weights(tmp_path / "uninterrupted"), weights(tmp_path / "cached"))


# Data


def load(*rows: Any, tmp_path: Path, **source: Any) -> Any:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(each if isinstance(each, bytes) else as_line(each) for each in rows))
    return data.load_source(config.Source(path=str(path), **source))


def as_line(row: Any) -> bytes:
    return json.dumps(row).encode() + b"\n"


PAIR = {"query": "q", "positive": "p"}
SCORED = {"query": "q", "documents": ["a", "b", "c", "d"], "scores": [0.2, 0.9, 0.4, 0.9]}


@pytest.mark.parametrize(
    ("row", "texts"),
    [
        (PAIR, ["q", "p"]),
        ({**PAIR, "id": 7}, ["q", "p"]),
        ({**PAIR, "negative": "n"}, ["q", "p", "n"]),
        ({**PAIR, "negatives": ["m", "n"]}, ["q", "p", "m", "n"]),
        ({**PAIR, "negative_1": "m", "negative_2": "n"}, ["q", "p", "m", "n"]),
        (SCORED, ["q", "b", "c", "a"]),  # of two best documents neither is a negative
    ],
)
def test_rows_become_queries_positives_and_negatives(
    row: dict[str, Any], texts: list[str], tmp_path: Path
) -> None:
    dataset = load(row, b"\n", row, tmp_path=tmp_path)
    names = ["query", "positive", "negative_1", "negative_2"][: len(texts)]
    assert dataset.column_names == [*names, "origin"]
    assert dataset[1] == dict(zip(names, texts, strict=True)) | {
        "origin": f"{tmp_path / 'rows.jsonl'}:3"
    }


def test_the_scored_example_holds() -> None:
    assert doctest.testmod(data) == (0, 1)


def test_sources_can_be_packed_renamed_cut_and_capped(tmp_path: Path) -> None:
    rows = [{"question": str(n), "positive": f"p{n}", "negatives": ["m", "n"]} for n in range(9)]
    path = tmp_path / "packed.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(as_line(row) for row in rows)))
    source = config.Source(
        path=str(path), columns={"query": "question"}, num_negatives=1, cap=3, name="short"
    )
    dataset = data.load_sources([source], batch_size=1)["short"]
    assert dataset.column_names == ["query", "positive", "negative_1", "origin"]
    assert len(set(dataset["query"])) == 3
    assert dataset.to_dict() == data.load_source(source).to_dict()  # drawn the same each time
    assert dataset.to_dict() != data.load_source(source, seed=1).to_dict()


def test_datasets_load_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "faq").mkdir()
    rows = [{"question": "q", "answer": "a"}, {"question": "r", "answer": ""}]
    write_rows(tmp_path / "faq" / "train.jsonl", rows[:1])
    write_rows(tmp_path / "faq" / "test.jsonl", rows)
    columns = {"query": "question", "positive": "answer"}
    source = config.Source(dataset=str(tmp_path / "faq"), columns=columns)
    assert data.load_source(source)[0] == {"query": "q", "positive": "a", "origin": "faq:0"}
    broken = config.Source(dataset=str(tmp_path / "faq"), columns=columns, split="test")
    with pytest.raises(ValueError, match="faq:1: positive is empty"):
        data.load_source(broken)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"query": "q", "positive": \n', r"broken JSON \(Expecting value"),
        (b'{"query": "q\xff", "positive": "p"}\n', r"not UTF-8 \(invalid start byte"),
        (b'{"query": "\\ud800", "positive": "p"}\n', "query is no valid Unicode"),
        (["q", "p"], "expected a JSON object, got list"),
        ({"query": "q"}, r"no field 'positive'; the row has \['query'\]"),
        ({"positive": "p"}, "no field 'query'"),
        ({**PAIR, "query": " \n"}, "query is empty"),
        ({**PAIR, "query": 7}, "query must be a text, got 7"),
        ({**PAIR, "negatives": "n"}, "negatives must be a list of texts, got 'n'"),
        ({**PAIR, "negatives": ["n", ""]}, r"negatives\[1\] is empty"),
        ({**PAIR, "negative": "p"}, "a hard negative is the positive itself"),
        ({**PAIR, "negative": "n"}, "1 hard negatives, expected 0 as in the rows before"),
        ({**SCORED, "scores": [1, 2]}, "scores must be a list, one for each document"),
        ({**SCORED, "scores": [1, 2, 3, float("nan")]}, "scores must be finite numbers"),
        ({"query": "q", "documents": [], "scores": []}, "documents is empty"),
    ],
)
def test_broken_rows_are_named_by_file_and_line(line: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"rows\.jsonl:2: {message}"):
        load(PAIR, line, PAIR, tmp_path=tmp_path)


def test_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rows\.jsonl holds no rows"):
        load(b"\n", tmp_path=tmp_path)
    with pytest.raises(ValueError, match=r"rows\.jsonl:1: no column 'question' as `columns` says"):
        load(PAIR, tmp_path=tmp_path, columns={"query": "question"})
    with pytest.raises(ValueError, match=r"rows\.jsonl:1: 0 hard negatives, expected 2"):
        load(PAIR, tmp_path=tmp_path, num_negatives=2)
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(as_line(PAIR) * 99)[:-12])
    with pytest.raises(ValueError, match=r"cut\.jsonl\.gz: broken gzip file"):
        data.load_source(config.Source(path=str(cut)))
    cut.write_bytes(as_line(PAIR))
    with pytest.raises(ValueError, match=r"cut\.jsonl\.gz: broken gzip file \(Not a gzipped file"):
        data.load_source(config.Source(path=str(cut)))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        data.load_source(config.Source(path="nowhere.jsonl"))


@pytest.mark.parametrize(
    ("rows", "batch_size", "message"),
    [
        ([PAIR], 2, "source rows has 1 rows, fewer than one batch of 2"),
        ([PAIR], 1, "source rows has no hard negatives, so batch_size must be at least 2"),
        (
            [{"query": "same", "positive": str(n)} for n in range(8)],
            4,
            "source rows has only 1 rows that share no query and no document, fewer than one batch",
        ),
        ([{"query": str(n), "positive": str(n % 3)} for n in range(3, 11)], 4, "only 3 rows"),
        (
            [{"query": f"q{n}", "positive": f"p{n}"} for n in range(9)],
            9,
            "2 processes need a batch",
        ),
    ],
)
def test_sources_that_fill_no_batch_are_refused_before_training(
    rows: list[dict[str, str]], batch_size: int, message: str, tmp_path: Path
) -> None:
    source = config.Source(path=str(write_rows(tmp_path / "rows.jsonl", rows)))
    with pytest.raises(ValueError, match=message):
        data.load_sources([source], batch_size, num_processes=2)


# Configuration

MINIMAL = {"output_dir": "out", "sources": [{"path": "p.jsonl"}], "model": "m", "max_steps": 9}


def test_a_configuration_survives_its_file(settings: dict[str, Any], tmp_path: Path) -> None:
    made = config.TrainingConfig.from_dict(
        {**settings, "loss_weights": {"oracle": 0.5}, "num_routes": [1, 2], "seed": 3}
    )
    made.save(tmp_path / "made.yaml")
    assert config.TrainingConfig.load(tmp_path / "made.yaml") == made


def test_a_run_keeps_a_copy_of_its_configuration(
    run: Run, settings: dict[str, Any], tmp_path: Path
) -> None:
    run(max_steps=1)
    made = config.TrainingConfig.from_dict({**settings, "max_steps": 1})
    assert config.TrainingConfig.load(tmp_path / "run" / "training_config.yaml") == made


def test_the_command_line_replaces_values_of_the_file(tmp_path: Path) -> None:
    config.TrainingConfig.from_dict(MINIMAL).save(tmp_path / "c.yaml")
    overrides = ["batch_size=8", "loss_weights.oracle=0", "router_learning_rate=5e-4"]
    made = config.TrainingConfig.load(tmp_path / "c.yaml", overrides)
    assert made.batch_size == 8
    assert made.loss_weights.oracle == 0
    assert made.router_learning_rate == 5e-4
    with pytest.raises(ValueError, match="expected key=value, got 'resume'"):
        config.TrainingConfig.load(tmp_path / "c.yaml", ["resume"])


def test_the_released_configuration_is_valid() -> None:
    made = config.TrainingConfig.load(TRAINING / "fastlane-minilm.yaml")
    assert made.backbone == hub.BASE_MODEL
    assert made.delta


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batchsize": 8}, "unknown key batchsize; the nearest is batch_size"),
        (
            {"loss_weights": {"fulll": 1}},
            r"unknown key loss_weights\.fulll; the nearest is loss_weights\.full",
        ),
        ({"sources": [{"file": "x"}]}, r"unknown key sources\[0\]\.file; the nearest is"),
        ({"sources": []}, "sources must not be empty"),
        ({"sources": ["x"]}, r"sources\[0\] must be a mapping, got 'x'"),
        ({"sources": [{"path": "x", "dataset": "y"}]}, "either a path or a dataset"),
        ({"sources": [{"path": "x", "split": "y"}]}, "subset and split belong to a dataset"),
        ({"sources": [{"path": "x", "cap": 0}]}, "cap must be at least 1 or None, got 0"),
        ({"sources": [{"path": "x", "join": 0}]}, "join must be at least 1, got 0"),
        ({"sources": [{"path": "x", "num_negatives": -1}]}, "num_negatives must be at least 0"),
        ({"sources": [{"path": "a/x.jsonl"}, {"path": "b/x.jsonl.gz"}]}, "names of their own"),
        ({"batch_size": "many"}, "batch_size must be a whole number, got 'many'"),
        ({"batch_size": True}, "batch_size must be a whole number, got True"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"mini_batch_size": 32}, r"mini_batch_size must be below batch_size \(32\) or None"),
        ({"dtype": "float16"}, "dtype must be one of float32, bfloat16, got 'float16'"),
        ({"delta": "yes"}, "delta must be true or false, got 'yes'"),
        ({"router_learning_rate": -1}, "router_learning_rate must be at least 0, got -1"),
        ({"router_learning_rate": "hot"}, "router_learning_rate must be a number, got 'hot'"),
        ({"epochs": 1}, r"set either max_steps or epochs, got \['max_steps', 'epochs'\]"),
        ({"model": None}, "set either model or backbone, got neither"),
        ({"backbone_options": {"embedding_dim": 4}}, "backbone_options belong to a backbone"),
        ({"num_routes": [1, 0]}, r"num_routes must each be at least 1, got \[1, 0\]"),
        ({"dropout": 1}, r"dropout must be in \[0, 1\), got 1"),
        ({"temperature_end": 0.5}, "belongs to a temperature_schedule other than constant"),
        ({"temperature_schedule": "cosine"}, "temperature_end belongs to a temperature_schedule"),
        ({"loss_weights": {"teacher": 1}}, "so name a teacher"),
        (
            {"teacher": "initial", "loss_weights": {"distillation": 0}},
            "the weight of both is 0",
        ),
        ({"loss_weights": {"full": -1}}, "the weight of full must be at least 0"),
        (
            {"loss_weights": dict.fromkeys(("routed", "full", "distillation", "oracle"), 0)},
            "one of loss_weights must be above 0",
        ),
        (
            {f"{part}_learning_rate": 0 for part in ("encoder", "projection", "router")},
            "or nothing is trained",
        ),
    ],
)
def test_impossible_configurations_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config.TrainingConfig.from_dict({**MINIMAL, **values})


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match="output_dir is missing"):
        config.TrainingConfig.from_dict({"sources": [{"path": "x"}]})
    with pytest.raises(ValueError, match="a configuration must be a mapping, got None"):
        config.TrainingConfig.from_dict(None)
