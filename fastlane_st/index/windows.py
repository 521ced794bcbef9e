"""Long documents: a text beyond the encoder's length becomes overlapping windows of one document.

Each window is encoded as a text of its own. Tokens near its edges lack what comes before or after them, so
half of an overlap is left to either window, and each token has one view. It relies on `tokens` for where
tokens stand.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from ..modeling.search_fastlane import Id, Match, Views
from .long_texts import LongTexts, check_long_texts
from .tokens import SideTokenizer, Span

OVERLAP = 4
"""A window shares one in so many of its tokens with the next.

Of 256 tokens 32 on each side are context alone: five standard deviations of a document view's own window
(`FastLaneConfig.window_size`). A long text then takes a third more encoding than without overlap.
"""
LONG_WORD = 1_000  # characters; WordPiece gives up on a word after 100
FIRST_GUESS = 6  # characters a token, when the text of a window is looked for

logger = logging.getLogger(__name__)


class Window(NamedTuple):
    """One window of a long text.

    Attributes:
        start, end: Its characters in the text.
        first: The position, among all tokens of the text, of the first one whose view is this window's.
        skipped: How many tokens of the encoded window come before that one.
        content_start, content_end: Which tokens of the encoded window are of the text: neither special
            ones nor the prompt's.
    """

    start: int
    end: int
    first: int
    skipped: int
    content_start: int
    content_end: int


Windows: TypeAlias = tuple[Window, ...]
"""The windows of a document, in order; none if it is no longer than the encoder reads."""


@dataclass
class LongDocuments:
    """Finds the long texts among documents, and counts them.

    Args:
        tokenizer: The encoder's, for documents; None if it isn't known, and then no text counts as long.
        how: What becomes of them.

    Attributes:
        count: How many were long.
    """

    tokenizer: SideTokenizer | None
    how: LongTexts
    count: int = 0

    @classmethod
    def of(cls, encoder: object, how: LongTexts) -> LongDocuments:
        """For the documents of an encoder.

        Raises:
            ValueError: `how` is none of `LongTexts`, or "error" where the tokenizer isn't known.
        """
        check_long_texts(how)
        tokenizer = SideTokenizer.of(encoder, "document")
        if tokenizer is None and encoder is not None and how == "error":
            raise ValueError(
                "long_texts='error' needs the encoder's tokenizer, which only FastLane encoders show, "
                f"got {type(encoder).__name__}: leave it out"
            )
        return cls(tokenizer, how)

    def are_long(self, texts: Sequence[str], ids: Sequence[Id]) -> list[bool]:
        """Which texts are to be cut into windows.

        Raises:
            ValueError: A text is long and `how` is "error"; it names the document.
        """
        if self.tokenizer is None:
            return [False] * len(texts)
        found = self.tokenizer.are_long(texts)
        self.count += sum(found)
        if self.how == "error" and any(found):
            raise ValueError(
                f"document {ids[found.index(True)]!r} has more than the {self.tokenizer.length} tokens that "
                "the encoder reads: split it, or let long_texts='window' index all of it"
            )
        return [is_long and self.how == "window" for is_long in found]

    def tell(self) -> None:
        """Logs how many texts were long; a warning where something of them was left out."""
        if not self.count or self.tokenizer is None:
            return
        what = "1 document is" if self.count == 1 else f"{self.count:,} documents are"
        beyond = f"{what} longer than the {self.tokenizer.length} tokens that the encoder reads"
        if self.how == "window":
            logger.info("%s: indexed as overlapping windows", beyond)
        else:
            logger.warning("%s: cut there, and nothing of the rest will be found", beyond)


def split_text(text: str, tokenizer: SideTokenizer) -> Iterator[Window]:
    """Yields the windows of a text; only the characters of one are tokenised at a time.

    Windows begin and end at words where the tokenizer has words, so that they have the tokens that the
    whole text would have there.

    Raises:
        ValueError: The prompt leaves no room for a window, or the tokenizer is a slow one.
    """
    room = tokenizer.num_content()
    if room < 1:
        raise ValueError(
            f"a document's {tokenizer.length} tokens leave no room for a window beside the document prompt "
            f"{tokenizer.prompt!r}: raise document_length, or let long_texts='cut' cut it"
        )
    overlap = room // OVERLAP
    start = owned_from = first = 0
    size = FIRST_GUESS * tokenizer.length
    while True:
        tokens = tokenizer.tokens(text[start : start + size])
        count, is_rest = len(tokens.starts), start + size >= len(text)
        # Where the piece is cut, its last word may have other tokens: it must lie beyond the window.
        is_enough = count > room and (
            tokens.words[room] != tokens.words[-1]
            or tokens.starts[-1] - tokens.starts[room] > LONG_WORD
        )
        if not is_rest and not is_enough:
            size *= 2
            continue
        begins = [start + place for place in tokens.starts]
        owned = bisect_left(begins, owned_from)
        skipped = 0 if start == 0 else tokens.leading + owned
        if count <= room:
            content = (tokens.leading, tokens.leading + count)
            yield Window(start, len(text), first, skipped, *content)
            return
        end = word_start(tokens.words, room, room - overlap // 2)
        left = character_start(begins, word_start(tokens.words, end - overlap // 2, end - overlap))
        if begins[left] <= max(owned_from, start):  # a window takes in at least one character
            left = bisect_right(begins, max(owned_from, start))
        if left > end:
            raise ValueError(
                f"a document's {tokenizer.length} tokens leave room for {room} of a text, fewer than one of "
                "its characters has: raise document_length, or let long_texts='cut' cut it"
            )
        least = end - overlap - overlap // 2
        following = character_start(begins, word_start(tokens.words, end - overlap, least))
        if not start < begins[following] <= begins[left]:
            following = left
        content = (tokens.leading, tokens.leading + end)
        yield Window(start, start + tokens.ends[end - 1], first, skipped, *content)
        first += left - owned + (tokens.leading if start == 0 else 0)
        size = max(2 * (begins[room] - start), tokenizer.length)
        start, owned_from = begins[following], begins[left]


def word_start(words: Sequence[int | None], place: int, least: int) -> int:
    """The last token from `least` to `place` that begins a word; `place` if none does.

    Example:
        >>> word_start([0, 1, 1, 1, 2], place=3, least=1), word_start([0, 1, 1, 1, 2], place=3, least=2)
        (1, 3)
    """
    for begin in range(place, max(least, 1) - 1, -1):
        if words[begin] != words[begin - 1]:
            return begin
    return place


def character_start(begins: Sequence[int], place: int) -> int:
    """The first of the tokens that begin where a token begins: a character may be several tokens."""
    return bisect_left(begins, begins[place])


class WindowViews:
    """Puts the views of a document's windows together, in the order of its tokens.

    A token has at most one view: that of the window it belongs to, or, if it isn't routed there, that of the
    window beside it.
    """

    def __init__(self) -> None:
        self._done: list[Views] = []
        self._last: Views | None = None

    def add(self, views: Views, window: Window, is_last: bool) -> None:
        """Takes the next window's views, whose positions count its own tokens."""
        places = views.positions
        is_of_text = (places >= window.content_start) | (window.start == 0)
        is_of_text &= (places < window.content_end) | is_last
        positions = (places - window.skipped + window.first)[is_of_text]
        mine = Views(views.vectors[is_of_text], positions.astype(np.int32))
        if self._last is not None:
            before, mine = shared(self._last, mine, window.first)
            self._done.append(before)
        self._last = mine

    def joined(self) -> Views:
        """All views of the document."""
        assert self._last is not None
        parts = [*self._done, self._last]
        self._done, self._last = [], None
        return Views(*(np.concatenate(one) for one in zip(*parts, strict=True)))


def shared(before: Views, after: Views, first: int) -> tuple[Views, Views]:
    """Leaves each token of two windows to one of them; those from position `first` on belong to `after`."""
    is_left = (before.positions < first) | ~np.isin(before.positions, after.positions)
    is_right = (after.positions >= first) | ~np.isin(after.positions, before.positions)
    both = Views(
        np.concatenate([before.vectors[is_left], after.vectors[is_right]]),
        np.concatenate([before.positions[is_left], after.positions[is_right]]),
    )
    if (np.diff(both.positions) < 0).any():
        order = np.argsort(both.positions, kind="stable")
        both = Views(both.vectors[order], both.positions[order])
    cut = int(np.searchsorted(both.positions, first))
    return tuple(  # type: ignore[return-value]
        Views(both.vectors[part], both.positions[part]) for part in (slice(cut), slice(cut, None))
    )


def window_at(windows: Windows, position: int) -> int:
    """The number of the window that a token of the whole text belongs to."""
    return max(bisect_right(windows, position, key=lambda one: one.first) - 1, 0)


def best_span(windows: Windows, matches: Sequence[Match]) -> Span | None:
    """The characters of the window whose matches have the highest sum; None if there are no windows."""
    if not windows or not matches:
        return None
    sums: dict[int, float] = {}
    for match in matches:
        number = window_at(windows, match.document_position)
        sums[number] = sums.get(number, 0.0) + match.similarity
    best = windows[max(sums, key=lambda number: (sums[number], -number))]
    return best.start, best.end
