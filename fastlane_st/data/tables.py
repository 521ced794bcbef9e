"""Reads the rows of CSV, TSV and Parquet files, each with its place, such as `file:line`."""

from __future__ import annotations

import csv
import datetime
import re
from collections.abc import Iterator
from decimal import Decimal
from math import isfinite
from pathlib import Path
from typing import Any

from .json_lines import read_lines
from .left_out import LeftOut
from .rows import RENAME, Columns, Fields

# A longer CSV field is more likely the rest of the file behind an unclosed quote than a text.
_LONGEST_CSV_FIELD = 2**24
_PARQUET_ROWS = 1024
_JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_LONGEST_NUMBER = 300  # digits


def read_delimited(path: Path, delimiter: str, columns: Columns) -> Iterator[tuple[str, Fields]]:
    """Yields the rows of a CSV or TSV file.

    Text, title and id are as they stand; a cell of another column is a value as `cell_value` has it,
    and one that is empty is left out.
    """
    # The limit holds for the whole process: raise it, but never lower what someone else has set.
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CSV_FIELD))
    # A parser that is not strict drops the quotes of `"red" wine` and closes an open quote itself.
    reader = csv.reader(read_lines(path), delimiter=delimiter, strict=True)
    header: list[str] = []
    plain: set[str] = set()
    try:
        for row in filter(None, reader):  # a blank line is an empty row
            place = f"{path}:{reader.line_num}"
            if not header:
                header = [name.strip() for name in row]
                check_header(header, place, columns)
                plain = {columns.text, "title", columns.id_of(dict.fromkeys(header)) or "id"}
                continue
            if len(row) != len(header):
                problem = f"expected {len(header)} fields as in the header, got {len(row)}"
                raise ValueError(f'{place}: {problem}; put "..." around a field with a delimiter')
            yield (
                place,
                {
                    name: cell if name in plain else cell_value(cell)
                    for name, cell in zip(header, row, strict=True)
                    if cell or name in plain
                },
            )
    except csv.Error as error:
        problem = f"broken row ({error})"
        hint = 'put "..." around a field with quotes or newlines, and double the quotes inside it'
        raise ValueError(f"{path}:{reader.line_num}: {problem}; {hint}") from None


def cell_value(cell: str) -> str | int | float | bool:
    """Gives a number or truth value as JSON writes it, and anything else as text.

    Example:
        >>> [cell_value(cell) for cell in ("2008", "-1.5", "true", "007", "1,5", "True")]
        [2008, -1.5, True, '007', '1,5', 'True']
    """
    if cell in ("true", "false"):
        return cell == "true"
    found = _JSON_NUMBER.fullmatch(cell)
    if found is None or len(cell) > _LONGEST_NUMBER:
        return cell
    if found[2] is None and found[3] is None:
        return int(cell)
    return float(cell) if isfinite(float(cell)) else cell


def check_header(header: list[str], place: str, columns: Columns) -> None:
    """Raises a ValueError if the columns for text or id are missing, or a name comes twice."""
    names = ", ".join(map(repr, header))
    for wanted in filter(None, (columns.text, columns.id)):
        if wanted not in header:
            raise ValueError(f"{place}: no {wanted!r} among the columns {names}: {RENAME}")
    for name in filter(None, header):
        if header.count(name) > 1:
            raise ValueError(f"{place}: two columns are named {name!r}; rename one of them")


def read_parquet(path: Path, columns: Columns, left_out: LeftOut) -> Iterator[tuple[str, Fields]]:
    """Yields rows; the place of a row is its number, from 0.

    A null is left out; so are columns of lists, objects and bytes, which aren't even read. A time is
    given as ISO 8601, to the microsecond, and a decimal as a float.
    """
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
            schema = file.schema_arrow
            check_header(schema.names, str(path), columns)
            plain = {columns.text, "title", columns.id_of(dict.fromkeys(schema.names)) or "id"}
            wanted = []
            for column in schema:
                is_metadata = column.name == "metadata" and pa.types.is_struct(column.type)
                if column.name in plain or is_metadata or not _unfit(pa, column.type):
                    wanted.append(column.name)
                else:
                    left_out.field(column.name, str(column.type), file.metadata.num_rows)
            for batch in file.iter_batches(_PARQUET_ROWS, columns=wanted):
                rows: list[dict[str, Any]] = _in_microseconds(pa, batch).to_pylist()
                for row in rows:
                    yield f"{path}:row {number}", _present(row, plain)
                    number += 1
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            problem = f"broken Parquet from row {number} on ({error})"
            raise ValueError(f"{path}: {problem}; write the file again") from None


def _unfit(pa: Any, kind: Any) -> bool:
    """Whether metadata can't hold the values of an Arrow type."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_nested(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_duration(kind)
    )


def _in_microseconds(pa: Any, batch: Any) -> Any:
    """Casts nanoseconds, which pandas writes and Python's times can't hold."""
    table = pa.Table.from_batches([batch])
    for place, column in enumerate(table.schema):
        kind = column.type
        if str(kind).startswith(("timestamp[ns", "time64[ns")):
            coarse = pa.timestamp("us", kind.tz) if pa.types.is_timestamp(kind) else pa.time64("us")
            times = table.column(place).cast(coarse, safe=False)
            table = table.set_column(place, column.name, times)
    return table


def _present(row: dict[str, Any], plain: set[str]) -> dict[str, Any]:
    """A row without nulls, except of the columns that documents need."""
    return {
        name: _json_value(value)
        for name, value in row.items()
        if value is not None or name in plain
    }


def _json_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _json_value(one) for name, one in value.items() if one is not None}
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return float(value) if isinstance(value, Decimal) else value
