"""Reads a folder of text files: each is a document, and its path inside the folder the id."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from pathlib import Path

from .json_lines import decode
from .left_out import LeftOut
from .rows import CorpusDocument

TEXT_SUFFIXES = (".txt", ".md", ".rst")


def read_text_folder(path: Path, left_out: LeftOut) -> Iterator[tuple[str, CorpusDocument]]:
    """Yields each document after its file; hidden files and folders count for nothing.

    What can't be read is passed over and noted in `left_out`: files of other kinds, files that aren't
    UTF-8 or may not be read, broken links and links to folders. Bytes of a name that aren't UTF-8 are
    written as `\\xe9` in the id.
    """
    for name in _text_files(path, left_out):
        file = path / name
        try:
            if not file.is_file():  # opening a pipe would wait for its writer
                left_out.file(shown(name), "a broken link" if file.is_symlink() else "no file")
                continue
            data = file.read_bytes().removeprefix(codecs.BOM_UTF8)
            text = decode(data, Path(shown(name)), 1)
        except OSError as error:
            left_out.file(shown(name), str(error.strerror))
            continue
        except ValueError as error:
            left_out.file(shown(name), str(error))
            continue
        yield shown(str(file)), CorpusDocument(id=shown(name), text=text)


def _text_files(path: Path, left_out: LeftOut) -> list[str]:
    """Paths of the text files inside a folder, sorted, with forward slashes."""

    def note(error: OSError) -> None:
        if Path(error.filename) == path:
            raise error
        inner = Path(error.filename).relative_to(path).as_posix()
        left_out.file(shown(inner), str(error.strerror))

    names = []
    for folder, subfolders, files in os.walk(path, onerror=note):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in subfolders:
            inner = Path(folder) / name
            if inner.is_symlink():
                left_out.file(shown(inner.relative_to(path).as_posix()), "a linked folder")
        for name in files:
            if name.startswith("."):
                continue
            if name.lower().endswith(TEXT_SUFFIXES):
                names.append((Path(folder) / name).relative_to(path).as_posix())
            else:
                left_out.other_file(shown(name))
    return sorted(names)


def shown(name: str) -> str:
    """A file's name as valid Unicode.

    Example:
        >>> shown("caf\\udce9.txt")
        'caf\\\\xe9.txt'
    """
    return os.fsencode(name).decode("utf-8", "backslashreplace")
