"""An index as RAG frameworks see one: it begins empty, ids are texts, metadata may be nested.

The adapters share it, and `rank_texts`, which ranks texts that are in no index.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..index.arguments import check_encoder, check_lengths
from ..index.filters import Filter, check_filter, is_scalar
from ..index.index import FastLaneIndex
from ..modeling.search_fastlane import (
    Encoder,
    FloatArray,
    Hit,
    Id,
    Metadata,
    check_counts,
    check_queries,
    plain,
)

NESTED = "_json:"
"""Before the name of a metadata field whose value isn't scalar: the index holds it as JSON."""
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}")


class Passage(NamedTuple):
    """A document as a framework gets it.

    Attributes:
        id: The document's.
        text: The document's, or of a long one the best window, if asked for.
        metadata: As it was given.
        score: The hit's; None of a document that wasn't searched for.
        span: Where the best window of a long document stands in its text; None of a short one.
    """

    id: str
    text: str
    metadata: dict[str, Any]
    score: float | None = None
    span: tuple[int, int] | None = None


class Collection:
    """Documents that are added, replaced, deleted and searched by a framework's calls.

    Args:
        index: The index to use; it has its encoder if texts are to be added.
        encoder: Builds an index when the first documents come, where there is none yet: an encoder, or the
            name of a checkpoint.
        **options: Of `FastLaneIndex.build`, such as `storage` and `num_documents`, for that index.

    Raises:
        ValueError: Both an index and an encoder are given, or neither.
    """

    def __init__(
        self,
        index: FastLaneIndex | None = None,
        encoder: Encoder | str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        if (index is None) == (encoder is None):
            raise ValueError(
                "give an index, or the encoder of one that is built when documents come: got "
                f"{'neither' if index is None else 'both'}"
            )
        if index is not None:
            check_index(index)
            if options:
                raise ValueError(f"{min(options)} is for an index to be built, this one is there")
        self._index = index
        self._encoder = None if encoder is None else as_encoder(encoder)
        self._options = options
        self._lock = threading.RLock()

    @property
    def index(self) -> FastLaneIndex:
        """The index; a ValueError as long as no document has come."""
        if self._index is None:
            raise ValueError("there is no index before the first documents are added")
        return self._index

    def has_field(self, name: str) -> bool:
        """Whether a document has a metadata field, to filter by."""
        return any(
            name in part.segment.documents.fields()
            and bool((part.segment.documents.column(name).codes[part.is_live] >= 0).any())
            for part in (() if self._index is None else self._index.parts)
        )

    def values(self, field: str) -> list[Any]:
        """The different values that documents have of a metadata field."""
        found = []
        for part in () if self._index is None else self._index.parts:
            column = part.segment.documents.column(field)
            codes = np.unique(column.codes[part.is_live])
            found += [column.values[code] for code in codes.tolist() if code >= 0]
        return list({(type(value), value): value for value in found}.values())

    def __len__(self) -> int:
        return 0 if self._index is None else len(self._index)

    def upsert(
        self,
        texts: Sequence[str],
        ids: Sequence[str],
        metadata: Sequence[Mapping[str, Any]],
        **options: Any,
    ) -> None:
        """Adds documents, all or none; one whose id is there takes the other's place.

        `options` are those that `FastLaneIndex.build` and `upsert` share, such as `batch_size`.
        """
        check_lengths(len(texts), ids=ids, metadata=metadata)
        if not texts:
            return
        flat = [flat_metadata(one, id) for one, id in zip(metadata, ids, strict=True)]
        with self._lock:
            if self._index is None:
                assert self._encoder is not None
                self._index = FastLaneIndex.build(
                    self._encoder, texts, ids, metadata=flat, **(self._options | options)
                )
            else:
                there = self.known(ids)
                same = [there.get(id, id) for id in ids]
                self._index.upsert(texts, same, metadata=flat, **options)

    def delete(self, ids: Iterable[str]) -> list[str]:
        """Deletes documents and gives the ids of those that were there."""
        with self._lock:
            there = self.known(ids)
            if there:
                self.index.delete(there.values())
        return list(there)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Saves the index, see `FastLaneIndex.save`; nothing as long as no document has come."""
        if self._index is not None:
            self._index.save(folder)

    def clear(self) -> None:
        """Deletes all documents."""
        with self._lock:
            if self._index is not None and len(self._index):
                self._index.delete(self._index.ids)

    def get(self, ids: Iterable[str]) -> list[Passage]:
        """The documents with these ids, in their order, without those that aren't there."""
        with self._lock:
            there = self.known(ids)
            stored = self.index.get(there.values()) if there else []
        return [
            Passage(str(one.id), text_of(one.id, one.text), full_metadata(one.metadata))
            for one in stored
        ]

    def select(self, where: Filter | None) -> list[str]:
        """The ids of the documents that a filter lets through, in the order in which they were added."""
        if not len(self):
            return []
        if where is None:
            return [str(id) for id in self.index.ids]
        self.check_fields(where)
        chosen = set(self.index.select(where))
        return [str(id) for id in self.index.ids if id in chosen]

    def search(
        self,
        query: str | Sequence[float],
        top_k: int,
        where: Filter | None = None,
        ids: Iterable[str] | None = None,
        **options: Any,
    ) -> list[Hit]:
        """The hits for a text, or for one query vector; an empty collection has none."""
        check_counts(top_k=top_k)
        if isinstance(query, str):
            check_queries([query])
        if not len(self):
            return []
        if where is not None:
            self.check_fields(where)
        only = None if ids is None else self.known(ids).values()
        queries = [query] if isinstance(query, str) else [[query]]
        [hits] = self.index.search(queries, top_k, where=where, ids=only, **options)
        return hits

    def search_diverse(
        self,
        query: str | Sequence[float],
        top_k: int,
        fetched: int,
        relevance: float,
        where: Filter | None = None,
        **options: Any,
    ) -> list[Hit]:
        """`top_k` of the `fetched` best hits, each chosen for what the others don't say (`diversified`)."""
        check_counts(top_k=top_k, fetched=fetched)
        if not 0 <= relevance <= 1:
            raise ValueError(f"the weight of relevance must be in [0, 1], got {relevance}")
        hits = self.search(query, max(top_k, fetched), where, **options)
        means = self._means([hit.id for hit in hits])
        there = [hit for hit in hits if hit.id in means]  # not deleted meanwhile
        return diversified(there, [means[hit.id] for hit in there], top_k, relevance)

    def _means(self, ids: Sequence[Id]) -> dict[Id, FloatArray]:
        """The direction of the mean of each document's vectors, (D,)."""
        means = {}
        for part in self.index.parts if ids else ():
            numbers = part.segment.documents.find(ids).values()
            for document in part.segment.read([one for one in numbers if part.is_live[one]]):
                total = document.views.vectors.sum(axis=0)
                means[document.id] = total / max(float(np.linalg.norm(total)), 1e-12)
        return means

    def check_fields(self, where: Filter) -> None:
        """Raises a ValueError for a filter on a field that holds lists or objects: it would miss them."""
        nested = [name for name in sorted(check_filter(where)) if self.has_field(NESTED + name)]
        if nested:
            raise ValueError(
                f"the field {nested[0]!r} can't be filtered by: documents have lists or objects there"
            )

    def known(self, ids: Iterable[str]) -> dict[str, Id]:
        """The index's id for each of these that is there: "7" is also the number 7, unless "7" is there."""
        wanted = list(dict.fromkeys(map(str, ids)))
        if self._index is None or not wanted:
            return {}
        numbers = {id: int(id) for id in wanted if _INTEGER.fullmatch(id)}
        there = set(self._index.select(ids=[*wanted, *numbers.values()]))
        as_index: dict[str, Id] = {id: id if id in there else numbers.get(id, id) for id in wanted}
        return {id: known for id, known in as_index.items() if known in there}


def diversified(
    hits: Sequence[Hit], means: Sequence[FloatArray], top_k: int, relevance: float
) -> list[Hit]:
    """Hits by maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998), the best one first.

    Each next hit has the greatest `relevance` · similarity - (1 - `relevance`) · closeness: its mean
    similarity with the query's routes, and the cosine of its mean vector with the closest one chosen before.
    """
    left = list(range(len(hits)))
    gains = [relevance * hit.score / len(hit.matches) for hit in hits]
    directions = np.array(means)
    closest = np.full(len(hits), -1.0)
    chosen: list[int] = []
    while left and len(chosen) < top_k:
        cost = (1 - relevance) * closest if chosen else np.zeros(len(hits))
        best = max(left, key=lambda one: gains[one] - cost[one])
        left.remove(best)
        chosen.append(best)
        closest = np.maximum(closest, directions @ directions[best])
    return [hits[one] for one in chosen]


def passage(hit: Hit, windows: bool = False) -> Passage:
    """What was found, with the text of its best window alone if `windows`."""
    text = text_of(hit.id, hit.text)
    if windows and hit.span is not None:
        text = text[slice(*hit.span)]
    return Passage(str(hit.id), text, full_metadata(hit.metadata), hit.score, hit.span)


def text_of(id: Id, text: str | None) -> str:
    """A document's text; a ValueError if the index was built without."""
    if text is None:
        raise ValueError(
            f"document {id!r} has no text in this index: build it with texts=, one a document"
        )
    return text


def flat_metadata(metadata: Mapping[str, Any], id: str) -> Metadata:
    """Metadata as an index takes it: what isn't scalar becomes JSON, under another name.

    Raises:
        ValueError: A value isn't JSON, or a field has such a name already; names the document.
    """
    flat: dict[str, Any] = {}
    for name, value in metadata.items():
        value = plain(value)
        if isinstance(name, str) and name.startswith(NESTED):
            raise ValueError(
                f"{name!r} of document {id!r} begins with {NESTED!r}, which is reserved"
            )
        if is_scalar(value):
            flat[name] = value
            continue
        try:
            flat[f"{NESTED}{name}"] = json.dumps(value, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{name} of document {id!r} must be JSON, got {value!r:.60} ({error}): give dates and "
                "other objects as text"
            ) from None
    return flat


def full_metadata(metadata: Metadata) -> dict[str, Any]:
    """The metadata that `flat_metadata` was given; a tuple has become a list."""
    return {
        name.removeprefix(NESTED): json.loads(str(value)) if name.startswith(NESTED) else value
        for name, value in metadata.items()
    }


def rank_texts(
    encoder: Encoder, query: str, texts: Sequence[str], top_k: int | None = None
) -> list[Hit]:
    """The best texts by full MaxSim: all tokens of the query and of each text, long ones in windows.

    A hit's id is the place of its text in `texts`.
    """
    check_queries([query])
    if not texts:
        return []
    if top_k is not None:
        check_counts(top_k=top_k)
    index = FastLaneIndex.build(encoder, texts, num_routes=None, kind="flat")
    return index.search(query, min(top_k or len(texts), len(texts)), num_routes=None)


def as_encoder(encoder: Encoder | str | os.PathLike[str] | None) -> Encoder:
    """The encoder, loaded if it is the name of a checkpoint."""
    if isinstance(encoder, str | os.PathLike):
        from ..encoder import FastLaneEncoder

        return FastLaneEncoder(encoder)
    if encoder is None:
        raise ValueError('encoder must be a model or the name of one, such as "fastlane-minilm"')
    check_encoder(encoder)
    return encoder


def check_index(index: object) -> None:
    """Raises a ValueError for a folder's name, or anything else in place of an index."""
    if not isinstance(index, FastLaneIndex):
        raise ValueError(
            f"index must be a FastLaneIndex, got {index!r:.60} ({type(index).__name__}): "
            "FastLaneIndex.load(folder, encoder) reads a saved one"
        )


def missing(extra: str, error: ImportError) -> ImportError:
    """The error for a framework that isn't installed."""
    return ImportError(
        f"fastlane_st.integrations.{extra.replace('-', '_')} needs {error.name}: "
        f'pip install "fastlane-st[{extra}]"'
    )
