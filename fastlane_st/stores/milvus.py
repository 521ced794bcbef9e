"""MilvusStore: a Milvus collection, on a server or in milvus-lite's file; one row a token vector.

A search asks for rows, twice as many until they belong to enough documents, so that no long document crowds
the others out. Row 0 of a document holds its text and is written last: a document is there once its row 0
is. It relies on the package pymilvus, and for files on milvus-lite.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from typing_extensions import Self

from ..index.segment import Document
from ..modeling.search_fastlane import FETCHED, Encoder, FloatArray, Views
from .base import RETRIES, Store, asked_again, blocks, check_retries, not_there
from .milvus_filters import MilvusDialect, quoted
from .records import Record, id_of, windows_from_json, windows_to_json
from .settings import StoreSettings

LARGEST_FETCH = 16_384  # rows that a call of Milvus may give
LARGEST_TEXT = 65_535  # bytes of a VARCHAR, and about those of JSON
LONGEST_KEY = 500
ROWS_AT_ONCE = 2_000  # in a request: 6 MB of 768 dimensions, where a server takes 64
KEYS_AT_ONCE = 500
SETTINGS = "fastlane"
ABOUT = ["doc", "text", "metadata", "windows", "num_rows"]


class MilvusStore(Store):
    """Documents in a Milvus collection.

    Each row has `pk`, `doc` (the document's key), `row`, `position`, `vector`, `facts` (what filters ask
    for) and `metadata`; row 0 also has `text`, `windows`, `num_rows` and `digest`. Vectors are float32. A
    call with many documents is several requests, and can be repeated.

    Attributes:
        client: Milvus's own.
        name: Of the collection.
        search_params: For `client.search`, such as `{"params": {"ef": 200}}`.
    """

    engine: ClassVar[str] = "Milvus"

    def __init__(
        self,
        client: Any,
        name: str,
        address: str,
        settings: StoreSettings,
        encoder: Encoder | None,
        retries: int,
        timeout: float,
    ) -> None:
        self.client = client
        self.name = name
        self.search_params: dict[str, Any] = {}
        self._timeout = timeout
        super().__init__(address, settings, encoder, retries)

    @classmethod
    def create(
        cls,
        uri: str,
        settings: StoreSettings | int,
        name: str = "documents",
        *,
        encoder: Encoder | None = None,
        retries: int = RETRIES,
        index_type: str | None = None,
        timeout: float = 60.0,
        **connection: Any,
    ) -> Self:
        """Creates a collection.

        Args:
            uri: A server's `http://…`, or a file that ends in `.db`, for milvus-lite.
            settings: What the vectors are, or their dimension alone; the storage is float32.
            name: Of the collection: letters, digits and underscores.
            encoder: Encodes texts.
            retries: How often a call is repeated while the server can't be reached.
            index_type: Milvus's; by default AUTOINDEX on a server and FLAT, which is exact, in a file.
            timeout: Of a call, in seconds.
            **connection: For `MilvusClient`; the token is MILVUS_TOKEN's by default.

        Raises:
            FileExistsError: There is a collection of this name.
            ValueError: Another storage than float32.
            ConnectionError: The server can't be reached.
        """
        if isinstance(settings, int):
            settings = StoreSettings(settings, storage="float32")
        if settings.storage != "float32":
            raise ValueError(f"storage must be 'float32' for Milvus, got {settings.storage!r}")
        address = f"milvus:{uri} (collection {name})"
        settings.check_encoder(encoder, address)
        client = asked_again(lambda: connect(uri, connection), *errors_at(address, retries))
        kept = settings

        def create() -> None:
            if client.has_collection(name, timeout=timeout):
                raise FileExistsError(f"{address} is there already: open it, or name another")
            index = client.prepare_index_params()
            chosen = index_type or ("AUTOINDEX" if is_server(uri) else "FLAT")
            index.add_index("vector", index_type=chosen, metric_type="IP")
            client.create_collection(
                name,
                schema=schema_of(client, kept),
                index_params=index,
                consistency_level="Strong",
                properties={SETTINGS: kept.to_json()},
                timeout=timeout,
            )

        try:
            asked_again(create, *errors_at(address, retries))
        except (OSError, ValueError):
            client.close()
            raise
        return cls(client, name, address, settings, encoder, retries, timeout)

    @classmethod
    def open(
        cls,
        uri: str,
        name: str = "documents",
        *,
        encoder: Encoder | None = None,
        retries: int = RETRIES,
        timeout: float = 60.0,
        **connection: Any,
    ) -> Self:
        """Opens a collection that `create` made; arguments are those of `create`.

        Raises:
            FileNotFoundError: There is no such collection.
            ValueError: Something else made it, or the encoder is of another checkpoint or dimension.
            ConnectionError: The server can't be reached.
        """
        address = f"milvus:{uri} (collection {name})"
        import_milvus()
        if not is_server(uri) and not Path(uri).exists():  # connecting would make one
            raise not_there(address)
        client = asked_again(lambda: connect(uri, connection), *errors_at(address, retries))

        def read() -> Any:
            if not client.has_collection(name, timeout=timeout):
                raise not_there(address)
            return client.describe_collection(name, timeout=timeout)

        try:
            found = asked_again(read, *errors_at(address, retries))
            kept = found.get("properties", {}).get(SETTINGS) or found.get("description") or None
            settings = StoreSettings.from_json(kept, address)
            # A file's collections aren't loaded when it is opened, and a server's may have been released.
            load = partial(client.load_collection, name, timeout=timeout)
            asked_again(load, *errors_at(address, retries))
            return cls(client, name, address, settings, encoder, retries, timeout)
        except (OSError, ValueError):
            client.close()
            raise

    @property
    def dialect(self) -> MilvusDialect:
        return MilvusDialect()

    def close(self) -> None:
        self.client.close()

    @property
    def _errors(self) -> tuple[type[Exception], ...]:
        return errors()

    def _is_down(self, error: Exception) -> bool:
        return is_down(error)

    def _check_record(self, record: Record) -> None:
        owner = f"document {record.document.id!r}"
        if len(record.key.encode()) > LONGEST_KEY:
            raise ValueError(
                f"{owner:.80} has an id beyond the {LONGEST_KEY} bytes that Milvus takes"
            )
        for name, value in (
            ("a text", record.document.text),
            ("metadata", json.dumps(dict(record.document.metadata))),
            ("windows", windows_to_json(record.document.windows)),
        ):
            size = len((value or "").encode())
            if size > LARGEST_TEXT:
                raise ValueError(
                    f"{owner} has {name} of {size:,} bytes, and Milvus takes {LARGEST_TEXT:,}: split the "
                    "document"
                )

    def _write(self, records: Sequence[Record]) -> None:
        for some in requests_of(records):
            old = self._primary_keys([record.key for record in some])
            rows = [row for record in some for row in rows_of(record)]
            new = {row["pk"] for row in rows}
            self._upsert([row for row in rows if row["row"] > 0])
            self._delete([key for key in old if key not in new])
            self._upsert([row for row in rows if row["row"] == 0])

    def _upsert(self, rows: list[dict[str, Any]]) -> None:
        for some in blocks(rows, ROWS_AT_ONCE):
            self.client.upsert(self.name, some, timeout=self._timeout)

    def _delete(self, primary_keys: Sequence[str]) -> None:
        for some in blocks(primary_keys, ROWS_AT_ONCE):
            self.client.delete(self.name, ids=some, timeout=self._timeout)

    def _remove(self, keys: Sequence[str]) -> None:
        # Row 0 first: what is left of a deletion that is cut short is no document.
        self._delete([primary_key(key, 0) for key in keys])
        self._delete(self._primary_keys(keys))

    def _primary_keys(self, keys: Sequence[str]) -> list[str]:
        """Of all rows of these documents, also of those that are half-written."""
        found: list[str] = []
        for some in blocks(keys, KEYS_AT_ONCE):
            found += self._rows_of_all(some)
        return found

    def _rows_of_all(self, keys: list[str]) -> list[str]:
        """Their primary keys; of fewer documents at a time where they have more rows than a call gives."""
        if len(keys) == 1:
            return self._rows_of(keys[0])
        some = self._query(f"doc in {quoted(keys)}", ["pk"])
        if len(some) < LARGEST_FETCH:
            return [row["pk"] for row in some]
        middle = len(keys) // 2
        return self._rows_of_all(keys[:middle]) + self._rows_of_all(keys[middle:])

    def _rows_of(self, key: str) -> list[str]:
        found: list[str] = []
        while True:
            block = f"row >= {len(found)} and row < {len(found) + LARGEST_FETCH}"
            some = self._query(f"doc == {quoted(key)} and {block}", ["pk"])
            found += [row["pk"] for row in some]
            if len(some) < LARGEST_FETCH:
                return found

    def _query(self, condition: str, fields: list[str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.query(
            self.name,
            filter=condition,
            output_fields=fields,
            limit=LARGEST_FETCH,
            timeout=self._timeout,
        )
        return found

    def _first_rows(self, keys: Sequence[str], fields: list[str]) -> dict[str, dict[str, Any]]:
        """Row 0 of those of these documents that are there."""
        found: dict[str, dict[str, Any]] = {}
        for some in blocks(keys, KEYS_AT_ONCE):
            firsts = [primary_key(key, 0) for key in some]
            found |= {row["doc"]: row for row in self._query(f"pk in {quoted(firsts)}", fields)}
        return found

    def _documents(self, keys: Sequence[str]) -> dict[str, Document]:
        about = self._first_rows(keys, ABOUT)
        rows: dict[str, dict[int, dict[str, Any]]] = {key: {} for key in about}
        for some, first, last in blocks_of({key: one["num_rows"] for key, one in about.items()}):
            block = f"doc in {quoted(some)} and row >= {first} and row < {last}"
            for row in self._query(block, ["doc", "row", "position", "vector"]):
                rows[row["doc"]][row["row"]] = row
        return {
            key: document_of(one, [rows[key][number] for number in sorted(rows[key])])
            for key, one in about.items()
        }

    def _digests(self, keys: Sequence[str]) -> dict[str, str]:
        found = self._first_rows(keys, ["doc", "digest"])
        return {key: row["digest"] for key, row in found.items()}

    def _count(self, condition: Any) -> int:
        firsts = "row == 0" if condition is None else f"row == 0 and ({condition})"
        found = self.client.query(
            self.name, filter=firsts, output_fields=["count(*)"], timeout=self._timeout
        )
        return int(found[0]["count(*)"])

    def _nearest(
        self, view: FloatArray, limit: int, condition: Any, with_all: bool
    ) -> list[Document]:
        best = self._best_rows(view, limit, condition)
        if with_all:
            whole = self._documents(list(best))
            return [whole[key] for key in best if key in whole]
        about = self._first_rows(list(best), ABOUT)
        vectors: dict[str, dict[str, Any]] = {}
        for some in blocks(best.values(), KEYS_AT_ONCE):
            for row in self._query(f"pk in {quoted(some)}", ["doc", "position", "vector"]):
                vectors[row["doc"]] = row
        there = [key for key in best if key in about and key in vectors]
        return [document_of(about[key], [vectors[key]]) for key in there]

    def _best_rows(self, view: FloatArray, limit: int, condition: Any) -> dict[str, str]:
        """The primary key of the nearest row of each of the `limit` best documents, best first."""
        best: dict[str, str] = {}
        fetch, passed_over = min(FETCHED * limit, LARGEST_FETCH), condition or ""
        while True:
            [rows] = self.client.search(
                self.name,
                data=[view.tolist()],
                anns_field="vector",
                limit=fetch,
                filter=passed_over,
                output_fields=["doc"],
                search_params={"metric_type": "IP", **self.search_params},
                timeout=self._timeout,
            )
            for row in rows:
                best.setdefault(row["entity"]["doc"], row["pk"])
            if len(best) >= limit or len(rows) < fetch:
                return dict(list(best.items())[:limit])
            if fetch < LARGEST_FETCH:
                fetch = min(2 * fetch, LARGEST_FETCH)
                continue
            others = f"doc not in {quoted(list(best))}"
            passed_over = others if condition is None else f"({condition}) and {others}"


def rows_of(record: Record) -> list[dict[str, Any]]:
    """The rows of a document."""
    document = record.document
    vectors, positions = document.views
    rows: list[dict[str, Any]] = [
        {
            "pk": primary_key(record.key, number),
            "doc": record.key,
            "row": number,
            "position": int(position),
            "vector": vector.tolist(),
            "facts": record.facts,
            "metadata": dict(document.metadata),
            "text": None,
            "windows": None,
            "num_rows": len(vectors),
            "digest": record.digest,
        }
        for number, (vector, position) in enumerate(zip(vectors, positions, strict=True))
    ]
    rows[0] |= {"text": document.text, "windows": windows_to_json(document.windows)}
    return rows


def document_of(about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Document:
    """The document of a row 0, with the vectors of some rows."""
    vectors = np.array([row["vector"] for row in rows], dtype=np.float32)
    positions = np.array([row["position"] for row in rows], dtype=np.int32)
    windows = windows_from_json(about["windows"])
    return Document(
        id_of(about["doc"]), Views(vectors, positions), about["text"], about["metadata"], 0, windows
    )


def primary_key(key: str, row: int) -> str:
    """The primary key of a document's row."""
    return f"{row}:{key}"


def requests_of(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Splits records into some with about `ROWS_AT_ONCE` rows."""
    some: list[Record] = []
    count = 0
    for record in records:
        size = len(record.document.views.vectors)
        if some and count + size > ROWS_AT_ONCE:
            yield some
            some, count = [], 0
        some.append(record)
        count += size
    if some:
        yield some


def blocks_of(counts: Mapping[str, int]) -> Iterator[tuple[list[str], int, int]]:
    """Splits documents of so many rows into keys and a range of rows that one call may give."""
    some: list[str] = []
    total = 0
    for key, count in counts.items():
        if count > LARGEST_FETCH:
            for first in range(0, count, LARGEST_FETCH):
                yield [key], first, first + LARGEST_FETCH
            continue
        if some and total + count > LARGEST_FETCH:
            yield some, 0, LARGEST_FETCH
            some, total = [], 0
        some.append(key)
        total += count
    if some:
        yield some, 0, LARGEST_FETCH


def schema_of(client: Any, settings: StoreSettings) -> Any:
    """The schema of a collection; its description holds the settings as well, which lite leaves out."""
    import_milvus()
    from pymilvus import DataType

    schema = client.create_schema(
        auto_id=False, enable_dynamic_field=False, description=settings.to_json()
    )
    schema.add_field("pk", DataType.VARCHAR, max_length=600, is_primary=True)
    schema.add_field("doc", DataType.VARCHAR, max_length=512)
    schema.add_field("row", DataType.INT64)
    schema.add_field("position", DataType.INT64)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=settings.dim)
    listed: dict[str, Any] = {"element_type": DataType.VARCHAR, "max_capacity": 4096}
    schema.add_field("facts", DataType.ARRAY, max_length=512, **listed)
    schema.add_field("metadata", DataType.JSON)
    schema.add_field("text", DataType.VARCHAR, max_length=LARGEST_TEXT, nullable=True)
    schema.add_field("windows", DataType.VARCHAR, max_length=LARGEST_TEXT, nullable=True)
    schema.add_field("num_rows", DataType.INT64)
    schema.add_field("digest", DataType.VARCHAR, max_length=64)
    return schema


def is_server(uri: str) -> bool:
    """Whether a URI is a server's, not a file."""
    return uri.startswith(("http://", "https://", "tcp://", "unix:"))


def connect(uri: str, options: dict[str, Any]) -> Any:
    """A client for a server or a file."""
    client = import_milvus().MilvusClient
    if not is_server(uri):
        if not uri.endswith(".db"):
            raise ValueError(
                f"expected a server's http://… or a file that ends in .db, got {uri!r}"
            )
        return client(uri, **options)
    token = os.environ.get("MILVUS_TOKEN", "")
    return client(uri, **{"token": token, "timeout": 10, **options})


def errors() -> tuple[type[Exception], ...]:
    """The exceptions of the client."""
    import_milvus()
    import grpc
    from pymilvus import MilvusException

    return (MilvusException, grpc.RpcError)


def is_down(error: Exception) -> bool:
    """Whether an error means that the server can't be reached or doesn't answer in time."""
    import grpc
    from pymilvus import exceptions

    if isinstance(error, grpc.RpcError):
        return True
    down = (exceptions.ConnectError, exceptions.MilvusUnavailableException)
    words = ("connecting to server", "unavailable", "DEADLINE_EXCEEDED", "timeout", "rate limit")
    return isinstance(error, down) or any(word in str(error) for word in words)


def errors_at(address: str, retries: int) -> tuple[Any, ...]:
    """The last arguments of `asked_again`."""
    return errors(), is_down, address, check_retries(retries)


def import_milvus() -> ModuleType:
    """The module `pymilvus`, imported at first use."""
    try:
        import pymilvus
    except ImportError as error:
        raise ImportError(
            'a MilvusStore needs pymilvus: pip install "fastlane-st[milvus]"'
        ) from error
    module: ModuleType = pymilvus
    return module
