"""Changes of the served index: one at a time, and in its folder before they are acknowledged."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, Literal

from ..index.index import FastLaneIndex
from ..index.storage.manifest import read_manifest
from ..index.unfinished import Unfinished
from ..modeling.search_fastlane import Id
from .errors import RequestError, refused

logger = logging.getLogger(__name__)


class IndexWriter:
    """Holds the index and its folder. Searches go on during a change.

    Args:
        index: What was loaded from the folder, with its encoder.
        directory: The folder.
        read_only: Refuse changes.
        memory_map: Leave what was saved in its files, as `FastLaneIndex.load` does.

    Attributes:
        index: The index as it is now; replaced if another process has changed the folder.
    """

    def __init__(
        self,
        index: FastLaneIndex,
        directory: str | os.PathLike[str],
        *,
        read_only: bool = False,
        memory_map: bool = False,
    ) -> None:
        self.index = index
        self.read_only = read_only
        self._directory = directory
        self._memory_map = memory_map
        self._is_unfinished = Unfinished.of(index) is not None

    def check_writable(self) -> None:
        """Raises a RequestError if the server takes no changes."""
        if self.read_only:
            raise RequestError(403, "the server was started with --read-only: it takes no changes")

    def _check_finished(self) -> None:
        if self._is_unfinished:
            raise RequestError(
                409, "the index is unfinished: finish it with 'fastlane index … --resume' first"
            )

    def add(
        self,
        mode: Literal["add", "upsert"],
        texts: Sequence[str],
        ids: Sequence[Id] | None,
        metadata: Sequence[dict[str, Any]],
    ) -> tuple[list[Id], int]:
        """Adds or replaces documents; gives their ids and how many there are now."""

        def change(index: FastLaneIndex) -> list[Id]:
            if mode == "upsert":
                assert ids is not None
                index.upsert(texts, ids, metadata=metadata)
                return list(ids)
            if taken := [id for id in ids or () if id in index]:
                raise RequestError(
                    409,
                    f"there is a document with the id {taken[0]!r} already: PUT replaces it",
                    "documents",
                )
            return index.add(texts, ids, metadata=metadata)

        return self._changed(change, "documents")

    def delete(self, ids: Sequence[Id]) -> tuple[list[Id], int]:
        """Deletes documents: all of these or none."""

        def change(index: FastLaneIndex) -> list[Id]:
            if absent := [id for id in ids if id not in index]:
                raise RequestError(404, f"no document has the id {absent[0]!r}", "ids")
            index.delete(ids)
            return list(ids)

        return self._changed(change, "ids")

    def _changed(
        self, change: Callable[[FastLaneIndex], list[Id]], field: str
    ) -> tuple[list[Id], int]:
        self.check_writable()
        self._follow_folder()
        self._check_finished()  # after a look at the folder: it may have been finished there
        index = self.index
        before = index.parts
        try:
            ids = change(index)
        except ValueError as error:
            raise refused(error, field) from error
        try:
            index.save(self._directory)
        except BaseException as error:
            index._contents.parts = before
            if isinstance(error, BlockingIOError):
                raise RequestError(
                    503, "another process is writing to the index's folder: try again later"
                ) from error
            if isinstance(error, OSError | ValueError):
                logger.error("a change couldn't be saved: %s", error)
                raise RequestError(
                    503, "the change couldn't be saved and was undone: the server's log says why"
                ) from error
            raise
        if self._memory_map:
            index.map_saved()
        return ids, len(index)

    def _follow_folder(self) -> None:
        """Loads the index again if another process has changed its folder."""
        commit = self.index._commit
        if commit is None:
            return
        try:
            if commit.is_of(read_manifest(commit.directory)):
                return
            self.index = FastLaneIndex.load(
                self._directory, self.index.encoder, memory_map=self._memory_map
            )
        except (OSError, ValueError) as error:
            logger.error("the index's folder can't be read: %s", error)
            raise RequestError(
                503,
                "the index's folder can't be read, nothing was changed: the server's log says why",
            ) from error
        self._is_unfinished = Unfinished.of(self.index) is not None
        logger.info("another process has changed the index: it was loaded again")
