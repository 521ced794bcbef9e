"""Makes documents of rows: which fields are the text, the title and the id, and which are metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import TypeAlias, TypeGuard

from .left_out import LeftOut

Scalar: TypeAlias = str | int | float | bool | None
Fields: TypeAlias = Mapping[str, object]

RENAME = "rename one of them, or name the right one with text_column or id_column"


@dataclass(frozen=True, slots=True)
class CorpusDocument:
    """A document as a corpus file gives it, before it is encoded."""

    id: str
    text: str
    title: str = ""
    metadata: dict[str, Scalar] = field(default_factory=dict)

    @property
    def content(self) -> str:
        """The text to encode: the title, a space and the text, stripped, as BEIR joins them.

        >>> CorpusDocument("d1", "Returns a string.", title="json.dumps").content
        'json.dumps Returns a string.'
        """
        return f"{self.title} {self.text}".strip()


@dataclass(frozen=True)
class Columns:
    """The names of a row's fields.

    Attributes:
        text: Holds the text.
        id: Holds the id; None for `_id`, else `id`, else the row's number.
    """

    text: str = "text"
    id: str | None = None

    def id_of(self, fields: Fields) -> str | None:
        """The field of a row that holds its id, or None."""
        if self.id is not None:
            return self.id
        return next((name for name in ("_id", "id") if name in fields), None)


def make_document(
    fields: Fields, number: int, place: str, columns: Columns, left_out: LeftOut
) -> CorpusDocument:
    """Makes a document of one row; `number` is its id if the row has none.

    Raises:
        ValueError: A field is missing or has a wrong type. The message starts with `place`.
    """
    if columns.text not in fields:
        names = ", ".join(map(repr, fields)) or "no field"
        raise ValueError(
            f"{place}: no {columns.text!r}, which each document needs; got {names}: {RENAME}"
        )
    id_name = columns.id_of(fields)
    title = None if columns.text == "title" else fields.get("title")
    used = {columns.text, "title", id_name}
    return CorpusDocument(
        id=str(number) if id_name is None else _make_id(fields, id_name, place),
        text=_check_string(columns.text, fields[columns.text], place),
        title="" if title is None else _check_string("title", title, place),
        metadata=_make_metadata(fields, used, place, left_out),
    )


def _make_metadata(
    fields: Fields, used: set[str | None], place: str, left_out: LeftOut
) -> dict[str, Scalar]:
    """The row's other fields, and those of its `metadata` object."""
    metadata: dict[str, Scalar] = {}
    for name, value in _flat({name: value for name, value in fields.items() if name not in used}):
        if not name or name.startswith("$"):
            left_out.field(name, "no name of a field: it is empty or starts with $")
        elif _is_scalar(value):
            _check_string("a field's name", name, place)
            if isinstance(value, str):
                _check_string(name, value, place)
            if name in metadata and metadata[name] != value:
                raise ValueError(
                    f"{place}: {name!r} is {metadata[name]!r} in 'metadata' and {value!r} beside it; "
                    "keep one"
                )
            metadata[name] = value
        else:
            left_out.field(name, _kind(value))
    return metadata


def _flat(fields: Fields) -> Iterator[tuple[str, object]]:
    """Yields the fields of the `metadata` object, and then the others."""
    inner = fields.get("metadata")
    if isinstance(inner, dict):
        yield from inner.items()
    for name, value in fields.items():
        if name != "metadata" or not (value is None or isinstance(value, dict)):
            yield name, value


def _is_scalar(value: object) -> TypeGuard[Scalar]:
    """Whether metadata can hold a value."""
    if isinstance(value, float):
        return isfinite(value)
    return value is None or isinstance(value, int | str)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", float: "not finite", bytes: "bytes"}
    return names.get(type(value), type(value).__name__)


def _make_id(fields: Fields, name: str, place: str) -> str:
    if name not in fields:
        names = ", ".join(map(repr, fields))
        raise ValueError(f"{place}: no {name!r}, which was to be the id; got {names}")
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
