"""`LoopClock`, the time of the running event loop, and `deadline`, a bound on a block of code by a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from coredeno.interfaces import Clock, Timer


class LoopClock:
    """The default `Clock`: the running loop's own time. Holds nothing; one may serve many loops."""

    def now(self) -> float:
        """Seconds of `loop.time()`.

        Raises:
            RuntimeError: no loop is running.
        """
        return asyncio.get_running_loop().time()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """As `loop.call_later`; what `callback` raises goes to the loop's exception handler.

        Raises:
            RuntimeError: no loop is running.
        """
        return asyncio.get_running_loop().call_later(delay_s, callback)


class Deadline:
    """What `deadline` gives: an async context manager, to be entered once, by one task."""

    __slots__ = ("_clock", "_seconds", "_timeout", "_timer")

    def __init__(self, clock: Clock, seconds: float | None) -> None:
        self._clock = clock
        self._seconds = seconds
        self._timeout: asyncio.Timeout | None = None
        self._timer: Timer | None = None

    async def __aenter__(self) -> Self:
        if self._seconds is None:
            return self
        self._timeout = asyncio.timeout(0 if self._seconds <= 0 else None)
        await self._timeout.__aenter__()
        if self._seconds > 0:
            self._timer = self._clock.call_later(self._seconds, self._expire)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._timeout is not None:
            await self._timeout.__aexit__(kind, error, trace)

    def expired(self) -> bool:
        """Whether the deadline passed while the block ran."""
        return self._timeout is not None and self._timeout.expired()

    def _expire(self) -> None:
        if self._timeout is not None:
            self._timeout.reschedule(asyncio.get_running_loop().time())


def deadline(clock: Clock, seconds: float | None) -> Deadline:
    """Give a block of code so many seconds of the clock's time; for `async with`.

    When they have passed, the task is cancelled inside the block and the block raises `TimeoutError`, by the
    rules of `asyncio.timeout`: a cancellation from outside stays a cancellation, deadlines nest, and a block
    that has ended leaves no timer behind. With 0 or less the first await that really waits is cut short.

    Args:
        clock: whose time counts.
        seconds: from now, or None for no deadline.

    Raises:
        TimeoutError: at the end of the block, if the deadline cut it short.
    """
    return Deadline(clock, seconds)
