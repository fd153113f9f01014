"""The eyes of the arena see what keeps a host's loop from turning, and whose doing it is."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from tests.security.arena import FEWEST_LOOKS, MOST_LAG_S, MOST_TURN_S, Watch


class Answering:
    """Stands for the bystander."""

    async def call(self, _name: str, value: Any, *, timeout_s: float) -> Any:
        """Answer at once."""
        return value


def compute(seconds: float) -> None:
    """Keep the loop busy so long, by the process's own time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


async def watched(*busy_s: float) -> Watch:
    """A watch over a loop that was busy so long, once for each, and then was looked at often enough."""
    watch = Watch(Answering())  # type: ignore[arg-type]
    for seconds in busy_s:
        await asyncio.sleep(0.001)
        compute(seconds)
    await watch.has_seen_enough()
    await watch.end()
    assert watch.problems == []
    return watch


async def test_a_loop_that_turns_is_well():
    """A host that does little is not blamed, nor one that has a long turn now and then."""
    (await watched(0.06)).judge_the_host()


async def test_one_turn_that_is_too_long_is_seen():
    """It is one look of many, so that the percentile does not have it."""
    watch = await watched(MOST_TURN_S + 0.05)
    with pytest.raises(AssertionError, match="busy, once"):
        watch.judge_the_host()


async def test_many_turns_that_are_too_long_are_seen():
    """None of them is too long by itself."""
    watch = await watched(*[MOST_LAG_S + 0.02] * (FEWEST_LOOKS // 10))
    assert watch.lag_s > MOST_LAG_S
    with pytest.raises(AssertionError, match="at the 99th percentile"):
        watch.judge_the_host()
