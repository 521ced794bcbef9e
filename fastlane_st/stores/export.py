"""Exports documents with their vectors, of an index or newly encoded, to a store or Parquet files.

An export asks the target for digests of what it holds and writes the rest, so that one that was interrupted
goes on when it is called again, and one that is repeated writes what has changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from tqdm.auto import tqdm

from ..data.rows import CorpusDocument
from ..index.encoding import DocumentRoutes, Encoding
from ..index.identity import encoder_digests
from ..index.incoming import Incoming
from ..index.index import FastLaneIndex
from ..index.long_texts import LongTexts
from ..index.segment import Document
from ..index.storage.manifest import MANIFEST
from ..modeling.fingerprint_fastlane import fastlane_model
from ..modeling.search_fastlane import Encoder, FloatArray, check_counts
from .addresses import create_store, open_store
from .base import RETRIES, Store, blocks
from .parquet import ParquetFolder
from .records import Record, key_of
from .settings import StoreSettings, StoreStorage

AT_ONCE = 1_000  # documents between two writes to a store
SAMPLE = 1_000  # vectors that are looked at to see whether all are of unit length
UNIT_SLACK = 0.01
FORMS = "lancedb:PATH, qdrant:URL, milvus:URI, parquet:DIR"


class Exported(NamedTuple):
    """What an export did.

    Attributes:
        written: Documents that were written.
        there: Documents that the target held already, and the same.
        without_vectors: Documents that were left out, since no search could find them.
    """

    written: int
    there: int
    without_vectors: int


class Target(Protocol):
    """Where an export goes."""

    settings: StoreSettings
    at_once: int

    def missing(self, digests: Mapping[str, str]) -> set[str]:
        """The keys of those documents that aren't there, or with another digest."""

    def record_of(self, document: Document, digest: str | None = None) -> Record: ...

    def write(self, records: Sequence[Record]) -> None: ...

    def finish(self) -> None: ...

    def close(self) -> None: ...


class StoreTarget:
    """A store that is exported to."""

    at_once = AT_ONCE

    def __init__(self, store: Store) -> None:
        self.settings = store.settings
        self.record_of = store.record_of
        self.write = store.write
        self.finish = store.finish
        self.close = store.close
        self._digests = store.digests

    def missing(self, digests: Mapping[str, str]) -> set[str]:
        there = self._digests(list(digests))
        return {key for key, digest in digests.items() if there.get(key) != digest}


class Piece(NamedTuple):
    """Some documents: their digests by key, and what makes the records of some keys."""

    digests: dict[str, str]
    records: Callable[[Collection[str]], list[Record]]
    without_vectors: int = 0


@dataclass(frozen=True)
class IndexSource:
    """The documents of an index."""

    index: FastLaneIndex

    @property
    def settings(self) -> StoreSettings:
        index = self.index
        return StoreSettings(
            index.dim,
            checkpoint=tuple(index.checkpoint),
            document_routes=index.document_routes,
            long_texts=index.long_texts,
            context=index.context,
        )

    def has_unit_vectors(self) -> bool:
        """Whether a sample of the vectors has the length 1."""
        parts = self.index.parts
        return all(are_units(part.segment.vectors.sample(SAMPLE)) for part in parts)

    def pieces(self, target: Target) -> Iterator[Piece]:
        """Yields the documents, some at a time."""
        documents = (one for part in self.index.parts for one in part.documents())
        for some in blocks(documents, target.at_once):
            records = [target.record_of(one) for one in some if len(one.views.vectors)]
            digests = {record.key: record.digest for record in records}
            yield Piece(digests, chosen_of(records), len(some) - len(records))


@dataclass
class CorpusSource:
    """Documents that are encoded, unless the target has them."""

    documents: Iterable[CorpusDocument]
    encoding: Encoding

    @property
    def settings(self) -> StoreSettings:
        encoder = self.encoding.encoder
        dim = None if encoder is None else encoder.get_embedding_dimension()
        if dim is None:
            raise ValueError(
                "documents need an encoder that knows the dimension of its vectors: pass "
                "encoder=FastLaneEncoder(…)"
            )
        return StoreSettings(
            dim,
            checkpoint=tuple(encoder_digests(encoder)),
            document_routes=self.encoding.num_routes,
            long_texts=self.encoding.long_texts,
        )

    def has_unit_vectors(self) -> bool:
        """Whether a FastLane encoder gives them, as it does unless tokens are pooled to other lengths."""
        if fastlane_model(self.encoding.encoder) is None:
            return False
        rest = iter(self.documents)
        first = next(rest, None)
        if first is None:
            return True
        self.documents = chain([first], rest)
        return all(are_units(one.views.vectors) for one in self._encoded([first]))

    def pieces(self, target: Target) -> Iterator[Piece]:
        """Yields the documents, some at a time; what the target has isn't encoded."""
        kept = replace(self.settings, storage=target.settings.storage).to_json()
        for some in blocks(self.documents, target.at_once):
            by_key = {key_of(one.id): one for one in some}
            digests = {key: text_digest(one, kept) for key, one in by_key.items()}
            yield Piece(digests, self._records_of(by_key, digests, target))

    def _records_of(
        self, by_key: Mapping[str, CorpusDocument], digests: Mapping[str, str], target: Target
    ) -> Callable[[Collection[str]], list[Record]]:
        def records(keys: Collection[str]) -> list[Record]:
            encoded = self._encoded([one for key, one in by_key.items() if key in keys])
            return [
                target.record_of(one, digests[key_of(one.id)])
                for one in encoded
                if len(one.views.vectors)
            ]

        return records

    def _encoded(self, documents: list[CorpusDocument]) -> Iterator[Document]:
        return Incoming.of_corpus(documents).documents(self.encoding)


def export_vectors(
    source: FastLaneIndex | Iterable[CorpusDocument],
    target: str,
    name: str = "documents",
    *,
    encoder: Encoder | None = None,
    storage: StoreStorage | None = None,
    num_routes: DocumentRoutes = "default",
    long_texts: LongTexts = "window",
    batch_size: int = 32,
    num_documents: int | None = None,
    show_progress_bar: bool = False,
    retries: int = RETRIES,
    **connection: Any,
) -> Exported:
    """Writes documents with their vectors to a store, which is created if it isn't there, or to Parquet
    files.

    Documents that the target holds already, and the same, are passed over, and others of the same ids are
    replaced. An index's documents are the same if their vectors are, a corpus's if their texts and how they
    are encoded are; a target that was filled from one is written anew from the other. Documents that only a
    store has stay there; Parquet files become those of the source.

    Args:
        source: An index, or documents to encode.
        target: `lancedb:PATH`, `qdrant:URL`, `milvus:URI` (see `create_store`) or `parquet:DIR`.
        name: Of the table or collection; Parquet files have none.
        encoder: Encodes documents; an index needs none.
        storage: What a number of a vector is stored as, where the target is new: "float16", but "float32" for
            Milvus.
        num_routes, long_texts, batch_size: Of the encoding, as for `FastLaneIndex.build`.
        num_documents: How many there are, for the progress bar.
        show_progress_bar: Show one.
        retries: How often a call is repeated while the store can't be reached.
        **connection: For the engine's client.

    Raises:
        ValueError: The target has another form, holds vectors of another dimension or checkpoint, or a
            document can't be stored.
        FileExistsError: A folder for Parquet files holds other files.
        ConnectionError: The store can't be reached; what was written before stays.
    """
    check_counts(batch_size=batch_size)
    origin: IndexSource | CorpusSource
    if isinstance(source, FastLaneIndex):
        if encoder is not None or num_routes != "default" or long_texts != "window":
            raise ValueError(
                "encoder, num_routes and long_texts apply to documents that are encoded, and an index has "
                "its vectors: leave them out"
            )
        origin, num_documents = IndexSource(source), len(source)
    else:
        encoding = Encoding(encoder, num_routes, batch_size, long_texts=long_texts)
        origin = CorpusSource(source, encoding)
    opened = open_target(target, name, origin, storage, retries, connection)
    try:
        bar = {"desc": "Exporting", "unit": "doc", "disable": not show_progress_bar}
        with tqdm(total=num_documents, **bar) as progress:
            exported = run(origin, opened, progress)
        if isinstance(origin, CorpusSource):
            origin.encoding.long.tell()
        return exported
    finally:
        opened.close()


def run(source: IndexSource | CorpusSource, target: Target, progress: Any) -> Exported:
    """Writes what is missing, some documents at a time."""
    written = there = without = 0
    for piece in source.pieces(target):
        wanted = target.missing(piece.digests)
        if wanted:
            records = piece.records(wanted)
            without += len(wanted) - len(records)
            target.write(records)
            written += len(records)
        there += len(piece.digests) - len(wanted)
        without += piece.without_vectors
        progress.update(len(piece.digests) + piece.without_vectors)
    target.finish()
    return Exported(written, there, without)


def open_target(
    target: str,
    name: str,
    source: IndexSource | CorpusSource,
    storage: StoreStorage | None,
    retries: int,
    connection: Mapping[str, Any],
) -> Target:
    """Opens the target of an export, or creates it."""
    engine, colon, place = target.partition(":")
    if engine not in ("lancedb", "qdrant", "milvus", "parquet") or not colon or not place:
        raise ValueError(f"expected a target ({FORMS}), got {target!r}")
    if engine in ("lancedb", "parquet") and Path(place, MANIFEST).is_file():
        raise ValueError(f"{place} is an index: name another folder for the export")
    settings = source.settings
    if engine == "parquet":
        for given in connection:
            raise TypeError(f"Parquet files take no argument {given!r}")
        there = ParquetFolder.settings_in(place)
        if there is not None:
            check_same(there, target, settings, storage)
            storage = there.storage
        return ParquetFolder(place, replace(settings, storage=storage or "float16"))
    try:
        store = open_store(target, name, retries=retries, **connection)
    except FileNotFoundError:
        chosen: StoreStorage = storage or ("float32" if engine == "milvus" else "float16")
        is_by_cosine = engine == "lancedb" and source.has_unit_vectors()
        settings = replace(settings, storage=chosen, distance="cosine" if is_by_cosine else "dot")
        return StoreTarget(create_store(target, settings, name, retries=retries, **connection))
    try:
        check_same(store.settings, store.address, settings, storage)
    except ValueError:
        store.close()
        raise
    return StoreTarget(store)


def check_same(
    there: StoreSettings, address: str, settings: StoreSettings, storage: StoreStorage | None
) -> None:
    """Raises a ValueError unless the vectors at an address are as those to be exported."""
    if there.dim != settings.dim:
        raise ValueError(
            f"{address} holds {there.dim}-dimensional vectors, the export has {settings.dim}: name "
            "another"
        )
    known, ours = set(there.checkpoint), set(settings.checkpoint)
    if known and ours and known.isdisjoint(ours):
        raise ValueError(
            f"{address} was filled by another checkpoint than the export's: name another"
        )
    if storage is not None and there.storage != storage:
        raise ValueError(
            f"storage must be {there.storage!r}, as {address} has it, got {storage!r}: leave it out"
        )


def are_units(vectors: FloatArray) -> bool:
    """Whether all vectors have the length 1, up to the rounding of float16."""
    return bool((np.abs(np.linalg.norm(vectors, axis=1) - 1) <= UNIT_SLACK).all())


def chosen_of(records: Sequence[Record]) -> Callable[[Collection[str]], list[Record]]:
    """What gives those of some records whose keys are asked for."""
    return lambda keys: [record for record in records if record.key in keys]


def text_digest(document: CorpusDocument, settings: str) -> str:
    """A digest of a text and of how it is encoded."""
    about = [document.id, document.content, document.metadata, settings]
    content = json.dumps(about, sort_keys=True).encode()
    return hashlib.blake2b(content, digest_size=16).hexdigest()
