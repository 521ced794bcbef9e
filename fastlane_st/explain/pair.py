"""Explains one query and one document: all views of the query beside its routes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..encoder import FastLaneEncoder
from ..index.arguments import QueryRoutes
from ..index.explaining import Explanation, document_spans, words_at
from ..index.index import FastLaneIndex
from ..index.tokens import SideTokenizer, Span
from ..modeling.routing_fastlane import Task
from ..modeling.search_fastlane import Hit, check_queries
from .render import as_html, as_svg, as_text

SIDES: tuple[Task, Task] = ("query", "document")


@dataclass(frozen=True, slots=True)
class RouteMatch:
    """A route of the query, and the document's token that is nearest to it.

    A route is a summary of the query centred on a token. So its words say where it stands, and not what
    carried the score.

    Attributes:
        query_span: The word that it is centred on, in characters; None for a special token.
        document_span: The word of the nearest token; None for a special token.
        similarity: Of the two vectors, which it adds to the score. Of several routes, each vector is as long
            as the tokens that it stands for weigh.
    """

    query_span: Span | None
    document_span: Span | None
    similarity: float


@dataclass(frozen=True)
class PairExplanation:
    """Why a query and a document score as they do; a notebook shows it as HTML.

    Attributes:
        query: The query.
        document: The document's text.
        words: What all views saw: full MaxSim, and for each query word the document word that it met.
        routes: What the routes saw; without any if they were all tokens.
        score: The sum of the routes' similarities.
        logits: The router's logit of each query token that is a view, with the token's word; none from a
            router without logits.
    """

    query: str
    document: str
    words: Explanation
    routes: tuple[RouteMatch, ...]
    score: float
    logits: tuple[tuple[Span | None, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        return {
            "query": self.query,
            "document": self.document,
            **self.words.to_dict(self.query, self.document),
            "score": self.score,
            "routes": [
                {
                    **words_at(self.query, route.query_span, self.document, route.document_span),
                    "similarity": route.similarity,
                }
                for route in self.routes
            ],
            "logits": [
                {
                    "query_word": None if span is None else self.query[slice(*span)],
                    "query_span": None if span is None else list(span),
                    "logit": one,
                }
                for span, one in self.logits
            ],
        }

    def to_text(self) -> str:
        """A table for a terminal."""
        return as_text(self.to_dict())

    def to_html(self) -> str:
        """A fragment of HTML: both texts with the words that carried the score, and the picture."""
        return as_html(self.to_dict())

    def to_svg(self) -> str:
        """A picture of the words that met; the stronger a line, the more it contributed."""
        return as_svg(self.to_dict())

    def _repr_html_(self) -> str:
        return self.to_html()

    def save(self, path: Path | str) -> None:
        """Writes a page (.html) or a picture (.svg); another ending is a ValueError."""
        target = Path(path)
        if target.suffix == ".svg":
            content = self.to_svg()
        elif target.suffix == ".html":
            head = '<!doctype html>\n<meta charset="utf-8">\n<title>fastlane explain</title>\n'
            content = head + self.to_html()
        else:
            raise ValueError(f"an explanation is saved as .html or .svg, got {target.name!r}")
        target.write_text(content + "\n", "utf-8")


def explain_pair(
    encoder: FastLaneEncoder, query: str, document: str, num_routes: QueryRoutes = "default"
) -> PairExplanation:
    """Explains the score of a query and a document; it encodes both.

    Args:
        encoder: Encodes them.
        query: Not empty.
        document: Not empty; a long one is encoded in windows, as an index does.
        num_routes: Views of the query: a number, None for all, or "default" for the checkpoint's.

    Raises:
        ValueError: A text is empty, or none of the query's tokens can be routed.
    """
    check_queries([query])
    if not isinstance(document, str) or not document.strip():
        raise ValueError(f"document must be a text that isn't empty, got {document!r:.60}")
    index = FastLaneIndex.build(encoder, [document], num_routes=None)
    [hit] = index.search(query, top_k=1, num_routes=num_routes)
    [words] = index.explain(query, [hit])
    return PairExplanation(
        query,
        document,
        words,
        () if num_routes is None else routes_of(index, encoder, query, hit),
        hit.score,
        logits_of(encoder, query),
    )


def routes_of(
    index: FastLaneIndex, encoder: FastLaneEncoder, query: str, hit: Hit
) -> tuple[RouteMatch, ...]:
    """The routes of a hit with the words at both of their ends."""
    query_side, document_side = (SideTokenizer.of(encoder, side) for side in SIDES)
    assert query_side is not None
    assert document_side is not None
    [stored] = index.get([hit.id])
    query_spans = query_side.word_spans(query, [one.query_position for one in hit.matches])
    met = [one.document_position for one in hit.matches]
    spans = document_spans(document_side, stored.text, stored.windows, met)
    return tuple(
        RouteMatch(word, other, match.similarity)
        for word, other, match in zip(query_spans, spans, hit.matches, strict=True)
    )


def logits_of(encoder: FastLaneEncoder, query: str) -> tuple[tuple[Span | None, float], ...]:
    """The router's logit of each query token that is a view."""
    encoded: Any
    [encoded] = encoder.encode_query([query], output_value=None, num_routes=1)
    positions = encoded["token_mask"].nonzero()[:, 0].tolist()
    side = SideTokenizer.of(encoder, "query")
    assert side is not None
    spans = side.word_spans(query, positions)
    logits = encoded["router_logits"][positions].float().tolist()
    return tuple(zip(spans, logits, strict=True))
