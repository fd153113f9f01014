"""Every `Clock` keeps the contract."""

from __future__ import annotations

from coredeno.clock import LoopClock
from coredeno.interfaces import Clock
from coredeno.testing.contracts.clock import ClockContract
from coredeno.testing.turned_clock import TurnedClock


class TestLoopClock(ClockContract):
    def make(self) -> Clock:
        return LoopClock()


class TestTurnedClock(ClockContract):
    def make(self) -> Clock:
        return TurnedClock()

    async def let_pass(self, clock: Clock, seconds: float) -> None:
        assert isinstance(clock, TurnedClock)
        await clock.turn(seconds)
