"""What every `Clock` does, and `deadline` with it: `ClockContract`, to be subclassed in a test module.

```python
class TestMyClock(ClockContract):
    def make(self) -> Clock:
        return MyClock()
```

A clock that does not go by itself overrides `let_pass` too.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

import pytest

from coredeno.clock import deadline
from coredeno.interfaces import Clock

_STEP_S = 0.02


class ClockContract(ABC):
    """The suite. It lets tenths of a second pass, no more."""

    @abstractmethod
    def make(self) -> Clock:
        """A clock; called in a running loop."""

    async def let_pass(self, clock: Clock, seconds: float) -> None:  # noqa: ARG002 - for overriding
        """Return when that much of the clock's time has passed and what fell due was called."""
        await asyncio.sleep(seconds)

    async def test_now_does_not_go_back(self) -> None:
        """Later is never a smaller number, and time that passes shows."""
        clock = self.make()
        first = clock.now()
        assert clock.now() >= first
        await self.let_pass(clock, _STEP_S)
        assert clock.now() >= first + 0.9 * _STEP_S

    async def test_call_later_calls_once_and_not_before(self) -> None:
        """A callback is called when its time has come, and only then."""
        clock = self.make()
        began = clock.now()
        called_at: list[float] = []
        clock.call_later(2 * _STEP_S, lambda: called_at.append(clock.now()))
        await self.let_pass(clock, _STEP_S)
        assert called_at == []
        await self.let_pass(clock, 4 * _STEP_S)
        assert len(called_at) == 1
        assert called_at[0] >= began + 1.9 * _STEP_S

    async def test_callbacks_come_in_the_order_of_their_times(self) -> None:
        """What is due earlier is called earlier, whichever was asked for first."""
        clock = self.make()
        order: list[str] = []
        clock.call_later(2 * _STEP_S, lambda: order.append("second"))
        clock.call_later(_STEP_S, lambda: order.append("first"))
        await self.let_pass(clock, 5 * _STEP_S)
        assert order == ["first", "second"]

    @pytest.mark.parametrize("delay_s", [0, -1])
    async def test_no_delay_is_the_next_turn_of_the_loop(self, delay_s: float) -> None:
        """With 0 or less no time has to pass, yet the callback is not called inside `call_later`."""
        clock = self.make()
        called = asyncio.Event()
        clock.call_later(delay_s, called.set)
        assert not called.is_set()
        async with asyncio.timeout(10):
            await called.wait()

    async def test_a_cancelled_timer_is_not_called(self) -> None:
        """`cancel` before the time has come means never, with and without a delay."""
        clock = self.make()
        called: list[float] = []
        for delay_s in (0, _STEP_S):
            clock.call_later(delay_s, lambda: called.append(clock.now())).cancel()
        await self.let_pass(clock, 3 * _STEP_S)
        assert called == []

    async def test_cancel_is_harmless_afterwards(self) -> None:
        """A timer that was called or cancelled may be cancelled again."""
        clock = self.make()
        called: list[float] = []
        timer = clock.call_later(_STEP_S, lambda: called.append(clock.now()))
        await self.let_pass(clock, 3 * _STEP_S)
        timer.cancel()
        timer.cancel()
        assert len(called) == 1

    async def test_deadline_cuts_a_block_short(self) -> None:
        """When the time is up, the block ends with TimeoutError and its task is not cancelled."""
        clock = self.make()
        waiting = asyncio.create_task(_wait_under(clock, _STEP_S))
        await self.let_pass(clock, 5 * _STEP_S)
        assert await waiting == "timeout"

    async def test_deadline_lets_a_block_end_in_time(self) -> None:
        """A block that ends before is not disturbed, then or later."""
        clock = self.make()
        async with deadline(clock, _STEP_S) as limit:
            await asyncio.sleep(0)
        await self.let_pass(clock, 3 * _STEP_S)
        assert not limit.expired()

    async def test_deadline_of_none_is_none(self) -> None:
        """Without a deadline the block has all the time in the world."""
        clock = self.make()
        async with deadline(clock, None) as limit:
            await self.let_pass(clock, _STEP_S)
        assert not limit.expired()

    @pytest.mark.parametrize("seconds", [0, -1])
    async def test_deadline_that_has_passed_already(self, seconds: float) -> None:
        """With 0 or less the first real wait is cut short, without any time having to pass."""
        assert await _wait_under(self.make(), seconds) == "timeout"

    async def test_deadline_leaves_a_cancellation_alone(self) -> None:
        """A task cancelled from outside is cancelled, not timed out."""
        clock = self.make()
        waiting = asyncio.create_task(_wait_under(clock, 1000))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    async def test_deadlines_nest(self) -> None:
        """The shorter one ends its own block; the longer one goes on round it."""
        clock = self.make()

        async def nested() -> str:
            async with deadline(clock, 1000):
                inner = await _wait_under(clock, _STEP_S)
                await asyncio.sleep(0)
            return inner

        waiting = asyncio.create_task(nested())
        await self.let_pass(clock, 5 * _STEP_S)
        assert await waiting == "timeout"


async def _wait_under(clock: Clock, seconds: float) -> str:
    try:
        async with deadline(clock, seconds):
            await asyncio.get_running_loop().create_future()
    except TimeoutError:
        return "timeout"
    return "done"
