"""The commands that measure: they print a table, write JSON, and refuse early."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from fastlane_st import cli
from tests.support.collections import write_tiny_collection


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_collection(tmp_path_factory.mktemp("data") / "tiny")


def test_evaluate_prints_and_writes(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, runs = tmp_path / "found.json", tmp_path / "runs"
    arguments = ["--routes", "1,2,all", "--json", str(out), "--runs", str(runs)]
    more = ["--document-routes", "0.5", "--limit-queries", "3"]
    assert cli.main(["evaluate", str(checkpoint), str(data), *arguments, *more]) == 0
    found = json.loads(out.read_text())
    assert list(found["means"]) == ["1", "2", "all"]
    assert list(found["differences"]) == ["1 - 2", "1 - all", "2 - all"]
    assert found["queries"] == 3
    assert f"{found['means']['1']['ndcg@10']:.4f}" in capsys.readouterr().out
    assert len(list(runs.iterdir())) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "dev"], "dev.tsv: no such split; there: test"),
        (["--routes", "1,1"], "--routes must be different settings, got 1, 1"),
        (["--routes", "0,1"], "--routes must be a positive integer or 'all', got 0"),
        (["--routes", "1,-2"], "--routes must be a positive integer or 'all', got -2"),
        (["--routes", "0.5"], "--routes must be a positive integer or 'all', got 0.5"),
        (["--document-routes", "0"], "--document-routes must be a positive integer, a fraction"),
        (["--document-routes", "1.5"], "--document-routes must be a positive integer, a fraction"),
        (["--batch-size", "0"], "--batch-size must be a positive integer, got 0"),
        (["--limit-queries", "0"], "--limit-queries must be a positive integer or None, got 0"),
        (["--rerank", "10"], "--rerank is for the search of an index: name one with --index"),
        (["--index", "x", "--rerank", "10"], "--rerank applies to routed searches, got 10 with"),
        (["--index", "x", "--rerank", "0", "--routes", "1"], "--rerank must be a positive integer"),
        (["--index", "nowhere"], "nowhere"),
        (["--index", "x", "--document-routes", "4"], "an index has its own document routes"),
    ],
)
def test_what_is_wrong_is_said_before_the_checkpoint_is_loaded(
    arguments: list[str], message: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", "no-such-checkpoint", str(data), *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_missing_pytrec_eval_is_said_before_the_checkpoint_is_loaded(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pytrec_eval", None)
    assert cli.main(["evaluate", "no-such-checkpoint", str(data)]) == 1
    assert "metrics need pytrec_eval: pip install" in capsys.readouterr().err


def test_runs_that_cannot_be_written_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    for folder, message in (
        ("absent/runs", "there is no folder absent to make runs in"),
        ("file", "file is a file: name a folder"),
        ("file/runs", "there is no folder file to make runs in"),
    ):
        assert cli.main(["evaluate", "no-such-checkpoint", "no-data", "--runs", folder]) == 1
        assert message in capsys.readouterr().err
    assert cli.main(["evaluate", "no-such-checkpoint", "no-data", "--runs", "new"]) == 1
    assert "no-data: no such folder" in capsys.readouterr().err


def test_nano_beir_prints_and_writes(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("datasets")
    pytest.importorskip("pyarrow")
    from tests.support.nano_beir import two_data_sets

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder, out = two_data_sets(tmp_path / "nano"), tmp_path / "found.json"
    arguments = ["--nano-beir", "--nano-beir-data", str(folder), "--data-sets", "nq, msmarco"]
    assert cli.main(["evaluate", str(checkpoint), *arguments, "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert list(found["means"]) == ["1", "2", "all"]
    assert list(found["data_sets"]) == ["NanoNQ", "NanoMSMARCO"]
    printed = capsys.readouterr().out
    assert printed.startswith(f"NanoBEIR from {folder}, nDCG@10")
    assert f"{found['means']['1']['ndcg@10']:.4f}" in printed.splitlines()[-1]
    assert cli.main(["evaluate", str(checkpoint), *arguments, "--routes", "4"]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("documents         4")

    arguments[-1] = "fever"
    assert cli.main(["evaluate", "no-such-checkpoint", *arguments]) == 1
    error = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]
    assert error.startswith("fastlane: NanoFEVER can't be read: ")
    assert error.endswith("makes a folder to name with --nano-beir-data")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "--nano-beir"], "DATA can't be given with --nano-beir: leave it out"),
        (["--nano-beir", "--index", "x"], "--index can't be given with --nano-beir"),
        (["--nano-beir", "--rerank", "9"], "--rerank can't be given with --nano-beir"),
        (["--nano-beir", "--split", "dev"], "--split can't be given with --nano-beir"),
        (["--nano-beir", "--limit-queries", "9"], "--limit-queries can't be given"),
        (["--nano-beir", "--limit-documents", "9"], "--limit-documents can't be given"),
        (["--nano-beir", "--runs", "x"], "--runs can't be given with --nano-beir"),
        (["--nano-beir", "--data-sets", "nqq"], "--data-sets must be different ones of climate"),
        (["--nano-beir", "--routes", "1,1"], "--routes must be different settings, got 1, 1"),
        (["--nano-beir", "--nano-beir-data", "x"], "there is no folder x"),
        (["data", "--data-sets", "nq"], "--data-sets is for --nano-beir: leave it out"),
        (["--nano-beir-data", "x"], "--nano-beir-data is for --nano-beir: leave it out"),
    ],
)
def test_options_that_do_not_go_with_nano_beir_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", "no-such-checkpoint", *arguments]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("fastlane: ")
    assert message in line


def test_diagnose_prints_and_writes(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found.json"
    assert cli.main(["diagnose", str(checkpoint), str(data), "--json", str(out)]) == 0
    assert json.loads(out.read_text())["collection"] == "tiny:test"
    assert "tiny:test: " in capsys.readouterr().out


@pytest.mark.parametrize("command", ["evaluate", "diagnose"])
def test_a_file_that_cannot_be_written_is_refused_before_any_work(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file, message in (
        (
            tmp_path / "absent" / "x.json",
            f"there is no folder {tmp_path / 'absent'} to write x.json",
        ),
        (tmp_path, f"{tmp_path} is a folder"),
    ):
        assert cli.main([command, "no-such-checkpoint", "no-data", "--json", str(file)]) == 1
        assert message in capsys.readouterr().err
