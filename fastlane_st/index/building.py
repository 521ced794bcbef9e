"""Builds an index of any size in a folder: in bounded memory, and resumable where it stopped."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from tqdm.auto import tqdm

from ..data.corpus import CorpusDocument
from ..encoder import FastLaneEncoder
from ..modeling.search_fastlane import Encoder, check_counts
from .contents import IndexContents, Part
from .encoding import DocumentRoutes, Encoding
from .feed import CommitPace, Feed
from .identity import encoder_digests
from .index import FastLaneIndex
from .long_texts import LongTexts
from .segment import Segment, collect_segment
from .storage.folder import IndexSettings, saved_manifest
from .unfinished import UNFINISHED, Unfinished, resumed, skip_committed
from .vectors.settings import Kind, Storage, VectorSettings
from .vectors.store import VectorStore
from .windows import LongDocuments

COMMIT_EVERY = 10_000
COMMIT_SECONDS = 60.0

logger = logging.getLogger(__name__)


def build_folder(
    directory: str | os.PathLike[str],
    encoder: Encoder,
    documents: Iterable[CorpusDocument],
    num_documents: int,
    *,
    num_routes: DocumentRoutes = "default",
    long_texts: LongTexts = "window",
    kind: Kind | Literal["auto"] = "auto",
    storage: Storage = "float32",
    metadata: dict[str, Any] | None = None,
    batch_size: int = 32,
    commit_every: int = COMMIT_EVERY,
    commit_seconds: float | None = COMMIT_SECONDS,
    resume: bool = False,
    show_progress_bar: bool = False,
    pool: Any = None,
) -> FastLaneIndex:
    """Encodes documents into an index that is committed every `commit_every` documents or some seconds.

    What is committed stays in its files, so that memory holds only the documents since, and a commit
    costs what it adds and merges. Clusters and quantisers are fitted to the first `commit_every`
    documents, however often is committed: before, the folder holds a flat index in float32, which is
    stored anew once there are so many documents or no more. An interrupted build gives the index that
    an uninterrupted one gives.

    Args:
        directory: A new or empty folder, or with `resume` that of an unfinished index.
        encoder: Encodes the documents.
        documents: With different ids; to resume, the same ones.
        num_documents: How many there are.
        num_routes, long_texts, kind, storage: As for `FastLaneIndex.build`; to resume, those of the start.
        metadata: Free keys with JSON values, saved with the index.
        batch_size: Texts encoded at once.
        commit_every: The most documents between commits.
        commit_seconds: Encode no longer than about this between commits; None for no limit.
        resume: Go on with an unfinished index.
        show_progress_bar: Show one, with the time that is left.
        pool: Processes to encode in, such as `encoding_processes` starts.

    Returns:
        The index, which the folder holds whole.

    Raises:
        FileExistsError: The folder holds something else, or an index and `resume` is false.
        ValueError: There is nothing to resume, it was started with other settings or another corpus, or
            a document can't be indexed.
    """
    folder = Path(directory)
    is_there = check_folder(folder, resume)
    check_counts(num_documents=num_documents, batch_size=batch_size, commit_every=commit_every)
    pace = CommitPace(commit_every, commit_seconds)
    VectorSettings.choose(kind, storage, 0)  # checks both before the long work
    LongDocuments.of(encoder, long_texts)
    state = Unfinished(num_documents, num_routes, kind, storage, long_texts=long_texts)
    build = FolderBuild(folder, encoder, state)
    rest = iter(documents)
    if is_there:
        build.resume(rest)
    else:
        build.metadata = dict(metadata or {})
    encoding = Encoding(encoder, num_routes, batch_size, pool=pool, long_texts=long_texts)
    bar = {"desc": "Indexing", "unit": "doc", "disable": not show_progress_bar}
    with tqdm(total=num_documents, initial=build.size, **bar) as progress:
        feed = Feed(rest, encoding, pace, progress, () if build.index is None else build.index.ids)
        built = build.run(feed, commit_every, progress)
    feed.long.tell()
    return built


class FolderBuild:
    """One run of `build_folder`: the index so far, and the state that its folder holds.

    Args:
        folder: The index's folder.
        encoder: Encodes the documents.
        state: What the build was started with.

    Attributes:
        index: None until the first documents are encoded.
        metadata: The caller's, for the index.
    """

    def __init__(self, folder: Path, encoder: Encoder, state: Unfinished) -> None:
        self.folder = folder
        self.encoder = encoder
        self.state = state
        self.index: FastLaneIndex | None = None
        self.metadata: dict[str, Any] = {}
        self._told: VectorSettings | None = None

    @property
    def size(self) -> int:
        """How many documents are indexed."""
        return 0 if self.index is None else len(self.index)

    def resume(self, documents: Iterator[CorpusDocument]) -> None:
        """Loads the folder's unfinished index, and takes what it holds from the documents."""
        self.index = FastLaneIndex.load(self.folder, memory_map=True)
        self.state = resumed(self.index, self.folder, self.state)
        self.index.encoder = self.encoder
        skip_committed(self.index, self.folder, documents)
        self.metadata = {
            key: value for key, value in self.index.metadata.items() if key != UNFINISHED
        }

    def run(self, feed: Feed, fitted_to: int, progress: Any) -> FastLaneIndex:
        """Indexes all documents of the feed; clusters and quantisers are fitted to the first `fitted_to`."""

        def tell(num_vectors: int, num_documents: int, dim: int) -> None:
            progress.clear()
            self._tell(num_vectors, num_documents, dim)

        if self.index is None:
            feed.on_first_piece = tell
        else:
            tell(self.index.num_vectors, len(self.index), self.index.dim)
        while (segment := self._next_segment(feed, fitted_to)) is not None:
            self._take(segment)
            if not feed.is_exhausted:
                if self.size >= fitted_to:
                    self._fit()
                self._commit()
        if self.index is None:
            raise ValueError("there are no documents: an index needs at least one")
        self._fit()
        self.index.metadata = self.metadata
        self.index.save(self.folder)
        return self.index

    def _next_segment(self, feed: Feed, fitted_to: int) -> Segment | None:
        if self.index is None:
            return feed.segment(fitted_to, None)
        if not self.state.is_fitted and self.size >= fitted_to:
            self._fit()
        room = fitted_to if self.state.is_fitted else fitted_to - self.size
        return feed.segment(room, self.index._contents.template)

    def _take(self, segment: Segment) -> None:
        if self.index is not None:
            # One insert per commit: segments merged after a save would be written twice.
            self.index._contents.insert(segment, self.index._contents.check_absent)
            return
        contents = IndexContents(VectorStore.flat(segment.vectors.dim), [Part.whole(segment)])
        settings = IndexSettings(
            VectorSettings(),
            self.state.num_routes,
            self.state.long_texts,
            encoder_digests(self.encoder),
            self.metadata,
        )
        self.index = FastLaneIndex(contents, settings, self.encoder)

    def _fit(self) -> None:
        """Stores the documents so far as `kind` and `storage` say, unless they are."""
        if self.state.is_fitted:
            return
        assert self.index is not None
        self.state = replace(self.state, is_fitted=True)
        count = self._expected_vectors(self.index.num_vectors, self.size)
        vectors = VectorSettings.choose(self.state.kind, self.state.storage, count)
        if vectors != self._told:
            self._tell(self.index.num_vectors, self.size, self.index.dim)
        if vectors == VectorSettings():
            return
        self.index.compact()
        [part] = self.index.parts
        store = part.segment.vectors
        template = VectorStore.fitted(vectors, store.sample(vectors.sample_size(count)), count)
        segment = collect_segment(part.segment.read(range(len(part.segment))), template)
        settings = IndexSettings(
            vectors,
            self.state.num_routes,
            self.state.long_texts,
            self.index.checkpoint,
            self.index.metadata,
        )
        contents = IndexContents(template, [Part.whole(segment)])
        self.index = FastLaneIndex(contents, settings, self.encoder, self.index._commit)

    def _commit(self) -> None:
        assert self.index is not None
        self.state = replace(self.state, committed=len(self.index))
        self.index.metadata = {**self.metadata, UNFINISHED: self.state.to_dict()}
        self.index.save(self.folder)
        self.index.map_saved()

    def _expected_vectors(self, num_vectors: int, num_documents: int) -> int:
        whole = max(self.state.num_documents, num_documents)
        return round(num_vectors * whole / num_documents)

    def _tell(self, num_vectors: int, num_documents: int, dim: int) -> None:
        """Logs the size that the index will have, from that of some of its documents."""
        count = self._expected_vectors(num_vectors, num_documents)
        vectors = self._told = VectorSettings.choose(self.state.kind, self.state.storage, count)
        logger.info(vectors.describe(count, dim))


@contextmanager
def encoding_processes(encoder: FastLaneEncoder, count: int) -> Iterator[Any]:
    """Starts processes that encode on the CPU and share its cores; gives None for a count of 1."""
    if count == 1:
        yield None
        return
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = threads or str(max(1, (os.cpu_count() or 1) // count))
    try:
        pool = encoder.start_multi_process_pool(["cpu"] * count)
    finally:
        if threads is None:
            del os.environ["OMP_NUM_THREADS"]
    try:
        yield pool
    finally:
        encoder.stop_multi_process_pool(pool)


def check_folder(directory: str | os.PathLike[str], resume: bool) -> bool:
    """Whether the folder holds an index to resume.

    Raises:
        FileExistsError: It holds other files, or an index and `resume` is false.
    """
    folder = Path(directory)
    is_there = saved_manifest(folder) is not None
    if is_there and not resume:
        raise FileExistsError(
            f"{folder} holds an index: name another folder, delete this one, or resume if its building "
            "was interrupted"
        )
    return is_there
