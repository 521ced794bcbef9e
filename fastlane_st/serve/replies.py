"""Requests of the clients and what they make of the answers; both clients share them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
from typing_extensions import TypedDict

from ..index.documents import StoredDocument
from ..index.explaining import Explanation, WordMatch
from ..modeling.search_fastlane import FloatArray, Hit, Id, Match, Metadata, listed, plain

Result = TypeVar("Result")


class ServerError(Exception):
    """What a server refused.

    Attributes:
        status: Of HTTP; 503 is worth another try.
        message: The server's.
        field: Of the request, which it is about; or None.
    """

    def __init__(self, status: int, message: str, field: str | None = None) -> None:
        super().__init__(f"{message} (status {status})")
        self.status = status
        self.message = message
        self.field = field


class SearchArguments(TypedDict, total=False):
    """What `search` takes besides queries, as `FastLaneIndex.search` does."""

    top_k: int
    num_routes: int | Literal["default"] | None
    rerank: int | None
    candidates: int | None
    where: Mapping[str, Any] | None
    ids: Iterable[Id] | None


@dataclass(frozen=True, slots=True)
class Ranked:
    """A text's place among those that were given, and its relevance."""

    index: int
    relevance: float


class Call(NamedTuple, Generic[Result]):
    """A request, and the reader of its answer."""

    method: str
    path: str
    body: dict[str, Any] | None
    read: Callable[[Any], Result]


def as_json(value: Any) -> Any:
    """What an index takes, as JSON can hold it: NumPy's scalars are Python's, arrays and sets are lists."""
    if isinstance(value, Mapping):
        return {plain(name): as_json(one) for name, one in value.items()}
    if isinstance(value, Sequence | set | frozenset | np.ndarray) and not isinstance(
        value, str | bytes
    ):
        return [as_json(one) for one in value]
    return plain(value)


def search_call(
    queries: Sequence[str], arguments: SearchArguments, explain: bool
) -> Call[list[list[tuple[Hit, Explanation | None]]]]:
    """A search; the answer holds each query's hits with their explanations, if those were asked for."""
    body: dict[str, Any] = {"query": listed("queries", queries), "explain": explain}
    given: dict[str, Any] = dict(arguments)
    if "num_routes" in given and given["num_routes"] is None:
        given["num_routes"] = "all"
    if given.get("ids") is not None:
        given["ids"] = listed("ids", given["ids"])

    def read(answer: Any) -> list[list[tuple[Hit, Explanation | None]]]:
        return [
            [(hit_of(hit), explanation_of(hit)) for hit in result["hits"]]
            for result in answer["results"]
        ]

    return Call("POST", "/search", body | as_json(given), read)


def hit_of(answer: Any) -> Hit:
    """A hit as the library gives it."""
    matches = tuple(Match(**match) for match in answer["matches"])
    span = None if answer["span"] is None else tuple(answer["span"])
    return Hit(answer["id"], answer["score"], matches, answer["text"], answer["metadata"], span)


def explanation_of(answer: Any) -> Explanation | None:
    """A hit's explanation as the library gives it."""
    told = answer.get("explanation")
    if told is None:
        return None
    words = tuple(
        WordMatch(
            tuple(word["query_span"]),
            None if word["document_span"] is None else tuple(word["document_span"]),
            word["similarity"],
            word["contribution"],
        )
        for word in told["words"]
    )
    return Explanation(answer["id"], told["maxsim"], words)


def encode_call(
    texts: Sequence[str], side: Literal["query", "document"], num_routes: Any
) -> Call[list[FloatArray]]:
    """An encoding; the answer holds an array (K, D) for each text."""
    body = {
        "texts": listed("texts", texts),
        "side": side,
        "num_routes": "all" if num_routes is None else plain(num_routes),
        "encoding_format": "base64",
    }

    def read(answer: Any) -> list[FloatArray]:
        rows = (np.frombuffer(base64.b64decode(one), dtype="<f4") for one in answer["embeddings"])
        return [one.reshape(-1, answer["dim"]).astype(np.float32) for one in rows]

    return Call("POST", "/encode", body, read)


def rerank_call(query: str, texts: Sequence[str], top_n: int | None) -> Call[list[Ranked]]:
    """A ranking of texts, the most relevant first."""
    body = {
        "query": query,
        "documents": listed("documents", texts),
        "top_n": plain(top_n),
        "return_documents": False,
    }

    def read(answer: Any) -> list[Ranked]:
        return [Ranked(one["index"], one["relevance_score"]) for one in answer["results"]]

    return Call("POST", "/rerank", body, read)


def insert_call(
    method: Literal["POST", "PUT"],
    documents: Sequence[str],
    ids: Iterable[Id] | None,
    metadata: Iterable[Metadata] | None,
) -> Call[list[Id]]:
    """New documents, or with PUT such as take the place of others; the answer holds their ids."""
    texts = listed("documents", documents)
    body: list[dict[str, Any]] = [{"text": text} for text in texts]
    for name, values in (("id", ids), ("metadata", metadata)):
        if values is None:
            continue
        given = listed("ids" if name == "id" else name, values)
        if len(given) != len(texts):
            raise ValueError(
                f"{'ids' if name == 'id' else name} must be {len(texts)}, one a document: got {len(given)}"
            )
        for document, value in zip(body, given, strict=True):
            document[name] = as_json(value)
    return Call(method, "/documents", {"documents": body}, lambda answer: list(answer["ids"]))


def delete_call(ids: Iterable[Id]) -> Call[None]:
    """A deletion."""
    return Call(
        "POST", "/documents/delete", {"ids": as_json(listed("ids", ids))}, lambda answer: None
    )


def get_call(ids: Iterable[Id]) -> Call[list[StoredDocument]]:
    """Documents by their ids."""

    def read(answer: Any) -> list[StoredDocument]:
        return [
            StoredDocument(one["id"], one["text"], one["metadata"]) for one in answer["documents"]
        ]

    return Call("POST", "/documents/get", {"ids": as_json(listed("ids", ids))}, read)


def describe_call() -> Call[dict[str, Any]]:
    """What is served."""
    return Call("GET", "/index", None, lambda answer: dict(answer))


def health_call() -> Call[bool]:
    """Whether the server answers."""
    return Call("GET", "/health", None, lambda answer: bool(answer["status"] == "ok"))


def read_answer(call: Call[Result], response: Any) -> Result:
    """What an HTTP response holds; a ServerError if it is none of a FastLane server or a refusal."""
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if response.status_code != 200:
        told = answer.get("error") if isinstance(answer, dict) else None
        if not isinstance(told, dict):
            told = {"message": f"{response.url} answered with status {response.status_code}"}
        raise ServerError(response.status_code, str(told.get("message")), told.get("field"))
    try:
        return call.read(answer)
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(
            response.status_code, f"{response.url} gave no answer of a FastLane server"
        ) from error
