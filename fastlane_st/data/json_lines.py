"""Reads lines and JSON lines from plain or gzipped UTF-8 files; each error names file and line."""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Wording:
    """The error messages, as format strings.

    `broken_gzip` may use {path}, {line} and {error}, `not_utf8` also {byte} and {reason}; the other
    two {origin}, which is file:line, with {error} or with {type}.
    """

    broken_gzip: str = "{path}: broken gzip file ({error})"
    not_utf8: str = "{path}:{line}: not UTF-8 ({reason})"
    broken_json: str = "{origin}: broken JSON ({error})"
    no_object: str = "{origin}: expected a JSON object, got {type}"


DEFAULT_WORDING = Wording()


def read_json_lines(
    path: Path, wording: Wording = DEFAULT_WORDING
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the JSON object of each line with its origin, `file:line`; skips blank lines.

    Raises:
        ValueError: While reading, the gzip data, the encoding or the JSON of a line is broken, or a
            line holds something else than an object.
    """
    for number, line in enumerate(read_lines(path, wording), start=1):
        if not line.strip():
            continue
        origin = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(wording.broken_json.format(origin=origin, error=error)) from None
        if not isinstance(row, dict):
            raise ValueError(wording.no_object.format(origin=origin, type=type(row).__name__))
        yield origin, row


def read_lines(path: Path, wording: Wording = DEFAULT_WORDING) -> Iterator[str]:
    r"""Yields the lines of a file with their ends, split at \n only, without a byte order mark.

    Raises:
        ValueError: While reading, the gzip data or the encoding of a line is broken.
    """
    line = 0
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            for data in file:
                line += 1
                if line == 1:
                    data = data.removeprefix(codecs.BOM_UTF8)
                yield decode(data, path, line, wording)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        message = wording.broken_gzip.format(path=path, line=line + 1, error=error)
        raise ValueError(message) from None


def decode(data: bytes, path: Path, first_line: int, wording: Wording = DEFAULT_WORDING) -> str:
    """Decodes UTF-8 that starts at a line of a file; the error names the line of the broken byte."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        message = wording.not_utf8.format(
            path=path,
            line=first_line + data.count(b"\n", 0, error.start),
            byte=f"0x{data[error.start]:02x}",
            reason=error.reason,
        )
        raise ValueError(message) from None
