"""`TurnedClock`: time passes when the test says so, and only then."""

from __future__ import annotations

import asyncio

import pytest

from coredeno.clock import deadline
from coredeno.testing.turned_clock import TurnedClock, _rest


async def test_time_stands_still():
    """Nothing but `turn` moves the clock."""
    clock = TurnedClock(start_s=5)
    clock.call_later(0.001, lambda: pytest.fail("called"))
    await asyncio.sleep(0.01)
    assert clock.now() == 5
    assert clock.waiting == 1


async def test_turn_calls_what_is_due_at_its_own_time():
    """Each callback sees the time that it was set for, in order; those of one moment as they were set."""
    clock = TurnedClock()
    seen: list[tuple[str, float]] = []
    for name, delay_s in (("c", 3), ("a", 1), ("late", 4.5), ("b1", 2), ("b2", 2)):
        clock.call_later(delay_s, lambda name=name: seen.append((name, clock.now())))
    await clock.turn(4)
    assert seen == [("a", 1), ("b1", 2), ("b2", 2), ("c", 3)]
    assert (clock.now(), clock.waiting) == (4, 1)


async def test_a_timer_is_due_at_the_end_of_the_turn_too():
    """A turn of just the delay is enough, also in several parts."""
    clock = TurnedClock()
    called: list[float] = []
    clock.call_later(2, lambda: called.append(clock.now()))
    await clock.turn(1)
    await clock.turn(1)
    assert called == [2]


async def test_timers_set_by_timers_belong_to_the_turn():
    """A timer that falls due within the turn is called in it, whoever set it."""
    clock = TurnedClock()
    seen: list[float] = []

    def again() -> None:
        seen.append(clock.now())
        clock.call_later(1, again)

    clock.call_later(1, again)
    await clock.turn(3.5)
    assert seen == [1, 2, 3]


async def test_the_loop_comes_to_rest_between_timers():
    """What a callback sets off, however many loop turns it takes, is done before the next callback."""
    clock = TurnedClock()
    seen: list[str] = []

    async def work(name: str) -> None:
        for _ in range(50):
            await asyncio.sleep(0)
        seen.append(f"{name} done")

    tasks: list[asyncio.Task[None]] = []
    for delay_s, name in ((1, "first"), (2, "second")):
        clock.call_later(delay_s, lambda name=name: tasks.append(asyncio.create_task(work(name))))
    clock.call_later(1.5, lambda: seen.append("between"))
    await clock.turn(2)
    assert seen == ["first done", "between", "second done"]


async def test_a_task_may_set_its_timer_after_the_turn_was_asked_for():
    """The loop comes to rest before the first timer too, so a task made just now takes part."""
    clock = TurnedClock()

    async def wait() -> str:
        try:
            async with deadline(clock, 2):
                await asyncio.get_running_loop().create_future()
        except TimeoutError:
            return "timeout"
        return "done"

    task = asyncio.create_task(wait())
    await clock.turn(2)
    assert task.result() == "timeout"
    assert clock.waiting == 0


async def test_cancelled_timers_do_not_wait():
    """`waiting` counts what is still to come."""
    clock = TurnedClock()
    timer = clock.call_later(1, lambda: pytest.fail("called"))
    clock.call_later(2, lambda: None)
    timer.cancel()
    assert clock.waiting == 1
    await clock.turn(5)
    assert clock.waiting == 0


async def test_what_a_callback_raises_comes_out_of_turn():
    """A failing callback fails the test that turned the clock."""
    clock = TurnedClock()

    def fail() -> None:
        raise RuntimeError("callback")

    clock.call_later(1, fail)
    with pytest.raises(RuntimeError, match="callback"):
        await clock.turn(1)


async def test_time_does_not_go_back():
    """A negative turn is refused."""
    with pytest.raises(ValueError, match="does not go back"):
        await TurnedClock().turn(-1)


async def test_a_loop_that_does_not_say_what_is_ready_is_given_a_good_while():
    """On loops such as uvloop's, chains of callbacks as long as any test has them are done too."""
    done = asyncio.Event()

    async def work() -> None:
        for _ in range(50):
            await asyncio.sleep(0)
        done.set()

    task = asyncio.create_task(work())
    await _rest(None)
    assert done.is_set()
    await task


async def test_a_loop_without_rest_is_reported():
    """A task that never waits for anything does not hang the test."""

    async def spin() -> None:
        while True:  # noqa: ASYNC110 - this is what is tested
            await asyncio.sleep(0)

    task = asyncio.create_task(spin())
    with pytest.raises(RuntimeError, match="not at rest"):
        await TurnedClock().turn(1)
    task.cancel()
