"""Reads lines and JSON lines from plain or gzipped UTF-8 files; each error names file and line."""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the JSON object of each line with its origin, `file:line`; skips blank lines.

    Raises:
        ValueError: While reading: the gzip data, the encoding or the JSON of a line is broken, or its
            JSON is no object.
    """
    for line_number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        origin = f"{path}:{line_number}"
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
            for data in file:
                if lines_read == 0:
                    data = data.removeprefix(codecs.BOM_UTF8)
                lines_read += 1
                yield decode(data, path, lines_read)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        problem = f"truncated or broken gzip file ({error})"
        raise ValueError(
            f"{path}:{lines_read + 1}: {problem}; fetch or compress it again"
        ) from None


def decode(data: bytes, path: Path, first_line: int) -> str:
    """Decodes UTF-8 that starts at a line of a file; the error names the line of the broken byte."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line_number = first_line + data.count(b"\n", 0, error.start)
        problem = f"byte 0x{data[error.start]:02x} is not UTF-8 ({error.reason})"
        raise ValueError(f"{path}:{line_number}: {problem}; save the file as UTF-8") from None
