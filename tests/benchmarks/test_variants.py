"""Variants of a training recipe: each differs from the control by its change alone."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from benchmarks.quality.variants import WithoutFalseNegatives, write_cloze
from tests.support.benchmarks import run_command, write_set
from tests.support.training import write_pairs

ROUTES = ("full", "router_1", "router_2", "router_4", "router_8")


@pytest.fixture
def run(
    tmp_path: Path,
    backbone_folder: Callable[[str], Path],
) -> Callable[..., dict[str, Any]]:
    """Runs some variants of a tiny recipe and gives the JSON that they leave."""
    write_set(tmp_path / "one", 0)
    recipe = {
        "output_dir": "unused",
        "backbone": str(backbone_folder("bert")),
        "backbone_options": {"embedding_dim": 4, "router_dim": 8, "router_num_heads": 2},
        "sources": [{"path": str(write_pairs(tmp_path / "pairs.jsonl", 12, 0))}],
        "max_steps": 100,
        "batch_size": 4,
        "teacher": "initial",
        "loss_weights": {"teacher": 1.0},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    out = tmp_path / "results" / "variants.json"

    def call(variants: str) -> dict[str, Any]:
        arguments = ["--config", str(tmp_path / "recipe.yaml"), "--steps", "2", "--sets", "one"]
        where = ["--data", str(tmp_path), "--scratch", str(tmp_path / "runs"), "--out", str(out)]
        named = ["--variants", variants]
        run_command("quality.variants", *arguments, *where, *named)
        found: dict[str, Any] = json.loads(out.read_text())
        return found

    return call


@pytest.mark.slow
def test_variants_are_compared_with_the_same_steps_of_the_recipe(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    run("as_released")
    found = run("as_released,frozen_documents,special_tokens")["sets"]
    assert list(found) == ["as_released", "frozen_documents", "special_tokens"]
    control = found["as_released"]
    assert {one["mean"] for one in control["gain"].values()} == {0.0}
    for one in found.values():
        assert set(one["ndcg@10"]) == set(ROUTES)
        for setting in ROUTES:
            gain = one["ndcg@10"][setting] - control["ndcg@10"][setting]
            assert one["gain"][setting]["mean"] == pytest.approx(gain)
            share = one["ndcg@10"][setting] / one["ndcg@10"]["full"]
            assert one["ratio_to_full"][setting] == pytest.approx(share)
    configs = {
        name: yaml.safe_load((tmp_path / "runs" / name / "training_config.yaml").read_text())
        for name in found
    }
    assert {config["max_steps"] for config in configs.values()} == {2}
    assert configs["special_tokens"]["backbone_options"]["use_special_tokens"] is True
    states = {
        name: load_file(tmp_path / "runs" / name / "model.safetensors")["projection.linear.weight"]
        for name in found
    }
    assert not torch.equal(states["as_released"], states["frozen_documents"])


@pytest.mark.slow
def test_each_loss_of_its_own_trains_another_model(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    names = ["as_released", "mean_teacher", "margins", "pooled_documents", "taught_router"]
    run(",".join(names))
    control, *others = (load_file(tmp_path / "runs" / name / "model.safetensors") for name in names)
    for name, weights in zip(names[1:], others, strict=True):
        assert any(not torch.equal(weights[key], control[key]) for key in control), name


def test_what_the_teacher_takes_for_relevant_is_no_negative() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0], [0.5, 1.0, 4.0]])
    # At 0.95 of the positive or above: 1 for the first query, 0 and 2 for the second.
    teacher = torch.tensor([[10.0, 9.6, 9.0], [-5.0, -10.0, -10.4]])
    loss = WithoutFalseNegatives.__new__(WithoutFalseNegatives)
    expected = torch.stack([scores[0, [0, 2]].log_softmax(0)[0], torch.tensor(0.0)]).mean()
    torch.testing.assert_close(loss.contrastive(scores, teacher), -expected)


def test_a_cloze_asks_for_the_rest_of_its_abstract(tmp_path: Path) -> None:
    long = [f"{name} " + "word " * 15 + "end." for name in ("First", "Second", "Third")]
    rows = [
        {"query": "title", "positive": " ".join(long)},
        {"query": "short", "positive": "Too short. To be asked for. Anything."},
    ]
    with gzip.open(tmp_path / "papers.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    write_cloze(str(tmp_path / "papers.jsonl.gz"), tmp_path / "cloze.jsonl.gz")
    with gzip.open(tmp_path / "cloze.jsonl.gz", "rt") as file:
        [pair] = map(json.loads, file)
    assert pair["query"] in long
    assert pair["positive"] == " ".join(one for one in long if one != pair["query"])
