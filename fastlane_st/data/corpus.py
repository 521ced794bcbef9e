"""Reads a corpus in any supported format, one document at a time."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from .json_lines import parse_json_lines, read_json_lines
from .left_out import LeftOut
from .rows import Columns, CorpusDocument, Fields, make_document
from .tables import read_delimited, read_parquet
from .text_folder import TEXT_SUFFIXES, read_text_folder

__all__ = ["SUPPORTED_FORMATS", "CorpusDocument", "read_corpus"]

SUPPORTED_FORMATS = (
    "BEIR JSONL (.jsonl, .jsonl.gz), CSV (.csv, .csv.gz), TSV (.tsv, .tsv.gz), Parquet (.parquet), "
    "a folder that holds corpus.jsonl or corpus.jsonl.gz, or a folder of *.txt, *.md, *.rst files"
)
STANDARD_INPUT = "-"
_BEIR_NAMES = ("corpus.jsonl", "corpus.jsonl.gz")

logger = logging.getLogger(__name__)


def read_corpus(
    path: Path | str,
    *,
    text_column: str = "text",
    id_column: str | None = None,
    log: bool = True,
) -> Iterator[CorpusDocument]:
    """Yields the documents of a file or folder; only their ids stay in memory.

    The file name chooses the format, see `SUPPORTED_FORMATS`; "-" reads JSONL from standard input.
    Rows hold `text` and may hold `title` and `_id` (or `id`); a row without an id gets its number, from
    0. All other fields are metadata, and so are those of a `metadata` object, if they hold text, finite
    numbers, true, false or null; others are left out. A cell of a CSV file is a number or truth value
    if JSON would write it so, and an empty one is left out. The id of a text file is its path inside the
    folder, with forward slashes; it has no title, and hidden files are left out.

    Args:
        path: The file or folder.
        text_column: The field of a row that holds the text.
        id_column: The field that holds the id.
        log: Whether to warn of what was left out, once all is read: fields, files of other kinds, files
            that can't be read, linked folders.

    Raises:
        FileNotFoundError: There is nothing at `path`.
        ValueError: The format is unknown, or, while reading, a document is broken, an id comes
            twice or there is no document at all. The message names the file and the line.
        ImportError: pyarrow, which Parquet needs, is not installed.
    """
    left_out, columns = LeftOut(), Columns(text_column, id_column)
    if path == STANDARD_INPUT:
        lines = parse_json_lines(sys.stdin.buffer, "standard input")
        documents = _read_rows(lines, columns, left_out)
        return _check_ids("standard input", documents, left_out, log)
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; expected {SUPPORTED_FORMATS}")
    return _check_ids(str(path), _read_any(path, columns, left_out), left_out, log)


def _check_ids(
    origin: str, documents: Iterator[tuple[str, CorpusDocument]], left_out: LeftOut, log: bool
) -> Iterator[CorpusDocument]:
    seen: set[str] = set()
    for place, document in documents:
        if document.id in seen:
            raise ValueError(f"{place}: the id {document.id!r} came before; give each its own id")
        seen.add(document.id)
        yield document
    said = left_out.sentences()
    if not seen:
        passed_over = "".join(f"; {one}" for one in said)
        raise ValueError(f"{origin}: holds no document; expected {SUPPORTED_FORMATS}{passed_over}")
    for one in said if log else ():
        logger.warning("%s: %s", origin, one)


def _read_any(
    path: Path, columns: Columns, left_out: LeftOut
) -> Iterator[tuple[str, CorpusDocument]]:
    """Chooses the reader by file name; yields each document after its place, `file:line`."""
    name = path.name.lower()
    if path.is_dir():
        beir = next((path / name for name in _BEIR_NAMES if (path / name).is_file()), None)
        if beir is not None:
            return _read_rows(read_json_lines(beir), columns, left_out)
        if columns != Columns():
            raise ValueError(
                f"{path}: text_column and id_column name fields of rows, and a folder of texts has none: "
                "leave them out"
            )
        return read_text_folder(path, left_out)
    if name.endswith((".jsonl", ".jsonl.gz")):
        return _read_rows(read_json_lines(path), columns, left_out)
    if name.endswith((".csv", ".csv.gz")):
        return _read_rows(read_delimited(path, ",", columns), columns, left_out)
    if name.endswith((".tsv", ".tsv.gz")):
        return _read_rows(read_delimited(path, "\t", columns), columns, left_out)
    if name.endswith(".parquet"):
        return _read_rows(read_parquet(path, columns, left_out), columns, left_out)
    hint = ""
    if name.endswith(TEXT_SUFFIXES):
        hint = f"; give the folder that holds {path.name}: each text file in it is a document"
    raise ValueError(f"{path}: unknown corpus format; expected {SUPPORTED_FORMATS}{hint}")


def _read_rows(
    rows: Iterable[tuple[str, Fields]], columns: Columns, left_out: LeftOut
) -> Iterator[tuple[str, CorpusDocument]]:
    for number, (place, fields) in enumerate(rows):
        yield place, make_document(fields, number, place, columns, left_out)
