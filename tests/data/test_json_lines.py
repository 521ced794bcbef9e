"""Reading JSON lines: every row comes with its origin, every fault names its line."""

from __future__ import annotations

import gzip
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest

from fastlane_st.data.corpus import read_corpus
from fastlane_st.data.json_lines import read_json_lines, read_lines


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data) if path.name.lower().endswith(".gz") else data)
    return path


def read(path: Path) -> list[tuple[str, dict[str, Any]]]:
    return list(read_json_lines(path))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "ROWS.JSONL.GZ", "rows"])
def test_rows_come_with_file_and_line_and_blank_lines_count(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, b'\xef\xbb\xbf{"a": 1}\n\n  \r\n{"a": "\xc3\xa9\xe2\x80\xa8"}')
    assert read(path) == [(f"{path}:1", {"a": 1}), (f"{path}:4", {"a": "é\u2028"})]


def test_an_empty_file_holds_no_rows(tmp_path: Path) -> None:
    assert read(write(tmp_path / "rows.jsonl", b"")) == []


def test_lines_keep_their_ends_and_break_at_newlines_only(tmp_path: Path) -> None:
    path = write(tmp_path / "lines", "a\rb\u2028c\r\n\nd".encode())
    assert list(read_lines(path)) == ["a\rb\u2028c\r\n", "\n", "d"]


def test_rows_before_a_fault_are_yielded(tmp_path: Path) -> None:
    rows = read_json_lines(write(tmp_path / "rows.jsonl", b'{"a": 1}\nbroken'))
    assert next(rows)[1] == {"a": 1}
    with pytest.raises(ValueError, match=r"rows\.jsonl:2: broken JSON"):
        next(rows)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"query": "q", "positive": \n', r"broken JSON \(Expecting value.*\); write one"),
        (b'{"query": "q\xff"}\n', r"byte 0xff is not UTF-8 \(invalid start byte\); save"),
        (b'["q", "p"]\n', "expected a JSON object on each line, got list$"),
        (b"7", "expected a JSON object on each line, got int$"),
        (b"[" * 100_000, "broken JSON"),
        (b'{"n": ' + b"1" * 5000 + b"", "broken JSON"),
    ],
)
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_broken_line_is_named(tmp_path: Path, line: bytes, message: str, suffix: str) -> None:
    path = write(tmp_path / f"rows{suffix}", b'{"a": 1}\n' + line)
    with pytest.raises(ValueError, match=rf"rows{suffix}:2: {message}"):
        read(path)


def test_a_broken_gzip_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.jsonl.gz", b'{"a": 1}\n' * 99)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(ValueError, match=r"cut\.jsonl\.gz:\d+: truncated or broken gzip file"):
        read(path)
    path.write_bytes(b'{"a": 1}\n')
    with pytest.raises(ValueError, match=r"cut\.jsonl\.gz:1: .*\(Not a gzipped file.*again"):
        read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read(tmp_path / "nowhere.jsonl")


def test_braces_in_a_path_are_part_of_its_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\{rows\}\.jsonl:1: broken JSON"):
        read(write(tmp_path / "{rows}.jsonl", b"x"))


def test_a_gzip_that_breaks_off_is_named_by_the_first_line_that_is_missing(tmp_path: Path) -> None:
    cut = write(tmp_path / "cut.gz", b"{}\n")
    cut.write_bytes(cut.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"cut\.gz:2: .*\(Compressed file ended"):
        read(cut)


def test_a_corpus_comes_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b'\xef\xbb\xbf{"_id": "a", "text": "t", "year": 1}\n\n{"_id": "b", "text": "u"}\n'
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(data), "ascii"))
    first, second = read_corpus("-")
    assert (first.id, first.metadata, second.content) == ("a", {"year": 1}, "u")
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(b'{"text": "a"}\n\xff')))
    with pytest.raises(ValueError, match="standard input:2: byte 0xff is not UTF-8"):
        list(read_corpus("-"))
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(b"")))
    with pytest.raises(ValueError, match="standard input: holds no document"):
        list(read_corpus("-"))
