"""A retrofit over an index that is there: its documents aren't encoded, and it is searched by routes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import MultiVectorEncoder

from fastlane_st import FastLaneEncoder, FastLaneIndex, FastLaneModel
from fastlane_st.cli.main import main
from fastlane_st.index.unfinished import UNFINISHED, Unfinished
from fastlane_st.retrofit.existing import StoredDocuments, adopt
from fastlane_st.retrofit.retrofit import retrofit
from fastlane_st.retrofit.source import read_late_interaction
from tests.retrofit.test_retrofit import SHORT, corpus
from tests.support.late_interaction import write_pylate

TEXTS = [document.content for document in corpus(120)]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pylate")
    write_pylate("bert", folder)
    return folder


@pytest.fixture
def index(original: Path) -> FastLaneIndex:
    """What someone has made of the checkpoint's vectors, without this package's model."""
    vectors = MultiVectorEncoder(str(original), device="cpu").encode_document(TEXTS)
    ids = [f"d{number}" for number in range(len(TEXTS))]
    return FastLaneIndex.from_embeddings(vectors, ids, texts=TEXTS)


@pytest.mark.parametrize("context", [None, "document"])
def test_an_index_is_trained_on_without_encoding_its_documents(
    context: Any,
    original: Path,
    index: FastLaneIndex,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    retrofit(original, tmp_path / "encoded", corpus(120), training=SHORT, context=context)
    encoded: list[str] = []
    encode = FastLaneModel.encode_document

    def counted(self: FastLaneModel, texts: list[str], **options: Any) -> Any:
        encoded.extend(texts)
        return encode(self, texts, **options)

    monkeypatch.setattr(FastLaneModel, "encode_document", counted)
    retrofit(original, tmp_path / "stored", index=index, training=SHORT, context=context)
    assert len(encoded) == 16  # those that are compared
    monkeypatch.undo()
    one, other = (FastLaneEncoder(tmp_path / name) for name in ("encoded", "stored"))
    for text in TEXTS[:5]:
        np.testing.assert_allclose(one.encode_query(text), other.encode_query(text), atol=2e-3)
    adopted = adopt(index, other, context)
    assert adopted.ids == [f"d{number}" for number in range(len(TEXTS))]
    built = FastLaneIndex.build(other, TEXTS, adopted.ids, long_texts="cut")
    for text in TEXTS[:5]:
        query = " ".join(text.split()[3:9])
        assert [hit.id for hit in adopted.search(query)] == [hit.id for hit in built.search(query)]


def test_pairs_add_documents_to_an_index(
    original: Path, index: FastLaneIndex, tmp_path: Path
) -> None:
    pairs = [(" ".join(text.split()[:4]), f"{text} and more") for text in TEXTS[:30]]
    report = retrofit(original, tmp_path / "out", pairs=pairs, index=index, training=SHORT)
    assert report.num_documents == 150


def test_other_indexes_are_refused(original: Path, index: FastLaneIndex, tmp_path: Path) -> None:
    model = read_late_interaction(original)
    vectors = model.encode_document(TEXTS, num_routes=None, convert_to_numpy=True)

    def refused(message: str, vectors: list[Any], **options: Any) -> None:
        other = FastLaneIndex.from_embeddings(vectors, **{"texts": TEXTS, **options})
        with pytest.raises(ValueError, match=message):
            retrofit(original, tmp_path / "out", index=other, training=SHORT)
        assert not (tmp_path / "out").exists()
        assert not (tmp_path / "out.partial").exists()

    refused("document 0 has no text, of which queries are made", vectors, texts=None)
    refused("mixes the context 'both' into its vectors", vectors, context="both")
    refused("of another checkpoint or tokenizer, or they were pooled", [one[1:] for one in vectors])
    random = [one[:, ::-1] for one in vectors]
    refused("the index's vectors aren't this checkpoint's: their mean cosine", random)
    refused("aren't of unit length: .* has one of 2", [2 * one for one in vectors])
    longer = FastLaneIndex.from_embeddings([2 * one for one in vectors], texts=TEXTS)
    stored = StoredDocuments(longer, "document")
    with pytest.raises(ValueError, match="document 0 has a vector of length 2"):
        stored.vectors(TEXTS[0])


def test_the_command_makes_a_searchable_index_of_an_old_one(
    original: Path, index: FastLaneIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index.save(tmp_path / "old")
    routed = str(tmp_path / "routed")
    command = ["retrofit", str(original), "--index", str(tmp_path / "old"), "--out", routed]
    assert main([*command, "--context", "both", "--steps", "5"]) == 0
    assert f"fastlane search {routed}-index" in capsys.readouterr().out
    assert main(["search", f"{routed}-index", TEXTS[7], "--top-k", "1", "--routes", "1"]) == 0
    assert "d" in capsys.readouterr().out
    found = FastLaneIndex.load(f"{routed}-index", FastLaneEncoder(routed))
    assert found.context is not None
    old = FastLaneIndex.load(tmp_path / "old")  # is as it was
    assert old.context is None
    assert main([*command[:-1], f"{routed}/"]) == 1
    assert "routed-index exists" in capsys.readouterr().err


def test_a_retrofit_may_have_the_released_models_name(
    original: Path, index: FastLaneIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    index.save("old")
    command = ["retrofit", str(original), "--index", "old", "--out", "fastlane-minilm"]
    assert main([*command, "--steps", "0"]) == 0
    folder = tmp_path / "fastlane-minilm"
    found = FastLaneIndex.load("fastlane-minilm-index", FastLaneEncoder(folder))
    assert found.metadata["checkpoint"] == str(folder)


def test_an_index_that_is_missing_is_written_without_training_again(
    original: Path, index: FastLaneIndex, tmp_path: Path
) -> None:
    index.save(tmp_path / "old")
    command = ["retrofit", str(original), "--index", str(tmp_path / "old")]
    command += ["--out", f"{tmp_path / 'routed'}/", "--steps", "0"]
    assert main(command) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old", "routed", "routed-index"]
    weights = (tmp_path / "routed" / "model.safetensors").read_bytes()
    (tmp_path / "routed-index" / "index.json").unlink()
    assert main(command) == 1  # the checkpoint is there
    assert main([*command, "--resume"]) == 0
    assert len(FastLaneIndex.load(tmp_path / "routed-index")) == len(index)
    assert (tmp_path / "routed" / "model.safetensors").read_bytes() == weights


def test_an_unfinished_index_is_not_adopted(
    original: Path, index: FastLaneIndex, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index.metadata[UNFINISHED] = asdict(Unfinished(len(TEXTS) + 1, None, "auto", "int8"))
    index.save(tmp_path / "old")
    command = ["retrofit", str(original), "--index", str(tmp_path / "old")]
    assert main([*command, "--out", str(tmp_path / "routed")]) == 1
    assert "old is unfinished, finish it before any change" in capsys.readouterr().err


def test_long_documents_of_an_index_are_not_compared(original: Path, tmp_path: Path) -> None:
    model = read_late_interaction(original)
    long = " ".join(TEXTS)
    index = FastLaneIndex.build(FastLaneEncoder.from_model(model), [long, *TEXTS], num_routes=None)
    assert index.get([0])[0].windows
    StoredDocuments(index, None).check(model, [long, *TEXTS])
