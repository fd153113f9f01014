"""`StopSteps`: what must be undone when a host stops, in the reverse order, each step with a deadline of its own."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from coredeno.clock import deadline
from coredeno.interfaces import Clock

_log = logging.getLogger("coredeno.host")


class StopSteps:
    """Steps that are carried out however the ones before them ended.

    Args:
        clock: whose time counts.
        limit_s: what each step may take, in seconds.
    """

    def __init__(self, clock: Clock, limit_s: float) -> None:
        self._clock = clock
        self._limit_s = limit_s
        self._steps = AsyncExitStack()

    def add(self, name: str, undo: Callable[[], Awaitable[None]], *, extra_s: float = 0.0) -> None:
        """Carry out `undo` before all that was added so far.

        Args:
            name: for the log.
            undo: what to do. What it raises is logged.
            extra_s: seconds that it may take beyond the limit.
        """

        async def step() -> None:
            limit_s = self._limit_s + extra_s
            try:
                async with deadline(self._clock, limit_s):
                    await undo()
            except TimeoutError:
                _log.error("stop: %s: not done after %g s", name, limit_s)
            except Exception:  # noqa: BLE001 - the other steps must be done whatever this one raises
                _log.exception("stop: %s failed", name)

        self._steps.push_async_callback(step)

    async def run(self) -> None:
        """Carry out all steps, the last one first. Harmless twice."""
        await self._steps.aclose()
