"""Reads lines and JSON lines from plain or gzipped UTF-8 files; each error names file and line."""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the JSON object of each line with its origin, `file:line`; skips blank lines.

    Raises:
        ValueError: While reading: the gzip data, the encoding or the JSON of a line is broken, or its
            JSON is no object.
    """
    return _parse(read_lines(path), str(path))


def parse_json_lines(stream: Iterable[bytes], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields what `read_json_lines` does of a stream, which errors call `name`."""
    return _parse(_decode_lines(stream, name), name)


def _parse(lines: Iterable[str], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for line_number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        origin = f"{name}:{line_number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            problem = f"broken JSON ({error})"
            raise ValueError(f"{origin}: {problem}; write one JSON object on each line") from None
        if not isinstance(row, dict):
            got = type(row).__name__
            raise ValueError(f"{origin}: expected a JSON object on each line, got {got}")
        yield origin, row


def read_lines(path: Path) -> Iterator[str]:
    r"""Yields the lines of a file with their ends, split at \n only, without a byte order mark.

    Raises:
        ValueError: While reading: the gzip data or the encoding of a line is broken.
    """
    lines_read = 0
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            for line in _decode_lines(file, path):
                lines_read += 1
                yield line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        problem = f"truncated or broken gzip file ({error})"
        raise ValueError(
            f"{path}:{lines_read + 1}: {problem}; fetch or compress it again"
        ) from None


def _decode_lines(stream: Iterable[bytes], name: Path | str) -> Iterator[str]:
    for line_number, data in enumerate(stream, start=1):
        line = data.removeprefix(codecs.BOM_UTF8) if line_number == 1 else data
        yield decode(line, name, line_number)


def decode(data: bytes, path: Path | str, first_line: int) -> str:
    """Decodes UTF-8 that starts at a line of a file; the error names the line of the broken byte."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line_number = first_line + data.count(b"\n", 0, error.start)
        problem = f"byte 0x{data[error.start]:02x} is not UTF-8 ({error.reason})"
        raise ValueError(f"{path}:{line_number}: {problem}; save the file as UTF-8") from None
