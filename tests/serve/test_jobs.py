"""Jobs: they run in order, one at a time, and no more than may wait do."""

from __future__ import annotations

import asyncio
import threading

import pytest

from fastlane_st.serve.batching import ClosedError, OverloadedError
from fastlane_st.serve.jobs import Jobs


def test_jobs_run_in_order_and_one_more_than_may_wait_is_refused() -> None:
    go_on = threading.Event()
    done: list[int] = []

    def job(number: int) -> int:
        assert go_on.wait(60)
        done.append(number)
        if number == 1:
            raise ValueError("number 1 fails")
        return 2 * number

    async def run() -> None:
        jobs = Jobs("test", max_queue=2)
        running = [asyncio.create_task(jobs.run(lambda n=n: job(n))) for n in range(3)]  # type: ignore[misc]
        await asyncio.sleep(0)
        assert len(jobs) == 3  # one runs, two wait
        with pytest.raises(OverloadedError):
            await jobs.run(lambda: job(3))
        go_on.set()
        first, failed, last = await asyncio.gather(*running, return_exceptions=True)
        assert (first, str(failed), last) == (0, "number 1 fails", 4)
        assert len(jobs) == 0
        assert await jobs.run(lambda: job(4)) == 8
        await jobs.close()
        with pytest.raises(ClosedError):
            await jobs.run(lambda: job(5))

    asyncio.run(asyncio.wait_for(run(), 60))
    assert done == [0, 1, 2, 4]
