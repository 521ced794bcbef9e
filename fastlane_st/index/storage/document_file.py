"""`documents-….sqlite`: the documents of one segment, in an SQLite file that is written once.

A document is read by its number, and found by its id, without the others; windows of long texts are in rows
of their own. Each metadata field is one row as
well: its values, and which of them each document has, so that a filter reads the fields it names and nothing
else.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import weakref
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...modeling.search_fastlane import Id
from ..documents import Column, Documents, StoredDocument
from ..windows import Window, Windows

BLOCK = 1_000  # documents written at a time
MOST_VALUES = 900  # in one statement: older SQLite takes 999
SCHEMA = """
CREATE TABLE documents (number INTEGER PRIMARY KEY, id TEXT NOT NULL, text BLOB, metadata TEXT);
CREATE TABLE columns (field TEXT PRIMARY KEY, "values" TEXT NOT NULL, codes BLOB NOT NULL);
CREATE TABLE windows (number INTEGER PRIMARY KEY, windows BLOB NOT NULL);
"""


class DocumentFile:
    """Documents in a file, see `Documents`. Threads may share one; a fork must open its own.

    The file stays readable after another process has deleted it, where the file system allows that.

    Args:
        path: What `write_document_file` wrote.

    Raises:
        ValueError: The file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()  # SQLite's connections take one statement at a time
        self._columns: dict[str, Column] = {}
        with self._naming_damage():
            # Immutable: SQLite neither locks the file nor looks for a journal beside it.
            address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
            self._connection = sqlite3.connect(address, uri=True, check_same_thread=False)
            weakref.finalize(self, self._connection.close)
            self._connection.text_factory = str
            [[self._count]] = self._rows("SELECT count(*) FROM documents")
            # Files of earlier commits may lack the table.
            has_windows = "SELECT count(*) FROM sqlite_master WHERE name = 'windows'"
            self._has_windows = self._rows(has_windows) == [(1,)] and bool(
                self._rows("SELECT number FROM windows LIMIT 1")
            )

    def __len__(self) -> int:
        return int(self._count)

    def read(self, numbers: Sequence[int]) -> list[StoredDocument]:
        found = {}
        for some in _blocks(numbers, MOST_VALUES):
            marks = ", ".join("?" * len(some))
            query = f"SELECT number, id, text, metadata FROM documents WHERE number IN ({marks})"
            windows = self._windows(some, marks)
            for number, id, text, metadata in self._rows(query, some):
                found[number] = StoredDocument(
                    json.loads(id),
                    None if text is None else text.decode("utf-8", "surrogatepass"),
                    {} if metadata is None else json.loads(metadata),
                    windows.get(number, ()),
                )
        return [found[number] for number in numbers]

    def _windows(self, numbers: Sequence[int], marks: str) -> dict[int, Windows]:
        """The windows of the long ones among some documents."""
        if not self._has_windows:
            return {}
        query = f"SELECT number, windows FROM windows WHERE number IN ({marks})"
        width = len(Window._fields)
        return {
            number: tuple(map(Window._make, np.frombuffer(rows, "<i8").reshape(-1, width).tolist()))
            for number, rows in self._rows(query, numbers)
        }

    def find(self, ids: Collection[Id]) -> dict[Id, int]:
        found = {}
        for some in _blocks([json.dumps(id) for id in ids], MOST_VALUES):
            marks = ", ".join("?" * len(some))
            query = f"SELECT id, number FROM documents WHERE id IN ({marks})"
            found.update({json.loads(id): number for id, number in self._rows(query, some)})
        return found

    def fields(self) -> list[str]:
        return sorted(json.loads(name) for [name] in self._rows("SELECT field FROM columns"))

    def column(self, field: str) -> Column:
        if field not in self._columns:
            query = 'SELECT "values", codes FROM columns WHERE field = ?'
            rows = self._rows(query, [json.dumps(field)])
            if rows:
                [(values, codes)] = rows
                column = Column(json.loads(values), np.frombuffer(codes, dtype="<i4"))
            else:
                column = Column([], np.full(len(self), -1, dtype=np.int32))
            self._columns[field] = column
        return self._columns[field]

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock, self._naming_damage():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _naming_damage(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise ValueError(f"{self._path} is damaged: {error}; copy the index again") from error


def write_document_file(path: Path, documents: Documents) -> None:
    """Writes documents to a new file; whoever calls it syncs and hashes that.

    Raises:
        OSError: The disk is full, or the file can't be written.
    """
    if path.exists():
        path.unlink()  # an interrupted save left it
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            # No journal: a file that isn't finished is named by no manifest.
            connection.executescript(
                "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE;"
                f"BEGIN; {SCHEMA}"
            )
            for numbers in _blocks(range(len(documents)), BLOCK):
                some = documents.read(numbers)
                connection.executemany(
                    "INSERT INTO documents VALUES (?, ?, ?, ?)",
                    ((number, *_row(one)) for number, one in zip(numbers, some, strict=True)),
                )
                connection.executemany(
                    "INSERT INTO windows VALUES (?, ?)",
                    (
                        (number, np.array(one.windows, "<i8").tobytes())
                        for number, one in zip(numbers, some, strict=True)
                        if one.windows
                    ),
                )
            connection.execute("CREATE UNIQUE INDEX documents_by_id ON documents (id)")
            for field in documents.fields():
                values, codes = documents.column(field)
                connection.execute(
                    "INSERT INTO columns VALUES (?, ?, ?)",
                    (json.dumps(field), json.dumps(values), codes.astype("<i4").tobytes()),
                )
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise OSError(f"{path} can't be written: {error}") from error


def _row(document: StoredDocument) -> tuple[str, bytes | None, str | None]:
    """A document as the table holds it: text may have surrogates, which SQLite's own text may not."""
    text = None if document.text is None else document.text.encode("utf-8", "surrogatepass")
    return (
        json.dumps(document.id),
        text,
        json.dumps(document.metadata) if document.metadata else None,
    )


def _blocks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]
