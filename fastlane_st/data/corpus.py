"""Reads a corpus in any supported format, one document at a time."""

import codecs
import csv
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from .json_lines import decode, read_json_lines, read_lines

SUPPORTED_FORMATS = (
    "BEIR JSONL (.jsonl, .jsonl.gz), CSV (.csv, .csv.gz), TSV (.tsv, .tsv.gz), Parquet (.parquet), "
    "a folder that holds corpus.jsonl or corpus.jsonl.gz, or a folder of *.txt, *.md, *.rst files"
)
_BEIR_NAMES = ("corpus.jsonl", "corpus.jsonl.gz")
_TEXT_SUFFIXES = (".txt", ".md", ".rst")
_FIELDS = ("_id", "id", "title", "text", "metadata")
# A longer CSV field is more likely the rest of the file behind an unclosed quote than a text.
_LONGEST_CSV_FIELD = 2**24
_PARQUET_ROWS = 1024

_Fields = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class CorpusDocument:
    """A document as a corpus file gives it, before it is encoded."""

    id: str
    text: str
    title: str = ""
    metadata: dict[str, str | int | float | bool | None] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """The text to encode: the title, a space and the text, stripped, as BEIR joins them.

        >>> CorpusDocument("d1", "Returns a string.", title="json.dumps").content
        'json.dumps Returns a string.'
        """
        return f"{self.title} {self.text}".strip()


def read_corpus(path: Path | str) -> Iterator[CorpusDocument]:
    """Yields the documents of a file or folder; only their ids stay in memory.

    The file name chooses the format, see `SUPPORTED_FORMATS`. Rows hold `text` and may hold `title`
    and `_id` (or `id`); a row without an id gets its number, from 0. Of a `metadata` object the
    fields that hold text, numbers, true, false or null are kept. The id of a text file is its path
    inside the folder, with forward slashes; it has no title, and hidden files are left out.

    Raises:
        FileNotFoundError: There is nothing at `path`.
        ValueError: The format is unknown, or, while reading, a document is broken, an id comes
            twice or there is no document at all. The message names the file and the line.
        ImportError: pyarrow, which Parquet needs, is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; expected {SUPPORTED_FORMATS}")
    return _check_ids(path, _read_any(path))


def _check_ids(
    path: Path, documents: Iterator[tuple[str, CorpusDocument]]
) -> Iterator[CorpusDocument]:
    seen: set[str] = set()
    for place, document in documents:
        if document.id in seen:
            raise ValueError(f"{place}: the id {document.id!r} came before; give each its own id")
        seen.add(document.id)
        yield document
    if not seen:
        raise ValueError(f"{path}: holds no document; expected {SUPPORTED_FORMATS}")


def _read_any(path: Path) -> Iterator[tuple[str, CorpusDocument]]:
    """Chooses the reader by file name; yields each document after its place, `file:line`."""
    if path.is_dir():
        beir = next((path / name for name in _BEIR_NAMES if (path / name).is_file()), None)
        return _read_folder(path) if beir is None else _read_rows(read_json_lines(beir))
    name = path.name.lower()
    if name.endswith((".jsonl", ".jsonl.gz")):
        return _read_rows(read_json_lines(path))
    if name.endswith((".csv", ".csv.gz")):
        return _read_rows(_read_delimited(path, ","))
    if name.endswith((".tsv", ".tsv.gz")):
        return _read_rows(_read_delimited(path, "\t"))
    if name.endswith(".parquet"):
        return _read_rows(_read_parquet(path))
    raise ValueError(f"{path}: unknown corpus format; expected {SUPPORTED_FORMATS}")


def _read_rows(rows: Iterable[tuple[str, _Fields]]) -> Iterator[tuple[str, CorpusDocument]]:
    for number, (place, fields) in enumerate(rows):
        yield place, _make_document(fields, number, place)


def _make_document(fields: _Fields, number: int, place: str) -> CorpusDocument:
    if "text" not in fields:
        names = ", ".join(map(repr, fields)) or "no field"
        raise ValueError(f"{place}: no 'text', which each document needs; got {names}")
    title = fields.get("title")
    return CorpusDocument(
        id=_make_id(fields, number, place),
        text=_check_string("text", fields["text"], place),
        title="" if title is None else _check_string("title", title, place),
        metadata=_make_metadata(fields.get("metadata")),
    )


def _make_metadata(value: object) -> dict[str, Any]:
    """Keeps the fields that an index can filter by; lists, such as authors, are dropped."""
    if not isinstance(value, dict):
        return {}
    return {
        str(name): one
        for name, one in value.items()
        if name
        and not str(name).startswith("$")
        and (
            one is None or isinstance(one, str | int) or (isinstance(one, float) and isfinite(one))
        )
    }


def _make_id(fields: _Fields, number: int, place: str) -> str:
    name = next((name for name in ("_id", "id") if name in fields), None)
    if name is None:
        return str(number)
    value = fields[name]
    if value == "":
        raise ValueError(f"{place}: {name!r} is empty; fill it, or leave {name!r} out of all rows")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _check_string(name, value, place, expected="a string or an integer")


def _check_string(name: str, value: object, place: str, expected: str = "a string") -> str:
    if not isinstance(value, str):
        raise ValueError(f"{place}: {name!r} must be {expected}, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can write half of a surrogate pair: "\ud83d"
        raise ValueError(f"{place}: {name!r} is no valid Unicode ({error}); repair it") from None
    return value


def _read_delimited(path: Path, delimiter: str) -> Iterator[tuple[str, _Fields]]:
    # The limit holds for the whole process: raise it, but never lower what someone else has set.
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CSV_FIELD))
    # A parser that is not strict drops the quotes of `"red" wine` and closes an open quote itself.
    reader = csv.reader(read_lines(path), delimiter=delimiter, strict=True)
    columns: list[str] = []
    try:
        for row in filter(None, reader):  # a blank line is an empty row
            place = f"{path}:{reader.line_num}"
            if not columns:
                columns = [name.strip() for name in row]
                _check_columns(columns, place)
                continue
            if len(row) != len(columns):
                problem = f"expected {len(columns)} fields as in the header, got {len(row)}"
                raise ValueError(f'{place}: {problem}; put "..." around a field with a delimiter')
            yield place, dict(zip(columns, row, strict=True))
    except csv.Error as error:
        problem = f"broken row ({error})"
        hint = 'put "..." around a field with quotes or newlines, and double the quotes inside it'
        raise ValueError(f"{path}:{reader.line_num}: {problem}; {hint}") from None


def _check_columns(columns: list[str], place: str) -> None:
    names = ", ".join(map(repr, columns))
    if "text" not in columns:
        raise ValueError(f"{place}: no 'text' among the columns {names}; name one of them 'text'")
    for name in _FIELDS:
        if columns.count(name) > 1:
            raise ValueError(f"{place}: two columns are named {name!r}; rename one of them")


def _read_parquet(path: Path) -> Iterator[tuple[str, _Fields]]:
    """Yields rows; the place of a row is its number, from 0."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        hint = 'pip install "fastlane-st[parquet]"'
        raise ImportError(f"{path}: reading Parquet needs pyarrow: {hint}") from error
    number = 0
    with path.open("rb") as stream:
        try:
            # Without these options Arrow reads the columns of whole row groups ahead.
            file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=2**20)
            columns: list[str] = file.schema_arrow.names
            _check_columns(columns, str(path))
            wanted = [name for name in _FIELDS if name in columns]
            for batch in file.iter_batches(_PARQUET_ROWS, columns=wanted):
                rows: list[dict[str, Any]] = batch.to_pylist()
                for fields in rows:
                    yield f"{path}:row {number}", fields
                    number += 1
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            problem = f"broken Parquet from row {number} on ({error})"
            raise ValueError(f"{path}: {problem}; write the file again") from None


def _read_folder(path: Path) -> Iterator[tuple[str, CorpusDocument]]:
    names = []
    for folder, subfolders, files in os.walk(path, onerror=_raise):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in files:
            if name.lower().endswith(_TEXT_SUFFIXES) and not name.startswith("."):
                names.append((Path(folder) / name).relative_to(path).as_posix())
    for name in sorted(names):
        data = (path / name).read_bytes().removeprefix(codecs.BOM_UTF8)
        text = decode(data, path / name, 1)
        yield str(path / name), CorpusDocument(id=name, text=text)


def _raise(error: OSError) -> None:
    """Makes `os.walk` fail on a folder that it may not read, instead of skipping it."""
    raise error
