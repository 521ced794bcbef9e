"""Store, the interface of all vector stores: create, upsert, delete, search by one route, rerank, count.

An engine finds documents; scores, matches and hits are computed here from the vectors that it gives back, as
`FastLaneIndex` computes them. A subclass writes and reads records in its engine's way.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, ClassVar, NamedTuple, TypeVar, overload

import numpy as np
from typing_extensions import Self

from ..index.arguments import check_id_list, check_items, check_search
from ..index.documents import StoredDocument
from ..index.encoding import Encoding
from ..index.filters import Filter
from ..index.identity import adapter_state
from ..index.incoming import Incoming
from ..index.segment import Document
from ..index.windows import best_span
from ..modeling.search_fastlane import (
    Embeddings,
    Encoder,
    FloatArray,
    Hit,
    Id,
    Match,
    Metadata,
    Positions,
    Views,
    check_counts,
    exact_matches,
    given_views,
    query_list,
    query_views,
)
from .filters import KINDS, Dialect, asked_kinds, translate
from .records import Record, key_of, kind_fact
from .settings import StoreSettings

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")
Item = TypeVar("Item")

RETRIES = 2
LONGEST_MESSAGE = 400
FIRST_WAIT = 0.25  # seconds; each further one is twice as long


class Asked(NamedTuple):
    """One query: the view that finds documents, and all views that rank them again, if asked for."""

    routed: Views
    full: Views | None


class Store(ABC):
    """Documents as token vectors in a vector store, found by `max_j q·d_j`.

    Subclasses have `create` and `open` with the arguments of their engine. Results are those of a
    `FastLaneIndex` over the same vectors, up to the engine's approximation; equal scores come in the engine's
    order.

    Args:
        address: Names the store in errors.
        settings: What its vectors are.
        encoder: Encodes texts.
        retries: How often a call is repeated while the store can't be reached.

    Attributes:
        address: As given.
        settings: As given.
    """

    engine: ClassVar[str]

    def __init__(
        self, address: str, settings: StoreSettings, encoder: Encoder | None, retries: int
    ) -> None:
        self.address = address
        self.settings = settings
        self._retries = check_retries(retries)
        self._known_facts: set[tuple[str, ...]] = set()
        self.encoder = encoder

    @classmethod
    @abstractmethod
    def create(
        cls,
        uri: str,
        settings: StoreSettings | int,
        name: str = "documents",
        *,
        encoder: Encoder | None = None,
        retries: int = RETRIES,
        **connection: Any,
    ) -> Self:
        """Creates an empty store; one of this name is a FileExistsError."""

    @classmethod
    @abstractmethod
    def open(
        cls,
        uri: str,
        name: str = "documents",
        *,
        encoder: Encoder | None = None,
        retries: int = RETRIES,
        **connection: Any,
    ) -> Self:
        """Opens a store; none of this name is a FileNotFoundError."""

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.settings.dim

    @property
    def encoder(self) -> Encoder | None:
        """Encodes texts, or None. One of another checkpoint or dimension than the store's is a ValueError."""
        return self._encoder

    @encoder.setter
    def encoder(self, encoder: Encoder | None) -> None:
        self.settings.check_encoder(encoder, self.address)
        self._encoder = encoder
        self._adapters = adapter_state(encoder)

    def upsert(
        self,
        documents: Iterable[str] | Sequence[Embeddings],
        ids: Iterable[Id],
        *,
        metadata: Iterable[Metadata] | None = None,
        texts: Sequence[str] | None = None,
        positions: Sequence[Positions] | None = None,
        batch_size: int = 32,
        chunk_size: int = 256,
        show_progress_bar: bool = False,
    ) -> None:
        """Replaces the documents whose ids are there and adds the others.

        All of them are encoded and checked before the first is written.

        Args:
            documents: Texts, or arrays `(num_vectors, dim)` that hold one document's views each.
            ids: One per document, all different.
            metadata: One mapping per document, of field names to JSON scalars, to filter by.
            texts: With vectors: one per document, given back with hits.
            positions: With vectors: each vector's token position in its document; 0, 1, 2, … by default.
            batch_size, chunk_size, show_progress_bar: Of the encoding, as for `FastLaneIndex.build`.

        Raises:
            ValueError: What `FastLaneIndex.upsert` refuses, a document without vectors, or one beyond the
                store's limits.
            ConnectionError: The store can't be reached.
        """
        items = check_items(documents)
        self._check_encoder()
        incoming = Incoming.of(items, ids, metadata, texts, positions)
        if not incoming.ids:
            return
        encoding = self.encoding(batch_size, chunk_size, show_progress_bar)
        records = [self.record_of(document) for document in incoming.documents(encoding)]
        encoding.long.tell()
        self.write(records)

    def delete(self, ids: Iterable[Id]) -> None:
        """Deletes documents.

        Raises:
            ValueError: An id isn't there; then nothing is deleted.
            ConnectionError: The store can't be reached.
        """
        keys = {key_of(id): id for id in check_id_list(ids)}
        found = self.digests(list(keys))
        absent = [id for key, id in keys.items() if key not in found]
        if absent:
            raise ValueError(
                f"{self.address} has no document with {len(absent)} of the ids, the first {absent[0]!r}"
            )
        if keys:
            self._ask(lambda: self._remove(list(keys)))

    def get(self, ids: Iterable[Id]) -> list[StoredDocument]:
        """The id, text and metadata of documents, in the order of `ids`; an unknown id is a ValueError."""
        return [
            StoredDocument(one.id, one.text, one.metadata, one.windows) for one in self._read(ids)
        ]

    def count(self, where: Filter | None = None) -> int:
        """How many documents there are, or pass a filter."""
        condition = self._condition(where)
        return self._ask(lambda: self._count(condition))

    def __len__(self) -> int:
        return self.count()

    @overload
    def search(  # type: ignore[overload-overlap]
        self,
        queries: str,
        top_k: int = ...,
        *,
        where: Filter | None = ...,
        rerank: int | None = ...,
        batch_size: int = ...,
    ) -> list[Hit]: ...

    @overload
    def search(
        self,
        queries: Sequence[str] | Sequence[Embeddings],
        top_k: int = ...,
        *,
        where: Filter | None = ...,
        rerank: int | None = ...,
        batch_size: int = ...,
    ) -> list[list[Hit]]: ...

    def search(
        self,
        queries: str | Sequence[str] | Sequence[Embeddings],
        top_k: int = 10,
        *,
        where: Filter | None = None,
        rerank: int | None = None,
        batch_size: int = 32,
    ) -> list[Hit] | list[list[Hit]]:
        """Finds the `top_k` best documents for each query by one route.

        Args:
            queries: Texts, or arrays `(1, dim)` that hold one query's routed view each.
            top_k: Documents for each query.
            where: Find only documents with such metadata, see `fastlane_st.index.filters`. The store
                applies it before it ranks.
            rerank: Rank so many of the best documents again, by full MaxSim with all tokens of the
                query; at least `top_k`. For texts.
            batch_size: Queries encoded at once.

        Returns:
            A list of hits, best first, for each query; for a single str that list alone.

        Raises:
            ValueError: What `FastLaneIndex.search` refuses, a query of several views, or a filter that the
                store can't apply.
            ConnectionError: The store can't be reached.
        """
        items = query_list(queries)
        check_counts(top_k=top_k, batch_size=batch_size)
        check_search(items, top_k, "default", None, rerank)
        self._check_encoder()
        condition = self._condition(where)
        hits = [
            self._find(asked, top_k, rerank or top_k, condition)
            for start in range(0, len(items), batch_size)
            for asked in self._views(items[start : start + batch_size], start, rerank is not None)
        ]
        return hits[0] if isinstance(queries, str) else hits

    def rerank(self, query: str | Embeddings, ids: Iterable[Id], top_k: int = 10) -> list[Hit]:
        """Ranks documents by full MaxSim with all tokens of a query.

        Args:
            query: A text, or an array `(num_vectors, dim)`.
            ids: The documents', such as another search has found.
            top_k: How many hits to give, at most.

        Raises:
            ValueError: An id isn't there, or what `search` refuses.
        """
        check_counts(top_k=top_k)
        self._check_encoder()
        if isinstance(query, str):
            check_search([query], top_k, "default", None)
            [asked] = self._views([query], 0, True)
            views = asked.full
        else:
            views = self._given(query, "the query")
        assert views is not None
        return ranked(self._read(ids), views, top_k)

    def finish(self) -> None:  # noqa: B027 (most engines need nothing)
        """Builds or extends the engine's own indexes after many documents were written."""

    def close(self) -> None:  # noqa: B027
        """Ends the connection."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r}, {self.dim} dimensions)"

    # What exports use: documents that are encoded already, and what of them is there.

    def encoding(
        self, batch_size: int = 32, chunk_size: int = 256, show_progress_bar: bool = False
    ) -> Encoding:
        """How the store's texts are encoded."""
        settings = self.settings
        return Encoding(
            self.encoder,
            settings.document_routes,
            batch_size,
            chunk_size,
            show_progress_bar,
            long_texts=settings.long_texts,
            context=settings.context,
        )

    def record_of(self, document: Document, digest: str | None = None) -> Record:
        """Checks an encoded document; what the store can't hold is a ValueError."""
        record = Record.of(document, self.settings, digest)
        self._check_record(record)
        return record

    def write(self, records: Sequence[Record]) -> None:
        """Writes checked documents over those of the same keys."""
        self._ask(lambda: self._write(records))

    def digests(self, keys: Sequence[str]) -> dict[str, str]:
        """The digests of those of these documents that are there."""
        return self._ask(lambda: self._digests(keys)) if keys else {}

    # What an engine does.

    @property
    @abstractmethod
    def dialect(self) -> Dialect[Any]:
        """Writes filters in the engine's way."""

    @property
    @abstractmethod
    def _errors(self) -> tuple[type[Exception], ...]:
        """The engine's exceptions."""

    @abstractmethod
    def _is_down(self, error: Exception) -> bool:
        """Whether one of them means that the store can't be reached."""

    @abstractmethod
    def _write(self, records: Sequence[Record]) -> None: ...

    @abstractmethod
    def _remove(self, keys: Sequence[str]) -> None: ...

    @abstractmethod
    def _documents(self, keys: Sequence[str]) -> dict[str, Document]:
        """Those of these documents that are there, with all vectors."""

    @abstractmethod
    def _digests(self, keys: Sequence[str]) -> dict[str, str]: ...

    @abstractmethod
    def _count(self, condition: Any) -> int: ...

    @abstractmethod
    def _nearest(
        self, view: FloatArray, limit: int, condition: Any, with_all: bool
    ) -> list[Document]:
        """The `limit` best documents for a view (dim,), with the nearest vector or, if asked, all."""

    def _check_record(self, record: Record) -> None:  # noqa: B027
        """Raises a ValueError for a document beyond the engine's limits."""

    # What is the same for all.

    def _find(self, asked: Asked, top_k: int, limit: int, condition: Any) -> list[Hit]:
        full = asked.full
        [view] = asked.routed.vectors
        found = self._ask(lambda: self._nearest(view, limit, condition, full is not None))
        if full is None:
            return ranked(found, asked.routed, top_k)
        kept = {hit.id for hit in ranked(found, asked.routed, limit)}
        return ranked([one for one in found if one.id in kept], full, top_k)

    def _views(self, items: list[Any], first: int, with_full: bool) -> list[Asked]:
        """The views of some queries, each of one routed view."""
        if isinstance(items[0], str):
            if self.encoder is None:
                raise ValueError(
                    f"text queries need an encoder: open {self.address} with encoder=, or search with vectors"
                )
            batch = query_views(items, self.encoder, {"num_routes": 1}, self.dim, first, with_full)
            return [
                Asked(routed, batch.full[number] if with_full else None)
                for number, routed in enumerate(batch.routed)
            ]
        asked = []
        for number, item in enumerate(items, start=first):
            views = self._given(item, f"query {number}")
            if len(views.vectors) != 1:
                raise ValueError(
                    f"query {number} must be one routed view, of shape (1, {self.dim}), got "
                    f"{len(views.vectors)} views: a store answers one route; rerank ranks by several"
                )
            asked.append(Asked(views, None))
        return asked

    def _given(self, embeddings: Embeddings, owner: str) -> Views:
        views = given_views(embeddings, owner)
        if views.vectors.shape[1] != self.dim or not len(views.vectors):
            raise ValueError(
                f"{owner} has shape {views.vectors.shape}, {self.address} holds vectors of {self.dim} "
                "dimensions"
            )
        return views

    def _read(self, ids: Iterable[Id]) -> list[Document]:
        keys = {key_of(id): id for id in check_id_list(ids)}
        found = self._ask(lambda: self._documents(list(keys))) if keys else {}
        for key, id in keys.items():
            if key not in found:
                raise ValueError(f"{self.address} has no document with the id {id!r}")
        return [found[key] for key in keys]

    def _condition(self, where: Filter | None) -> Any:
        """A filter as the engine's own; None for none.

        Raises:
            ValueError: No document has one of its fields, or none of a kind that is compared by order.
        """
        if where is None:
            return None
        condition = translate(where, self.dialect)
        for field, kinds in asked_kinds(where).items():
            if not self._has_any(kind_fact(field, kind) for kind in KINDS):
                raise ValueError(f"no document of {self.address} has the field {field!r}")
            for kind in sorted(kinds):
                if not self._has_any([kind_fact(field, kind)]):
                    raise ValueError(
                        f"the filter compares {field!r} with a {kind}, and no document of {self.address} has "
                        "such a value there"
                    )
        return condition

    def _has_any(self, facts: Iterable[str]) -> bool:
        """Whether any document has one of these facts; what was there once is remembered."""
        asked = tuple(facts)
        if asked not in self._known_facts:
            condition = self.dialect.has(asked)
            if not self._ask(lambda: self._count(condition)):
                return False
            self._known_facts.add(asked)
        return True

    def _check_encoder(self) -> None:
        """Checks the encoder again if its adapters were switched or merged since it was set."""
        if self._adapters != adapter_state(self._encoder):
            self.encoder = self._encoder

    def _ask(self, call: Callable[[], Answer]) -> Answer:
        """Calls the engine, again where it can't be reached; its errors get the address."""
        return asked_again(call, self._errors, self._is_down, self.address, self._retries)


def ranked(documents: Collection[Document], query: Views, top_k: int) -> list[Hit]:
    """The `top_k` best documents by MaxSim with the query's views; equal ones in the given order."""
    hits = []
    for one in documents:
        [score], [matched], [similarities] = exact_matches(
            one.views.vectors, np.zeros(1, dtype=np.int64), query.vectors
        )
        places = one.views.positions[matched].tolist()
        matches = tuple(map(Match, query.positions.tolist(), places, similarities.tolist()))
        span = best_span(one.windows, matches)
        hits.append(Hit(one.id, float(score), matches, one.text, one.metadata, span))
    hits.sort(key=lambda hit: -hit.score)
    return hits[:top_k]


def not_there(address: str) -> FileNotFoundError:
    """What opening a store that nobody has created raises."""
    return FileNotFoundError(f"{address} isn't there: create it, or export to it")


def check_retries(retries: object) -> int:
    """Raises a ValueError unless it is an integer from 0 on."""
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise ValueError(f"retries must be an integer from 0 on, got {retries!r}")
    return retries


def asked_again(
    call: Callable[[], Answer],
    errors: tuple[type[Exception], ...],
    is_down: Callable[[Exception], bool],
    address: str,
    retries: int,
) -> Answer:
    """Calls, and calls again while a store can't be reached, after twice the time each.

    Raises:
        ConnectionError: It still can't be.
        ValueError: The store refuses the call.
    """
    for attempt in range(retries + 1):
        try:
            return call()
        except errors as error:
            if not is_down(error):
                raise ValueError(f"{address} refuses: {said(error)}") from error
            if attempt == retries:
                raise ConnectionError(f"{address} can't be reached: {said(error)}") from error
            wait = FIRST_WAIT * 2**attempt
            logger.warning("%s can't be reached, again in %.2g s: %s", address, wait, said(error))
            time.sleep(wait)
    raise AssertionError


def said(error: Exception) -> str:
    """What an engine says, without the pages that some add."""
    text = str(error)
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]}…"


def blocks(items: Iterable[Item], count: int) -> Iterator[list[Item]]:
    """Some of the items at a time."""
    rest = iter(items)
    while some := list(islice(rest, count)):
        yield some
