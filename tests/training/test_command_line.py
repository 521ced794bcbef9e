"""What the training commands print, and their exit status, when a run doesn't end well."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from safetensors import SafetensorError

from tests.support.training import ROOT
from training import dense_twin, mine, train
from training.command_line import exit_status


@pytest.mark.parametrize(
    ("error", "printed"),
    [
        (ValueError("batch_size must be at least 1"), "run: batch_size must be at least 1\n"),
        (FileNotFoundError(2, "No such file", "x.yaml"), "run: [Errno 2] No such file: 'x.yaml'\n"),
        (ImportError("faiss is missing"), "run: faiss is missing\n"),
        (FloatingPointError("the loss is not finite"), "run: the loss is not finite\n"),
        (MemoryError(), "run: MemoryError\n"),
        (SafetensorError("header too large"), "run: header too large\n"),
    ],
)
def test_problems_are_a_line_and_exit_status_1(
    error: Exception, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    assert exit_status("run", fail, "start again") == 1
    assert capsys.readouterr().err == printed


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        exit_status("run", lambda: 1 / 0, "start again")


@pytest.fixture
def config(settings: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


Main = Callable[[list[str]], int]
TRAINING: dict[str, tuple[Main, list[str]]] = {
    "train": (train.main, []),
    "dense_twin": (dense_twin.main, ["--output", "unused"]),
}


@pytest.mark.parametrize("name", TRAINING)
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["batch_size=0"], "batch_size must be at least 1, got 0"),
        (["batchsize=8"], "unknown key batchsize; the nearest is batch_size"),
        (["seed"], "expected key=value, got 'seed'"),
        (["seed.one=1"], "seed must be a mapping, got 0"),
        (["frozen=['(']"], r"frozen holds no regex: '\('"),
    ],
)
def test_broken_settings_stop_a_command(
    name: str,
    overrides: list[str],
    message: str,
    config: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    main, options = TRAINING[name]
    assert main(["--config", str(config), *options, "seed=0", *overrides]) == 1
    assert re.fullmatch(rf"{name}: .*{message}.*\n", capsys.readouterr().err)


@pytest.mark.parametrize("name", TRAINING)
def test_a_missing_configuration_is_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main, options = TRAINING[name]
    assert main(["--config", "nowhere.yaml", *options]) == 1
    assert re.fullmatch(rf"{name}: .*nowhere\.yaml.*\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=/no/such/model", "/no/such/model"),
        ("sources=[{path: nowhere.jsonl}]", r"nowhere\.jsonl"),
        ("batch_size=64", "source a has 26 rows, fewer than one batch of 64"),
        ("attention=fast", "fast"),
        ("frozen=[backbone, projection, router]", "nothing is trained: frozen is"),
    ],
)
def test_what_a_run_can_not_load_stops_it(
    override: str, message: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["--config", str(config), override]) == 1
    printed = capsys.readouterr().err
    assert re.search(rf"^train: .*{message}", printed, re.MULTILINE)
    assert "Traceback" not in printed


def test_ctrl_c_says_how_to_go_on(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    for module, started in ((train, "train"), (dense_twin, "train_twin"), (mine, "mine")):
        monkeypatch.setattr(module, started, interrupt)
    for name, (main, options) in TRAINING.items():
        assert main(["--config", str(config), *options]) == 130
        assert re.fullmatch(rf"{name}: interrupted; with --resume .*\n", capsys.readouterr().err)
    assert mine.main(["--model", "m", "--source", "pairs.jsonl", "--out", "mined.jsonl"]) == 130
    printed = capsys.readouterr().err
    assert re.fullmatch(r"mine: interrupted; mined\.jsonl is as it was before.*\n", printed)


@pytest.mark.slow
def test_a_started_run_that_is_interrupted_exits_with_130(config: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "training.train", "--config", str(config), "max_steps=10000"]
    log = tmp_path / "run" / "log.jsonl"
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None and not (log.exists() and log.stat().st_size):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert "train: interrupted; with --resume it goes on" in printed
    assert "Traceback" not in printed
