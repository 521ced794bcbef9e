"""Haystack: a document store over an index, a retriever for it, and a ranker by full MaxSim.

Relies on haystack-ai alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

try:
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.document_stores.errors import DuplicateDocumentError
    from haystack.document_stores.types import DuplicatePolicy, FilterPolicy, apply_filter_policy
    from haystack.errors import FilterError
    from haystack.utils.filters import document_matches_filter
except ImportError as error:
    from .collection import missing

    raise missing("haystack", error) from error

from ..index.arguments import QueryRoutes
from ..index.filters import Filter, is_scalar
from ..index.index import FastLaneIndex
from ..index.storage.manifest import MANIFEST
from ..modeling.search_fastlane import Encoder, Hit, check_counts
from .collection import Collection, Passage, as_encoder, passage, rank_texts

SPAN = "span"
"""The meta field for where the best window of a long document begins and ends in its text."""
_OTHERS = "_document"
"""The metadata field of an index for what a Document has besides id, content, meta and score."""
_COMPARISONS = {"==": "$eq", "!=": "$ne", ">": "$gt", ">=": "$gte", "<": "$lt", "<=": "$lte"}
_LISTS = {"in": "$in", "not in": "$nin"}
_LOGIC = ("AND", "OR", "NOT")


class FastLaneDocumentStore:
    """A Haystack document store over a `FastLaneIndex`, or over one that the first documents build.

    It encodes texts itself: a pipeline needs no embedder. A `policy` of NONE counts as FAIL.

    Args:
        encoder: A checkpoint's name, or a `FastLaneEncoder`; only a name can be serialised.
        folder: Where the index is saved after each change, and loaded from if it is there; None keeps it in
            memory.
        index: An index that is there, in place of both; it can't be serialised.
        build: Arguments of `FastLaneIndex.build`, such as `{"storage": "int8"}`, for a new index.

    Raises:
        ValueError: There is no checkpoint of that name, or the folder's index is of another one.
    """

    def __init__(
        self,
        encoder: str | Encoder | None = None,
        *,
        folder: str | None = None,
        index: FastLaneIndex | None = None,
        build: dict[str, Any] | None = None,
    ) -> None:
        self._encoder, self._folder, self._build = encoder, folder, build
        self._is_given = index is not None
        if index is not None and folder is not None:
            raise ValueError("give an index, or the folder of one: got both")
        if folder is not None and (Path(folder) / MANIFEST).exists():
            self._collection = Collection(FastLaneIndex.load(folder, as_encoder(encoder)))
        else:
            self._collection = Collection(index, encoder, **(build or {}))

    @property
    def index(self) -> FastLaneIndex:
        """The index; a ValueError as long as no document has come."""
        return self._collection.index

    def to_dict(self) -> dict[str, Any]:
        """The store's arguments; a ValueError if an encoder or an index was given as an object.

        Without a folder the documents aren't kept.
        """
        if self._is_given or not isinstance(self._encoder, str):
            raise ValueError(
                "only a store of a checkpoint's name and a folder can be serialised: save the index, and "
                "use FastLaneDocumentStore(name, folder=…)"
            )
        return _to_dict(self, encoder=self._encoder, folder=self._folder, build=self._build)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FastLaneDocumentStore:
        """The store of `to_dict`."""
        store: FastLaneDocumentStore = default_from_dict(cls, data)
        return store

    def count_documents(self) -> int:
        """How many documents there are."""
        return len(self._collection)

    def count_documents_by_filter(self, filters: dict[str, Any]) -> int:
        """How many documents a filter lets through."""
        return len(self._selected(filters))

    def filter_documents(self, filters: dict[str, Any] | None = None) -> list[Document]:
        """The documents that a filter lets through, in the order in which they were written.

        Raises:
            FilterError: It is no filter, or on a field that can't be filtered by.
        """
        return [_document(one) for one in self._collection.get(self._selected(filters))]

    def write_documents(
        self, documents: list[Document], policy: DuplicatePolicy = DuplicatePolicy.NONE
    ) -> int:
        """Writes documents, all or none; returns how many.

        Raises:
            ValueError: They are no documents, or one has no content.
            DuplicateDocumentError: An id is there already and `policy` is FAIL or NONE.
        """
        if not isinstance(documents, list) or not all(isinstance(d, Document) for d in documents):
            raise ValueError("documents must be a list of Documents")
        for document in documents:
            if document.content is None:
                raise ValueError(f"document {document.id!r} has no content: an index is of texts")
        chosen: dict[str, Document] = {}
        there = self._collection.known(document.id for document in documents)
        for document in documents:
            if document.id in there or document.id in chosen:
                if policy in (DuplicatePolicy.NONE, DuplicatePolicy.FAIL):
                    raise DuplicateDocumentError(f"there is a document {document.id!r} already")
                if policy == DuplicatePolicy.SKIP:
                    continue
            chosen[document.id] = document
        texts = [str(document.content) for document in chosen.values()]
        self._collection.upsert(texts, list(chosen), [_stored(one) for one in chosen.values()])
        self._save()
        return len(documents) if policy == DuplicatePolicy.OVERWRITE else len(chosen)

    def delete_documents(self, document_ids: list[str]) -> None:
        """Deletes the documents with these ids; of ids that aren't there, nothing."""
        self._collection.delete(document_ids)
        self._save()

    def delete_all_documents(self) -> None:
        """Deletes all documents."""
        self._collection.clear()
        self._save()

    def delete_by_filter(self, filters: dict[str, Any]) -> int:
        """Deletes the documents that a filter lets through; returns how many."""
        deleted = self._collection.delete(self._selected(filters))
        self._save()
        return len(deleted)

    def search(
        self, query: str, top_k: int, filters: dict[str, Any] | None = None, **options: Any
    ) -> list[Hit]:
        """The hits for a query; `options` are those of `FastLaneIndex.search`."""
        where = where_of(filters, self._collection)
        if where is False:
            return []
        return self._of_filter(
            lambda: self._collection.search(
                query, top_k, None if where is True else where, **options
            ),
            filters,
        )

    def _selected(self, filters: dict[str, Any] | None) -> list[str]:
        where = where_of(filters, self._collection)
        if where is False:
            return []
        return self._of_filter(
            lambda: self._collection.select(None if where is True else where), filters
        )

    def _of_filter(self, search: Callable[[], list[Any]], filters: object) -> list[Any]:
        """What `search` gives; an error of its filter is a FilterError, as Haystack wants."""
        try:
            return search()
        except ValueError as error:
            if not filters:
                raise
            raise FilterError(str(error)) from error

    def _save(self) -> None:
        if self._folder is not None:
            self._collection.save(self._folder)


@component
class FastLaneRetriever:
    """Finds the documents of a `FastLaneDocumentStore` for a query, with scores, and spans in `meta`.

    Args:
        document_store: The store.
        filters: Haystack's; those of a run replace them or are merged with them, by `filter_policy`.
        top_k: How many documents to find.
        num_routes, rerank, candidates: As for `FastLaneIndex.search`.
        windows: Give of a long document the best window alone, in place of the whole text.
        filter_policy: What becomes of `filters` in a run that has its own.
    """

    def __init__(
        self,
        document_store: FastLaneDocumentStore,
        filters: dict[str, Any] | None = None,
        top_k: int = 10,
        num_routes: QueryRoutes = "default",
        rerank: int | None = None,
        candidates: int | None = None,
        windows: bool = False,
        filter_policy: str | FilterPolicy = FilterPolicy.REPLACE,
    ) -> None:
        if not isinstance(document_store, FastLaneDocumentStore):
            raise ValueError(
                f"document_store must be a FastLaneDocumentStore, got {type(document_store).__name__}"
            )
        check_counts(top_k=top_k)
        self.document_store = document_store
        self.filters, self.top_k, self.windows = filters, top_k, windows
        self.num_routes, self.rerank, self.candidates = num_routes, rerank, candidates
        self.filter_policy = (
            FilterPolicy.from_str(filter_policy)
            if isinstance(filter_policy, str)
            else filter_policy
        )

    def to_dict(self) -> dict[str, Any]:
        """The component's arguments and the store's."""
        return _to_dict(
            self,
            document_store=self.document_store.to_dict(),
            filters=self.filters,
            top_k=self.top_k,
            num_routes=self.num_routes,
            rerank=self.rerank,
            candidates=self.candidates,
            windows=self.windows,
            filter_policy=self.filter_policy.value,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FastLaneRetriever:
        """The component of `to_dict`."""
        given = dict(data["init_parameters"])
        given["document_store"] = FastLaneDocumentStore.from_dict(given["document_store"])
        retriever: FastLaneRetriever = default_from_dict(cls, {**data, "init_parameters": given})
        return retriever

    @component.output_types(documents=list[Document])
    def run(
        self,
        query: str,
        filters: dict[str, Any] | None = None,
        top_k: int | None = None,
        num_routes: int | None = None,
    ) -> dict[str, list[Document]]:
        """The best documents for a query; arguments that aren't None take the place of the component's."""
        hits = self.document_store.search(
            query,
            self.top_k if top_k is None else top_k,
            apply_filter_policy(self.filter_policy, self.filters, filters),
            num_routes=self.num_routes if num_routes is None else num_routes,
            rerank=self.rerank,
            candidates=self.candidates,
        )
        return {"documents": [_document(passage(hit, self.windows)) for hit in hits]}


@component
class FastLaneRanker:
    """Ranks documents again by full MaxSim, whatever retriever found them.

    Documents are encoded with the checkpoint's own projection and prompts, long ones in windows.

    Args:
        encoder: A checkpoint's name, loaded at the first run or by `warm_up`, or a `FastLaneEncoder`; only a
            name can be serialised.
        top_k: How many documents to keep; None keeps all.
    """

    def __init__(
        self, encoder: str | Encoder = "fastlane-minilm", top_k: int | None = None
    ) -> None:
        if top_k is not None:
            check_counts(top_k=top_k)
        self.encoder = encoder
        self.top_k = top_k
        self._loaded: Encoder | None = None

    def warm_up(self) -> None:
        """Loads the checkpoint."""
        if self._loaded is None:
            self._loaded = as_encoder(self.encoder)

    def to_dict(self) -> dict[str, Any]:
        """The component's arguments; a ValueError if the encoder was given as an object."""
        if not isinstance(self.encoder, str):
            raise ValueError("only a ranker of a checkpoint's name can be serialised")
        return _to_dict(self, encoder=self.encoder, top_k=self.top_k)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FastLaneRanker:
        """The component of `to_dict`."""
        ranker: FastLaneRanker = default_from_dict(cls, data)
        return ranker

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """The best documents, best first, as copies with their scores."""
        self.warm_up()
        assert self._loaded is not None
        for document in documents:
            if document.content is None:
                raise ValueError(f"document {document.id!r} has no content: texts are ranked")
        texts = [str(document.content) for document in documents]
        hits = rank_texts(self._loaded, query, texts, self.top_k if top_k is None else top_k)
        best = []
        for hit in hits:
            given = documents[int(hit.id)].to_dict(flatten=False)
            span = {} if hit.span is None else {SPAN: list(hit.span)}
            fields = given | {"score": hit.score, "meta": given["meta"] | span}
            best.append(Document.from_dict(fields))
        return {"documents": best}


def where_of(filters: dict[str, Any] | None, collection: Collection) -> Filter | bool:
    """A filter of the index from Haystack's; True lets all documents through, False none.

    A field that no document has is None everywhere, as Haystack sees it. Dates are compared as Haystack
    compares them: by the values that the documents have.

    Raises:
        FilterError: A key is missing, or an operator or a field is none that an index can filter by.
    """
    if not filters:
        return True
    if not isinstance(filters, dict):
        raise FilterError(f"filters must be a dict, got {filters!r:.60}")
    if "field" in filters:
        return _comparison(filters, collection)
    for key in ("operator", "conditions"):
        if key not in filters:
            raise FilterError(f"{key!r} is missing in {filters}")
    operator, conditions = filters["operator"], filters["conditions"]
    if operator not in _LOGIC:
        raise FilterError(f"the operator {operator!r} isn't known: use {', '.join(_LOGIC)}")
    if not conditions or not all(isinstance(one, dict) and one for one in conditions):
        raise FilterError(f"{operator} takes a list of conditions, got {conditions!r:.60}")
    parts = [where_of(one, collection) for one in conditions]
    if operator == "OR":
        return _any_of(parts)
    both = _all_of(parts)
    return both if operator == "AND" else _not(both)


def _all_of(parts: Iterable[Filter | bool]) -> Filter | bool:
    left = [one for one in parts if one is not True]
    if any(one is False for one in left):
        return False
    return {"$and": left} if left else True


def _any_of(parts: Iterable[Filter | bool]) -> Filter | bool:
    left = [one for one in parts if one is not False]
    if any(one is True for one in left):
        return True
    return {"$or": left} if left else False


def _not(part: Filter | bool) -> Filter | bool:
    return not part if isinstance(part, bool) else {"$not": part}


def _comparison(condition: dict[str, Any], collection: Collection) -> Filter | bool:
    for key in ("operator", "value"):
        if key not in condition:
            raise FilterError(f"{key!r} is missing in {condition}")
    operator, value = condition["operator"], condition["value"]
    name = _meta_field(condition["field"])
    if operator not in (*_COMPARISONS, *_LISTS):
        raise FilterError(
            f"the operator {operator!r} of {name!r} isn't known: use {', '.join([*_COMPARISONS, *_LISTS])}"
        )
    if operator in _LISTS:
        if not isinstance(value, list):
            raise FilterError(f"{operator!r} of {name!r} takes a list, got {value!r}")
        found = _is_one_of(name, value, collection)
        return found if operator == "in" else _not(found)
    if operator == "==":
        return _equals(name, value, collection)
    if operator == "!=":
        return _not(_equals(name, value, collection))
    return _is_beyond(name, operator, value, collection)


def _meta_field(field: object) -> str:
    """The name of a metadata field: "meta.year" or "year"."""
    name = str(field)
    if name.startswith("meta."):
        return name.removeprefix("meta.")
    if name in Document.__dataclass_fields__:
        raise FilterError(f"the field {name!r} can't be filtered by: an index filters by meta")
    return name


def _equals(name: str, value: Any, collection: Collection) -> Filter | bool:
    if _is_date(value):
        return _as_haystack(name, "==", value, collection)
    return _is_one_of(name, [value], collection)


def _is_one_of(name: str, values: list[Any], collection: Collection) -> Filter | bool:
    """Whether the value is in a list; one that isn't there counts as None."""
    for value in values:
        if not is_scalar(value):
            raise FilterError(f"{name!r} is compared with {value!r:.60}: values are JSON scalars")
    if not _is_known(name, collection):
        return None in values
    is_in: Filter = {name: {"$in": values}}
    return {"$or": [is_in, {name: {"$exists": False}}]} if None in values else is_in


def _is_beyond(name: str, operator: str, value: Any, collection: Collection) -> Filter | bool:
    if value is None:
        return False
    if isinstance(value, str | datetime):
        if not _is_date(value):
            raise FilterError(
                f"{operator} of {name!r} takes a number or an ISO date, got {value!r}: texts have no order"
            )
        return _as_haystack(name, operator, value, collection)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FilterError(f"{operator} of {name!r} takes a number or an ISO date, got {value!r}")
    if not _is_known(name, collection):
        return False
    return {name: {_COMPARISONS[operator]: value}}


def _as_haystack(name: str, operator: str, value: Any, collection: Collection) -> Filter | bool:
    """Compares dates by Haystack itself, once for each value that documents have."""
    if not _is_known(name, collection):
        return False
    condition = {"field": "meta.field", "operator": operator, "value": value}
    found = [
        one
        for one in collection.values(name)
        if document_matches_filter(condition, Document(content="", meta={"field": one}))
    ]
    return {name: {"$in": found}} if found else False


def _is_known(name: str, collection: Collection) -> bool:
    try:
        collection.check_fields({name: {"$exists": True}})
    except ValueError as error:
        raise FilterError(str(error)) from error
    return collection.has_field(name)


def _is_date(value: Any) -> bool:
    if isinstance(value, datetime):
        return True
    if not isinstance(value, str) or len(value) < len("2024-01-01"):
        return False
    try:
        datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        return False
    return True


def _stored(document: Document) -> dict[str, Any]:
    """The metadata of an index for a document: its meta, and its other fields as JSON."""
    if _OTHERS in document.meta:
        raise ValueError(f"meta of document {document.id!r} has {_OTHERS!r}, which is reserved")
    fields = document.to_dict(flatten=False)
    others = {
        name: value
        for name, value in fields.items()
        if name not in ("id", "content", "meta", "score") and value is not None
    }
    return {**document.meta, **({_OTHERS: others} if others else {})}


def _document(found: Passage) -> Document:
    meta = dict(found.metadata)
    others = meta.pop(_OTHERS, {})
    if found.span is not None:
        meta[SPAN] = list(found.span)
    return Document.from_dict(
        {"id": found.id, "content": found.text, "meta": meta, "score": found.score, **others}
    )


def _to_dict(one: Any, **parameters: Any) -> dict[str, Any]:
    written: dict[str, Any] = default_to_dict(one, **parameters)
    return written
