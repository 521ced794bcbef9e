"""What carried a score: for each query word the document word that it met, for hits alone.

One route speaks for the whole query, so that the routed token says nothing of what was found. Here the query
keeps all of its tokens, and each is compared with the hit's vectors, as in full MaxSim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..modeling.search_fastlane import (
    Encoder,
    Hit,
    Id,
    Views,
    check_queries,
    exact_matches,
    inner_products,
    listed,
    query_views,
)
from .contents import IndexContents
from .segment import Segment
from .tokens import SideTokenizer, Span
from .vectors.settings import FloatArray, IntArray
from .windows import Windows, window_at

STRONG = 0.5
"""A word carries the score if it contributes so much of what the strongest one does."""


@dataclass(frozen=True, slots=True)
class WordMatch:
    """A query word, and the document word that it met.

    Attributes:
        query_span: The word in the query, in characters.
        document_span: The other one in the document's text; None without a text, or where it met punctuation
            or a special token.
        similarity: Of the two: the greatest one that a token of the word has with the document.
        contribution: What is particular to this pair in the similarity (see `particular`). Words such as
            "the" and "how" take on what the whole query says, so that they are close to all of a document
            that was found, and contribute little.
    """

    query_span: Span
    document_span: Span | None
    similarity: float
    contribution: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a document was found.

    Attributes:
        id: The document's.
        score: Its full MaxSim, over all tokens of the query; of a long document that of the hit's window.
        matches: One for each word of the query, in order.
    """

    id: Id
    score: float
    matches: tuple[WordMatch, ...]

    @property
    def strong(self) -> list[WordMatch]:
        """The matches that carried the score, the one that contributed most first."""
        most = max((match.contribution for match in self.matches), default=0.0)
        found = [one for one in self.matches if one.contribution >= STRONG * most > 0]
        return sorted(found, key=lambda one: -one.contribution)

    def to_dict(self, query: str, text: str | None) -> dict[str, Any]:
        """All of it as JSON can hold it, with the words themselves."""
        return {
            "maxsim": self.score,
            "words": [
                {
                    **words_at(query, match.query_span, text, match.document_span),
                    "similarity": match.similarity,
                    "contribution": match.contribution,
                }
                for match in self.matches
            ],
        }


def words_at(
    query: str, query_span: Span | None, text: str | None, document_span: Span | None
) -> dict[str, Any]:
    """A word of each side, as JSON can hold it: the words themselves, and where they stand."""

    def word(text: str | None, span: Span | None) -> str | None:
        return None if text is None or span is None else text[slice(*span)]

    return {
        "query_word": word(query, query_span),
        "document_word": word(text, document_span),
        "query_span": None if query_span is None else list(query_span),
        "document_span": None if document_span is None else list(document_span),
    }


def explain_hits(
    contents: IndexContents, encoder: Encoder | None, query: str, hits: Sequence[Hit]
) -> list[Explanation]:
    """Explains hits of one query, in their order; `FastLaneIndex.explain` says what raises."""
    if not isinstance(query, str):
        raise ValueError(
            f"query must be the text that was searched, got {type(query).__name__}: vectors have no words"
        )
    check_queries([query])
    hits = listed("hits", hits)
    for number, hit in enumerate(hits):
        if not isinstance(hit, Hit):
            raise ValueError(f"hit {number} must be a Hit of search, got {type(hit).__name__}")
    if not hits:
        return []
    sides = [SideTokenizer.of(encoder, side) for side in ("query", "document")]
    if encoder is not None and None in sides:
        raise ValueError(
            "an explanation needs the encoder's tokenizer, which only FastLane encoders show, got "
            f"{type(encoder).__name__}"
        )
    dim = contents.template.dim
    [views] = query_views([query], encoder, {"num_routes": None}, dim, 0).routed
    query_side, document_side = sides
    assert query_side is not None
    assert document_side is not None
    explainer = Explainer(contents, query, views, query_side, document_side)
    return [explainer.explain(hit) for hit in hits]


class Explainer:
    """Explains the hits of one query, whose `views` are those of all of its tokens."""

    def __init__(
        self,
        contents: IndexContents,
        query: str,
        views: Views,
        query_side: SideTokenizer,
        document_side: SideTokenizer,
    ) -> None:
        self._contents = contents
        self._query = query
        self._views = views
        self._side = document_side
        self._spans = query_side.word_spans(query, views.positions.tolist())

    def explain(self, hit: Hit) -> Explanation:
        """Explains one hit; a ValueError if the document isn't there any more."""
        located = self._contents.locate([hit.id])
        if hit.id not in located:
            raise ValueError(f"no document has the id {hit.id!r} any more: search again")
        segment, number = located[hit.id]
        [stored] = segment.documents.read([number])
        rows, positions = rows_of(segment, number, stored.windows, hit)
        vectors = segment.vectors.rows(rows)
        [score], [matched], [similarities] = exact_matches(
            vectors, np.zeros(1, dtype=np.int64), self._views.vectors
        )
        met = positions[matched].tolist()
        spans = document_spans(self._side, stored.text, stored.windows, met)
        gains = particular(inner_products(self._views.vectors, vectors), matched)
        words = word_matches(
            self._query, self._spans, stored.text, spans, similarities.tolist(), gains
        )
        return Explanation(hit.id, float(score), words)


def particular(similarities: FloatArray, matched: IntArray) -> list[float]:
    """What each query token's best similarity is more than one would expect of the two tokens.

    Expected is the mean of the other query tokens' similarities with the document's token, plus by how much
    the query token's mean over the document is above the mean of all. A query of one token expects nothing.

    Args:
        similarities: (K, T): of query tokens with document tokens.
        matched: (K,): the document token that each query token met.

    Example:
        >>> similarities = np.float32([[1.0, 0.0], [0.5, 0.5]])
        >>> particular(similarities, np.array([0, 1]))
        [0.5, 0.5]
    """
    best = similarities[np.arange(len(matched)), matched]
    others = (similarities[:, matched].sum(axis=0) - best) / max(len(matched) - 1, 1)
    gains: list[float] = (best - others - similarities.mean(axis=1) + similarities.mean()).tolist()
    return gains


def rows_of(segment: Segment, number: int, windows: Windows, hit: Hit) -> tuple[slice, Any]:
    """The rows of a hit's document, or of its best window, and the positions of their tokens."""
    start, end = segment.offsets[number : number + 2].tolist()
    positions = segment.positions[start:end]
    spans = [(window.start, window.end) for window in windows]
    if hit.span not in spans:
        return slice(start, end), positions
    place = spans.index(hit.span)
    firsts = [window.first for window in windows[place : place + 2]]
    left, *right = np.searchsorted(positions, firsts).tolist()
    last = right[0] if right else len(positions)
    return slice(start + left, start + last), positions[left:last]


def document_spans(
    side: SideTokenizer, text: str | None, windows: Windows, positions: Sequence[int]
) -> list[Span | None]:
    """The words around tokens of a document; of a long one only the windows that hold them are tokenised."""
    if text is None:
        return [None] * len(positions)
    if not windows:
        return side.word_spans(text, positions)
    found: dict[int, Span | None] = {}
    by_window: dict[int, list[int]] = {}
    for position in positions:
        by_window.setdefault(window_at(windows, position), []).append(position)
    for place, some in by_window.items():
        window = windows[place]
        part = text[window.start : window.end]
        local = [position - window.first + window.skipped for position in some]
        for position, span in zip(some, side.word_spans(part, local), strict=True):
            shifted = None if span is None else (window.start + span[0], window.start + span[1])
            found[position] = shifted
    return [found[position] for position in positions]


def word_matches(
    query: str,
    query_spans: Sequence[Span | None],
    text: str | None,
    document_spans: Sequence[Span | None],
    similarities: Sequence[float],
    gains: Sequence[float],
) -> tuple[WordMatch, ...]:
    """One match for each query word: its closest token's; punctuation is no word.

    Args:
        query: The query.
        query_spans: The word of each query token, if any.
        text: The document's, if it is known.
        document_spans: The word that each query token met, if any.
        similarities, gains: Of each query token.

    Example:
        >>> spans = [(0, 4), (0, 4), (4, 5)], [(2, 3), (5, 9), (9, 10)]
        >>> word_matches("sort?", spans[0], "is a sort.", spans[1], [0.5, 0.75, 1.0], [0.25, 0.5, 1.0])
        (WordMatch(query_span=(0, 4), document_span=(5, 9), similarity=0.75, contribution=0.5),)
    """
    found: dict[Span, WordMatch] = {}
    for word, met, similarity, gain in zip(
        query_spans, document_spans, similarities, gains, strict=True
    ):
        if word is None or not is_word(query, word):
            continue
        if met is not None and text is not None and not is_word(text, met):
            met, gain = None, min(gain, 0.0)
        if word not in found or similarity > found[word].similarity:
            found[word] = WordMatch(word, met, similarity, gain)
    return tuple(found[word] for word in sorted(found))


def is_word(text: str, span: Span) -> bool:
    """Whether a span holds a letter or a digit."""
    return any(map(str.isalnum, text[slice(*span)]))
