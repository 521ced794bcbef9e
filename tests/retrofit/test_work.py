"""The folder of a run's work: of one process at a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fastlane_st import FastLaneEncoder
from fastlane_st.retrofit.retrofit import retrofit
from fastlane_st.retrofit.work import work_folder
from tests.retrofit.test_retrofit import SHORT, corpus
from tests.support.late_interaction import write_pylate


@pytest.mark.parametrize("resume", [False, True])
def test_two_runs_do_not_write_one_folder_at_once(resume: bool, tmp_path: Path) -> None:
    write_pylate("bert", tmp_path / "original")
    output = tmp_path / "routed"
    with work_folder(output, resume) as work:
        work.mkdir()
        with pytest.raises(BlockingIOError, match=r"routed\.partial is being written by someone"):
            retrofit(tmp_path / "original", output, corpus(120), training=SHORT, resume=resume)
        with work_folder(tmp_path / "other", resume) as other:  # another run is free to go on
            assert other.name == "other.partial"
        work.rmdir()
    retrofit(tmp_path / "original", output, corpus(120), training=SHORT, resume=resume)
    assert FastLaneEncoder(output).encode_query("sort", num_routes=1).shape == (1, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["original", "routed"]


def test_what_is_there_is_seen_by_whoever_comes_next(tmp_path: Path) -> None:
    with work_folder(tmp_path / "out", resume=False) as work:
        work.mkdir()
    stopped = r"out\.partial holds a run that was stopped"
    with pytest.raises(FileExistsError, match=stopped), work_folder(tmp_path / "out", False):
        pass
    with work_folder(tmp_path / "out", resume=True) as work:
        work.rename(tmp_path / "out")
    exists = "out exists: name a new folder"
    with pytest.raises(FileExistsError, match=exists), work_folder(tmp_path / "out", True):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_a_run_that_was_killed_leaves_its_work_and_no_lock(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from fastlane_st.retrofit.work import work_folder\n"
        "with work_folder(Path(sys.argv[1]), False) as work: work.mkdir(); os.kill(os.getpid(), 9)"
    )
    output = tmp_path / "out"
    assert subprocess.run([sys.executable, "-c", code, str(output)], check=False).returncode == -9
    with work_folder(output, resume=True) as work:
        assert work.is_dir()
