"""The command line on a tiny checkpoint, and the default checkpoint that the package carries."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fastlane_st import FastLaneEncoder, FastLaneIndex, cli, hub, quiet
from fastlane_st.cli.display import ANSI_MARKS, MARKS, excerpt, format_hits, mark, word_spans
from fastlane_st.modeling.modeling_fastlane import FastLaneModel
from tests.conftest import DOCUMENTS


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    rows = [{"_id": f"d{n}", "title": "python", "text": text} for n, text in enumerate(DOCUMENTS)]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.fixture
def index_folder(corpus: Path, checkpoint: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "index"
    assert cli.main(["index", str(corpus), "--out", str(folder), "--model", str(checkpoint)]) == 0
    return folder


def test_index_then_search_prints_rank_score_id_and_text(
    index_folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    arguments = [str(index_folder), "sort the list", "--top-k", "2", "--routes", "1"]
    assert cli.main(["search", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    encoder = FastLaneEncoder(checkpoint)
    [best, second] = FastLaneIndex.load(index_folder, encoder).search("sort the list", top_k=2)
    marked = lines[0]
    assert marked.replace("»", "").replace("«", "") == "sort the list"
    assert marked.count("»") == 1
    assert lines[2] == f"  1.  {best.score:.4f}  {best.id}"
    assert lines[3].replace("»", "").replace("«", "").strip() == best.text
    assert lines[3].count("»") == 1
    assert lines[5] == f"  2.  {second.score:.4f}  {second.id}"


def test_an_untrained_router_is_said_and_all_tokens_answer(
    index_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["search", str(index_folder), "sort"]) == 0
    assert "the router of this checkpoint is untrained" in capsys.readouterr().err


def test_an_index_is_changed_from_the_shell(
    index_folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = tmp_path / "more.jsonl"
    rows = [
        {"_id": "d1", "text": "read the file", "metadata": {"year": 2024, "authors": ["a"]}},
        {"_id": "new", "text": "sort the list", "metadata": {"year": 2020}},
    ]
    more.write_text("\n".join(json.dumps(row) for row in rows))
    assert cli.main(["add", str(index_folder), str(more)]) == 1
    assert "1 of the ids are there already, the first 'd1'" in capsys.readouterr().err
    assert cli.main(["add", str(index_folder), str(more), "--replace"]) == 0
    assert cli.main(["delete", str(index_folder), "d0", "d3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 added or replaced: 7 documents, ")
    assert lines[1].startswith("2 deleted: 5 documents, ")
    index = FastLaneIndex.load(index_folder, FastLaneEncoder(checkpoint))
    assert index.ids == ["d1", "d2", "d4", "d5", "new"]
    assert index.text("d1") == "read the file"

    search = ["search", str(index_folder), "sort", "--routes", "1"]
    assert cli.main([*search, "--where", '{"year": {"$lt": 2024}}', "--rerank", "50"]) == 0
    found = capsys.readouterr().out
    [hit] = index.search(["sort"], where={"year": {"$lt": 2024}}, rerank=50)[0]
    assert f"  1.  {hit.score:.4f}  new" in found
    assert "  2.  " not in found

    assert cli.main(["info", str(index_folder)]) == 0
    facts = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert facts["documents"] == "5"
    assert facts["metadata"] == "fields      year"
    assert cli.main(["compact", str(index_folder)]) == 0
    assert cli.main(["verify", str(index_folder)]) == 0
    assert f"{index_folder} is whole: 5 documents" in capsys.readouterr().out
    [vectors] = index_folder.glob("vectors-*")
    vectors.write_bytes(vectors.read_bytes()[:-1])
    assert cli.main(["verify", str(index_folder)]) == 1
    assert vectors.name in capsys.readouterr().err


def test_an_id_on_the_shell_is_a_text_or_else_a_number(tmp_path: Path) -> None:
    index = FastLaneIndex.from_embeddings([[[1.0]]] * 4, ids=[1, -2, "1", 3])
    index.save(tmp_path)
    assert cli.main(["delete", str(tmp_path), "1", "3"]) == 0
    assert FastLaneIndex.load(tmp_path).ids == [1, -2]
    assert cli.main(["delete", str(tmp_path), "1", "x"]) == 1
    assert cli.main(["delete", str(tmp_path), "--", "1", "-2"]) == 0
    assert FastLaneIndex.load(tmp_path).ids == []


def test_an_index_of_another_checkpoint_is_refused(
    index_folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = FastLaneEncoder(checkpoint)
    assert FastLaneIndex.load(index_folder, other).checkpoint
    with torch.no_grad():
        other[0].model.projection.linear.weight[0, 0] += 1e-3
    other.save_pretrained(str(tmp_path / "other"))
    assert cli.main(["search", str(index_folder), "sort", "--model", str(tmp_path / "other")]) == 1
    assert "the index was built with another checkpoint" in capsys.readouterr().err
    index = FastLaneIndex.load(index_folder)
    index.checkpoint = []
    index.encoder = other
    half = FastLaneEncoder(checkpoint, model_kwargs={"dtype": torch.float16})
    assert FastLaneIndex.load(index_folder, half).encoder is half
    model = FastLaneModel.from_pretrained(checkpoint)
    assert FastLaneIndex.load(index_folder, model).encoder is model


def test_document_routes_make_the_index_smaller(
    corpus: Path, checkpoint: Path, tmp_path: Path
) -> None:
    sizes = []
    for routes in ("all", "0.25", "1"):
        out = tmp_path / f"routes-{routes}"
        options = ["--model", str(checkpoint), "--document-routes", routes]
        assert cli.main(["index", str(corpus), "--out", str(out), *options]) == 0
        sizes.append(FastLaneIndex.load(out).num_vectors)
    assert sizes == [39, 11, 6]  # of 8, 8, 8, 7, 6 and 2 words


def test_kind_and_storage_are_chosen_and_told(
    corpus: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = ["--model", str(checkpoint), "--kind", "hnsw", "--storage", "float16"]
    assert cli.main(["index", str(corpus), "--out", str(tmp_path / "index"), *options]) == 0
    assert "hnsw index in float16: 39 vectors of 4 dimensions, about 0 MB" in caplog.text
    assert cli.main(["info", str(tmp_path / "index")]) == 0
    assert "hnsw, float16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "{tmp}", "query"], "is no FastLane index"),
        (["search", "{index}", " "], "query 0 is empty"),
        (["search", "{index}", "sort", "--routes", "0"], "num_routes must be a positive integer"),
        (["search", "{index}", "sort", "--top-k", "0"], "top_k must be a positive integer, got 0"),
        (["search", "{index}", "sort", "--where", '{{"a": 1}}'], "no document has the field 'a'"),
        (["search", "{index}", "sort", "--rerank", "9"], "rerank must be at least top_k=10, got 9"),
        (["delete", "{index}", "d1", "x"], "no document has 1 of the ids, the first 'x'"),
        (["add", "{index}", "{tmp}/absent.jsonl"], "absent.jsonl"),
        (["info", "{tmp}"], "is no FastLane index"),
        (["search", "{index}", "sort", "--model", "{tmp}"], "is no FastLane checkpoint"),
        (["index", "{tmp}/absent.jsonl", "--out", "{tmp}/x"], "absent.jsonl"),
        (["index", "{corpus}", "--out", "{tmp}", "--model", "{checkpoint}"], "corpus.jsonl"),
        (["export", "{tmp}"], "exists and is not an empty folder"),
    ],
)
def test_a_problem_is_one_line_and_status_1(
    arguments: list[str],
    message: str,
    corpus: Path,
    checkpoint: Path,
    index_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"tmp": tmp_path, "corpus": corpus, "checkpoint": checkpoint, "index": index_folder}
    capsys.readouterr()
    assert cli.main([argument.format(**places) for argument in arguments]) == 1
    [line] = [text for text in capsys.readouterr().err.splitlines() if text.startswith("fastlane:")]
    assert message in line


def test_a_folder_of_others_is_refused_before_anything_is_encoded(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiet, "load_encoder", lambda name: pytest.fail("too late"))
    assert cli.main(["index", str(corpus), "--out", str(tmp_path)]) == 1


def test_a_model_of_another_dimension_is_refused(
    index_folder: Path, backbone_folder: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = backbone_folder("bert")  # type: ignore[operator]
    encoder = FastLaneEncoder.from_backbone(
        folder, embedding_dim=3, router_dim=8, calibration_texts=DOCUMENTS
    )
    encoder.save_pretrained(tmp_path / "other")
    model = ["--model", str(tmp_path / "other")]
    assert cli.main(["search", str(index_folder), "sort", *model]) == 1
    assert "the encoder gives 3-dimensional vectors, the index holds 4" in capsys.readouterr().err


def test_a_number_of_routes_is_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["search", "index", "query", "--routes", "few"])
    assert "expected a number, 'auto' or 'all', got 'few'" in capsys.readouterr().err


def test_marks_fall_on_words_and_excerpts_around_them(checkpoint: Path) -> None:
    encoder = FastLaneEncoder(checkpoint)
    text = "sort the long list"
    assert word_spans(encoder, text, [3, 1], "query") == [(0, 4), (9, 13)]
    assert word_spans(encoder, text, [0, 5], "query") == []  # the special tokens
    assert mark(text, [(0, 4), (9, 13)], MARKS) == "»sort« the »long« list"
    long = "a " * 50 + "here " + "b " * 50
    assert excerpt(long, [(100, 104)], (100, 104), ANSI_MARKS, 20) == (
        "… a a a a a \033[1;33mhere\033[0m b b b …"
    )


def test_no_hits_say_so(checkpoint: Path) -> None:
    assert format_hits(FastLaneEncoder(checkpoint), "sort", []) == "nothing found"


def test_importing_the_package_loads_no_torch() -> None:
    heavy = ("torch", "transformers", "faiss", "numpy")
    code = f"import sys, fastlane_st.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "fastlane-minilm"
    assert cli.main(["export", str(folder)]) == 0
    return folder


def test_the_default_checkpoint_is_what_export_writes(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTLANE_HOME", str(tmp_path / "home"))
    encoder = FastLaneEncoder("fastlane-minilm")
    [cached] = (tmp_path / "home").iterdir()
    names = {path.name for path in exported.iterdir()}
    assert {path.name for path in cached.iterdir()} == names
    for name in names - {"README.md"}:
        assert (cached / name).read_bytes() == (exported / name).read_bytes(), name
    assert encoder.get_embedding_dimension() == 384


def test_the_default_checkpoint_finds_the_passage_that_answers(exported: Path) -> None:
    encoder = FastLaneEncoder(exported)
    passages = ["json.load reads a file.", "Paris is in France.", "heapq keeps a heap of numbers."]
    index = encoder.build_index(passages)
    for num_routes in (1, None):
        hits = index.search(["What is the capital of France?"], top_k=1, num_routes=num_routes)
        assert [hit.id for [hit] in hits] == [1]


def test_export_gives_the_weights_that_the_delta_and_the_base_say(exported: Path) -> None:
    from safetensors.numpy import load_file

    written = load_file(exported / "model.safetensors")
    delta = load_file(hub.DELTA_FOLDER / "delta.safetensors")
    base = load_file(hub.base_weights() / "model.safetensors")
    for name, value in written.items():
        expected = delta[name] if name in delta else base[name.removeprefix("backbone.")]
        np.testing.assert_array_equal(value, expected, err_msg=name)


def test_weights_other_than_the_pinned_ones_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "BASE_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="are not sentence-transformers/all-MiniLM-L6-v2"):
        hub.export(tmp_path / "export")
    assert list(tmp_path.iterdir()) == []


def test_without_the_offline_package_the_message_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"fastlane-st\[offline\]"):
        hub.base_weights()
