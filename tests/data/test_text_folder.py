"""A folder of texts: what can't be read is passed over and said, and the rest is read."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from fastlane_st.data.corpus import CorpusDocument, read_corpus


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("fine")
    return folder


def test_files_of_other_kinds_are_counted_and_said_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.pdf", "b.PDF", "sub/c.pdf", "page.html", "LICENSE", ".hidden"):
        (folder / name).write_bytes(b"\xff")
    assert list(read_corpus(folder)) == [CorpusDocument("a.txt", "fine")]
    assert caplog.messages == [f"{folder}: passed over: 3 .pdf, 1 .html, 1 file without a suffix"]


@pytest.mark.parametrize("name", ["sub/b.txt", "0.md"])
def test_a_file_that_is_not_utf8_is_named_and_the_others_are_read(
    name: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / name).write_bytes(b"one\ntwo\nthr\xe9e")
    assert [one.id for one in read_corpus(folder)] == ["a.txt"]
    assert f"passed over: {name} ({name}:3: byte 0xe9 is not UTF-8" in caplog.text


def test_links_are_followed_to_files_and_said_where_they_lead_nowhere(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "c.txt").write_text("linked")
    (folder / "file.txt").symlink_to(tmp_path / "elsewhere" / "c.txt")
    (folder / "gone.txt").symlink_to(tmp_path / "absent.txt")
    (folder / "loop.txt").symlink_to(folder / "loop.txt")
    (folder / "sub" / "more").symlink_to(tmp_path / "elsewhere")
    assert [one.id for one in read_corpus(folder)] == ["a.txt", "file.txt"]
    [message] = caplog.messages
    for named in ("sub/more (a linked folder)", "gone.txt (a broken link)", "loop.txt (a broken"):
        assert named in message


def test_a_pipe_in_the_folder_is_not_waited_for(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.mkfifo(folder / "pipe.txt")
    assert [one.id for one in read_corpus(folder)] == ["a.txt"]
    assert "pipe.txt (no file)" in caplog.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "secret.txt").write_text("x")
    (folder / "secret.txt").chmod(0)
    (folder / "sub").chmod(0)
    assert [one.id for one in read_corpus(folder)] == ["a.txt"]
    assert "secret.txt (Permission denied)" in caplog.text
    assert "sub (Permission denied)" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
def test_a_name_that_is_not_utf8_is_escaped_in_the_id(folder: Path) -> None:
    os.close(os.open(os.fsencode(folder) + b"/caf\xe9.txt", os.O_CREAT | os.O_WRONLY))
    assert [one.id for one in read_corpus(folder)] == ["a.txt", r"caf\xe9.txt"]


def test_many_files_are_not_all_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(8):
        (folder / f"b{number}.txt").write_bytes(b"\xff")
    assert [one.id for one in read_corpus(folder)] == ["a.txt"]
    assert "b4.txt" in caplog.text
    assert "b5.txt" not in caplog.text
    assert caplog.text.rstrip().endswith("and 3 more")
    (folder / "a.txt").unlink()
    with pytest.raises(ValueError, match=r"holds no document; .*passed over: b0\.txt .*3 more"):
        list(read_corpus(folder))
