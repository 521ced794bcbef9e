"""Search results as text for a terminal, with the words that met marked in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from ..encoder import FastLaneEncoder
    from ..modeling.search_fastlane import Hit
    from ..modeling.st_fastlane import FastLaneTransformer

MARKS = ("»", "«")
ANSI_MARKS = ("\033[1;33m", "\033[0m")
MOST_MARKED = 4


def format_hits(
    encoder: FastLaneEncoder,
    query: str,
    hits: Sequence[Hit],
    *,
    color: bool = False,
    width: int = 320,
) -> str:
    """Gives the query and its ranked hits: rank, score, id and text.

    In the query the routed words are marked, in a text the words that they met. Of many routes
    only the strongest few are marked, and none in the query.

    Args:
        encoder: The encoder that answered.
        query: The query as it was searched.
        hits: Best first.
        color: Mark by colour instead of by »«.
        width: About how many characters of a long text to show, around the best match.
    """
    if not hits:
        return "nothing found"
    marks = ANSI_MARKS if color else MARKS
    routes = [match.query_position for match in hits[0].matches]
    shown_routes = routes if len(routes) <= MOST_MARKED else []
    lines = [mark(query, word_spans(encoder, query, shown_routes, "query"), marks)]
    for rank, hit in enumerate(hits, start=1):
        lines.append(f"\n{rank:3}.  {hit.score:.4f}  {hit.id}")
        if hit.text is not None:
            strongest = sorted(hit.matches, key=lambda match: -match.similarity)[:MOST_MARKED]
            met = [match.document_position for match in strongest]
            spans = word_spans(encoder, hit.text, met, "document")
            [center] = word_spans(encoder, hit.text, met[:1], "document") or [(0, 0)]
            lines.append("      " + excerpt(hit.text, spans, center, marks, width))
    return "\n".join(lines)


def word_spans(
    encoder: FastLaneEncoder, text: str, positions: Iterable[int], task: str
) -> list[tuple[int, int]]:
    """Where in `text` the words of some tokens stand, as character spans in order of the text.

    A token that isn't of the text itself (a special token, the prompt's) has no span.
    """
    module = cast("FastLaneTransformer", encoder[0])
    prompt = encoder.prompts.get(task) or ""
    encoding = encoder.tokenizer(
        prompt + text,
        truncation=True,
        max_length=module.query_length if task == "query" else module.document_length,
    )
    spans = set()
    for position in positions:
        word = encoding.token_to_word(position)
        if word is None:
            continue
        start, end = encoding.word_to_chars(word)
        if start >= len(prompt):
            spans.add((start - len(prompt), end - len(prompt)))
    return sorted(spans)


def mark(text: str, spans: Iterable[tuple[int, int]], marks: tuple[str, str]) -> str:
    """`text` with an opening and a closing mark around each span; the spans don't overlap.

    Example:
        >>> mark("how to sort", [(7, 11)], MARKS)
        'how to »sort«'
    """
    edges = [0, *(edge for span in spans for edge in span), len(text)]
    parts = [text[start:end] for start, end in pairwise(edges)]
    opening, closing = marks
    return "".join(
        f"{opening}{part}{closing}" if index % 2 else part for index, part in enumerate(parts)
    )


def excerpt(
    text: str,
    spans: Sequence[tuple[int, int]],
    center: tuple[int, int],
    marks: tuple[str, str],
    width: int,
) -> str:
    """About `width` characters of `text` around `center`, on one line, with the spans marked."""
    start = max(0, min(center[0] - width // 2, len(text) - width))
    start = text.rfind(" ", 0, start) + 1 if start else 0
    end = min(len(text), start + width)
    inside = [(a - start, b - start) for a, b in spans if start <= a and b <= end]
    shown = " ".join(mark(text[start:end], inside, marks).split())
    return f"{'… ' if start else ''}{shown}{' …' if end < len(text) else ''}"
