"""`fastlane-minilm` is the model that this package carries, for every command and whatever lies here."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from fastlane_st import FastLaneEncoder, FastLaneIndex, FastLaneModel, cli
from fastlane_st.index.identity import digest_of
from tests.conftest import WORDS
from tests.support.collections import write_tiny_collection

NAME = "fastlane-minilm"


@pytest.fixture
def released(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The digest of the released model, where the working directory has another one of its name."""
    other = FastLaneModel.from_pretrained(checkpoint)
    other.projection.linear.weight.data *= -1
    other.save_pretrained(tmp_path / NAME)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fastlane_st.loading.default_checkpoint", lambda: checkpoint)
    digest = digest_of(FastLaneEncoder(NAME))
    assert (
        digest == digest_of(FastLaneEncoder(checkpoint)) != digest_of(FastLaneEncoder(Path(NAME)))
    )
    return digest


def test_an_index_is_of_the_released_model_and_found_by_its_name(
    released: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["index", str(corpus), "--out", "index", "--model", NAME]) == 0
    index = FastLaneIndex.load("index")
    assert released in index.checkpoint
    assert index.metadata == {"checkpoint": NAME}
    assert cli.main(["search", "index", "sort", "--routes", "1"]) == 0
    shutil.rmtree(tmp_path / NAME)
    assert cli.main(["search", "index", "sort", "--routes", "1"]) == 0


def test_shards_are_of_the_released_model(released: str, corpus: Path) -> None:
    pytest.importorskip("pyarrow")
    assert cli.main(["encode", str(corpus), "--out", "shards", "--model", NAME]) == 0
    assert cli.main(["index", "shards", "--out", "index"]) == 0
    index = FastLaneIndex.load("index")
    assert released in index.checkpoint
    assert index.metadata == {"checkpoint": NAME}


def test_an_adapter_is_of_the_released_model(released: str) -> None:
    chance = random.Random(0)
    for name in ("ours", "other"):
        texts = [chance.choices(WORDS, k=14) for _ in range(120)]
        rows = [
            {"_id": str(number), "title": " ".join(words[:2]), "text": " ".join(words)}
            for number, words in enumerate(texts)
        ]
        Path(f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ["adapt", "ours.jsonl", "--other", "other.jsonl", "--out", "adapter"]
    assert cli.main([*command, "--model", NAME, "--steps", "1"]) == 0
    written = json.loads(Path("adapter/adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == NAME
    for adapter in ("adapter", Path("adapter")):
        assert digest_of(FastLaneEncoder(adapter)).startswith(f"{released}+")  # or it is refused


def test_the_released_model_is_evaluated(released: str) -> None:
    write_tiny_collection(Path("data"))
    for checkpoint, is_released in ((NAME, True), (f"./{NAME}", False)):
        assert cli.main(["evaluate", checkpoint, "data", "--json", "found.json"]) == 0
        found = json.loads(Path("found.json").read_text())
        assert (found["checkpoint"] == released) is is_released
