"""Clients of a server, sync and async, with the methods and the hits of `FastLaneIndex`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from typing_extensions import Unpack

from ..index.documents import StoredDocument
from ..index.explaining import Explanation
from ..modeling.search_fastlane import FloatArray, Hit, Id, Metadata
from . import replies
from .installed import CLIENT, require
from .replies import Call, Ranked, SearchArguments, read_answer
from .settings import KEY_VARIABLE

if TYPE_CHECKING:
    from typing_extensions import Self

Result = TypeVar("Result")

TIMEOUT = 60.0
"""Seconds that a client waits for an answer."""

CONNECT_TRIES = 2
"""How often a connection that wasn't made is tried again; no request is sent twice."""


def headers_of(api_key: str | None) -> dict[str, str]:
    """The headers that carry the key: the one given, or that of the environment variable."""
    key = os.environ.get(KEY_VARIABLE) if api_key is None else api_key
    return {"Authorization": f"Bearer {key}"} if key else {}


@contextmanager
def naming(url: object) -> Iterator[None]:
    """Puts the server's address into the error of a server that can't be reached."""
    import httpx

    try:
        yield
    except httpx.TransportError as error:
        raise type(error)(f"{url}: {str(error) or type(error).__name__}") from error


class FastLaneClient:
    """Asks a server what one would ask a `FastLaneIndex`.

    Threads may share one. As a context manager it closes its connections at the end.

    Args:
        url: The server's, such as `http://127.0.0.1:8000`.
        api_key: By default what the environment variable `FASTLANE_API_KEY` holds, if it is set.
        timeout: Seconds that a request may take.
        transport: Of httpx; by default one that tries twice more to connect.

    Raises:
        ServerError: By every method, if the server refuses the request.
        httpx.TransportError: By every method, if the server can't be reached; the message has its address.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout: float = TIMEOUT,
        transport: Any = None,
    ) -> None:
        require("a client", CLIENT)
        import httpx

        self._http = httpx.Client(
            base_url=url,
            headers=headers_of(api_key),
            timeout=timeout,
            transport=transport or httpx.HTTPTransport(retries=CONNECT_TRIES),
        )

    def _send(self, call: Call[Result]) -> Result:
        with naming(self._http.base_url):
            answer = self._http.request(call.method, call.path, json=call.body)
        return read_answer(call, answer)

    @overload
    def search(  # type: ignore[overload-overlap]
        self, queries: str, **arguments: Unpack[SearchArguments]
    ) -> list[Hit]: ...

    @overload
    def search(
        self, queries: Sequence[str], **arguments: Unpack[SearchArguments]
    ) -> list[list[Hit]]: ...

    def search(
        self, queries: str | Sequence[str], **arguments: Unpack[SearchArguments]
    ) -> list[Hit] | list[list[Hit]]:
        """Finds documents; the arguments and the result are those of `FastLaneIndex.search`."""
        several = [queries] if isinstance(queries, str) else queries
        found = self._send(replies.search_call(several, arguments, explain=False))
        hits = [[hit for hit, _ in one] for one in found]
        return hits[0] if isinstance(queries, str) else hits

    def search_explained(
        self, query: str, **arguments: Unpack[SearchArguments]
    ) -> list[tuple[Hit, Explanation]]:
        """Finds documents, each with what `FastLaneIndex.explain` says of it.

        A document that is deleted or replaced during the search is left out.
        """
        [found] = self._send(replies.search_call([query], arguments, explain=True))
        return [(hit, explanation) for hit, explanation in found if explanation is not None]

    def encode_query(
        self, texts: Sequence[str], num_routes: int | Literal["default"] | None = "default"
    ) -> list[FloatArray]:
        """Encodes queries, each into an array (K, D)."""
        return self._send(replies.encode_call(texts, "query", num_routes))

    def encode_document(
        self, texts: Sequence[str], num_routes: float | Literal["default"] | None = "default"
    ) -> list[FloatArray]:
        """Encodes documents as the index does, each into an array (K, D)."""
        return self._send(replies.encode_call(texts, "document", num_routes))

    def rerank(
        self, query: str, documents: Sequence[str], top_n: int | None = None
    ) -> list[Ranked]:
        """Ranks texts by full MaxSim, the best first."""
        return self._send(replies.rerank_call(query, documents, top_n))

    def add(
        self,
        documents: Sequence[str],
        ids: Iterable[Id] | None = None,
        metadata: Iterable[Metadata] | None = None,
    ) -> list[Id]:
        """Adds documents and gives their ids; they are saved when this returns."""
        return self._send(replies.insert_call("POST", documents, ids, metadata))

    def upsert(
        self,
        documents: Sequence[str],
        ids: Iterable[Id],
        metadata: Iterable[Metadata] | None = None,
    ) -> None:
        """Replaces documents whose ids are there and adds the others; saved when this returns."""
        self._send(replies.insert_call("PUT", documents, ids, metadata))

    def delete(self, ids: Iterable[Id]) -> None:
        """Deletes documents, all or none; saved when this returns."""
        self._send(replies.delete_call(ids))

    def get(self, ids: Iterable[Id]) -> list[StoredDocument]:
        """Gives id, text and metadata of documents."""
        return self._send(replies.get_call(ids))

    def describe(self) -> dict[str, Any]:
        """Says what is served: counts, kind, metadata fields, limits."""
        return self._send(replies.describe_call())

    def is_healthy(self) -> bool:
        """Whether the server answers."""
        return self._send(replies.health_call())

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncFastLaneClient:
    """`FastLaneClient` for asyncio: the same arguments and methods, to be awaited."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout: float = TIMEOUT,
        transport: Any = None,
    ) -> None:
        require("a client", CLIENT)
        import httpx

        self._http = httpx.AsyncClient(
            base_url=url,
            headers=headers_of(api_key),
            timeout=timeout,
            transport=transport or httpx.AsyncHTTPTransport(retries=CONNECT_TRIES),
        )

    async def _send(self, call: Call[Result]) -> Result:
        with naming(self._http.base_url):
            answer = await self._http.request(call.method, call.path, json=call.body)
        return read_answer(call, answer)

    @overload
    async def search(  # type: ignore[overload-overlap]
        self, queries: str, **arguments: Unpack[SearchArguments]
    ) -> list[Hit]: ...

    @overload
    async def search(
        self, queries: Sequence[str], **arguments: Unpack[SearchArguments]
    ) -> list[list[Hit]]: ...

    async def search(
        self, queries: str | Sequence[str], **arguments: Unpack[SearchArguments]
    ) -> list[Hit] | list[list[Hit]]:
        """Finds documents; the arguments and the result are those of `FastLaneIndex.search`."""
        several = [queries] if isinstance(queries, str) else queries
        found = await self._send(replies.search_call(several, arguments, explain=False))
        hits = [[hit for hit, _ in one] for one in found]
        return hits[0] if isinstance(queries, str) else hits

    async def search_explained(
        self, query: str, **arguments: Unpack[SearchArguments]
    ) -> list[tuple[Hit, Explanation]]:
        """Finds documents, each with what `FastLaneIndex.explain` says of it.

        A document that is deleted or replaced during the search is left out.
        """
        [found] = await self._send(replies.search_call([query], arguments, explain=True))
        return [(hit, explanation) for hit, explanation in found if explanation is not None]

    async def encode_query(
        self, texts: Sequence[str], num_routes: int | Literal["default"] | None = "default"
    ) -> list[FloatArray]:
        """Encodes queries, each into an array (K, D)."""
        return await self._send(replies.encode_call(texts, "query", num_routes))

    async def encode_document(
        self, texts: Sequence[str], num_routes: float | Literal["default"] | None = "default"
    ) -> list[FloatArray]:
        """Encodes documents as the index does, each into an array (K, D)."""
        return await self._send(replies.encode_call(texts, "document", num_routes))

    async def rerank(
        self, query: str, documents: Sequence[str], top_n: int | None = None
    ) -> list[Ranked]:
        """Ranks texts by full MaxSim, the best first."""
        return await self._send(replies.rerank_call(query, documents, top_n))

    async def add(
        self,
        documents: Sequence[str],
        ids: Iterable[Id] | None = None,
        metadata: Iterable[Metadata] | None = None,
    ) -> list[Id]:
        """Adds documents and gives their ids; they are saved when this returns."""
        return await self._send(replies.insert_call("POST", documents, ids, metadata))

    async def upsert(
        self,
        documents: Sequence[str],
        ids: Iterable[Id],
        metadata: Iterable[Metadata] | None = None,
    ) -> None:
        """Replaces documents whose ids are there and adds the others; saved when this returns."""
        await self._send(replies.insert_call("PUT", documents, ids, metadata))

    async def delete(self, ids: Iterable[Id]) -> None:
        """Deletes documents, all or none; saved when this returns."""
        await self._send(replies.delete_call(ids))

    async def get(self, ids: Iterable[Id]) -> list[StoredDocument]:
        """Gives id, text and metadata of documents."""
        return await self._send(replies.get_call(ids))

    async def describe(self) -> dict[str, Any]:
        """Says what is served: counts, kind, metadata fields, limits."""
        return await self._send(replies.describe_call())

    async def is_healthy(self) -> bool:
        """Whether the server answers."""
        return await self._send(replies.health_call())

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
