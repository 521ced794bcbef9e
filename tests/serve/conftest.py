"""A served index: in a thread of this process, or in a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fastlane_st import FastLaneIndex, FastLaneModel
from fastlane_st.serve.settings import ServerSettings
from tests.conftest import DOCUMENTS

PATIENCE = 120.0
"""Seconds that a request may take: a busy machine fails no test."""
IDS = [f"d{number}" for number in range(len(DOCUMENTS))]
METADATA = [{"year": 2000 + number} for number in range(len(DOCUMENTS))]


class Served(NamedTuple):
    """A server in a thread: its address, the folder of its index, and the index itself."""

    url: str
    folder: Path
    index: FastLaneIndex


@pytest.fixture(scope="session")
def saved_index(
    checkpoint: Path, model: FastLaneModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of an index over `DOCUMENTS`, to be copied."""
    folder = tmp_path_factory.mktemp("served") / "index"
    index = FastLaneIndex.build(model, DOCUMENTS, IDS, metadata=METADATA)
    index.metadata["checkpoint"] = str(checkpoint)
    index.save(folder)
    return folder


@pytest.fixture
def folder(saved_index: Path, tmp_path: Path) -> Path:
    """A copy of the index that a test may change."""
    return Path(shutil.copytree(saved_index, tmp_path / "index"))


@pytest.fixture
def serve(folder: Path, model: FastLaneModel) -> Iterator[Callable[..., Served]]:
    """Starts servers of `folder` with given settings; they are stopped after the test."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    from fastlane_st.serve import create_app
    from fastlane_st.serve.running import address_of, bound_socket, uvicorn_server

    started: list[tuple[Any, threading.Thread]] = []

    def start(**settings: Any) -> Served:
        index = FastLaneIndex.load(folder, model)
        bound = bound_socket("127.0.0.1", 0)
        bound.listen()
        server = uvicorn_server(create_app(index, folder, ServerSettings(**settings)))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        started.append((server, thread))
        return Served(address_of(bound), folder, index)

    yield start
    for server, thread in started:
        server.should_exit = True
        thread.join()


@contextmanager
def server_process(
    folder: Path, *options: str, environment: dict[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`fastlane serve` as a process, with its address; it is killed at the end if it still runs."""
    command = [sys.executable, "-m", "fastlane_st.cli", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {}),
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://\S+", line)
            assert found, process.communicate()[1]
            yield process, found[0]
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)


def wait_for(is_so: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Waits for something that a busy machine may take long for."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def get(url: str, **options: Any) -> Any:
    """`httpx.get` with patience."""
    import httpx

    return httpx.get(url, timeout=PATIENCE, **options)


def post(url: str, **options: Any) -> Any:
    """`httpx.post` with patience."""
    import httpx

    return httpx.post(url, timeout=PATIENCE, **options)
