"""Adds a corpus to an index folder: committed now and then, and resumable."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from tqdm.auto import tqdm

from ..data.corpus import CorpusDocument
from ..modeling.search_fastlane import check_counts
from .building import COMMIT_EVERY, COMMIT_SECONDS
from .encoding import Encoding
from .feed import CommitPace, Feed
from .index import FastLaneIndex
from .long_texts import LongTexts
from .unfinished import as_stored, without_windows

_LOOKED_UP_AT_ONCE = 1_000


def add_to_folder(
    index: FastLaneIndex,
    directory: str | os.PathLike[str],
    documents: Sequence[CorpusDocument],
    *,
    replace: bool = False,
    resume: bool = False,
    long_texts: LongTexts | None = None,
    batch_size: int = 32,
    commit_every: int = COMMIT_EVERY,
    commit_seconds: float | None = COMMIT_SECONDS,
    show_progress_bar: bool = False,
) -> int:
    """Adds documents to an index and its folder, committed now and then as `build_folder` does it.

    Args:
        index: What was loaded from the folder, with its encoder.
        directory: The folder.
        documents: With different ids.
        replace: Documents whose ids are there take their place; otherwise they are an error.
        resume: Pass over documents that are there with the same text and metadata.
        long_texts: What becomes of texts beyond the encoder's length, as for `FastLaneIndex.build`; the
            index's own setting by default.
        batch_size, commit_every, commit_seconds, show_progress_bar: As for `build_folder`.

    Returns:
        How many documents were added or replaced.

    Raises:
        ValueError: An id is there already; nothing is encoded then.
    """
    check_counts(batch_size=batch_size, commit_every=commit_every)
    pace = CommitPace(commit_every, commit_seconds)
    wanted = list(documents)
    if resume:
        wanted = [one for block in _blocks(wanted) for one in _not_there(index, block)]
    if not replace:
        index._contents.check_absent([one.id for one in wanted])
    check = (lambda ids: None) if replace else index._contents.check_absent
    encoding = Encoding(
        index.encoder,
        index.document_routes,
        batch_size,
        long_texts=index.long_texts if long_texts is None else long_texts,
    )
    bar = {"desc": "Indexing", "unit": "doc", "disable": not show_progress_bar}
    with tqdm(total=len(documents), initial=len(documents) - len(wanted), **bar) as progress:
        feed = Feed(wanted, encoding, pace, progress)
        while (segment := feed.segment(commit_every, index._contents.template)) is not None:
            index._contents.insert(segment, check)
            index.save(directory)
            index.map_saved()
    feed.long.tell()
    return len(wanted)


def _blocks(documents: list[CorpusDocument]) -> Iterator[list[CorpusDocument]]:
    for start in range(0, len(documents), _LOOKED_UP_AT_ONCE):
        yield documents[start : start + _LOOKED_UP_AT_ONCE]


def _not_there(index: FastLaneIndex, documents: list[CorpusDocument]) -> list[CorpusDocument]:
    """Those that the index doesn't hold with the same text and metadata."""
    known = index._contents.locate([one.id for one in documents])
    stored = {one.id: one for one in without_windows(index.get(list(known)))}
    return [one for one in documents if stored.get(one.id) != as_stored(one)]
