"""fastlane adapt: documents in, an adapter and a report out."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fastlane_st import FastLaneEncoder
from fastlane_st.adapt import adapt as module
from fastlane_st.adapt.adapt import AdaptSettings, adapt, with_negatives
from fastlane_st.adapt.held_out import AdaptReport, Measured
from fastlane_st.adapt.pairs import MadePair
from fastlane_st.cli.main import main
from fastlane_st.data.rows import CorpusDocument
from fastlane_st.evaluation.metrics import PairedDifference
from tests.conftest import QUERIES, WORDS


def corpus(count: int, seed: int = 0) -> list[CorpusDocument]:
    """Documents of two words; their titles are the words before these in `WORDS`, and a number."""
    chance = random.Random(seed)
    documents = []
    for number in range(count):
        first, second = chance.sample(range(1, len(WORDS)), 2)
        text = " ".join(chance.choices([WORDS[first], WORDS[second]], k=14))
        title = f"{WORDS[first - 1]} {WORDS[second - 1]} {number}"
        documents.append(CorpusDocument(str(number), text, title))
    return documents


def test_an_adapter_is_trained_and_its_base_is_as_it_was(checkpoint: Path, tmp_path: Path) -> None:
    settings = AdaptSettings(steps=4, batch_size=8, query_length=10, document_length=12)
    out = tmp_path / "adapter"
    report = adapt(str(checkpoint), corpus(300), out, other=corpus(100, seed=1), settings=settings)
    assert report.num_pairs == {"title": 240}
    assert {path.name for path in out.iterdir()} == {
        "adapt.json",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    facts = json.loads((out / "adapt.json").read_text())
    assert facts["settings"]["steps"] == 4
    assert facts["gained"]["one route"]["after"] == report.gained["one route"].after
    weights = load_file(out / "adapter_model.safetensors")
    lora = [weight for name, weight in weights.items() if "lora_B" in name]
    assert lora
    assert all(weight.any() for weight in lora)  # they start at 0
    base = FastLaneEncoder(str(checkpoint))
    for part in ("projection.linear", "router.logit"):
        [name] = [name for name in weights if name.endswith(f"{part}.weight")]
        assert not torch.equal(weights[name], base[0].model.get_submodule(part).weight)
    adapted = FastLaneEncoder(str(out))
    adapted.disable_adapters()
    for a, b in zip(base.encode_query(QUERIES), adapted.encode_query(QUERIES), strict=True):
        torch.testing.assert_close(a, b)


def test_held_out_documents_are_not_trained_on(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, trained = [], []
    measure, negatives = module.measure, module.with_negatives
    monkeypatch.setattr(module, "measure", lambda *args: measured.append(args[1]) or measure(*args))
    monkeypatch.setattr(
        module, "with_negatives", lambda *args: trained.extend(args[1]) or negatives(*args)
    )
    adapt(
        str(checkpoint),
        corpus(120),
        tmp_path / "adapter",
        other=corpus(100, seed=1),
        settings=AdaptSettings(steps=1, batch_size=4, query_length=10, document_length=12),
    )
    ours, other, *again = measured
    assert again == [ours, other]
    assert len(ours.queries) == 24
    assert not {int(number) for number in ours.queries} & {pair.document for pair in trained}


def test_a_negative_is_another_document_and_none_that_scores_like_the_own_one(
    checkpoint: Path,
) -> None:
    encoder = FastLaneEncoder(str(checkpoint))
    texts = ["sort a list of number", "json loads a string", "date and time with python"]
    documents = [CorpusDocument(str(number), text) for number, text in enumerate(texts)]
    documents.append(CorpusDocument("3", texts[0] + " ?"))
    pairs = [MadePair(text, text, number, "title") for number, text in enumerate(texts)]
    rows = with_negatives(encoder, pairs, documents, 32, False)
    found = encoder.build_index(texts, range(3), kind="flat").search(texts, 3, 1)
    for pair, row, hits in zip(pairs, rows, found, strict=True):
        assert (row["query"], row["positive"]) == (pair.query, pair.positive)
        assert row["negative_1"] != pair.positive
        scores = {hit.text: hit.score for hit in hits}
        if row["negative_1"] in scores:
            below = [text for text in texts if scores[text] < 0.95 * scores[pair.positive]]
            assert row["negative_1"] in below or not below


def test_the_report_says_whether_to_use_the_adapter() -> None:
    def report(low: float, high: float) -> AdaptReport:
        moved = PairedDifference((low + high) / 2, low, high, 0.5, 10)
        measured = {"one route": Measured(0.5, 0.6, moved), "all views": Measured(0.5, 0.6, moved)}
        return AdaptReport(9, {"title": 7}, measured, measured, "another", {"training": 90.0})

    assert "One route gained on" in report(0.01, 0.1).render()
    assert "gained nothing beyond chance" in report(-0.01, 0.1).render()
    assert "don't use" in report(-0.1, -0.01).render()
    assert "another, all views" in report(0.01, 0.1).render()


def test_what_cannot_be_adapted_to_is_said_before_anything_is_loaded(tmp_path: Path) -> None:
    few = [CorpusDocument(str(number), "a short text") for number in range(50)]
    with pytest.raises(ValueError, match="give 0 pairs, and an adapter needs at least 64"):
        adapt("nowhere", few, tmp_path / "adapter")
    with pytest.raises(ValueError, match="other collection's documents are too few"):
        adapt("nowhere", corpus(200), tmp_path / "adapter", other=few)
    with pytest.raises(FileExistsError, match="name a new folder"):
        adapt("nowhere", corpus(200), tmp_path)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        AdaptSettings(steps=0)


def test_an_encoder_with_an_adapter_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    settings = AdaptSettings(steps=1, batch_size=4, query_length=10, document_length=12)
    encoder = FastLaneEncoder(str(checkpoint))
    adapt(encoder, corpus(120), tmp_path / "one", other=corpus(100, seed=1), settings=settings)
    with pytest.raises(ValueError, match="the checkpoint has an adapter"):
        adapt(encoder, corpus(120), tmp_path / "two", other=corpus(100, seed=1), settings=settings)


def test_the_command_prints_the_table(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, documents in (("ours", corpus(120)), ("other", corpus(100, seed=1))):
        rows = [{"_id": d.id, "title": d.title, "text": d.text} for d in documents]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["adapt", f"{tmp_path}/ours.jsonl", "--model", str(checkpoint), "--steps", "1"]
    command += ["--out", f"{tmp_path}/adapter", "--other", f"{tmp_path}/other.jsonl"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "120 documents; pairs trained on: 96 of titles" in printed
    assert "this collection, one route" in printed
    assert main(command) == 1
    assert "exists: name another folder" in capsys.readouterr().err
