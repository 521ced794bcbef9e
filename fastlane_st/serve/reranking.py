"""`/rerank` as Cohere's and Jina's: their requests and their answers, ranked by full MaxSim."""

from __future__ import annotations

import uuid
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, field_validator

from ..index.index import FastLaneIndex
from ..modeling.search_fastlane import Hit, check_unicode
from .models import Count


class TextDocument(BaseModel):
    """A document as an object; other fields than its text aren't read."""

    text: StrictStr


class RerankRequest(BaseModel):
    """Texts to rank for a query. Further fields that Cohere and Jina know are passed over."""

    model_config = ConfigDict(extra="ignore")

    query: StrictStr
    documents: list[StrictStr | TextDocument] = Field(min_length=1)
    top_n: Count | None = Field(None, description="Results; all by default.")
    model: StrictStr | None = Field(None, description="Given back; there is one model.")
    return_documents: StrictBool | None = Field(
        None, description="Give texts back: yes by default, no under /v2/rerank."
    )

    @field_validator("model")
    @classmethod
    def _is_unicode(cls, model: str | None) -> str | None:
        check_unicode([model], "model")  # it is given back, and no answer holds a lone surrogate
        return model

    @property
    def texts(self) -> list[str]:
        """The documents' texts."""
        return [one if isinstance(one, str) else one.text for one in self.documents]


class RerankedDocument(BaseModel):
    """A document's place in the request, and its relevance: MaxSim divided by the query's tokens."""

    index: int
    relevance_score: float
    document: TextDocument | None = None


class ApiVersion(BaseModel):
    """Cohere's version that the answer follows."""

    version: Literal["1", "2"]


class Meta(BaseModel):
    """What Cohere's answers carry."""

    api_version: ApiVersion


class Usage(BaseModel):
    """What Jina's answers carry: token vectors of query and documents."""

    total_tokens: int
    prompt_tokens: int


class RerankAnswer(BaseModel):
    """Documents, the most relevant first; Cohere's and Jina's fields in one."""

    id: str
    object: Literal["list"] = "list"
    model: str
    results: list[RerankedDocument]
    meta: Meta
    usage: Usage


def rerank(served: FastLaneIndex, request: RerankRequest) -> tuple[list[Hit], int]:
    """Ranks a request's texts; long ones by their best windows, as documents of the index.

    Returns:
        A hit for each text, whose id is its place in the request, best first; and how many token vectors
        query and texts have.
    """
    texts = request.texts
    assert served.encoder is not None
    ranked = FastLaneIndex.build(
        served.encoder, texts, num_routes=None, long_texts=served.long_texts, kind="flat"
    )
    hits = ranked.search(
        request.query, min(request.top_n or len(texts), len(texts)), num_routes=None
    )
    tokens = ranked.num_vectors + (len(hits[0].matches) if hits else 0)
    return hits, tokens


def rerank_answer(
    request: RerankRequest, hits: list[Hit], tokens: int, version: Literal["1", "2"]
) -> dict[str, Any]:
    """The answer in the shapes of both services; see `RerankAnswer`."""
    shown = request.return_documents
    if shown is None:
        shown = version == "1"
    results = []
    for hit in hits:
        result: dict[str, Any] = {
            "index": hit.id,
            "relevance_score": hit.score / len(hit.matches),
        }
        if shown:
            result["document"] = {"text": hit.text}
        results.append(result)
    return {
        "id": str(uuid.uuid4()),
        "object": "list",
        "model": request.model or "fastlane",
        "results": results,
        "meta": {"api_version": {"version": version}},
        "usage": {"total_tokens": tokens, "prompt_tokens": tokens},
    }
