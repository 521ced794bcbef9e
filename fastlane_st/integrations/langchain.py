"""LangChain: a retriever and a vector store over an index, and a reranker by full MaxSim.

Relies on langchain-core alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any
from uuid import uuid4

try:
    from langchain_core.callbacks import CallbackManagerForRetrieverRun, Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import run_in_executor
    from langchain_core.structured_query import (
        Comparator,
        Comparison,
        FilterDirective,
        Operation,
        Operator,
        StructuredQuery,
        Visitor,
    )
    from langchain_core.vectorstores import VectorStore
    from pydantic import ConfigDict, field_validator
except ImportError as error:
    from .collection import missing

    raise missing("langchain", error) from error

from ..index.arguments import QueryRoutes
from ..index.filters import Filter
from ..index.index import FastLaneIndex
from ..modeling.search_fastlane import Encoder, Hit
from .collection import Collection, Passage, as_encoder, check_index, passage, rank_texts

SCORE = "relevance_score"
"""The metadata field that the retriever and the reranker put a document's score in, as LangChain's do."""
SPAN = "span"
"""The metadata field for where the best window of a long document begins and ends in its text."""


class FastLaneRetriever(BaseRetriever):
    """Finds documents in a `FastLaneIndex`; each has its score and span in its metadata.

    `invoke(query, k=3, filter=…)` and so on override a field for one call.

    Attributes:
        index: The index, with its encoder.
        k: How many documents to find.
        num_routes, rerank, candidates: As for `FastLaneIndex.search`.
        filter: As for `FastLaneVectorStore.similarity_search`.
        windows: Give of a long document the best window alone, in place of the whole text.
    """

    index: Any
    k: int = 4
    num_routes: Any = "default"
    rerank: int | None = None
    candidates: int | None = None
    filter: Any = None
    windows: bool = False

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    @field_validator("index")
    @classmethod
    def _check_index(cls, index: Any) -> Any:
        check_index(index)
        return index

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **options: Any
    ) -> list[Document]:
        chosen = {
            name: getattr(self, name)
            for name in ("k", "num_routes", "rerank", "candidates", "filter", "windows")
        }
        unknown = sorted(options.keys() - chosen.keys())
        if unknown:
            raise TypeError(f"the retriever takes {', '.join(chosen)}, got {unknown[0]!r}")
        chosen |= options
        hits = Collection(self.index).search(
            query,
            chosen["k"],
            where_of(chosen["filter"]),
            num_routes=chosen["num_routes"],
            rerank=chosen["rerank"],
            candidates=chosen["candidates"],
        )
        return [_scored(passage(hit, chosen["windows"])) for hit in hits]


class FastLaneReranker(BaseDocumentCompressor):
    """Ranks documents again by full MaxSim, whatever retriever found them.

    Documents are encoded with the checkpoint's own projection and prompts, long ones in windows. Each gets
    its score as `relevance_score`.

    Attributes:
        encoder: A `FastLaneEncoder`, or a checkpoint's name.
        top_n: How many documents to keep; None keeps all.
    """

    encoder: Any
    top_n: int | None = None

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    @field_validator("encoder")
    @classmethod
    def _load_encoder(cls, encoder: Any) -> Any:
        return as_encoder(encoder)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """The best documents, best first, as copies."""
        texts = [document.page_content for document in documents]
        best = []
        for hit in rank_texts(self.encoder, query, texts, self.top_n):
            document = documents[int(hit.id)]
            metadata = document.metadata | {SCORE: hit.score}
            if hit.span is not None:
                metadata[SPAN] = list(hit.span)
            best.append(document.model_copy(update={"metadata": metadata}))
        return best


class FastLaneVectorStore(VectorStore):
    """A LangChain vector store over a `FastLaneIndex`, or over one that the first documents build.

    Ids are texts; an index's number 7 is "7" here. Metadata may be nested: what isn't a JSON scalar comes
    back with its document, and can't be filtered by. `store.index.save(folder)` keeps it.

    Args:
        encoder: Encodes the texts of a new index: a `FastLaneEncoder`, or a checkpoint's name.
        index: An index that is there, in place of an encoder.
        **options: Of `FastLaneIndex.build`, such as `storage` and `num_documents`, for a new index.
    """

    def __init__(
        self,
        encoder: Encoder | str | os.PathLike[str] | None = None,
        *,
        index: FastLaneIndex | None = None,
        **options: Any,
    ) -> None:
        self._collection = Collection(index, encoder, **options)

    @property
    def index(self) -> FastLaneIndex:
        """The index; a ValueError as long as no document has come."""
        return self._collection.index

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Any,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> FastLaneVectorStore:
        """Builds a store of texts; `embedding` is a `FastLaneEncoder` or a checkpoint's name."""
        store = cls(embedding, **kwargs)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Adds texts, all or none; one whose id is there takes the other's place.

        Args:
            texts: The texts.
            metadatas: One mapping a text.
            ids: One a text; None for one that is new.
            **kwargs: `batch_size`, `show_progress_bar` and so on, as for `FastLaneIndex.build`.

        Returns:
            The ids.
        """
        items = list(texts)
        known = [None] * len(items) if ids is None else list(ids)
        chosen = [str(uuid4()) if id is None else str(id) for id in known]
        metadata = [{}] * len(items) if metadatas is None else metadatas
        self._collection.upsert(items, chosen, metadata, **kwargs)
        return chosen

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Deletes the documents with these ids; of ids that aren't there, nothing. None deletes all."""
        if ids is None:
            self._collection.clear()
        else:
            self._collection.delete(ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents with these ids, in their order, without those that aren't there."""
        return [_document(one) for one in self._collection.get(ids)]

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """The `k` best documents for a query.

        Args:
            query: The query.
            k: How many.
            **kwargs: `filter`: a filter of the index, such as `{"year": {"$gte": 2020}}`, or a directive of
                `langchain_core.structured_query`. `num_routes`, `rerank`, `candidates`: as for
                `FastLaneIndex.search`.

        Raises:
            ValueError: The filter has an operator that the index doesn't know, or the query is empty.
        """
        return [document for document, _ in self.similarity_search_with_score(query, k, **kwargs)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """As `similarity_search`, with each document's score, higher is better."""
        return [(_document(passage(hit)), hit.score) for hit in self._search(query, k, **kwargs)]

    def similarity_search_by_vector(
        self, embedding: Sequence[float], k: int = 4, **kwargs: Any
    ) -> list[Document]:
        """The documents with the token vectors nearest to one query vector, such as one route."""
        return [_document(passage(hit)) for hit in self._search(embedding, k, **kwargs)]

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """`k` documents of the `fetch_k` best ones that say different things (maximal marginal relevance).

        Args:
            query: The query.
            k: How many.
            fetch_k: How many to choose from.
            lambda_mult: From 0, the most different, to 1, the most relevant.
            **kwargs: As for `similarity_search`.

        Raises:
            ValueError: As for `similarity_search`, or `lambda_mult` is outside [0, 1].
        """
        return self._search_diverse(query, k, fetch_k, lambda_mult, **kwargs)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **kwargs: Any,
    ) -> list[Document]:
        """As `max_marginal_relevance_search`, for one query vector, such as one route."""
        return self._search_diverse(embedding, k, fetch_k, lambda_mult, **kwargs)

    def _search_diverse(
        self,
        query: str | list[float],
        k: int,
        fetch_k: int,
        lambda_mult: float,
        *,
        filter: Filter | FilterDirective | None = None,
        **options: Any,
    ) -> list[Document]:
        where = where_of(filter)
        hits = self._collection.search_diverse(query, k, fetch_k, lambda_mult, where, **options)
        return [_document(passage(hit)) for hit in hits]

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """The mean cosine of the routes, moved from [-1, 1] to the [0, 1] of LangChain's thresholds."""
        return [
            (_document(passage(hit)), min(1.0, max(0.0, (1 + hit.score / len(hit.matches)) / 2)))
            for hit in self._search(query, k, **kwargs)
        ]

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        search = partial(self._similarity_search_with_relevance_scores, query, k, **kwargs)
        found: list[tuple[Document, float]] = await run_in_executor(None, search)
        return found

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda score: min(1.0, max(0.0, (1 + score) / 2))  # of one route

    def _search(
        self,
        query: str | Sequence[float],
        k: int,
        *,
        filter: Filter | FilterDirective | None = None,
        num_routes: QueryRoutes = "default",
        rerank: int | None = None,
        candidates: int | None = None,
    ) -> list[Hit]:
        return self._collection.search(
            query,
            k,
            where_of(filter),
            num_routes=num_routes,
            rerank=rerank,
            candidates=candidates,
        )


class FastLaneTranslator(Visitor):
    """Translates `langchain_core.structured_query` into filters, as for a self-query retriever."""

    def visit_operation(self, operation: Operation) -> dict[str, Any]:
        """`and`, `or` and `not`; a `not` of several arguments is one of all of them."""
        parts = [one.accept(self) for one in operation.arguments]
        if operation.operator == Operator.NOT:
            return {"$not": parts[0] if len(parts) == 1 else {"$and": parts}}
        return {f"${operation.operator.value}": parts}

    def visit_comparison(self, comparison: Comparison) -> dict[str, Any]:
        """A comparison; `contain` and `like` are ValueErrors."""
        if comparison.comparator in (Comparator.CONTAIN, Comparator.LIKE):
            raise ValueError(
                f"the comparator {comparison.comparator.value!r} of {comparison.attribute!r} can't be "
                "translated: an index compares whole values, with eq, ne, gt, gte, lt, lte, in and nin"
            )
        value = comparison.value
        if isinstance(value, Mapping) and set(value) == {"date", "type"}:
            value = value["date"]  # how query constructors write a date
        return {comparison.attribute: {f"${comparison.comparator.value}": value}}

    def visit_structured_query(
        self, structured_query: StructuredQuery
    ) -> tuple[str, dict[str, Any]]:
        """The query, and the search arguments with its filter."""
        if structured_query.filter is None:
            return structured_query.query, {}
        return structured_query.query, {"filter": structured_query.filter.accept(self)}


def where_of(filter: Any) -> Filter | None:
    """A filter of the index from one of its own, or from a directive of `structured_query`."""
    if isinstance(filter, FilterDirective):
        where: Filter = filter.accept(FastLaneTranslator())
        return where
    if callable(filter):
        raise ValueError(
            "a function can't be a filter of an index: give an object such as {'year': {'$gte': 2020}}"
        )
    return filter  # type: ignore[no-any-return]


def _document(found: Passage) -> Document:
    return Document(id=found.id, page_content=found.text, metadata=found.metadata)


def _scored(found: Passage) -> Document:
    document = _document(found)
    document.metadata[SCORE] = found.score
    if found.span is not None:
        document.metadata[SPAN] = list(found.span)
    return document
