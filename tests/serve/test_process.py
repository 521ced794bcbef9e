"""`fastlane serve` as a process: its options, how it stops, and what is left when it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fastlane_st import FastLaneIndex, cli
from tests.serve.conftest import IDS, get, post, server_process, wait_for

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from fastlane_st.serve import FastLaneClient  # noqa: E402
from fastlane_st.serve.running import bound_socket  # noqa: E402

KEY = "correct-horse-battery-staple"
needs_signals = pytest.mark.skipif(os.name == "nt", reason="needs signals")


@pytest.mark.slow
@needs_signals
def test_every_acknowledged_write_is_there_after_sigkill(folder: Path) -> None:
    written: list[str] = []
    deleted: list[str] = []
    unsure: set[str] = set()

    def write(writer: int, url: str) -> None:
        with FastLaneClient(url) as client:
            for number in range(10_000):
                id = f"{writer}-{number}"
                unsure.add(id)
                try:
                    client.upsert([f"sort the list {number}"], [id], [{"number": number}])
                    written.append(id)
                    unsure.discard(id)
                    if number % 3 == 2:
                        unsure.add(id)
                        client.delete([id])
                        deleted.append(id)
                        unsure.discard(id)
                except httpx.TransportError:
                    return

    with server_process(folder) as (process, url):
        writers = [threading.Thread(target=write, args=(writer, url)) for writer in range(3)]
        for one in writers:
            one.start()
        wait_for(lambda: len(written) >= 12 and len(deleted) >= 2, "no writes", 200)
        process.send_signal(signal.SIGKILL)
        for one in writers:
            one.join()
    with server_process(folder) as (process, url), FastLaneClient(url) as client:
        there = {*written} - {*deleted} - unsure
        found = client.get(sorted({*IDS, *there}))
        assert {one.metadata["number"] for one in found if one.id in there} == {
            int(id.partition("-")[2]) for id in there
        }
        assert client.describe()["documents"] - len(found) <= len(unsure)
        for id in {*deleted} - unsure:
            assert post(f"{url}/documents/get", json={"ids": [id]}).status_code == 404
        client.add(["set"], ["after"])  # the folder isn't locked
    assert "after" in FastLaneIndex.load(folder)


@pytest.mark.slow
@needs_signals
def test_sigterm_ends_the_process_after_the_requests_that_were_accepted(folder: Path) -> None:
    texts = ["sort the list of number and string"] * 300
    with server_process(folder, environment={"FASTLANE_API_KEY": KEY}) as (process, url):
        assert get(f"{url}/index").status_code == 401
        results: list[int] = []

        def add() -> None:
            with FastLaneClient(url, KEY, timeout=300) as client:
                results.append(len(client.add(texts)))

        thread = threading.Thread(target=add)
        thread.start()
        headers = {"x-api-key": KEY}
        wait_for(
            lambda: "fastlane_changes_running 1.0" in get(f"{url}/metrics", headers=headers).text,
            "the change didn't begin",
        )
        process.send_signal(signal.SIGTERM)
        thread.join()
        assert process.wait(120) == 0
        assert process.stderr is not None
        assert "sort the list" not in process.stderr.read()
    assert results == [300]
    assert len(FastLaneIndex.load(folder)) == 306


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-batch", "0"], "--max-batch must be a positive integer, got 0"),
        (["--max-wait-ms", "-1"], "--max-wait-ms must be between 0 and 1000"),
        (["--api-key-env", "NO_SUCH_KEY"], "the environment variable NO_SUCH_KEY isn't set"),
        (["--port", "70000"], "port must be between 0 and 65535, got 70000"),
        (["--host", "no.such.host.invalid"], "can't listen at no.such.host.invalid:8000"),
    ],
)
def test_wrong_options_are_named_before_anything_is_loaded(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["serve", str(tmp_path / "none"), *options]) == 1
    assert message in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with bound_socket("127.0.0.1", 0) as taken:
        taken.listen()
        port = str(taken.getsockname()[1])
        assert cli.main(["serve", str(tmp_path / "none"), "--port", port]) == 1
    assert (
        f"can't listen at 127.0.0.1:{port}: Address already in use; take another port"
        in capsys.readouterr().err
    )


def test_a_folder_without_an_index_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["serve", str(tmp_path / "none"), "--port", "0"]) == 1
    assert "none" in capsys.readouterr().err


@pytest.mark.slow
def test_the_client_and_the_command_load_nothing_of_the_extra_before_they_need_it() -> None:
    code = (
        "import sys, fastlane_st.serve, fastlane_st.cli.main\n"
        "loaded = {'fastapi', 'uvicorn', 'httpx', 'prometheus_client', 'torch'} & set(sys.modules)\n"
        "sys.exit(str(loaded) if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
