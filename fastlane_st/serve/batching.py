"""Concurrent requests become batches: those with the same options are answered by one call.

A batch runs in a thread of its own while the next one gathers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

Options = TypeVar("Options", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")


class OverloadedError(Exception):
    """As many items wait as may wait."""


class ClosedError(Exception):
    """The batcher was closed before it came to the item."""


@dataclass(frozen=True)
class Waiting(Generic[Item, Result]):
    """An item, the future of its result, and when it came (`loop.time()`)."""

    item: Item
    future: asyncio.Future[Answered[Result]]
    since: float


@dataclass(frozen=True)
class Answered(Generic[Result]):
    """A result, and how it came about."""

    result: Result
    waited: float  # seconds
    batch_size: int


class Batcher(Generic[Options, Item, Result]):
    """Gathers items with the same options and runs them together.

    While a batch runs, what arrives is gathered for the next one. The worker waits for more only as long as
    fewer items are there than the last batch had: under steady load these are about to come back. A single
    client, whose batches have one item, never waits.

    The worker is a task of the event loop that submits. It is started anew in another loop once the first has
    ended, as in a second `asyncio.run`.

    Args:
        run: Gives a result for each item, in a thread. If it raises, each item is run alone, so that one that
            can't be answered spoils no other.
        max_batch: Items in a batch.
        max_wait: Seconds that a batch waits for more.
        max_queue: Items that may wait.
        observe: Called with the size of each batch.
    """

    def __init__(
        self,
        run: Callable[[Options, list[Item]], Sequence[Result]],
        *,
        max_batch: int,
        max_wait: float,
        max_queue: int,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._max_queue = max_queue
        self._observe = observe
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="fastlane-model")
        self._queues: dict[Options, deque[Waiting[Item, Result]]] = {}
        self._expected = 1  # the size of the last batch
        self._arrived: asyncio.Event | None = None
        self._worker: asyncio.Task[None] | None = None
        self._is_closed = False

    def __len__(self) -> int:
        """How many items wait."""
        return sum(map(len, self._queues.values()))

    async def submit(self, options: Options, items: Sequence[Item]) -> list[Answered[Result]]:
        """Gives the result of each item.

        Raises:
            OverloadedError: Too many items wait; none of these is run.
            ClosedError: After `close`.
            RuntimeError: Another event loop is using the batcher at this moment.
            Exception: What `run` raised for the first item that can't be answered.
        """
        if self._is_closed:
            raise ClosedError
        self._start()
        assert self._arrived is not None
        if len(self) + len(items) > self._max_queue and len(self) > 0:
            raise OverloadedError
        loop = asyncio.get_running_loop()
        waiting: list[Waiting[Item, Result]] = [
            Waiting(item, loop.create_future(), loop.time()) for item in items
        ]
        self._queues.setdefault(options, deque()).extend(waiting)
        self._arrived.set()
        try:
            found = await asyncio.gather(*(one.future for one in waiting), return_exceptions=True)
        except asyncio.CancelledError:
            for one in waiting:
                one.future.cancel()
            raise
        answered: list[Answered[Result]] = []
        for result in found:
            if isinstance(result, BaseException):
                raise result
            answered.append(result)
        return answered

    def _start(self) -> None:
        """Starts the worker in the running loop, unless it works there already."""
        loop = asyncio.get_running_loop()
        if self._worker is not None and not self._worker.done():
            owner = self._worker.get_loop()
            if owner is loop:
                return
            if owner.is_running():
                raise RuntimeError("another event loop is using the batcher: use one at a time")
        self._drop()
        self._expected = 1
        self._arrived = asyncio.Event()
        self._worker = asyncio.create_task(self._work())

    def _drop(self) -> None:
        """Refuses what waits; nobody waits any more in a loop that has ended."""
        loop = asyncio.get_running_loop()
        for queue in self._queues.values():
            for one in queue:
                if one.future.get_loop() is loop and not one.future.done():
                    one.future.set_exception(ClosedError())
        self._queues.clear()

    async def close(self) -> None:
        """Answers the batch that runs; what still waits gets a ClosedError."""
        self._is_closed = True
        worker, loop = self._worker, asyncio.get_running_loop()
        if worker is not None and not worker.done() and worker.get_loop() is loop:
            assert self._arrived is not None
            self._arrived.set()
            await worker
        self._drop()
        await asyncio.get_running_loop().run_in_executor(None, self._executor.shutdown)

    async def _work(self) -> None:
        while True:
            await self._gather()
            if self._is_closed:
                return
            options, batch = self._take()
            if batch:
                await self._answer(options, batch)

    async def _gather(self) -> None:
        """Returns when there is something to run and waiting for more isn't worth it."""
        assert self._arrived is not None
        loop = asyncio.get_running_loop()
        while not self._queues and not self._is_closed:
            self._arrived.clear()
            await self._arrived.wait()
        deadline = loop.time() + self._max_wait
        while not self._is_closed and len(self) < self._expected:
            if (left := deadline - loop.time()) <= 0:
                return
            self._arrived.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), left)

    def _take(self) -> tuple[Options, list[Waiting[Item, Result]]]:
        """The next batch: of the options that have waited longest, which then go to the end of the line."""
        options = next(iter(self._queues))
        queue = self._queues.pop(options)
        batch: list[Waiting[Item, Result]] = []
        while queue and len(batch) < self._max_batch:
            one = queue.popleft()
            if not one.future.done():  # its client may be gone
                batch.append(one)
        if queue:
            self._queues[options] = queue
        return options, batch

    async def _answer(self, options: Options, batch: list[Waiting[Item, Result]]) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        self._expected = len(batch)
        self._observe(len(batch))
        items = [one.item for one in batch]
        results = await loop.run_in_executor(self._executor, self._attempt, options, items)
        for one, result in zip(batch, results, strict=True):
            if one.future.done():
                continue
            if isinstance(result, Exception):
                one.future.set_exception(result)
            else:
                one.future.set_result(Answered(result, begun - one.since, len(batch)))

    def _attempt(self, options: Options, items: list[Item]) -> list[Result | Exception]:
        """Runs items together; after an error each alone."""
        try:
            found: list[Result | Exception] = list(self._run(options, items))
            assert len(found) == len(items)
            return found
        except Exception as error:
            if len(items) == 1:
                return [error]
        return [self._attempt(options, [item])[0] for item in items]
