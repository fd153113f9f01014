"""Where work that blocks is done: a thread pool, so that the event loop never waits for a disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol, TypeVar

_T = TypeVar("_T")

DISK_THREADS = 8
"""How many files a host works on at once for its modules: disks gain little from more."""


class RunInThread(Protocol):
    """What runs blocking work elsewhere: `in_thread`, or the `run` of a `DiskThreads`."""

    async def __call__(self, work: Callable[[], _T], /) -> _T:
        """Run it, as `in_thread` does."""
        ...


async def in_thread(work: Callable[[], _T], /, *, pool: ThreadPoolExecutor | None = None) -> _T:
    """Run `work` in a thread of `pool`, or of the loop's default pool.

    Cancellation: work that still waits for a thread never runs; work that has begun is waited for, however
    often the caller is cancelled, and then `CancelledError` is raised. So nothing runs on behind the caller.

    Raises:
        RuntimeError: there is no thread for it, or the pool was shut down; it never runs.
        Exception: what `work` raises.
    """
    begun = given_up = False

    def run() -> _T:
        nonlocal begun
        begun = True  # before the look at `given_up`: one of the two sides always sees the other
        if given_up:
            raise RuntimeError("given up before it began")
        return work()

    try:
        future = asyncio.get_running_loop().run_in_executor(pool, run)
    except RuntimeError:
        given_up = True  # a pool that cannot start a thread has queued it all the same
        raise
    try:
        await asyncio.wait([future])
    except asyncio.CancelledError:
        given_up = True
        if not begun:
            future.cancel()
        while not future.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # so that asyncio does not report it as never looked at
        raise
    return future.result()


class DiskThreads:
    """A host's own threads for the disk work that its modules ask for; they are started as they are needed.

    The loop's default pool is left to the host's own work and to the app, so that what modules do to files
    delays neither.

    Args:
        most: how many threads there are at most.
    """

    def __init__(self, most: int = DISK_THREADS) -> None:
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="coredeno disk")

    async def run(self, work: Callable[[], _T], /) -> _T:
        """Run `work` in one of the threads; see `in_thread` for cancellation.

        Raises:
            RuntimeError: the threads were closed.
        """
        return await in_thread(work, pool=self._pool)

    async def aclose(self) -> None:
        """Finish what is under way and end the threads. Harmless twice. If cancelled, it finishes first."""
        await in_thread(self._pool.shutdown)
