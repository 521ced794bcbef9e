"""FastLaneIndex, the facade of the engine: build, load, save, change and search.

What it holds is in `contents`, how documents come in in `incoming` and `encoding`, how they are ranked in
`ranking`, how vectors are found in `vectors/`, and how all of it is kept on the disk in `storage/`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NoReturn, overload

from typing_extensions import TypedDict, Unpack

from ..modeling.projection_fastlane import Context
from ..modeling.search_fastlane import (
    Embeddings,
    Encoder,
    Hit,
    Id,
    Metadata,
    Positions,
    check_counts,
    default_routes,
    is_id,
    plain,
    query_list,
    query_views,
)
from .arguments import (
    QueryRoutes,
    check_encoder,
    check_id_list,
    check_items,
    check_options,
    check_search,
)
from .contents import IndexContents, Part
from .context import ContextMixing, mixed_contents
from .documents import StoredDocument
from .encoding import DocumentRoutes, Encoding
from .explaining import Explanation, explain_hits
from .filters import Filter, filtered, known_fields
from .identity import adapter_state, encoder_digests, is_of_checkpoint
from .incoming import Incoming
from .long_texts import LongTexts, check_long_texts
from .ranking import DocumentRanker
from .segment import collect_segment
from .storage.folder import Commit, IndexSettings, map_saved, read_index, write_index
from .vectors.gpu import GpuVectors
from .vectors.settings import Kind, Storage, VectorSettings
from .vectors.store import VectorStore
from .windows import LongDocuments

logger = logging.getLogger(__name__)


class InsertOptions(TypedDict, total=False):
    """What `add`, `update` and `upsert` take besides documents and ids, as in `build`.

    `texts` and `positions` come with vectors, as in `from_embeddings`; `long_texts` is for texts, by default
    the index's own.
    """

    metadata: Iterable[Metadata] | None
    texts: Sequence[str] | None
    positions: Sequence[Positions] | None
    long_texts: LongTexts | None
    batch_size: int
    chunk_size: int
    show_progress_bar: bool
    pool: Any


class FastLaneIndex:
    """Documents as token vectors in FAISS indexes, searched by inner product.

    A document scores its MaxSim, the sum over query views q of max_j q·d_j, and equal scores come
    in the order in which the documents were given. Similarities are computed in float64 and
    rounded to float32, so that equal vectors tie wherever they lie and however queries are batched.

    Documents can be added, replaced and deleted while other threads search: a search sees the index as
    it was when it began. An index that was changed step by step finds what one finds that was built
    at once; a document that is replaced keeps its place in the order. `save` commits the changes.

    Below, the three best vectors for (1, 0) belong to two documents only; the third document is
    found all the same. With two routes "c" wins, by -0.25 + 1.5:

    >>> index = FastLaneIndex.from_embeddings(
    ...     [[[0.5, 0.0], [0.75, 0.0]], [[1.0, 0.0]], [[-0.25, 1.5]]], ids=["a", "b", "c"]
    ... )
    >>> [(hit.id, hit.score) for hit in index.search([[[1.0, 0.0]]], top_k=3)[0]]
    [('b', 1.0), ('a', 0.75), ('c', -0.25)]
    >>> [(hit.id, hit.score) for hit in index.search([[[1.0, 0.0], [0.0, 1.0]]], top_k=1)[0]]
    [('c', 1.25)]
    >>> index.delete(["b"])
    >>> index.upsert([[[2.0, 0.0]]], ids=["c"], metadata=[{"year": 2024}])
    >>> [(hit.id, hit.score) for hit in index.search([[[1.0, 0.0]]], top_k=3)[0]]
    [('c', 2.0), ('a', 0.75)]
    >>> [hit.id for hit in index.search([[[1.0, 0.0]]], where={"year": {"$gte": 2020}})[0]]
    ['c']

    Attributes:
        vectors: How vectors are found and stored; to search with more or less effort, put
            `dataclasses.replace(index.vectors, effort=2)` here.
        metadata: Free keys with JSON values, saved with the index.
        document_routes: Views kept of documents that are added; what `build` was given.
        context: What is mixed into documents' vectors as they come in, see `from_embeddings`; or None.
        long_texts: What becomes of documents beyond the encoder's length that are added; what `build` was
            given.
        checkpoint: Digests of the checkpoint that encoded the documents (`encoder_digests`), one of
            which an encoder of the index must have; empty if unknown, and then any encoder will do.
    """

    def __init__(
        self,
        contents: IndexContents,
        settings: IndexSettings,
        encoder: Encoder | None = None,
        commit: Commit | None = None,
    ) -> None:
        self._contents = contents
        self.vectors = settings.vectors
        self.document_routes = settings.document_routes
        self.context = settings.context
        self.long_texts: LongTexts = settings.long_texts
        self.checkpoint = settings.checkpoint
        self.metadata = settings.metadata
        self.encoder = encoder
        self._commit = commit
        self._gpu: GpuVectors | None = None
        self._ranker: tuple[tuple[Any, ...], DocumentRanker] | None = None

    @classmethod
    def build(
        cls,
        encoder: Encoder,
        documents: Iterable[str],
        ids: Iterable[Id] | None = None,
        *,
        metadata: Iterable[Metadata] | None = None,
        num_routes: DocumentRoutes = "default",
        long_texts: LongTexts = "window",
        kind: Kind | Literal["auto"] = "auto",
        storage: Storage = "float32",
        num_documents: int | None = None,
        batch_size: int = 32,
        chunk_size: int = 256,
        show_progress_bar: bool = False,
        pool: Any = None,
    ) -> FastLaneIndex:
        """Encodes and indexes texts, holding the padded tensors of `chunk_size` of them at a time.

        Args:
            ids: One per document, str or int, all different; 0, 1, 2, … by default.
            metadata: One mapping per document, of field names to JSON scalars, to filter by.
            num_routes: Views that a document's tokens are pooled to: a number, a fraction in (0, 1], None
                for all tokens, or "default" for the checkpoint's own setting. Each window of a long text
                keeps so many.
            long_texts: What becomes of a text with more tokens than the encoder reads: "window" indexes
                overlapping windows of it, all views of which belong to the one document (see `windows`),
                "cut" its start alone, and "error" raises a ValueError that names the document. An encoder
                other than FastLane's cuts its texts by itself.
            kind: How vectors are found, see `VectorSettings`; "auto" is flat, which is exact, up to
                100,000 of them.
            storage: How they are stored, see `VectorSettings`; scores are of what is stored.
            num_documents: How many documents the index is meant for, if others are added later.
            pool: Processes to encode in, of `encoder.start_multi_process_pool` (Sentence
                Transformers); `chunk_size` is what they share, so let it be some batches for each.

        Raises:
            ValueError: No documents, ids that do not fit, a vector that is not finite, or too few
                vectors for the storage.
        """
        check_encoder(encoder)
        encoding = Encoding(
            encoder, num_routes, batch_size, chunk_size, show_progress_bar, pool, long_texts
        )
        LongDocuments.of(encoder, long_texts)  # checks both before the long work
        incoming = Incoming.of_texts(documents, ids, metadata)
        return cls._of(incoming, encoding, kind, storage, num_documents)

    @classmethod
    def from_embeddings(
        cls,
        embeddings: Sequence[Embeddings],
        ids: Iterable[Id] | None = None,
        *,
        positions: Sequence[Positions] | None = None,
        texts: Sequence[str] | None = None,
        metadata: Iterable[Metadata] | None = None,
        encoder: Encoder | None = None,
        context: Context | None = None,
        window_size: float | None = None,
        kind: Kind | Literal["auto"] = "auto",
        storage: Storage = "float32",
        num_documents: int | None = None,
    ) -> FastLaneIndex:
        """Indexes vectors that are there already, one array `(num_vectors, dim)` per document.

        A document without vectors is kept and never found.

        With `context`, each vector e_i of a document, of unit length, is replaced by the direction of
        `e_i + c_w w_i + c_d m`. w_i is the direction of Σ_j exp(-½ ((p_i - p_j) / window_size)²) e_j, m
        that of Σ_j e_j, and p_i are the positions. c_w is 1 for "window" and "both", c_d is 1 for
        "document" and "both", and 0 otherwise. So a late-interaction model's vectors become those that
        `read_late_interaction(…, context=…)` would encode, and one route finds far more. The index
        remembers it: what is added later is mixed alike, texts as well, unless the encoder does it.

        Args:
            ids: As for `build`.
            positions: Each vector's token position in its document; 0, 1, 2, … by default. A window goes by
                them, so give them where tokens were left out, as by a skip list.
            texts: One per document, to be given back with hits.
            metadata, kind, storage, num_documents: As for `build`.
            encoder: Encodes text queries.
            context: "window", "document" or "both"; None leaves vectors as they are.
            window_size: Standard deviation of the window, in tokens; 6 by default.

        Raises:
            ValueError: No documents, lengths or dimensions that differ, ids that do not fit, a
                vector that is not finite, or with `context` not of unit length, or too few vectors for
                the storage.
        """
        mixing = ContextMixing.choose(context, window_size)
        incoming = Incoming.of_embeddings(embeddings, ids, metadata, texts, positions)
        encoding = Encoding(encoder, context=mixing)
        return cls._of(incoming, encoding, kind, storage, num_documents)

    @classmethod
    def _of(
        cls,
        incoming: Incoming,
        encoding: Encoding,
        kind: Kind | Literal["auto"],
        storage: Storage,
        num_documents: int | None,
    ) -> FastLaneIndex:
        if not incoming.ids:
            raise ValueError("there are no documents: an index needs at least one")
        if num_documents is not None:
            check_counts(num_documents=num_documents)
        if num_documents is not None and num_documents < len(incoming.ids):
            raise ValueError(
                f"num_documents must be at least the {len(incoming.ids)} given, got {num_documents}"
            )
        VectorSettings.choose(kind, storage, 0)  # checks both before the long work
        segment = incoming.segment(encoding)
        encoding.long.tell()
        store = segment.vectors
        count = round(len(store) * (num_documents or len(segment)) / len(segment))
        vectors = VectorSettings.choose(kind, storage, count)
        logger.info(vectors.describe(count, store.dim))
        template = VectorStore.fitted(vectors, store.sample(vectors.sample_size(count)), count)
        if vectors != VectorSettings():
            segment = collect_segment(segment.read(range(len(segment))), template)
        contents = IndexContents(template, [Part.whole(segment)])
        settings = IndexSettings(
            vectors,
            encoding.num_routes,
            encoding.long_texts,
            encoder_digests(encoding.encoder),
            metadata={},
            context=encoding.context,
        )
        return cls(contents, settings, encoding.encoder)

    @classmethod
    def load(
        cls,
        directory: str | os.PathLike[str],
        encoder: Encoder | None = None,
        *,
        memory_map: bool = False,
    ) -> FastLaneIndex:
        """Reads a saved index after checking its files; to search with texts, pass the encoder.

        Args:
            directory: The folder.
            encoder: Encodes texts.
            memory_map: Leave vectors and their positions in their files, to be read where a search
                needs them: for more than fits into memory. Of these files and of the texts' only the
                sizes are checked; `fastlane verify` checks all.

        Raises:
            FileNotFoundError: There is no index.
            ValueError: A file is damaged, or the encoder is of another checkpoint or dimension.
        """
        check_encoder(encoder)
        contents, settings, commit = read_index(directory, memory_map)
        return cls(contents, settings, encoder, commit)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Saves to a new or empty folder, or over the index in it: all of it or, after a crash, nothing.

        In the folder that the index was loaded from or last saved to, only what has changed is written.

        Raises:
            FileExistsError: The folder holds other files and no index.
            BlockingIOError: Another process is saving to the folder.
            ValueError: The folder's index is damaged or newer, or another process has changed it
                since this one was loaded or saved; or the metadata is not JSON.
        """
        settings = IndexSettings(
            self.vectors,
            self.document_routes,
            self.long_texts,
            self.checkpoint,
            self.metadata,
            self.context,
        )
        with write_index(directory, self._contents, settings, self._commit) as commit:
            self._commit = commit

    def map_saved(self) -> None:
        """Leaves what the last save wrote in its files, as `load` with `memory_map` does.

        Nothing changes but where vectors, positions and texts are read from.
        """
        if self._commit is not None:
            self._commit = map_saved(self._commit, self._contents)

    def with_context(
        self,
        context: Context,
        window_size: float | None = None,
        encoder: Encoder | None = None,
    ) -> FastLaneIndex:
        """A copy whose vectors have context mixed in by the formula of `from_embeddings`; encodes nothing.

        Args:
            context: "window", "document" or "both".
            window_size: Standard deviation of the window, in tokens; 6 by default.
            encoder: The copy's, such as a retrofit with the same context.

        Raises:
            ValueError: The index mixes a context already, a vector isn't of unit length, or a long
                document was encoded as windows.
        """
        if self.context is not None:
            raise ValueError(f"the index mixes the context {self.context.context!r} already")
        mixing = ContextMixing.choose(context, window_size)
        if mixing is None:
            raise ValueError("context must be a context to mix in, got None")
        mixed = mixed_contents(self._contents, self.vectors, mixing)
        settings = IndexSettings(
            self.vectors,
            self.document_routes,
            self.long_texts,
            encoder_digests(encoder),
            dict(self.metadata),
            mixing,
        )
        return FastLaneIndex(mixed, settings, encoder)

    def add(
        self,
        documents: Iterable[str] | Sequence[Embeddings],
        ids: Iterable[Id] | None = None,
        **options: Unpack[InsertOptions],
    ) -> list[Id]:
        """Adds new documents, encoded like those that the index was built of: all of them or none.

        Args:
            documents: Texts, or arrays `(num_vectors, dim)` that hold one document's views each.
            ids: One per document, none of which is there; by default integers above all that were
                used so far.
            **options: See `InsertOptions`.

        Returns:
            The documents' ids.

        Raises:
            ValueError: An id is there already, or what `build` or `from_embeddings` refuses.
        """
        check_options("add", options, InsertOptions.__annotations__)
        return self._insert(documents, ids, self._contents.check_absent, **options)

    def update(
        self,
        documents: Iterable[str] | Sequence[Embeddings],
        ids: Iterable[Id],
        **options: Any,
    ) -> None:
        """Replaces documents that are there: views, text and metadata. Arguments are those of `add`.

        Raises:
            ValueError: An id isn't there, or what `add` refuses.
        """
        check_options("update", options, InsertOptions.__annotations__)
        self._insert(documents, ids, self._contents.check_present, **options)

    def upsert(
        self,
        documents: Iterable[str] | Sequence[Embeddings],
        ids: Iterable[Id],
        **options: Any,
    ) -> None:
        """Replaces the documents whose ids are there and adds the others. Arguments are those of `add`."""
        check_options("upsert", options, InsertOptions.__annotations__)
        self._insert(documents, ids, lambda ids: None, **options)

    def delete(self, ids: Iterable[Id]) -> None:
        """Deletes documents: all of these or none.

        Raises:
            ValueError: An id isn't there.
        """
        self._contents.remove(check_id_list(ids))

    def compact(self) -> None:
        """Merges all documents into one segment and frees the space of deleted ones.

        Changes see to it that less than half is wasted; this leaves no waste at all.
        """
        self._contents.compact()

    def _insert(
        self,
        documents: Iterable[str] | Sequence[Embeddings],
        ids: Iterable[Id] | None,
        check: Callable[[Iterable[Id]], None],
        *,
        metadata: Iterable[Metadata] | None = None,
        texts: Sequence[str] | None = None,
        positions: Sequence[Positions] | None = None,
        long_texts: LongTexts | None = None,
        batch_size: int = 32,
        chunk_size: int = 256,
        show_progress_bar: bool = False,
        pool: Any = None,
    ) -> list[Id]:
        items = check_items(documents)
        self._check_encoder()
        if ids is None:
            ids = self._contents.reserve_ids(len(items))
        incoming = Incoming.of(items, ids, metadata, texts, positions)
        if long_texts is not None:
            if incoming.embeddings is not None:
                raise ValueError(f"long_texts applies to texts, got {long_texts!r} with vectors")
            check_long_texts(long_texts)
        if incoming.ids:
            check(incoming.ids)  # before the long work, and once more after it
            encoding = Encoding(
                self.encoder,
                self.document_routes,
                batch_size,
                chunk_size,
                show_progress_bar,
                pool,
                self.long_texts if long_texts is None else long_texts,
                self.context,
            )
            self._contents.insert(incoming.segment(encoding, self._contents.template), check)
            encoding.long.tell()
        return incoming.ids

    def to(self, device: str) -> FastLaneIndex:
        """Moves FAISS's search to "cuda", "cuda:1" and so on, or back to the "cpu"; returns the index.

        Each segment's vectors are copied to the GPU at the first search after a change. Changes, files
        and exact scores stay on the CPU.

        Raises:
            ValueError: There is no such GPU.
            ImportError: The FAISS that is installed knows no GPU.
        """
        self._gpu = None if device == "cpu" else GpuVectors(device)
        return self

    @overload
    def search(  # type: ignore[overload-overlap]
        self,
        queries: str,
        top_k: int = ...,
        num_routes: QueryRoutes = ...,
        *,
        where: Filter | None = ...,
        ids: Iterable[Id] | None = ...,
        rerank: int | None = ...,
        candidates: int | None = ...,
        batch_size: int = ...,
    ) -> list[Hit]: ...

    @overload
    def search(
        self,
        queries: Sequence[str] | Sequence[Embeddings],
        top_k: int = ...,
        num_routes: QueryRoutes = ...,
        *,
        where: Filter | None = ...,
        ids: Iterable[Id] | None = ...,
        rerank: int | None = ...,
        candidates: int | None = ...,
        batch_size: int = ...,
    ) -> list[list[Hit]]: ...

    def search(
        self,
        queries: str | Sequence[str] | Sequence[Embeddings],
        top_k: int = 10,
        num_routes: QueryRoutes = "default",
        *,
        where: Filter | None = None,
        ids: Iterable[Id] | None = None,
        rerank: int | None = None,
        candidates: int | None = None,
        batch_size: int = 32,
    ) -> list[Hit] | list[list[Hit]]:
        """Finds the `top_k` best documents for each query; fewer only if fewer have vectors.

        A query of one view is answered exactly. Of several views each proposes its `candidates`
        best documents, and all that are proposed get their exact scores; from
        `candidates=len(index)` on, that is exact too. A filter takes part in the search, so
        that whatever it leaves is ranked as if it were all there is.

        Args:
            queries: Texts, or arrays `(views, dim)` that hold one query's routed views each.
            num_routes: Views routed from each text: a number, or None for every token. "default" is the
                checkpoint's own number for texts (1 if its encoder has none, or with `rerank`), and all
                that vectors can take.
            where: Find only documents with such metadata, see `filters`.
            ids: Find only these documents. Ids that aren't there count for nothing.
            rerank: Rank so many of the best documents again, by full MaxSim with all tokens of the
                query (a cascade); at least `top_k`. For texts.
            candidates: Documents that each of several views proposes, at least `top_k` and
                `rerank`; max(100, 4 * top_k, rerank) by default. One route takes none.
            batch_size: Queries encoded and searched at once.

        Returns:
            A list of hits, best first, for each query; for a single str that list alone.

        Raises:
            ValueError: An empty text, a query without views, a wrong dimension, a vector that is
                not finite, texts without an encoder, an argument that cannot apply, or a filter on
                a field that no document has.
        """
        items = query_list(queries)
        if num_routes == "default" and any(isinstance(item, str) for item in items):
            num_routes = default_routes(self.encoder)
            if num_routes is None and rerank is not None:
                num_routes = 1  # a cascade starts from routes
        check_counts(top_k=top_k, batch_size=batch_size)
        check_search(items, top_k, num_routes, candidates, rerank)
        self._check_encoder()
        ranker = self._ranker_of(where, ids)
        routing = {"num_routes": num_routes}
        hits: list[list[Hit]] = []
        for start in range(0, len(items), batch_size):
            batch = items[start : start + batch_size]
            views = query_views(batch, self.encoder, routing, self.dim, start, rerank is not None)
            proposed = candidates or max(100, 4 * top_k, rerank or 0)
            if rerank is None:
                hits += ranker.rank(views.routed, top_k, proposed)
            else:
                hits += ranker.rank_again(views.routed, views.full, top_k, proposed, rerank)
        return hits[0] if isinstance(queries, str) else hits

    def explain(self, query: str, hits: Sequence[Hit]) -> list[Explanation]:
        """Says what carried the scores of hits: for each query word the document word that it met.

        The query keeps all of its tokens, whatever the search took, and they are compared with the vectors of
        these hits alone (full MaxSim). It costs one encoding of the query, and the tokenising of each hit.

        Args:
            query: The text that was searched.
            hits: What `search` gave for it, or some of that.

        Raises:
            ValueError: A document was deleted meanwhile, there is no encoder, or it is none of FastLane's.
        """
        self._check_encoder()
        return explain_hits(self._contents, self.encoder, query, hits)

    def _ranker_of(self, where: Filter | None, ids: Iterable[Id] | None) -> DocumentRanker:
        """The ranker of the documents that a search may find; kept until the index changes."""
        if where is not None or ids is not None:
            return DocumentRanker(self._selected(where, ids), self.vectors, self._gpu)
        now = (self._contents.parts, self.vectors, self._gpu)
        kept = self._ranker
        if kept is None or kept[0] != now:
            kept = self._ranker = (now, DocumentRanker(*now))
        return kept[1]

    def _selected(self, where: Filter | None, ids: Iterable[Id] | None) -> tuple[Part, ...]:
        parts = self._contents.parts if ids is None else self._contents.only(check_id_list(ids))
        return parts if where is None else filtered(parts, where)

    def select(self, where: Filter | None = None, ids: Iterable[Id] | None = None) -> list[Id]:
        """The ids of the documents that a search with these filters may find, in no order."""
        parts = self._selected(where, ids)
        return [stored.id for part in parts for stored in part.stored()]

    def __len__(self) -> int:
        return len(self._contents)

    def __iter__(self) -> Iterator[Id]:
        """The documents' ids, in the order in which they were added."""
        return iter(self.ids)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an index can't be pickled or copied: save it to a folder, and load that in each process"
        )

    def __copy__(self) -> NoReturn:
        self.__reduce__()

    def __contains__(self, id: object) -> bool:
        """Whether a document has this id; 1 and "1" are two ids."""
        id = plain(id)
        return is_id(id) and bool(self._contents.locate([id]))

    @property
    def encoder(self) -> Encoder | None:
        """Encodes texts, or None. Setting one of another checkpoint or dimension raises a ValueError."""
        return self._encoder

    @encoder.setter
    def encoder(self, encoder: Encoder | None) -> None:
        check_encoder(encoder)
        dim = None if encoder is None else encoder.get_embedding_dimension()
        if dim is not None and dim != self.dim:
            raise ValueError(
                f"the encoder gives {dim}-dimensional vectors, the index holds {self.dim}: "
                "use the checkpoint that the index was built with"
            )
        if self.checkpoint and not is_of_checkpoint(encoder, self.checkpoint):
            raise ValueError(
                "the index was built with another checkpoint than this encoder's: use that one, or build "
                "the index again (index.checkpoint = [] lets any in)"
            )
        self._encoder = encoder
        self._adapters = adapter_state(encoder)

    def _check_encoder(self) -> None:
        """Checks the encoder again if its adapters were switched or merged since it was set."""
        if self._adapters != adapter_state(self._encoder):
            self.encoder = self._encoder

    @property
    def dim(self) -> int:
        """Dimension of a vector."""
        return self._contents.template.dim

    @property
    def num_vectors(self) -> int:
        """How many vectors all documents have together."""
        return sum(part.num_vectors for part in self._contents.parts)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The segments with their live documents; a change replaces the tuple."""
        return self._contents.parts

    @property
    def ids(self) -> list[Id]:
        """The documents' ids, in the order in which they were added."""
        return self._contents.ids()

    @property
    def fields(self) -> list[str]:
        """The metadata fields that documents have, to filter by."""
        return known_fields(self._contents.parts)

    def get(self, ids: Iterable[Id]) -> list[StoredDocument]:
        """The id, text and metadata of documents, in the order of `ids`; an unknown id is a ValueError."""
        wanted = check_id_list(ids)
        parts = self._contents.parts
        found: dict[Id, StoredDocument] = {}
        for part in parts:
            numbers = [
                number
                for number in part.segment.documents.find(wanted).values()
                if part.is_live[number]
            ]
            found.update({one.id: one for one in part.segment.documents.read(numbers)})
        unknown = [id for id in wanted if id not in found]
        if unknown:
            raise ValueError(
                f"no document has the id {unknown[0]!r}: index.ids lists those there are"
            )
        return [found[id] for id in wanted]

    def text(self, id: Id) -> str | None:
        """The document's text, None if it was given without; an unknown id is an error."""
        [stored] = self.get([id])
        return stored.text

    def __repr__(self) -> str:
        size = f"{len(self):,} documents, {self.num_vectors:,} vectors of {self.dim} dimensions"
        return f"FastLaneIndex({size})"
