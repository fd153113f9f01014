"""Work that is carried out to its end, whoever stops waiting for it."""

from __future__ import annotations

import asyncio

import pytest

from coredeno.tasks import outlast, uninterrupted


async def test_the_outcome_of_uninterrupted_work():
    """It is what the work gives or raises."""

    async def work(error: Exception | None) -> int:
        await asyncio.sleep(0)
        if error:
            raise error
        return 3

    assert await uninterrupted(work(None)) == 3
    with pytest.raises(ValueError, match="no"):
        await uninterrupted(work(ValueError("no")))


@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancellation_waits_for_the_end(fails):
    """However often it comes; then it goes on, also where the work failed."""
    go_on = asyncio.Event()
    ended = []

    async def work() -> None:
        await go_on.wait()
        ended.append(1)
        if fails:
            raise ValueError("no")

    task = asyncio.create_task(uninterrupted(work()))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [1]


async def test_outlasting_a_task_that_is_cancelled():
    """Its outcome is not raised."""
    task = asyncio.create_task(asyncio.sleep(3600))
    task.cancel()
    await outlast(task)
    assert task.cancelled()
