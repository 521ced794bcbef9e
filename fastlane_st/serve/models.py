"""Requests and answers, typed by pydantic. An unknown field of a request is an error."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

MOST = 2**63 - 1

IntegerId = Annotated[StrictInt, Field(ge=-MOST, le=MOST)]
DocumentId: TypeAlias = StrictStr | IntegerId
Value: TypeAlias = (
    StrictBool | IntegerId | Annotated[StrictFloat, Field(allow_inf_nan=False)] | StrictStr | None
)
Count = Annotated[StrictInt, Field(ge=1, le=MOST)]
QueryRoutes: TypeAlias = Count | Literal["default", "all"]
Fraction = Annotated[StrictFloat, Field(gt=0, le=1)]
AnyRoutes: TypeAlias = Count | Fraction | Literal["default", "all"]


class Request(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="forbid")


class SearchRequest(Request):
    """A search for one query or several, with the arguments of `FastLaneIndex.search`."""

    query: StrictStr | list[StrictStr] = Field(description="One query, or several.")
    top_k: Count = Field(10, description="Hits for each query.")
    num_routes: QueryRoutes = Field(
        "default", description='Token vectors of each query; "default" is the checkpoint\'s number.'
    )
    rerank: Count | None = Field(
        None, description="Rank so many of the best documents again by full MaxSim."
    )
    candidates: Count | None = Field(
        None, description="Documents that each of several routes proposes."
    )
    where: dict[str, Any] | None = Field(
        None,
        description="Find only documents with such metadata.",
        examples=[{"year": {"$gte": 2020}}],
    )
    ids: list[DocumentId] | None = Field(None, description="Find only these documents.")
    explain: StrictBool = Field(
        False, description="Say for each hit which words carried its score, in characters."
    )

    @property
    def queries(self) -> list[str]:
        """The queries as a list."""
        return [self.query] if isinstance(self.query, str) else self.query

    @property
    def filter_json(self) -> str | None:
        """The filter as one string, the same for the same filter."""
        return None if self.where is None else json.dumps(self.where, sort_keys=True)


class MatchAnswer(BaseModel):
    """A token of the query and the token of the document that it met."""

    query_position: int
    document_position: int
    similarity: float


class WordAnswer(BaseModel):
    """A word of the query and the word of the document that it met, as characters of the two texts."""

    query_word: str
    document_word: str | None
    query_span: tuple[int, int]
    document_span: tuple[int, int] | None
    similarity: float
    contribution: float
    strong: bool = Field(description="Whether it carried the score.")


class ExplanationAnswer(BaseModel):
    """What carried a hit's score."""

    maxsim: float
    words: list[WordAnswer]


class HitAnswer(BaseModel):
    """A document found, as `Hit.to_dict` gives it."""

    id: str | int
    score: float
    text: str | None
    metadata: dict[str, Any]
    span: tuple[int, int] | None = Field(description="The best window of a long document.")
    matches: list[MatchAnswer]
    explanation: ExplanationAnswer | None = None


class ResultAnswer(BaseModel):
    """What was found for one query."""

    query: str
    hits: list[HitAnswer]
    comparisons: int = Field(
        description="Pairs of vectors that were compared: about, with a filter or clusters."
    )


class TookAnswer(BaseModel):
    """Milliseconds, of the slowest of the batches that a request's queries were in."""

    queue_ms: float
    encode_ms: float
    search_ms: float
    explain_ms: float
    batch_size: int = Field(description="Queries of the batch.")


class SearchAnswer(BaseModel):
    """A result for each query, in their order."""

    results: list[ResultAnswer]
    took: TookAnswer


class EncodeRequest(Request):
    """Texts to encode as queries or as documents."""

    texts: StrictStr | list[StrictStr]
    side: Literal["query", "document"] = "query"
    num_routes: AnyRoutes = Field(
        "default", description="Vectors of each text; a document's may be a fraction of its tokens."
    )
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="Lists of numbers, or base64 of little-endian float32 rows."
    )


class EncodeAnswer(BaseModel):
    """Token vectors of each text, and the positions of their tokens in it."""

    embeddings: list[list[list[float]]] | list[str]
    positions: list[list[int]]
    dim: int


class NewDocument(Request):
    """A document to index."""

    id: DocumentId | None = None
    text: StrictStr
    metadata: dict[StrictStr, Value] = Field(default_factory=dict)


class DocumentsRequest(Request):
    """Documents to add, or to put in the place of those with the same ids."""

    documents: list[NewDocument] = Field(min_length=1)


class IdsRequest(Request):
    """Documents by their ids."""

    ids: list[DocumentId] = Field(min_length=1)


class ChangeAnswer(BaseModel):
    """What a change did; it is in the index's folder."""

    ids: list[str | int]
    documents: int = Field(description="How many the index holds now.")


class DocumentAnswer(BaseModel):
    """A document as the index keeps it."""

    id: str | int
    text: str | None
    metadata: dict[str, Any]


class DocumentsAnswer(BaseModel):
    """Documents, in the order of the ids that were asked for."""

    documents: list[DocumentAnswer]


class HealthAnswer(BaseModel):
    """That the server answers."""

    status: Literal["ok"] = "ok"


class IndexAnswer(BaseModel):
    """What is served."""

    version: str
    documents: int
    token_vectors: int
    dim: int
    kind: str
    storage: str
    metadata_fields: list[str]
    query_num_routes: int | None = Field(description="The default; null is all tokens.")
    read_only: bool
    limits: dict[str, int]


class ErrorDetail(BaseModel):
    """What is wrong, and in which field of the request."""

    message: str
    field: str | None


class ErrorAnswer(BaseModel):
    """Every answer with a status of 400 or more."""

    error: ErrorDetail
