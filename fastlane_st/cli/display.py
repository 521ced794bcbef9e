"""Shows search results: as text for a terminal, with the words that carried the scores marked, or as JSON."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from ..index.explaining import Explanation
    from ..modeling.search_fastlane import Hit

MARKS = ("»", "«")
ANSI_MARKS = ("\033[1;33m", "\033[0m")
MOST_MARKED = 4
LONGEST_WORD = 40
WHITE_SPACE = re.compile(r"\s")
# Control characters, line and paragraph separators, overrides of the direction, lone surrogates.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Escapes what could steer a terminal or break a line.

    Example:
        >>> print(printable("a\x1b[2Jb\nc"))
        a\x1b[2Jb\nc
    """
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class PrintableFormatter(logging.Formatter):
    """Formats a log record as one line that steers no terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def log_to_stderr() -> None:
    """Prints what the library logs on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler])


def shows_color(stream: TextIO) -> bool:
    """Whether to colour output on a stream: a terminal that isn't dumb, without NO_COLOR."""
    is_dumb = os.environ.get("TERM") == "dumb"
    return stream.isatty() and not is_dumb and not os.environ.get("NO_COLOR")


def print_json(value: dict[str, Any]) -> None:
    """Prints a value as one line of JSON in ASCII, which every encoding can hold."""
    print(json.dumps(value))


def format_hits(
    query: str,
    hits: Sequence[Hit],
    explanations: Sequence[Explanation],
    *,
    color: bool = False,
    width: int = 320,
) -> str:
    """Renders the query and its ranked hits: rank, score, id and text.

    The words that carried the scores are marked: in a text those that the query's words met, in the query
    those that contributed most to all hits together.

    Args:
        query: The query as it was searched.
        hits: The hits, best first.
        explanations: One for each hit, of `FastLaneIndex.explain`.
        color: Whether to mark words by colour instead of »«.
        width: About how many characters of a long text to show, around the strongest word.
    """
    if not hits:
        return "nothing found"
    marks = ANSI_MARKS if color else MARKS
    carried = sorted(match.query_span for match in overall(explanations).strong[:MOST_MARKED])
    lines = [mark(WHITE_SPACE.sub(" ", query), carried, marks)]
    for rank, (hit, explanation) in enumerate(zip(hits, explanations, strict=True), start=1):
        lines.append(f"\n{rank:3}.  {hit.score:.4f}  {printable(str(hit.id))}")
        if hit.text is not None:
            met = [one.document_span for one in explanation.strong if one.document_span is not None]
            lines.append("      " + excerpt_of_window(hit.text, hit.span, met, marks, width))
    return "\n".join(lines)


def excerpt_of_window(
    text: str,
    window: tuple[int, int] | None,
    met: Sequence[tuple[int, int]],
    marks: tuple[str, str],
    width: int,
) -> str:
    """Gives an excerpt of a text, or of one window of it, around the first of the spans that were met."""
    start, end = window or (0, len(text))
    inside = [(a - start, b - start) for a, b in met if start <= a and b <= end]
    center = inside[0] if inside else (0, 0)
    spans = sorted(dict.fromkeys(inside[:MOST_MARKED]))
    shown = excerpt(text[start:end], spans, center, marks, width)
    is_before = bool(start and text[:start].strip()) and not shown.startswith("… ")
    is_after = bool(text[end:].strip()) and not shown.endswith(" …")
    return f"{'… ' if is_before else ''}{shown}{' …' if is_after else ''}"


def overall(explanations: Sequence[Explanation]) -> Explanation:
    """One explanation with the contributions to all hits, summed."""
    columns = zip(*(one.matches for one in explanations), strict=True)
    matches = (
        replace(column[0], contribution=sum(one.contribution for one in column))
        for column in columns
    )
    return replace(explanations[0], matches=tuple(matches))


def mark(text: str, spans: Iterable[tuple[int, int]], marks: tuple[str, str]) -> str:
    """Puts marks around each span of `text`, and escapes the control characters in it.

    Args:
        text: One line.
        spans: Character spans in order, without overlaps.
        marks: The opening and the closing mark.

    Example:
        >>> mark("how to sort", [(7, 11)], MARKS)
        'how to »sort«'
    """
    edges = [0, *(edge for span in spans for edge in span), len(text)]
    parts = [text[start:end] for start, end in pairwise(edges)]
    opening, closing = marks
    return "".join(
        f"{opening}{printable(part)}{closing}" if index % 2 else printable(part)
        for index, part in enumerate(parts)
    )


def excerpt(
    text: str,
    spans: Sequence[tuple[int, int]],
    center: tuple[int, int],
    marks: tuple[str, str],
    width: int,
) -> str:
    """Gives about `width` characters of `text` around `center`, on one line, with spans marked.

    It is cut between words, or where none ends within `LONGEST_WORD` characters.
    """
    start = max(0, min(center[0] - width // 2, len(text) - width))
    start = word_start(text, start)
    end = min(len(text), start + width)
    end = max(word_start(text, end), min(center[1], end))
    inside = [(a - start, b - start) for a, b in spans if start <= a and b <= end]
    part = WHITE_SPACE.sub(" ", text[start:end])
    shown = " ".join(mark(part, inside, marks).split())
    return f"{'… ' if start else ''}{shown}{' …' if text[end:].strip() else ''}"


def word_start(text: str, place: int) -> int:
    """Moves a place inside a word to the word's start, unless that is further than `LONGEST_WORD`.

    Example:
        >>> [word_start("a word", place) for place in (0, 1, 2, 4, 6)]
        [0, 1, 2, 2, 6]
    """
    if place in (0, len(text)) or text[place].isspace():
        return place
    for start in range(place, max(-1, place - LONGEST_WORD), -1):
        if start == 0 or text[start - 1].isspace():
            return start
    return place
