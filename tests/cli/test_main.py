"""The command as a whole: its options, exit codes, streams and start-up."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastlane_st import FastLaneIndex, __version__, cli
from fastlane_st.cli import index as index_commands

OPTIONS = {
    "export": "--code-from --onnx --quantize",
    "index": "--out --model --document-routes --long-texts --kind --storage --batch-size --resume "
    "--processes --backend --dtype --part --text-column --id-column",
    "add": "--model --batch-size --replace --resume --long-texts --backend --dtype --text-column --id-column",
    "delete": "",
    "compact": "",
    "info": "--json",
    "verify": "--json",
    "list": "--json",
    "show": "--json",
    "search": "--model --where --rerank --top-k --routes --hybrid --json",
    "explain": "--model --routes --out --json",
    "serve": "--host --port --model --api-key-env --read-only --memory-map --max-batch --max-wait-ms "
    "--max-queue --max-body-bytes --max-texts --max-text-length --max-top-k",
    "evaluate": "--split --limit-queries --limit-documents --batch-size --json --routes "
    "--document-routes --index --rerank --runs --nano-beir --data-sets --nano-beir-data",
    "diagnose": "--split --limit-queries --limit-documents --batch-size --json",
    "encode": "--out --model --engine --workers --gpus-per-worker --processes --document-routes --long-texts "
    "--storage --shard-size --batch-size --backend --dtype --text-column --id-column --json",
    "export-vectors": "--to --name --model --storage --document-routes --long-texts --batch-size "
    "--text-column --id-column --json",
    "adapt": "--out --model --other --steps --max-documents --seed --batch-size",
    "retrofit": "--out --corpus --index --pairs --context --layers --steps --max-documents --batch-size "
    "--resume --trust-remote-code",
    "push": "--private --revision --message",
    "inspect": "--revision --json",
    "demo": "--top-k --routes --backend --dtype",
}


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_help_lists_every_command_and_option_in_plain_lines(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert cli.main(["--help"]) == 0
    pages = {"": capsys.readouterr().out}
    assert re.findall(r"^  ([a-z][a-z-]*) ", pages[""], re.MULTILINE) == list(OPTIONS)
    for command, options in OPTIONS.items():
        assert cli.main([command, "-h"]) == 0
        pages[command] = capsys.readouterr().out
        found = re.findall(r"^  (--[a-z-]+)", pages[command], re.MULTILINE)
        assert sorted(found) == sorted(options.split())
    assert "a folder of texts" in " ".join(pages["index"].split())  # of an argument, not an option
    for page in pages.values():
        assert page.isascii()
        assert "\x1b" not in page
        assert max(map(len, page.splitlines())) <= columns


def test_version_and_help_import_nothing_heavy() -> None:
    code = (
        "import sys; from fastlane_st.cli import main\n"
        "heavy = ('torch', 'transformers', 'faiss', 'numpy')\n"
        "def loaded(): return [name for name in heavy if name in sys.modules]\n"
        "for arguments in (['--version'], ['--help'], ['search', '--help'], ['demo', '--help']):\n"
        "    status = main(arguments)\n"
        "    assert (status, loaded()) == (0, []), (arguments, status, loaded())\n"
        "assert main(['index', '--help']) == 0\n"
        "assert set(loaded()) <= {'numpy'}, loaded()\n"
    )
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)


def test_importing_the_package_loads_no_torch() -> None:
    heavy = ("torch", "transformers", "faiss", "numpy")
    code = f"import sys, fastlane_st.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "{tmp}", "query"], "is no FastLane index"),
        (["search", "{index}", " "], "query 0 is empty"),
        (["search", "{index}", "sort", "--routes", "0"], "--routes must be a positive integer"),
        (
            ["search", "{index}", "sort", "--top-k", "0"],
            "--top-k must be a positive integer, got 0",
        ),
        (["search", "{index}", "sort", "--where", '{{"a": 1}}'], "no document has the field 'a'"),
        (
            ["search", "{index}", "sort", "--rerank", "9", "--top-k", "10"],
            "--rerank must be at least --top-k 10, got 9",
        ),
        (["search", "{index}", "sort", "--rerank", "0"], "--rerank must be a positive integer"),
        (
            ["search", "{index}", "sort", "--rerank", "5", "--routes", "all"],
            "--rerank applies to routed searches, got 5 with --routes all",
        ),
        (
            "index {corpus} --out {tmp}/x --model {checkpoint} --document-routes 0".split(),
            "--document-routes must be a positive integer, a fraction",
        ),
        (["index", "{corpus}", "--out", "{index}"], "or go on with --resume"),
        (["index", "{corpus}", "--out", "{index}", "--resume"], "use 'fastlane add'"),
        (["index", "{corpus}", "--out", "{tmp}/x", "--text-column", "body"], "with --text-column"),
        (["add", "{index}", "{corpus}"], "'d0': --replace puts the new ones in their place"),
        (["add", "{index}", "{corpus}", "--batch-size", "0"], "--batch-size must be a positive"),
        (
            ["delete", "{index}", "d1", "x"],
            "no document has the id 'x': 'fastlane list INDEX' lists those",
        ),
        (["show", "{index}", "x"], "no document has the id 'x': 'fastlane list INDEX' lists those"),
        (["add", "{index}", "{tmp}/absent.jsonl"], "absent.jsonl"),
        (["info", "{tmp}"], "is no FastLane index"),
        (["search", "{index}", "sort", "--model", "{tmp}"], "is no FastLane checkpoint"),
        (["index", "{tmp}/absent.jsonl", "--out", "{tmp}/x"], "absent.jsonl"),
        (["index", "{corpus}", "--out", "{tmp}", "--model", "{checkpoint}"], "corpus.jsonl"),
        (["export", "{tmp}"], "exists and is not an empty folder"),
        (
            ["export", "{tmp}/x", "--code-from", "a/b@main"],
            "--code-from must be 'owner/repo@commit'",
        ),
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


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_folder_that_cannot_be_exported_to_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "/proc/x"]) == 1
    assert "fastlane: /proc/x can't be written: " in capsys.readouterr().err
    assert cli.main(["export", "/dev/null/x"]) == 1
    assert "fastlane: /dev/null/x can't be written: " in capsys.readouterr().err


def test_a_number_of_routes_is_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["search", "index", "query", "--routes", "few"])
    assert "expected a number or 'all', got 'few'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing command"),
        (["find"], "No such command 'find'"),
        (["search", "index"], "Missing argument 'QUERY'"),
        (["search", "index", "query", "--top", "3"], "No such option"),
        (["search", "index", "query", "--top-k", "few"], "Invalid value for '--top-k'"),
        (["index", "corpus.jsonl"], "Missing option '--out'"),
        (["evaluate", "model", "data", "--routes", "1,few"], "expected a number or 'all'"),
        (["evaluate", "model"], "Invalid value for DATA: name a BEIR folder, or give --nano-beir"),
        (["delete", "index"], "Missing argument 'ID'"),
    ],
)
def test_wrong_usage_ends_with_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(arguments)
    assert raised.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Usage: fastlane" in err


def test_ctrl_c_ends_quietly_with_status_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(folder: str) -> FastLaneIndex:
        raise KeyboardInterrupt

    monkeypatch.setattr(index_commands, "load", interrupt)
    assert cli.main(["info", "index"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_closed_pipe_ends_quietly(tmp_path: Path) -> None:
    code = (
        "import sys; from fastlane_st.cli import index, main\n"
        "class Loaded(list):\n"
        "    num_vectors = 3\n"
        "    metadata = {}\n"
        "index.load = lambda folder: Loaded()\n"
        f"sys.exit(main(['verify', {str(tmp_path)!r}]))\n"
    )
    for options in ([], ["-u"]):
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, *options, "-c", code]
        environment = {**os.environ, "PYTHONUNBUFFERED": ""}
        done = subprocess.run(
            command, stdout=writer, stderr=subprocess.PIPE, check=False, env=environment
        )
        os.close(writer)
        assert (done.returncode, done.stderr) == (141, b""), options


def test_a_pipe_that_breaks_elsewhere_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lose_worker(folder: str) -> FastLaneIndex:
        raise BrokenPipeError("a worker is gone\x1b[2J")

    monkeypatch.setattr(index_commands, "load", lose_worker)
    assert cli.main(["info", "index"]) == 1
    assert capsys.readouterr().err == "fastlane: a worker is gone\\x1b[2J\n"


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "fastlane_st.cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{__version__}\n"
