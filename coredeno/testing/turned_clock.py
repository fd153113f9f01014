"""`TurnedClock`: a `Clock` that stands still until the test turns it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable, Collection

from coredeno.interfaces import Timer

# A loop that never comes to rest (a task that sleeps for 0 s for ever) is reported, not waited for.
_MOST_TURNS = 10_000
# For event loops that do not say what is ready (uvloop): longer than any chain of callbacks in a test.
_BLIND_TURNS = 100


class TurnedClock:
    """A `Clock` for tests: no time passes but by `await clock.turn(seconds)`.

    Timers of 0 seconds or less need no turn: the loop calls them in its next turn, as the interface has it.

    Args:
        start_s: what `now()` says to begin with, in seconds.
    """

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s
        self._order = itertools.count()
        self._waiting: list[tuple[float, int, _TurnedTimer]] = []

    @property
    def waiting(self) -> int:
        """How many timers wait for their time; 0 if nothing was left behind."""
        return sum(not timer.cancelled for _, _, timer in self._waiting)

    def now(self) -> float:
        """See `Clock.now`. While a timer's callback runs, it is the time that the timer was set for."""
        return self._now_s

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """See `Clock.call_later`; timers of the same moment are called in the order they were set in."""
        if delay_s <= 0:
            return asyncio.get_running_loop().call_soon(callback)
        timer = _TurnedTimer(callback)
        heapq.heappush(self._waiting, (self._now_s + delay_s, next(self._order), timer))
        return timer

    async def turn(self, seconds: float) -> None:
        """Let `seconds` pass: the timers that fall due are called, in order.

        Before the first, between any two, and after the last the loop runs until nothing is ready, so what a
        timer sets off (other timers too) is done before the next. Sockets, threads and processes are not
        waited for. What a callback raises comes out here. If cancelled, the clock stands where it was.

        Raises:
            ValueError: `seconds` is negative.
            RuntimeError: the loop does not come to rest.
        """
        if seconds < 0:
            raise ValueError(f"turn {seconds} s: time does not go back")
        end_s = self._now_s + seconds
        ready: Collection[object] | None = getattr(asyncio.get_running_loop(), "_ready", None)
        await _rest(ready)
        while self._waiting and self._waiting[0][0] <= end_s:
            due_s, _, timer = heapq.heappop(self._waiting)
            if timer.cancelled:
                continue
            self._now_s = due_s
            timer.callback()
            await _rest(ready)
        self._now_s = end_s


class _TurnedTimer:
    """One waiting callback."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


async def _rest(ready: Collection[object] | None) -> None:
    """Let the loop turn until nothing is `ready`; without knowing what is, for a good while."""
    if ready is None:
        for _ in range(_BLIND_TURNS):
            await asyncio.sleep(0)
        return
    for _ in range(_MOST_TURNS):
        await asyncio.sleep(0)
        if not ready:
            return
    raise RuntimeError(f"turn: the loop is not at rest after {_MOST_TURNS} turns")
