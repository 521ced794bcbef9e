"""The commands on index folders, on a tiny checkpoint."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

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
    assert sizes == [39, 9, 6]  # of 8, 8, 8, 7, 6 and 2 words


def test_kind_and_storage_are_chosen_and_told(
    corpus: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = ["--model", str(checkpoint), "--kind", "ivf", "--storage", "float16"]
    assert cli.main(["index", str(corpus), "--out", str(tmp_path / "index"), *options]) == 0
    assert "ivf index in float16 for about 39 vectors of 4 dimensions: 0 MB" in caplog.text
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
        "checkpoint_digest": FastLaneIndex.load(index_folder).checkpoint[0],
        "document_routes": "default",
        "long_texts": "window",
        "metadata_fields": [],
        "finished": True,
    }
    assert cli.main(["verify", str(index_folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "index": str(index_folder),
        "whole": True,
        "documents": 6,
        "token_vectors": 39,
        "finished": True,
    }
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


def test_info_says_which_checkpoint_made_the_index(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = FastLaneIndex.build(FastLaneEncoder(checkpoint), ["read"])
    index.save(tmp_path)
    assert cli.main(["info", str(tmp_path)]) == 0
    facts = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert ["checkpoint", "not named"] in facts
    assert ["its", f"digest           {index.checkpoint[0]}"] in facts


# --- what is unfinished


@pytest.fixture
def unfinished(
    corpus: Path,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Path:
    folder, encode = tmp_path / "unfinished", FastLaneEncoder.encode_document
    encoded: list[str] = []

    def interrupted(self: FastLaneEncoder, texts: list[str], **options: Any) -> Any:
        encoded.extend(texts)
        if len(encoded) > 4:
            raise KeyboardInterrupt
        return encode(self, texts, **options)

    with monkeypatch.context() as patch:
        patch.setattr(FastLaneEncoder, "encode_document", interrupted)
        patch.setattr("fastlane_st.index.feed._ENCODED_AT_ONCE", 2)
        patch.setattr("fastlane_st.index.feed.monotonic", itertools.count(0, 100).__next__)
        command = ["index", str(corpus), "--out", str(folder), "--model", str(checkpoint)]
        assert cli.main(command) == 130
    kept = f"4 documents are committed in {folder}: go on with --resume"
    assert f"fastlane: interrupted; {kept}\n" in capsys.readouterr().err
    return folder


def test_an_interrupted_index_keeps_its_work_and_goes_on(
    unfinished: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["index", str(corpus), "--out", str(unfinished)]
    text = corpus.read_text()
    corpus.write_text(text.replace("json loads", "json dumps"))
    assert cli.main([*command, "--resume"]) == 1
    assert "another corpus: 1 of its documents changed, such as 'd0'" in capsys.readouterr().err
    corpus.write_text(text)
    assert cli.main([*command, "--resume"]) == 0
    assert capsys.readouterr().out == f"6 documents, 39 token vectors in {unfinished}\n"


def test_an_unfinished_index_says_so(unfinished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    note = "4 of 6 documents are indexed; go on with 'fastlane index CORPUS --out"
    assert cli.main(["info", str(unfinished)]) == 0
    assert f"unfinished           {note}" in capsys.readouterr().out
    assert cli.main(["verify", str(unfinished)]) == 0
    assert f"is unfinished: {note}" in capsys.readouterr().out
    for command in ("info", "verify"):
        assert cli.main([command, str(unfinished), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["finished"], found["documents_in_corpus"]) == (False, 6)
    assert cli.main(["search", str(unfinished), "sort", "--json"]) == 0
    out, err = capsys.readouterr()
    assert f"fastlane: {unfinished} is unfinished: {note}" in err
    assert len(out.splitlines()) == 4


@pytest.mark.parametrize(
    "command", [["add", "{}", "more.jsonl"], ["delete", "{}", "d1"], ["compact", "{}"]]
)
def test_an_unfinished_index_is_not_changed(
    command: list[str], unfinished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([word.format(unfinished) for word in command]) == 1
    refused = f"{unfinished} is unfinished, finish it before any change: 4 of 6 documents"
    assert refused in capsys.readouterr().err
    assert len(FastLaneIndex.load(unfinished)) == 4


def test_an_add_goes_on(
    index_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = tmp_path / "more.csv"
    more.write_text("id,text,year\nd9,read the file,2008\n")
    assert cli.main(["add", str(index_folder), str(more)]) == 0
    more.write_text(more.read_text() + "d10,sort,2009\n")
    capsys.readouterr()
    assert cli.main(["add", str(index_folder), str(more), "--resume"]) == 0
    assert capsys.readouterr().out.startswith("1 added or replaced, 1 there already: 8 documents")
    more.write_text("id,text,year\nd9,read the file,2010\n")
    assert cli.main(["add", str(index_folder), str(more), "--resume"]) == 1
    assert "1 of the ids are there already, the first 'd9'" in capsys.readouterr().err
    assert cli.main(["add", str(index_folder), str(more), "--resume", "--replace"]) == 0
    assert FastLaneIndex.load(index_folder).get(["d9"])[0].metadata == {"year": 2010}


def test_an_interrupted_add_says_how_it_goes_on(
    index_folder: Path,
    corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("fastlane_st.index.adding.add_to_folder", interrupted)
    assert cli.main(["add", str(index_folder), str(corpus)]) == 130
    assert "6 documents are committed in" in capsys.readouterr().err


# --- corpora


def test_a_corpus_comes_from_standard_input_and_is_filtered_by_its_columns(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def give(text: str) -> None:
        monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(text.encode())))

    out = str(tmp_path / "index")
    give('{"key": "a", "body": "read", "year": 2008}\n{"key": "b", "body": "sort", "year": 2020}\n')
    columns = ["--text-column", "body", "--id-column", "key"]
    assert cli.main(["index", "-", "--out", out, "--model", str(checkpoint), *columns]) == 0
    give('{"key": "c", "body": "set", "year": 2021, "tags": []}\n')
    assert cli.main(["add", out, "-", *columns]) == 0
    capsys.readouterr()
    assert cli.main(["search", out, "read", "--where", '{"year": {"$gt": 2008}}', "--json"]) == 0
    found = [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()]
    assert sorted(found) == ["b", "c"]
    give("broken")
    assert cli.main(["add", out, "-"]) == 1
    assert "standard input:1: broken JSON" in capsys.readouterr().err


def test_what_is_left_out_is_said_once_on_standard_error(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("read")
    (folder / "b\x1b[2J.txt").write_bytes(b"\xff")
    (folder / "c.pdf").write_bytes(b"")
    command = ["index", str(folder), "--out", str(tmp_path / "out"), "--model", str(checkpoint)]
    code = f"import sys; from fastlane_st.cli import main; sys.exit(main({command!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("passed over: 1 .pdf\n") == 1
    assert done.stderr.count(r"passed over: b\x1b[2J.txt (") == 1
    assert "\x1b[2J" not in done.stderr


# --- what is in an index


def test_documents_are_listed_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = FastLaneIndex.from_embeddings(
        [[[1.0]]] * 3,
        ids=["a\n", 7, "7b"],
        texts=["one\ntwo\x1b[2J", "three", ""],
        metadata=[{"year": 2008, "lang": "dé"}, {}, {}],
    )
    index.save(tmp_path)
    assert cli.main(["list", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "a\\n\n7\n7b\n"
    assert cli.main(["list", str(tmp_path), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows == [{"id": "a\n"}, {"id": 7}, {"id": "7b"}]
    assert cli.main(["show", str(tmp_path), "7", "a\n"]) == 0
    assert capsys.readouterr().out == (
        '7\n    three\n\na\\n\n  year: 2008\n  lang: "dé"\n    one\n    two\\x1b[2J\n\n'
    )
    assert cli.main(["show", str(tmp_path), "7", "--json"]) == 0
    shown = {"id": 7, "text": "three", "metadata": {}}
    assert json.loads(capsys.readouterr().out) == shown


def test_long_texts_are_said_and_remembered(
    tmp_path: Path,
    checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    corpus, more, folder = (tmp_path / name for name in ("corpus.csv", "more.csv", "index"))
    corpus.write_text(f"_id,text\na,sort\nlong,{' '.join(['json'] * 30)}\n")
    more.write_text(f"_id,text\nb,{'read ' * 25}\n")
    build = ["index", str(corpus), "--out", str(folder), "--model", str(checkpoint)]
    assert cli.main([*build, "--long-texts", "error"]) == 1
    said = capsys.readouterr().err
    assert "fastlane: document 'long' has more than the 12 tokens" in said
    assert "or let --long-texts window index all of it" in said
    caplog.clear()
    assert cli.main([*build, "--long-texts", "cut"]) == 0
    assert (
        "1 document is longer than the 12 tokens that the encoder reads: cut there" in caplog.text
    )
    assert cli.main(["info", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["long_texts"] == "cut"
    assert cli.main(["add", str(folder), str(more)]) == 0
    assert FastLaneIndex.load(folder).num_vectors == 21
    caplog.clear()
    assert cli.main(["add", str(folder), str(more), "--replace", "--long-texts", "window"]) == 0
    assert (
        "1 document is longer than the 12 tokens that the encoder reads: indexed as" in caplog.text
    )
    assert FastLaneIndex.load(folder).num_vectors == 36
    with pytest.raises(SystemExit):
        cli.main([*build, "--long-texts", "windows"])
    assert (
        "invalid choice: 'windows' (choose from 'window', 'cut', 'error')"
        in capsys.readouterr().err
    )
