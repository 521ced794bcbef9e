"""Work that isn't put into batches: one job at a time in a thread of its own, and only so many wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from .batching import ClosedError, OverloadedError

Result = TypeVar("Result")


class Jobs:
    """Runs jobs in one thread, in the order in which they come.

    Args:
        name: The thread's.
        max_queue: Jobs that may wait for the one that runs.
    """

    def __init__(self, name: str, max_queue: int) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._max_queue = max_queue
        self._count = 0
        self._is_closed = False

    def __len__(self) -> int:
        """How many jobs wait or run."""
        return self._count

    async def run(self, job: Callable[[], Result]) -> Result:
        """Gives what a job gives, or raises what it raises.

        Raises:
            OverloadedError: Too many jobs wait; this one isn't run.
            ClosedError: After `close`.
        """
        if self._is_closed:
            raise ClosedError
        if self._count > self._max_queue:  # one of them runs
            raise OverloadedError
        self._count += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, job)
        finally:
            self._count -= 1

    async def close(self) -> None:
        """Waits for the jobs that were accepted, and ends the thread."""
        self._is_closed = True
        await asyncio.get_running_loop().run_in_executor(None, self._executor.shutdown)
