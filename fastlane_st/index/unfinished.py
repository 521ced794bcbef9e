"""What an index that is still being built says of its building, and how a resume checks its corpus."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Literal

from .documents import StoredDocument
from .encoding import DocumentRoutes
from .long_texts import LongTexts
from .vectors.settings import Kind, Storage

if TYPE_CHECKING:
    from ..data.corpus import CorpusDocument
    from .index import FastLaneIndex

UNFINISHED = "unfinished"
"""Key of an index's metadata; present until the last document is indexed."""
_COMPARED_AT_ONCE = 1_000
_MOST_NAMED = 3


@dataclass(frozen=True)
class Unfinished:
    """The state of a build, saved in the metadata of its index.

    Attributes:
        num_documents: How many the corpus has.
        num_routes, kind, storage, long_texts: What the build was started with.
        committed: How many documents the folder holds, the first ones of the corpus.
        is_fitted: Whether vectors are held as `kind` and `storage` say; before, flat in float32.
    """

    num_documents: int
    num_routes: DocumentRoutes
    kind: Kind | Literal["auto"]
    storage: Storage
    committed: int = 0
    is_fitted: bool = False
    long_texts: LongTexts = "window"

    @classmethod
    def of(cls, index: FastLaneIndex) -> Unfinished | None:
        """The state of an index's build; None if it is finished.

        Raises:
            ValueError: Another version of this package wrote it.
        """
        if UNFINISHED not in index.metadata:
            return None
        try:
            return cls(**{"long_texts": "cut", **index.metadata[UNFINISHED]})
        except TypeError:
            raise ValueError(
                "another version of fastlane-st started this index and didn't finish it: build it again "
                "in a new folder"
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """Gives the state as JSON."""
        return asdict(self)

    @property
    def summary(self) -> str:
        """How far the build has come."""
        return f"{self.committed:,} of {self.num_documents:,} documents are indexed"


def resumed(index: FastLaneIndex, folder: str | os.PathLike[str], given: Unfinished) -> Unfinished:
    """Gives the state of an unfinished index after comparing it with what a resume is `given`.

    Raises:
        ValueError: It is finished, was started with other settings or another number of documents, or was
            changed since.
    """
    started = Unfinished.of(index)
    if started is None:
        raise ValueError(f"{folder} holds a finished index: there is nothing to resume; use add")
    names = ["num_routes", "long_texts", "storage", *([] if given.kind == "auto" else ["kind"])]
    was, now = (
        ", ".join(f"{name}={getattr(one, name)!r}" for name in names) for one in (started, given)
    )
    if was != now:
        raise ValueError(f"{folder} was started with {was}, not with {now}: resume with those")
    if started.num_documents != given.num_documents:
        raise changed_corpus(
            folder,
            f"it had {started.num_documents:,} documents, now it has {given.num_documents:,}",
        )
    if started.committed != len(index):
        raise ValueError(
            f"{folder} was changed since its building was interrupted: it holds {len(index):,} documents "
            f"in place of {started.committed:,}; build the index again in a new folder"
        )
    return started


def skip_committed(
    index: FastLaneIndex, folder: str | os.PathLike[str], documents: Iterator[CorpusDocument]
) -> None:
    """Takes the documents that an index holds from a corpus, which must begin with them.

    Raises:
        ValueError: It doesn't; the message names documents that changed or are gone.
    """
    ids = index.ids
    for start in range(0, len(ids), _COMPARED_AT_ONCE):
        block = ids[start : start + _COMPARED_AT_ONCE]
        given = list(islice(documents, len(block)))
        if [as_stored(one) for one in given] == without_windows(index.get(block)):
            continue
        missing = dict.fromkeys(ids[start:])
        changed = []
        for one in chain(given, documents):
            if one.id in missing:
                del missing[one.id]
                if without_windows(index.get([one.id])) != [as_stored(one)]:
                    changed.append(one.id)
        said = [
            f"{len(found):,} of its documents {what}, such as {', '.join(map(repr, found[:_MOST_NAMED]))}"
            for found, what in ((changed, "changed"), (list(missing), "are gone"))
            if found
        ]
        raise changed_corpus(folder, " and ".join(said) or "its documents come in another order")


def changed_corpus(folder: str | os.PathLike[str], how: str) -> ValueError:
    """The error for a resume with another corpus than that of the start."""
    return ValueError(
        f"{folder} was started with another corpus: {how}; resume with the corpus of the start, or build "
        "the index again in a new folder"
    )


def without_windows(documents: Iterable[StoredDocument]) -> list[StoredDocument]:
    """Stored documents as `as_stored` gives them."""
    return [one._replace(windows=()) for one in documents]


def as_stored(document: CorpusDocument) -> StoredDocument:
    """A document of a corpus as an index gives it back, but for its windows."""
    return StoredDocument(document.id, document.content, document.metadata)
