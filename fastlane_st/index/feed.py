"""Documents of a corpus on their way into a folder: encoded in pieces, until a commit is due."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from time import monotonic
from typing import Any

from ..data.corpus import CorpusDocument
from .encoding import Encoding
from .incoming import Incoming
from .segment import Document, Segment, collect_segment
from .vectors.store import VectorStore

_ENCODED_AT_ONCE = 256
"""Texts between two looks at the clock; twice as many for processes, which share them."""
_CHARACTERS = 4_000
"""A text's share of the characters between two looks at the clock: of longer texts there are fewer."""


@dataclass(frozen=True)
class CommitPace:
    """How often a folder is committed.

    Attributes:
        documents: The most documents between two commits.
        seconds: After so many a commit is due, at the end of a piece; None for no limit.
    """

    documents: int
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.seconds is not None and not self.seconds >= 0:
            raise ValueError(
                f"commit_seconds must be a number from 0 or None, got {self.seconds!r}"
            )


class Feed:
    """Encodes documents, each once, into one segment for each commit.

    Args:
        documents: With different ids.
        encoding: How they become vectors.
        pace: How often to commit.
        progress: A bar, which is told of each piece.
        seen: Ids that are taken already.

    Attributes:
        is_exhausted: Whether the last document was encoded.
        long: Which documents were long.
        on_first_piece: Called with the numbers of vectors, documents and dimensions of the first piece.
    """

    def __init__(
        self,
        documents: Iterable[CorpusDocument],
        encoding: Encoding,
        pace: CommitPace,
        progress: Any,
        seen: Iterable[object] = (),
    ) -> None:
        self._documents = iter(documents)
        self._pace = pace
        self._progress = progress
        self._seen = set(seen)
        size = _ENCODED_AT_ONCE * (1 if encoding.pool is None else 2)
        self._encoding = replace(encoding, chunk_size=size, show_progress_bar=False)
        self.long = self._encoding.long
        self.is_exhausted = False
        self.on_first_piece: Callable[[int, int, int], None] | None = None

    def segment(self, room: int, template: VectorStore | None) -> Segment | None:
        """The documents of the next commit, at most `room`; None if there are none left."""
        documents = self._encoded(min(room, self._pace.documents))
        first = next(documents, None)
        return None if first is None else collect_segment(chain([first], documents), template)

    def _encoded(self, room: int) -> Iterator[Document]:
        started, place = monotonic(), 0
        while room and not self.is_exhausted:
            wanted = min(room, self._encoding.chunk_size)
            piece = self._piece(wanted)
            if not piece:
                return
            incoming = self._checked(piece)
            assert incoming.texts is not None
            encoded = self._encoding.encoded(incoming.texts, incoming.ids)
            num_vectors = 0
            for id, (views, windows), text, metadata in zip(
                incoming.ids, encoded, incoming.texts, incoming.metadata, strict=True
            ):
                num_vectors += len(views.vectors)
                yield Document(id, views, text, metadata, place, windows)
                place += 1
            self._progress.update(len(piece))
            if self.on_first_piece is not None:
                self.on_first_piece(num_vectors, len(piece), views.vectors.shape[1])
                self.on_first_piece = None
            room -= len(piece)
            if self._pace.seconds is not None and monotonic() - started >= self._pace.seconds:
                return

    def _piece(self, wanted: int) -> list[CorpusDocument]:
        """The next documents: `wanted`, or fewer if they are very long or the last ones."""
        piece: list[CorpusDocument] = []
        num_characters = 0
        while len(piece) < wanted and num_characters < wanted * _CHARACTERS:
            document = next(self._documents, None)
            if document is None:
                self.is_exhausted = True
                break
            piece.append(document)
            num_characters += len(document.content)
        return piece

    def _checked(self, piece: list[CorpusDocument]) -> Incoming:
        for one in piece:
            if one.id in self._seen:
                raise ValueError(f"ids must all be different, got {one.id!r} twice")
            self._seen.add(one.id)
        return Incoming.of_corpus(piece)
