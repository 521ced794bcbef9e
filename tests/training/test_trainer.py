"""The trainer: what is in a batch, and how a broken one stops the run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from fastlane_st import FastLaneEncoder
from tests.conftest import WORDS
from tests.support.training import Run, changed, weights, write_rows
from training.trainer import FastLaneTrainer


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the trainer gets to see of each batch."""
    seen: list[dict[str, Any]] = []
    compute_loss = FastLaneTrainer.compute_loss

    def spy(self: Any, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        seen.append(dict(inputs))
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(FastLaneTrainer, "compute_loss", spy)
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
