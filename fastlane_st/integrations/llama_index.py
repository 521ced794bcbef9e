"""LlamaIndex: a retriever and a vector store over an index, and a postprocessor that ranks by full MaxSim.

Relies on llama-index-core alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.callbacks.schema import CBEventType, EventPayload
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import (
        BaseNode,
        MetadataMode,
        NodeWithScore,
        QueryBundle,
        TextNode,
    )
    from llama_index.core.vector_stores.types import (
        BasePydanticVectorStore,
        FilterCondition,
        FilterOperator,
        MetadataFilter,
        MetadataFilters,
        VectorStoreQuery,
        VectorStoreQueryMode,
        VectorStoreQueryResult,
    )
    from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict
except ImportError as error:
    from .collection import missing

    raise missing("llama-index", error) from error

from ..index.arguments import QueryRoutes
from ..index.filters import Filter
from ..index.index import FastLaneIndex
from ..modeling.search_fastlane import Encoder, Hit
from .collection import Collection, Passage, as_encoder, check_index, passage, rank_texts

SPAN = "span"
"""The metadata field for where the best window of a long document begins and ends in its text."""
_COMPARISONS = {
    FilterOperator.EQ: "$eq",
    FilterOperator.NE: "$ne",
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
    FilterOperator.IN: "$in",
    FilterOperator.NIN: "$nin",
}


class FastLaneRetriever(BaseRetriever):
    """Finds nodes in a `FastLaneIndex`, with their scores, and spans of long ones in their metadata.

    Args:
        index: The index, with its encoder.
        similarity_top_k: How many nodes to find.
        num_routes, rerank, candidates: As for `FastLaneIndex.search`.
        filters: LlamaIndex's `MetadataFilters`, or a filter of the index.
        windows: Give of a long document the best window alone, in place of the whole text.
        **kwargs: Of LlamaIndex's `BaseRetriever`.
    """

    def __init__(
        self,
        index: FastLaneIndex,
        similarity_top_k: int = 2,
        *,
        num_routes: QueryRoutes = "default",
        rerank: int | None = None,
        candidates: int | None = None,
        filters: MetadataFilters | Filter | None = None,
        windows: bool = False,
        **kwargs: Any,
    ) -> None:
        check_index(index)
        self._collection = Collection(index)
        self._similarity_top_k = similarity_top_k
        self._routing: dict[str, Any] = {
            "num_routes": num_routes,
            "rerank": rerank,
            "candidates": candidates,
        }
        self._where = where_of(filters)
        self._windows = windows
        super().__init__(**kwargs)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = self._collection.search(
            query_bundle.query_str, self._similarity_top_k, self._where, **self._routing
        )
        return [NodeWithScore(node=node_of(hit, self._windows), score=hit.score) for hit in hits]


class FastLaneRerank(BaseNodePostprocessor):
    """Ranks nodes again by full MaxSim, whatever retriever found them.

    Nodes are encoded with the checkpoint's own projection and prompts, long ones in windows.

    Args:
        encoder: A `FastLaneEncoder`, or a checkpoint's name.
        top_n: How many nodes to keep; None keeps all.
        metadata_mode: Which of a node's metadata is encoded with its text.
        keep_retrieval_score: Keep the retriever's score in the metadata, as `retrieval_score`.
    """

    top_n: int | None = None
    metadata_mode: MetadataMode = MetadataMode.EMBED
    keep_retrieval_score: bool = False
    _encoder: Any = PrivateAttr()

    def __init__(
        self,
        encoder: Encoder | str | os.PathLike[str],
        top_n: int | None = None,
        metadata_mode: MetadataMode = MetadataMode.EMBED,
        keep_retrieval_score: bool = False,
    ) -> None:
        fields: dict[str, Any] = {
            "top_n": top_n,
            "metadata_mode": metadata_mode,
            "keep_retrieval_score": keep_retrieval_score,
        }
        super().__init__(**fields)
        self._encoder = as_encoder(encoder)

    @classmethod
    def class_name(cls) -> str:
        """The name by which LlamaIndex knows the class."""
        return "FastLaneRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise ValueError("ranking needs the query: give query_bundle or query_str")
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.QUERY_STR: query_bundle.query_str,
            EventPayload.TOP_K: self.top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            texts = [one.node.get_content(metadata_mode=self.metadata_mode) for one in nodes]
            hits = rank_texts(self._encoder, query_bundle.query_str, texts, self.top_n)
            best = [self._ranked(nodes[int(hit.id)], hit.score) for hit in hits]
            event.on_end(payload={EventPayload.NODES: best})
        return best

    def _ranked(self, found: NodeWithScore, score: float) -> NodeWithScore:
        node = found.node
        if self.keep_retrieval_score:
            kept = {**node.metadata, "retrieval_score": found.score}
            node = node.model_copy(update={"metadata": kept})
        return NodeWithScore(node=node, score=score)


class FastLaneVectorStore(BasePydanticVectorStore):
    """A LlamaIndex vector store over a `FastLaneIndex`, or over one that the first nodes build.

    It encodes nodes and queries itself. A `VectorStoreIndex` embeds nodes all the same, so give it
    `embed_model=MockEmbedding(embed_dim=1)`.

    Args:
        encoder: Encodes the nodes of a new index: a `FastLaneEncoder`, or a checkpoint's name.
        index: An index that is there, in place of an encoder.
        metadata_mode: Which of a node's metadata is encoded with its text.
        **options: Of `FastLaneIndex.build`, such as `storage` and `num_documents`, for a new index.
    """

    stores_text: bool = True
    is_embedding_query: bool = False
    metadata_mode: MetadataMode = MetadataMode.EMBED
    _collection: Collection = PrivateAttr()

    def __init__(
        self,
        encoder: Encoder | str | os.PathLike[str] | None = None,
        *,
        index: FastLaneIndex | None = None,
        metadata_mode: MetadataMode = MetadataMode.EMBED,
        **options: Any,
    ) -> None:
        fields: dict[str, Any] = {"metadata_mode": metadata_mode}
        super().__init__(stores_text=True, is_embedding_query=False, **fields)
        self._collection = Collection(index, encoder, **options)

    @classmethod
    def class_name(cls) -> str:
        """The name by which LlamaIndex knows the class."""
        return "FastLaneVectorStore"

    @classmethod
    def from_persist_path(
        cls, persist_path: str, encoder: Encoder | str | os.PathLike[str]
    ) -> FastLaneVectorStore:
        """The store that `persist` wrote to this folder."""
        return cls(index=FastLaneIndex.load(persist_path, as_encoder(encoder)))

    @property
    def client(self) -> FastLaneIndex:
        """The index; a ValueError as long as no node has come."""
        return self._collection.index

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Adds nodes, all or none; one whose id is there takes the other's place.

        Args:
            nodes: The nodes; their embeddings, if any, aren't used.
            **kwargs: `batch_size`, `show_progress_bar` and so on, as for `FastLaneIndex.build`.
        """
        ids = [node.node_id for node in nodes]
        texts = [node.get_content(metadata_mode=self.metadata_mode) for node in nodes]
        metadata = [node_to_metadata_dict(node, flat_metadata=False) for node in nodes]
        self._collection.upsert(texts, ids, metadata, **kwargs)
        return ids

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Deletes the nodes that were made of a document."""
        if self._collection.has_field("ref_doc_id"):
            self._collection.delete(self._collection.select({"ref_doc_id": ref_doc_id}))

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Deletes the nodes with these ids that a filter lets through; one of both may be None."""
        if node_ids is None and filters is None:
            raise ValueError("give node_ids or filters: clear() deletes all nodes")
        self._collection.delete(self._chosen(node_ids, filters))

    def get_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """The nodes with these ids that a filter lets through; without either, all."""
        found = self._collection.get(self._chosen(node_ids, filters))
        return [_node(one) for one in found]

    def clear(self) -> None:
        """Deletes all nodes."""
        self._collection.clear()

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The best nodes for `query.query_str`, or for one query vector where there is no text.

        Args:
            query: Its mode is the default one.
            **kwargs: `num_routes`, `rerank` and `candidates`, as for `FastLaneIndex.search`; a LlamaIndex
                retriever takes them as `vector_store_kwargs`.

        Raises:
            ValueError: Another mode, a filter's operator that the index doesn't know, or no query.
        """
        if query.mode != VectorStoreQueryMode.DEFAULT:
            raise ValueError(
                f"the query mode {VectorStoreQueryMode(query.mode).value!r} isn't there, only 'default'"
            )
        asked = query.query_str if query.query_str is not None else query.query_embedding
        if asked is None:
            raise ValueError("a query needs query_str, or query_embedding")
        where = where_of(query.filters)
        if query.doc_ids:
            of_documents = {"ref_doc_id": {"$in": list(query.doc_ids)}}
            where = of_documents if where is None else {"$and": [of_documents, where]}
        hits = self._collection.search(
            asked, query.similarity_top_k, where, query.node_ids or None, **kwargs
        )
        return VectorStoreQueryResult(
            nodes=[node_of(hit) for hit in hits],
            similarities=[hit.score for hit in hits],
            ids=[str(hit.id) for hit in hits],
        )

    def persist(self, persist_path: str, fs: Any = None) -> None:
        """Saves the index to a folder, see `FastLaneIndex.save`; nothing before the first nodes."""
        if fs is not None and "file" not in getattr(fs, "protocol", ()):
            raise ValueError(f"an index is saved to a local folder, got the file system {fs!r}")
        self._collection.save(persist_path)

    def _chosen(self, node_ids: list[str] | None, filters: MetadataFilters | None) -> list[str]:
        if filters is None:
            return self._collection.select(None) if node_ids is None else node_ids
        selected = self._collection.select(where_of(filters))
        return selected if node_ids is None else [id for id in node_ids if id in set(selected)]


def where_of(filters: MetadataFilters | Filter | None) -> Filter | None:
    """A filter of the index from LlamaIndex's; one of the index stays as it is.

    Raises:
        ValueError: An operator compares parts of values; it is named.
    """
    if filters is None or isinstance(filters, Mapping):
        return filters
    if not isinstance(filters, MetadataFilters):
        raise ValueError(f"filters must be MetadataFilters or an object, got {filters!r:.60}")
    parts = [
        where_of(one) if isinstance(one, MetadataFilters) else _condition(one)
        for one in filters.filters
    ]
    parts = [one for one in parts if one is not None]
    if not parts:
        return None
    if filters.condition == FilterCondition.NOT:
        return {"$not": {"$or": parts}}
    return {"$or" if filters.condition == FilterCondition.OR else "$and": parts}


def _condition(one: MetadataFilter) -> Filter:
    if one.operator == FilterOperator.IS_EMPTY:
        return {"$or": [{one.key: {"$exists": False}}, {one.key: {"$in": [None, ""]}}]}
    if one.operator not in _COMPARISONS:
        raise ValueError(
            f"the operator {one.operator.value!r} of {one.key!r} can't be translated: an index compares "
            f"whole values, with {', '.join(known.value for known in _COMPARISONS)} and is_empty"
        )
    return {one.key: {_COMPARISONS[one.operator]: one.value}}


def node_of(hit: Hit, windows: bool = False) -> BaseNode:
    """The node that was stored, or a `TextNode` of a document of another index.

    The span counts in the node's own text, and neither language models nor embeddings read it.
    """
    found = passage(hit)
    node = _node(found)
    if found.span is None:
        return node
    text = node.get_content(metadata_mode=MetadataMode.NONE)
    before = found.text.find(text.strip())  # what the metadata took
    if before < 0:
        return node  # a template of the node's own changed the text
    shift = before - (len(text) - len(text.lstrip()))
    start, end = (min(max(0, place - shift), len(text)) for place in found.span)
    if windows:
        node.set_content(text[start:end])
    node.metadata[SPAN] = [start, end]
    node.excluded_llm_metadata_keys.append(SPAN)
    node.excluded_embed_metadata_keys.append(SPAN)
    return node


def _node(found: Passage) -> BaseNode:
    if "_node_content" in found.metadata:
        node: BaseNode = metadata_dict_to_node(found.metadata)
        return node
    return TextNode(id_=found.id, text=found.text, metadata=found.metadata)
