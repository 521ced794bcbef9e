"""The commands on index folders, on a tiny checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fastlane_st import FastLaneEncoder, FastLaneIndex, cli, loading


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
    options = ["--model", str(checkpoint), "--kind", "ivf", "--storage", "float16"]
    assert cli.main(["index", str(corpus), "--out", str(tmp_path / "index"), *options]) == 0
    assert "ivf index in float16: 39 vectors of 4 dimensions, about 0 MB" in caplog.text
    assert cli.main(["info", str(tmp_path / "index")]) == 0
    assert "ivf, float16" in capsys.readouterr().out


def test_a_folder_of_others_is_refused_before_anything_is_encoded(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "load_encoder", lambda name: pytest.fail("too late"))
    assert cli.main(["index", str(corpus), "--out", str(tmp_path)]) == 1


def test_an_unknown_kind_is_refused_with_the_kinds_of_the_engine(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for option, known in (("--kind", ("auto", "flat", "ivf")), ("--storage", ("int8", "pq"))):
        with pytest.raises(SystemExit) as raised:
            cli.main(["index", "corpus.jsonl", "--out", "x", option, "fast"])
        assert raised.value.code == 2
        message = capsys.readouterr().err
        assert f"Invalid value for '{option}': invalid choice: 'fast'" in message
        assert all(repr(name) in message for name in known)
        assert cli.main(["index", "--help"]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert all(f"{name}, " in shown or f"{name}: " in shown for name in known)


def test_a_negative_number_is_an_id_and_an_unknown_option_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    FastLaneIndex.from_embeddings([[[1.0]]] * 2, ids=[1, -2]).save(tmp_path)
    assert cli.main(["delete", str(tmp_path), "--now", "-2"]) == 1
    assert "'--now'" in capsys.readouterr().err
    assert cli.main(["delete", str(tmp_path), "-2"]) == 0
    assert FastLaneIndex.load(tmp_path).ids == [1]


def test_info_and_verify_print_json(
    index_folder: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert cli.main(["info", str(index_folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "documents": 6,
        "token_vectors": 39,  # of 8, 8, 8, 7, 6 and 2 words
        "dim": 4,
        "kind": "flat",
        "storage": "float32",
        "bytes": sum(path.stat().st_size for path in index_folder.iterdir()),
        "checkpoint": str(checkpoint),
        "document_routes": "default",
        "metadata_fields": [],
    }
    assert cli.main(["verify", str(index_folder), "--json"]) == 0
    whole = {"index": str(index_folder), "whole": True, "documents": 6, "token_vectors": 39}
    assert json.loads(capsys.readouterr().out) == whole
    [vectors] = index_folder.glob("vectors-*")
    vectors.write_bytes(vectors.read_bytes()[:-1])
    assert cli.main(["verify", str(index_folder), "--json"]) == 1
    out, err = capsys.readouterr()
    broken = json.loads(out)
    assert (broken["index"], broken["whole"]) == (str(index_folder), False)
    assert vectors.name in broken["problem"]
    assert err == f"fastlane: {broken['problem']}\n"


def test_an_index_names_its_model_from_any_working_directory(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    shutil.copytree(checkpoint, tmp_path / "models" / "mine")
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "text": "read a file"}\n')
    monkeypatch.chdir(tmp_path)
    assert cli.main(["index", "corpus.jsonl", "--out", "idx", "--model", "models/mine"]) == 0
    monkeypatch.chdir(tmp_path / "models")
    assert cli.main(["search", str(tmp_path / "idx"), "read"]) == 0


@pytest.mark.parametrize("committed", [False, True])
def test_an_interrupted_build_says_what_is_kept(
    committed: bool,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(folder: str, encoder: FastLaneEncoder, *_: object, **__: object) -> None:
        if committed:
            FastLaneIndex.build(encoder, ["read", "sort"]).save(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr("fastlane_st.index.building.build_folder", interrupted)
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "text": "read a file"}\n')
    out = tmp_path / "out"
    command = ["index", str(tmp_path / "corpus.jsonl"), "--out", str(out)]
    assert cli.main([*command, "--model", str(checkpoint)]) == 130
    kept = f"2 documents are committed in {out}: go on with --resume"
    lost = f"nothing was committed to {out} yet: start again"
    assert capsys.readouterr().err.endswith(f"interrupted; {kept if committed else lost}\n")
