"""What each route does: checks limits, asks the index, and shapes the answer."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar, cast

import numpy as np

from .. import __version__
from ..index.explaining import Explanation
from ..index.filters import check_filter
from ..index.index import FastLaneIndex
from ..modeling.search_fastlane import Hit, Views, default_routes
from .batching import Answered, Batcher, ClosedError, OverloadedError
from .errors import RequestError, refused
from .jobs import Jobs
from .metrics import Metrics
from .models import DocumentsRequest, EncodeRequest, IdsRequest, SearchRequest
from .reranking import RerankRequest, rerank, rerank_answer
from .searching import EncodeOptions, Found, NumRoutes, Searcher, SearchOptions, within
from .settings import ServerSettings
from .writing import IndexWriter

Result = TypeVar("Result")


class Endpoints:
    """The routes' functions over one index.

    Queries run in batches in one thread. Texts that are ranked or encoded as documents have a second one, and
    changes a third, so that none of them holds a search up for longer than the processor does.

    Args:
        index: The index, with its encoder.
        directory: Its folder.
        settings: Limits and batches.
        metrics: Counts what happens.
        memory_map: Leave what changes save in its files.
    """

    def __init__(
        self,
        index: FastLaneIndex,
        directory: str | os.PathLike[str],
        settings: ServerSettings,
        metrics: Metrics,
        *,
        memory_map: bool = False,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._writer = IndexWriter(
            index, directory, read_only=settings.read_only, memory_map=memory_map
        )
        self._searcher = Searcher(lambda: self._writer.index)
        self._batcher: Batcher[SearchOptions | EncodeOptions, str, Found | Views] = Batcher(
            self._searcher.run,
            max_batch=settings.max_batch,
            max_wait=settings.max_wait_ms / 1e3,
            max_queue=settings.max_queue,
            observe=metrics.observe_batch,
        )
        self._long = Jobs("fastlane-long", settings.max_queue)
        self._changes = Jobs("fastlane-writer", settings.max_queue)
        metrics.watch("queue", "Queries that wait.", lambda: len(self._batcher))
        metrics.watch("changes_running", "Changes that wait or run.", lambda: len(self._changes))
        metrics.watch(
            "long_running",
            "Rankings of texts and encodings of documents that wait or run.",
            lambda: len(self._long),
        )
        metrics.watch("documents", "Documents of the index.", lambda: len(self._writer.index))
        metrics.watch(
            "token_vectors", "Vectors of the index.", lambda: self._writer.index.num_vectors
        )

    async def close(self) -> None:
        """Waits for what runs, and ends the threads."""
        await self._batcher.close()
        for jobs in (self._long, self._changes):
            await jobs.close()
        self._searcher.stopwatch.release()

    async def search(self, request: SearchRequest) -> Any:
        """Searches for one query or several."""
        queries = request.queries
        self._check_texts("query", queries, isinstance(request.query, str), may_be_blank=False)
        for name in ("top_k", "rerank", "candidates"):
            value, most = getattr(request, name), self._settings.max_top_k
            if value is not None and value > most:
                raise RequestError(422, f"{name} may be {most:,}, got {value:,}", name)
        if request.ids is not None:
            self._check_count("ids", request.ids)
        if request.where is not None:
            try:
                check_filter(request.where)
            except ValueError as error:
                raise refused(error, "where") from error
            except RecursionError:
                raise RequestError(422, "where is nested too deeply", "where") from None
        options = SearchOptions(
            request.top_k,
            None if request.num_routes == "all" else request.num_routes,
            request.rerank,
            request.candidates,
            request.filter_json,
            None if request.ids is None else tuple(request.ids),
            request.explain,
        )
        found = await self._batched(options, queries, "query")
        results = []
        for query, one in zip(queries, found, strict=True):
            assert isinstance(one.result, Found)
            hits = hit_answers(query, one.result.hits, one.result.explanations)
            results.append({"query": query, "hits": hits, "comparisons": one.result.comparisons})
        return {"results": results, "took": self._took(found)}

    async def encode(self, request: EncodeRequest) -> Any:
        """Encodes texts as queries or as documents."""
        texts = [request.texts] if isinstance(request.texts, str) else request.texts
        is_query = request.side == "query"
        one = isinstance(request.texts, str)
        self._check_texts("texts", texts, one, may_be_blank=not is_query)
        most, length = self._settings.max_encoded, sum(map(len, texts))
        if length > most:
            raise RequestError(
                422, f"texts may have {most:,} characters together, got {length:,}", "texts"
            )
        routes: NumRoutes = None if request.num_routes == "all" else request.num_routes
        if is_query:
            if isinstance(routes, float):
                raise RequestError(
                    422, f"num_routes of queries is a whole number, got {routes}", "num_routes"
                )
            found = await self._batched(EncodeOptions(routes), texts, "texts")
            with self._refusals("queries", "texts"):
                views = within(most, (cast(Views, each.result) for each in found))
        else:
            encode = self._searcher.encode_documents
            views = await self._run(
                self._long, lambda: within(most, encode(routes, texts)), "texts"
            )
        vectors = [np.asarray(each.vectors, dtype="<f4") for each in views]
        positions = [each.positions.tolist() for each in views]
        return {
            "embeddings": [as_asked(one, request.encoding_format) for one in vectors],
            "positions": positions,
            "dim": self._writer.index.dim,
        }

    async def rerank(self, request: RerankRequest) -> Any:
        """Ranks texts by full MaxSim, as Jina's `/v1/rerank` and Cohere's first version."""
        return await self._rerank(request, "1")

    async def rerank_v2(self, request: RerankRequest) -> Any:
        """Ranks texts by full MaxSim, as Cohere's `/v2/rerank`."""
        return await self._rerank(request, "2")

    async def _rerank(self, request: RerankRequest, version: Literal["1", "2"]) -> Any:
        self._check_texts("query", [request.query], True, may_be_blank=False)
        self._check_texts("documents", request.texts, False, may_be_blank=True)
        index = self._writer.index
        hits, tokens = await self._run(self._long, lambda: rerank(index, request), "documents")
        return rerank_answer(request, hits, tokens, version)

    async def add(self, request: DocumentsRequest) -> Any:
        """Adds documents; none is there yet. Without ids they are numbered."""
        ids = [one.id for one in request.documents]
        missing = [number for number, id in enumerate(ids) if id is None]
        if missing and len(missing) < len(ids):
            raise RequestError(
                422,
                f"documents.{missing[0]}.id is missing, and others have one: give all or none",
                f"documents.{missing[0]}.id",
            )
        return await self._insert("add", request, None if missing else ids)

    async def upsert(self, request: DocumentsRequest) -> Any:
        """Puts documents in the place of those with their ids, and adds the others."""
        ids = [one.id for one in request.documents]
        if None in ids:
            field = f"documents.{ids.index(None)}.id"
            raise RequestError(422, f"{field} is missing: PUT goes by it", field)
        return await self._insert("upsert", request, ids)

    async def _insert(
        self, mode: Literal["add", "upsert"], request: DocumentsRequest, ids: Any
    ) -> Any:
        self._writer.check_writable()
        texts = [one.text for one in request.documents]
        self._check_texts("documents", texts, False, may_be_blank=True)
        metadata = [one.metadata for one in request.documents]
        return await self._change(mode, lambda: self._writer.add(mode, texts, ids, metadata))

    async def delete(self, request: IdsRequest) -> Any:
        """Deletes documents: all of these or none."""
        self._writer.check_writable()
        self._check_count("ids", request.ids)
        ids = list(dict.fromkeys(request.ids))
        return await self._change("delete", lambda: self._writer.delete(ids))

    async def get(self, request: IdsRequest) -> Any:
        """Gives documents back."""
        self._check_count("ids", request.ids)
        index = self._writer.index

        def read() -> list[dict[str, Any]]:
            try:
                stored = index.get(request.ids)
            except ValueError as error:
                message = str(error).removesuffix(": index.ids lists those there are")
                raise RequestError(404, message, "ids") from error
            return [{"id": one.id, "text": one.text, "metadata": one.metadata} for one in stored]

        return {"documents": await asyncio.to_thread(read)}

    async def describe(self) -> Any:
        """Says what is served."""
        index = self._writer.index
        return {
            "version": __version__,
            "documents": len(index),
            "token_vectors": index.num_vectors,
            "dim": index.dim,
            "kind": index.vectors.kind,
            "storage": index.vectors.storage,
            "metadata_fields": await asyncio.to_thread(lambda: index.fields),
            "query_num_routes": default_routes(index.encoder),
            "read_only": self._settings.read_only,
            "limits": self._settings.limits,
        }

    async def health(self) -> Any:
        """Says that the server answers."""
        return {"status": "ok"}

    async def metrics(self) -> Any:
        """Gives counts and times to Prometheus."""
        from fastapi.responses import Response

        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _change(self, change: str, run: Callable[[], tuple[list[Any], int]]) -> Any:
        ids, count = await self._run(self._changes, run, "documents")
        self._metrics.observe_change(change, len(ids))
        return {"ids": ids, "documents": count}

    async def _batched(
        self, options: SearchOptions | EncodeOptions, queries: list[str], field: str
    ) -> list[Answered[Found | Views]]:
        with self._refusals("queries", field):
            return await self._batcher.submit(options, queries)

    async def _run(self, jobs: Jobs, run: Callable[[], Result], field: str) -> Result:
        with self._refusals("requests of this kind", field):
            return await jobs.run(run)

    @contextmanager
    def _refusals(self, waiting: str, field: str) -> Iterator[None]:
        """Says why something isn't run, or what the library refuses of a field."""
        try:
            yield
        except OverloadedError:
            raise RequestError(
                503, f"{self._settings.max_queue:,} {waiting} are waiting: try again later"
            ) from None
        except ClosedError:
            raise RequestError(503, "the server is going down") from None
        except ValueError as error:
            raise refused(error, field) from error

    def _took(self, found: Sequence[Answered[Found | Views]]) -> dict[str, float]:
        """Milliseconds of a search, by stage; of several batches the slowest of each."""
        stages: dict[str, float] = {"queue": 0.0, "encode": 0.0, "search": 0.0, "explain": 0.0}
        for one in found:
            assert isinstance(one.result, Found)
            result = one.result
            seconds = {
                "queue": one.waited,
                "encode": result.encoding,
                "search": result.searching,
                "explain": result.explaining,
            }
            self._metrics.observe_stages(**seconds)
            stages = {name: max(stages[name], seconds[name]) for name in stages}
        took = {f"{name}_ms": round(1e3 * value, 3) for name, value in stages.items()}
        return {**took, "batch_size": max((one.batch_size for one in found), default=0)}

    def _check_count(self, field: str, items: Sequence[Any]) -> None:
        if len(items) > self._settings.max_texts:
            raise RequestError(
                422, f"{field} may be {self._settings.max_texts:,}, got {len(items):,}", field
            )

    def _check_texts(
        self, field: str, texts: Sequence[str], is_one: bool, *, may_be_blank: bool
    ) -> None:
        """Checks the count and the lengths of texts; an error names the text by its place."""
        if not texts:
            raise RequestError(422, f"{field} is an empty list: give a text at least", field)
        self._check_count(field, texts)
        most = self._settings.max_text_length
        for number, text in enumerate(texts):
            place = field if is_one else f"{field}.{number}"
            if len(text) > most:
                raise RequestError(
                    422, f"{place} may have {most:,} characters, got {len(text):,}", place
                )
            if not may_be_blank and not text.strip():
                raise RequestError(422, f"{place} is empty, got {text!r:.20}", place)


def hit_answers(
    query: str, hits: Sequence[Hit], explanations: Sequence[Explanation | None] | None
) -> list[dict[str, Any]]:
    """Hits as JSON, each with its explanation if it has one."""
    if explanations is None:
        return [hit.to_dict() for hit in hits]
    answers = []
    for hit, explanation in zip(hits, explanations, strict=True):
        if explanation is None:
            answers.append(hit.to_dict())
            continue
        told, strong = explanation.to_dict(query, hit.text), explanation.strong
        for word, match in zip(told["words"], explanation.matches, strict=True):
            word["strong"] = match in strong
        answers.append({**hit.to_dict(), "explanation": told})
    return answers


def as_asked(vectors: Any, encoding_format: str) -> Any:
    """One text's vectors (K, D) in the format that was asked for."""
    if encoding_format == "base64":
        return base64.b64encode(vectors.tobytes()).decode()
    return vectors.tolist()
