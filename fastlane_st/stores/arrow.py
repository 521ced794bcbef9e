"""Documents as Arrow tables, one row a document: what LanceDB and Parquet files hold.

It relies on pyarrow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from ..index.filters import kind_of
from ..index.segment import Document
from ..modeling.search_fastlane import Views
from .records import Record, id_of, windows_from_json, windows_to_json
from .settings import StoreSettings

SETTINGS = b"fastlane"
READ = ["id", "text", "metadata", "windows", "positions", "vectors"]
_ESCAPED = re.compile(
    r"[.`%\x00-\x1f]"
)  # what a Lance column's name can't have, and the escape itself


def schema_of(settings: StoreSettings) -> Any:
    """The schema of documents without the columns of metadata fields; settings are its metadata."""
    import pyarrow as pa

    number = pa.float16() if settings.storage == "float16" else pa.float32()
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("text", pa.string()),
            pa.field("metadata", pa.string()),
            pa.field("windows", pa.string()),
            pa.field("facts", pa.list_(pa.string())),
            pa.field("digest", pa.string()),
            pa.field("positions", pa.list_(pa.int32())),
            pa.field("vectors", pa.list_(pa.list_(number, settings.dim))),
        ],
        metadata={SETTINGS: settings.to_json().encode()},
    )


def arrow_table(records: Sequence[Record], settings: StoreSettings, schema: Any) -> Any:
    """The rows of records, in the columns of a schema."""
    import pyarrow as pa

    documents = [record.document for record in records]
    flat = np.concatenate([one.views.vectors for one in documents]).astype(settings.dtype)
    offsets = np.cumsum([0, *(len(one.views.vectors) for one in documents)]).astype(np.int32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), settings.dim)
    positions = np.concatenate([one.views.positions for one in documents]).astype(np.int32)
    columns: dict[str, Any] = {
        "id": [record.key for record in records],
        "text": [one.text for one in documents],
        "metadata": [json.dumps(dict(one.metadata)) for one in documents],
        "windows": [windows_to_json(one.windows) for one in documents],
        "facts": [record.facts for record in records],
        "digest": [record.digest for record in records],
        "positions": pa.ListArray.from_arrays(pa.array(offsets), pa.array(positions)),
        "vectors": pa.ListArray.from_arrays(pa.array(offsets), vectors),
    }
    ranges = [
        {range_column(field, kind_of(value)): value for field, value in one.metadata.items()}
        for one in documents
    ]
    for name in schema.names:
        if name not in columns:
            columns[name] = [one.get(name) for one in ranges]
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


def read_rows(rows: Any) -> Iterator[tuple[str, Document]]:
    """Yields the key and document of each row."""
    for batch in rows.to_batches():
        columns = {name: batch[name].to_pylist() for name in READ[:4]}
        for number, key in enumerate(columns["id"]):
            positions = batch["positions"][number].values.to_numpy(zero_copy_only=False)
            lists = batch["vectors"][number].values
            vectors = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
            yield (
                key,
                Document(
                    id_of(key),
                    Views(vectors.reshape(len(positions), -1), positions),
                    columns["text"][number],
                    json.loads(columns["metadata"][number]),
                    0,
                    windows_from_json(columns["windows"][number]),
                ),
            )


def range_column(field: str, kind: str) -> str:
    """The column that holds a field's values of one kind; dots, which Lance refuses, are escaped.

    >>> range_column("year", "number"), range_column("a.b", "text")
    ('number:year', 'text:a%2Eb')
    """
    name = _ESCAPED.sub(lambda found: quote(found[0], safe="").replace(".", "%2E"), field)
    return f"{kind}:{name}"
