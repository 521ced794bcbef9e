"""The documents of a segment in their file: read by number, found by id, filtered by column."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlane_st.index.documents import MemoryDocuments, StoredDocument
from fastlane_st.index.storage import document_file
from fastlane_st.index.storage.document_file import DocumentFile, write_document_file
from fastlane_st.index.windows import Window

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
any_text = st.text(st.characters())  # with lone surrogates and NUL
documents = st.lists(
    st.builds(
        StoredDocument,
        st.integers() | any_text,
        st.none() | any_text,
        st.dictionaries(st.text(min_size=1), scalars, max_size=3),
        st.lists(st.builds(Window, *[st.integers(0, 2**40)] * 6), max_size=3).map(tuple),
    ),
    unique_by=lambda one: (type(one.id), one.id),
    max_size=12,
)


def as_file(given_documents: list[StoredDocument], folder: str | Path) -> DocumentFile:
    path = Path(folder) / "documents.sqlite"
    write_document_file(path, MemoryDocuments(given_documents))
    return DocumentFile(path)


@settings(max_examples=25)
@given(documents, st.randoms(use_true_random=False))
def test_a_file_says_what_memory_says(given_documents: list[StoredDocument], random: Any) -> None:
    memory = MemoryDocuments(given_documents)
    with tempfile.TemporaryDirectory() as folder:
        file = as_file(given_documents, folder)
        numbers = [random.randrange(len(memory)) for _ in range(20)] if len(memory) else []
        assert len(file) == len(memory)
        assert file.read(numbers) == memory.read(numbers) == [given_documents[n] for n in numbers]
        assert [type(one.id) for one in file.read(numbers)] == [
            type(given_documents[n].id) for n in numbers
        ]
        ids = [one.id for one in given_documents[::2]]
        assert file.find([*ids, "not there"]) == memory.find([*ids, "not there"])
        assert file.fields() == memory.fields()
        for field in [*memory.fields(), "not there"]:
            found, expected = file.column(field), memory.column(field)
            assert list(map(repr, found.values)) == list(map(repr, expected.values))
            np.testing.assert_array_equal(found.codes, expected.codes)


def test_many_are_read_found_and_written_in_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document_file, "BLOCK", 7)
    monkeypatch.setattr(document_file, "MOST_VALUES", 5)
    many = [StoredDocument(f"id {n}", f"text {n}", {"n": n}) for n in range(100)]
    file = as_file(many, tmp_path)
    numbers = [*range(99, -1, -3), 5, 5]
    assert file.read(numbers) == [many[n] for n in numbers]
    assert file.find([one.id for one in many]) == {f"id {n}": n for n in range(100)}


def test_threads_share_a_file_that_someone_has_deleted(tmp_path: Path) -> None:
    many = [StoredDocument(n, f"text {n}", {}) for n in range(500)]
    file = as_file(many, tmp_path)
    if sys.platform != "win32":
        (tmp_path / "documents.sqlite").unlink()
    barrier = threading.Barrier(4)

    def read(first: int) -> bool:
        barrier.wait()
        return all(
            file.read([n, 499 - n]) == [many[n], many[499 - n]] for n in range(first, 500, 4)
        )

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(4)))


def test_a_file_that_is_none_or_that_is_damaged_is_named(tmp_path: Path) -> None:
    path = tmp_path / "documents.sqlite"
    path.write_bytes(b"no database" * 100)
    with pytest.raises(ValueError, match=r"documents\.sqlite is damaged: .*; copy the index again"):
        DocumentFile(path)
    as_file([StoredDocument(n, "text" * 300, {}) for n in range(100)], tmp_path)
    damaged = bytearray(path.read_bytes())
    damaged[4096:] = os.urandom(len(damaged) - 4096)
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"documents\.sqlite is damaged"):
        DocumentFile(path).read(range(100))


def test_what_an_interrupted_save_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "documents.sqlite").write_bytes(b"half")
    assert len(as_file([StoredDocument(1, None, {})], tmp_path)) == 1


FULL = """
import resource, sys
from pathlib import Path
from fastlane_st.index.documents import MemoryDocuments, StoredDocument
from fastlane_st.index.storage.document_file import write_document_file
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
many = [StoredDocument(n, "text" * 100, {}) for n in range(1000)]
try:
    write_document_file(Path(sys.argv[1]), MemoryDocuments(many))
except OSError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits of files are Unix's")
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "documents.sqlite"
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{path} can't be written: ")


def test_ids_are_checked_once_more_when_they_are_written(tmp_path: Path) -> None:
    twice = MemoryDocuments([StoredDocument("a", None, {}), StoredDocument("a", None, {})])
    with pytest.raises(OSError, match="UNIQUE constraint failed"):
        write_document_file(tmp_path / "documents.sqlite", twice)
