"""Batches: what is put together, who waits, and that one bad item spoils no other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from fastlane_st.serve.batching import Batcher, ClosedError, OverloadedError


class Recorder:
    """Doubles items of one batch at a time, when it is let go on; keeps what came together."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.go_on = threading.Semaphore(0)
        self.has_begun = threading.Semaphore(0)

    def run(self, options: str, items: list[int]) -> list[int]:
        self.batches.append((options, items))
        self.has_begun.release()
        assert self.go_on.acquire(timeout=60)
        if any(item < 0 for item in items):
            raise ValueError("an item is negative")
        return [2 * item for item in items]


def batched(
    test: Callable[[Recorder, Batcher[str, int, int]], Coroutine[Any, Any, None]], **settings: Any
) -> Recorder:
    """Runs a test with a batcher over a recorder."""
    recorder = Recorder()

    async def run() -> None:
        options = {"max_batch": 4, "max_wait": 0.0, "max_queue": 10, **settings}
        batcher = Batcher[str, int, int](recorder.run, **options)
        await test(recorder, batcher)
        await batcher.close()

    asyncio.run(asyncio.wait_for(run(), 60))
    return recorder


async def begun(recorder: Recorder) -> None:
    assert await asyncio.to_thread(recorder.has_begun.acquire, timeout=60)


def test_items_that_come_while_a_batch_runs_form_the_next_one() -> None:
    async def test(recorder: Recorder, batcher: Batcher[str, int, int]) -> None:
        first = asyncio.create_task(batcher.submit("a", [0]))
        await begun(recorder)
        others = [asyncio.create_task(batcher.submit("a", [item])) for item in range(1, 7)]
        await asyncio.sleep(0)
        assert len(batcher) == 6
        recorder.go_on.release(3)
        found = [[one.result for one in await each] for each in [first, *others]]
        assert found == [[0], [2], [4], [6], [8], [10], [12]]
        assert [one.batch_size for one in await others[0]] == [4]

    assert batched(test).batches == [("a", [0]), ("a", [1, 2, 3, 4]), ("a", [5, 6])]


def test_options_take_turns() -> None:
    async def test(recorder: Recorder, batcher: Batcher[str, int, int]) -> None:
        first = asyncio.create_task(batcher.submit("a", [0]))
        await begun(recorder)
        long = asyncio.create_task(batcher.submit("a", [1, 2, 3, 4, 5]))
        await asyncio.sleep(0)
        other = asyncio.create_task(batcher.submit("b", [6]))
        await asyncio.sleep(0)
        recorder.go_on.release(4)
        await asyncio.gather(first, long, other)

    expected = [("a", [0]), ("a", [1, 2, 3, 4]), ("b", [6]), ("a", [5])]
    assert batched(test).batches == expected


def test_after_an_error_each_item_is_run_alone() -> None:
    async def test(recorder: Recorder, batcher: Batcher[str, int, int]) -> None:
        recorder.go_on.release(10)
        first, bad, last = await asyncio.gather(
            *(batcher.submit("a", [item]) for item in (1, -1, 3)), return_exceptions=True
        )
        assert [one.result for one in first] == [2]  # type: ignore[union-attr]
        assert [one.result for one in last] == [6]  # type: ignore[union-attr]
        assert isinstance(bad, ValueError)
        with pytest.raises(ValueError, match="an item is negative"):
            await batcher.submit("a", [1, -1])

    batched(test)


def test_more_than_may_wait_is_refused_and_nothing_of_it_is_run() -> None:
    async def test(recorder: Recorder, batcher: Batcher[str, int, int]) -> None:
        first = asyncio.create_task(batcher.submit("a", [0]))
        await begun(recorder)
        second = asyncio.create_task(batcher.submit("a", [1, 2]))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError):
            await batcher.submit("b", [3, 4])
        recorder.go_on.release(2)
        await asyncio.gather(first, second)

    assert batched(test, max_queue=3).batches == [("a", [0]), ("a", [1, 2])]


def test_what_nobody_waits_for_is_not_run() -> None:
    async def test(recorder: Recorder, batcher: Batcher[str, int, int]) -> None:
        first = asyncio.create_task(batcher.submit("a", [0]))
        await begun(recorder)
        gone = asyncio.create_task(batcher.submit("a", [1]))
        stays = asyncio.create_task(batcher.submit("a", [2]))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        recorder.go_on.release(2)
        await asyncio.gather(first, stays)

    assert batched(test).batches == [("a", [0]), ("a", [2])]


def test_a_batch_waits_for_as_many_as_the_last_one_had() -> None:
    async def test(recorder: Recorder, batcher: Batcher[str, int, int]) -> None:
        recorder.go_on.release(10)
        await batcher.submit("a", [0, 1])
        first = asyncio.create_task(batcher.submit("a", [2]))
        await asyncio.sleep(0.01)
        await batcher.submit("a", [3])
        await first

    batches = batched(test, max_wait=30.0).batches
    assert batches == [("a", [0, 1]), ("a", [2, 3])]


def test_one_that_comes_alone_after_another_does_not_wait() -> None:
    async def test(recorder: Recorder, batcher: Batcher[str, int, int]) -> None:
        recorder.go_on.release(10)
        for item in range(3):
            [found] = await batcher.submit("a", [item])
            assert found.batch_size == 1

    assert len(batched(test, max_wait=1e6).batches) == 3  # any wait would outlast the test


def test_a_closed_batcher_answers_what_runs_and_refuses_what_waits() -> None:
    async def test(recorder: Recorder, batcher: Batcher[str, int, int]) -> None:
        first = asyncio.create_task(batcher.submit("a", [0]))
        await begun(recorder)
        waiting = asyncio.create_task(batcher.submit("a", [1]))
        await asyncio.sleep(0)
        recorder.go_on.release(1)
        closing = asyncio.create_task(batcher.close())
        with pytest.raises(ClosedError):
            await waiting
        await closing
        assert [one.result for one in await first] == [0]
        with pytest.raises(ClosedError):
            await batcher.submit("a", [2])

    assert batched(test).batches == [("a", [0])]


@pytest.mark.parametrize("is_left_open", [False, True])
def test_a_second_event_loop_gets_answers_too(is_left_open: bool) -> None:
    """The worker ends with the first loop, and what waited there is not run."""
    recorder = Recorder()
    batcher = Batcher[str, int, int](recorder.run, max_batch=4, max_wait=0.0, max_queue=3)

    async def leave() -> None:
        running = asyncio.create_task(batcher.submit("a", [0]))
        await begun(recorder)
        waiting = asyncio.create_task(batcher.submit("a", [1, 2, 3]))
        await asyncio.sleep(0)
        left.extend([running, waiting])

    async def ask() -> list[int]:
        found = await asyncio.wait_for(batcher.submit("a", [4]), 60)
        return [one.result for one in found]

    async def end() -> None:
        assert await ask() == [8]
        await batcher.close()

    left: list[asyncio.Task[Any]] = []
    first = asyncio.new_event_loop()
    first.run_until_complete(leave())
    if not is_left_open:
        for task in asyncio.all_tasks(first):
            task.cancel()
        first.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        first.close()
    recorder.go_on.release(3)
    assert asyncio.run(ask()) == [8]
    asyncio.run(end())
    assert recorder.batches == [("a", [0]), ("a", [4]), ("a", [4])]
    if is_left_open:
        for task in asyncio.all_tasks(first):
            task.cancel()
        first.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        first.close()


def test_two_event_loops_at_once_are_refused() -> None:
    async def test(recorder: Recorder, batcher: Batcher[str, int, int]) -> None:
        recorder.go_on.release(10)
        await batcher.submit("a", [0])

        def elsewhere() -> None:
            with pytest.raises(RuntimeError, match="another event loop is using the batcher"):
                asyncio.run(batcher.submit("a", [1]))

        await asyncio.to_thread(elsewhere)
        assert [one.result for one in await batcher.submit("a", [2])] == [4]

    assert batched(test).batches == [("a", [0]), ("a", [2])]
