"""QdrantStore: a Qdrant collection, on a server or in Qdrant's local mode; one point a document.

The vector `tokens` is a multivector compared by Qdrant's MaxSim, which for a query of one row is `max_j
q·d_j`. A search that is ranked again is one call: the route finds documents, and all tokens of the query
rank them. It relies on the package qdrant-client.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from typing_extensions import Self

from ..index.segment import Document
from ..modeling.search_fastlane import Encoder, FloatArray, Views
from .base import RETRIES, Asked, Store, asked_again, blocks, check_retries, not_there, ranked
from .qdrant_filters import QdrantDialect
from .records import Record, id_of, windows_from_json, windows_to_json
from .settings import StoreSettings

LARGEST = 1_048_576
"""Numbers that a multivector of Qdrant may have."""
VECTOR = "tokens"
SETTINGS = "fastlane"
NUMBERS_AT_ONCE = (
    1_000_000  # of the vectors in one request: some 12 MB of JSON, where a server takes 32
)
KEYS_AT_ONCE = 500
NAMESPACE = uuid.UUID(
    "5d1c9c1e-7a58-4d61-9c1b-6e0d6f1f3a55"
)  # of points: a key's id is the same everywhere


class QdrantStore(Store):
    """Documents in a Qdrant collection.

    Payload: `id`, `text`, `metadata`, `windows`, `positions`, `facts` (what filters ask for) and `digest`. A
    document is written whole; a call with many documents is several requests, and can be repeated.

    Attributes:
        client: Qdrant's own.
        name: Of the collection.
        exact: Whether the server compares with every document, without its graph.
    """

    engine: ClassVar[str] = "Qdrant"

    def __init__(
        self,
        client: Any,
        name: str,
        address: str,
        settings: StoreSettings,
        encoder: Encoder | None,
        retries: int,
        exact: bool = False,
    ) -> None:
        self.client = client
        self.name = name
        self.exact = exact
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
        graph: bool = True,
        **connection: Any,
    ) -> Self:
        """Creates a collection.

        Args:
            uri: A server's `http://…`, a folder for the local mode, or `:memory:`.
            settings: What the vectors are, or their dimension alone, for float16.
            name: Of the collection.
            encoder: Encodes texts.
            retries: How often a call is repeated while the server can't be reached.
            graph: Whether the server builds its graph (HNSW) over the documents. It costs much for long ones;
                without it every search compares with every document.
            **connection: For `QdrantClient`; the key is QDRANT_API_KEY's by default.

        Raises:
            FileExistsError: There is a collection of this name.
            ConnectionError: The server can't be reached.
        """
        if isinstance(settings, int):
            settings = StoreSettings(settings)
        address = f"qdrant:{uri} (collection {name})"
        settings.check_encoder(encoder, address)
        client = asked_again(lambda: connect(uri, connection), *errors_at(address, retries))

        def create() -> None:
            if client.collection_exists(name):
                raise FileExistsError(f"{address} is there already: open it, or name another")
            models = import_qdrant().models
            params = models.VectorParams(
                size=settings.dim,
                distance=models.Distance.DOT,
                datatype=models.Datatype(settings.storage),
                multivector_config=models.MultiVectorConfig(
                    comparator=models.MultiVectorComparator.MAX_SIM
                ),
                hnsw_config=None if graph else models.HnswConfigDiff(m=0),
            )
            kept = {SETTINGS: settings.to_json()}
            client.create_collection(name, vectors_config={VECTOR: params}, metadata=kept)
            if is_server(uri):
                for field in ("id", "facts"):
                    client.create_payload_index(name, field, models.PayloadSchemaType.KEYWORD)

        try:
            asked_again(create, *errors_at(address, retries))
        except (OSError, ValueError):
            client.close()
            raise
        return cls(client, name, address, settings, encoder, retries)

    @classmethod
    def open(
        cls,
        uri: str,
        name: str = "documents",
        *,
        encoder: Encoder | None = None,
        retries: int = RETRIES,
        **connection: Any,
    ) -> Self:
        """Opens a collection that `create` made; arguments are those of `create`.

        Raises:
            FileNotFoundError: There is no such collection.
            ValueError: Something else made it, or the encoder is of another checkpoint or dimension.
            ConnectionError: The server can't be reached.
        """
        address = f"qdrant:{uri} (collection {name})"
        import_qdrant()
        if (
            not is_server(uri) and uri != ":memory:" and not Path(uri).exists()
        ):  # connecting would make one
            raise not_there(address)
        client = asked_again(lambda: connect(uri, connection), *errors_at(address, retries))

        def read() -> Any:
            if not client.collection_exists(name):
                raise not_there(address)
            return client.get_collection(name).config.metadata or {}

        try:
            kept = asked_again(read, *errors_at(address, retries))
            settings = StoreSettings.from_json(kept.get(SETTINGS), address)
            return cls(client, name, address, settings, encoder, retries)
        except (OSError, ValueError):
            client.close()
            raise

    @property
    def dialect(self) -> QdrantDialect:
        return QdrantDialect(import_qdrant().models)

    def close(self) -> None:
        self.client.close()

    @property
    def _errors(self) -> tuple[type[Exception], ...]:
        return errors()

    def _is_down(self, error: Exception) -> bool:
        return is_down(error)

    def _check_record(self, record: Record) -> None:
        count, dim = record.document.views.vectors.shape
        if count * dim >= LARGEST:
            raise ValueError(
                f"document {record.document.id!r} has {count:,} vectors of {dim} dimensions, {count * dim:,} "
                f"numbers, and Qdrant takes fewer than {LARGEST:,} a document: split it, or keep fewer "
                "vectors of each (num_routes of documents, --document-routes)"
            )

    def _write(self, records: Sequence[Record]) -> None:
        models = import_qdrant().models
        for some in requests_of(records):
            points = [
                models.PointStruct(
                    id=point_id(record.key),
                    vector={VECTOR: record.document.views.vectors.tolist()},
                    payload=payload_of(record),
                )
                for record in some
            ]
            self.client.upsert(self.name, points=points, wait=True)

    def _remove(self, keys: Sequence[str]) -> None:
        ids = import_qdrant().models.PointIdsList(points=list(map(point_id, keys)))
        self.client.delete(self.name, points_selector=ids, wait=True)

    def _points(self, keys: Sequence[str], payload: Any, vectors: Any) -> Iterator[Any]:
        for ids in blocks(map(point_id, keys), KEYS_AT_ONCE):
            yield from self.client.retrieve(
                self.name, ids, with_payload=payload, with_vectors=vectors
            )

    def _documents(self, keys: Sequence[str]) -> dict[str, Document]:
        points = self._points(keys, True, [VECTOR])
        return {point.payload["id"]: document_of(point) for point in points}

    def _digests(self, keys: Sequence[str]) -> dict[str, str]:
        points = self._points(keys, ["id", "digest"], False)
        return {point.payload["id"]: point.payload["digest"] for point in points}

    def _count(self, condition: Any) -> int:
        found = self.client.count(self.name, count_filter=filter_of(condition), exact=True)
        return int(found.count)

    def _nearest(
        self, view: FloatArray, limit: int, condition: Any, with_all: bool
    ) -> list[Document]:
        return self._query(query=[view.tolist()], limit=limit, query_filter=filter_of(condition))

    def _find(self, asked: Asked, top_k: int, limit: int, condition: Any) -> Any:
        if asked.full is None:
            return super()._find(asked, top_k, limit, condition)
        models, full = import_qdrant().models, asked.full
        found_by_route = models.Prefetch(
            query=asked.routed.vectors.tolist(),
            using=VECTOR,
            limit=limit,
            filter=filter_of(condition),
            params=models.SearchParams(exact=self.exact),
        )
        again = {"prefetch": found_by_route, "query": full.vectors.tolist(), "limit": top_k}
        return ranked(self._ask(lambda: self._query(**again)), full, top_k)

    def _query(self, **options: Any) -> list[Document]:
        found = self.client.query_points(
            self.name,
            using=VECTOR,
            with_payload=True,
            with_vectors=[VECTOR],
            search_params=import_qdrant().models.SearchParams(exact=self.exact),
            **options,
        )
        return list(map(document_of, found.points))


def filter_of(condition: Any) -> Any:
    """A condition as the filter that a request has; None for none."""
    if condition is None:
        return None
    models = import_qdrant().models
    return condition if isinstance(condition, models.Filter) else models.Filter(must=[condition])


def point_id(key: str) -> str:
    """The id of a key's point: Qdrant takes UUIDs and integers alone."""
    return str(uuid.uuid5(NAMESPACE, key))


def payload_of(record: Record) -> dict[str, Any]:
    """What a point holds beside its vectors."""
    document = record.document
    return {
        "id": record.key,
        "text": document.text,
        "metadata": dict(document.metadata),
        "windows": windows_to_json(document.windows),
        "positions": document.views.positions.tolist(),
        "facts": record.facts,
        "digest": record.digest,
    }


def document_of(point: Any) -> Document:
    """The document of a point with payload and vectors."""
    payload = point.payload
    positions = np.array(payload["positions"], dtype=np.int32)
    vectors = np.array(point.vector[VECTOR], dtype=np.float32).reshape(len(positions), -1)
    windows = windows_from_json(payload["windows"])
    return Document(
        id_of(payload["id"]),
        Views(vectors, positions),
        payload["text"],
        payload["metadata"],
        0,
        windows,
    )


def requests_of(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Splits records into requests that a server takes."""
    some: list[Record] = []
    numbers = 0
    for record in records:
        size = record.document.views.vectors.size + len(json.dumps(record.document.text)) // 10
        if some and numbers + size > NUMBERS_AT_ONCE:
            yield some
            some, numbers = [], 0
        some.append(record)
        numbers += size
    if some:
        yield some


def is_server(uri: str) -> bool:
    """Whether a URI is a server's, not a folder's or the memory."""
    return uri.startswith(("http://", "https://"))


def connect(uri: str, options: dict[str, Any]) -> Any:
    """A client for a server, a folder, or memory."""
    client = import_qdrant().QdrantClient
    if uri == ":memory:":
        return client(location=uri, **options)
    if not is_server(uri):
        return client(path=uri, **options)
    key = os.environ.get("QDRANT_API_KEY")
    return client(
        url=uri, **{"api_key": key, "timeout": 60, "check_compatibility": False, **options}
    )


def errors() -> tuple[type[Exception], ...]:
    """The client's exceptions; its local mode raises ValueError, and RuntimeError for a locked folder."""
    import_qdrant()
    from qdrant_client.http.exceptions import ApiException

    return (ApiException, RuntimeError, ValueError)


def is_down(error: Exception) -> bool:
    """Whether an error means that the server can't be reached, is overloaded, or has failed."""
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    if isinstance(error, UnexpectedResponse):
        return error.status_code is None or error.status_code == 429 or error.status_code >= 500
    is_locked = isinstance(error, RuntimeError) and "already accessed" in str(error)
    return is_locked or isinstance(error, ResponseHandlingException)


def errors_at(address: str, retries: int) -> tuple[Any, ...]:
    """The last arguments of `asked_again`."""
    return errors(), is_down, address, check_retries(retries)


def import_qdrant() -> ModuleType:
    """The module `qdrant_client`, imported at first use."""
    try:
        import qdrant_client
    except ImportError as error:
        raise ImportError(
            'a QdrantStore needs the Qdrant client: pip install "fastlane-st[qdrant]"'
        ) from error
    module: ModuleType = qdrant_client
    return module
