"""Locks by which one process at a time writes a folder."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # what flock gives where there are none


@contextmanager
def locked(folder: Path, lock_file: Path) -> Iterator[None]:
    """Holds a folder's lock, which ends with the process at the latest.

    A file system without locks (some network and FUSE folders) gets a file `….soft.lock` with the writer's
    process id in it, which a later writer takes over once that process is gone.

    Raises:
        BlockingIOError: Someone else holds it.
    """
    lock: BaseFileLock = FileLock(lock_file, timeout=0, fallback_to_soft=False)
    try:
        try:
            lock.acquire()
        except OSError as error:
            if isinstance(error, Timeout) or error.errno not in NO_LOCKS:
                raise
            lock = SoftFileLock(lock_file.with_suffix(".soft.lock"), timeout=0)
            lock.acquire()
    except Timeout as error:
        raise BlockingIOError(
            f"{folder} is being written by someone else: try again later"
        ) from error
    try:
        yield
    finally:
        lock.release()
