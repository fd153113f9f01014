"""Events reach everybody who listens, and nobody who listens can hold up the host."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from coredeno.event_stream import LIMIT_WAITING, EventStream
from coredeno.events import Event, EventsLost, ModuleStopped


def event(number=0):
    return ModuleStopped(module=f"m{number}", reason="r")


async def taken(listener):
    return [each.module async for each in listener]


async def test_every_listener_gets_every_event_in_order():
    """Each has its own copy of the stream."""
    stream = EventStream()
    first, second = stream.listen(), stream.listen()
    for number in range(3):
        stream.emit(event(number))
    stream.close()
    assert await taken(first) == await taken(second) == ["m0", "m1", "m2"]


async def test_listening_begins_with_the_call():
    """Events between `listen` and the first `async for` are not lost; those before it are not heard."""
    stream = EventStream()
    stream.emit(event(0))
    listener = stream.listen()
    stream.emit(event(1))
    stream.close()
    assert await taken(listener) == ["m1"]


async def test_a_listener_waits_for_what_comes():
    """It wakes for each event, and ends when the stream does."""
    stream = EventStream()
    task = asyncio.create_task(taken(stream.listen()))
    for number in range(3):
        await asyncio.sleep(0)
        assert not task.done()
        stream.emit(event(number))
    stream.close()
    assert await task == ["m0", "m1", "m2"]


async def test_a_stream_that_was_closed_says_no_more():
    """Later listeners end at once, later events are not heard, and closing twice is harmless."""
    stream = EventStream()
    listener = stream.listen()
    stream.emit(event(0))
    stream.close()
    stream.emit(event(1))
    stream.close()
    assert await taken(listener) == ["m0"]
    assert await taken(listener) == []
    assert await taken(stream.listen()) == []


async def test_a_slow_listener_loses_the_oldest(caplog):
    """It is told how many it lost in the place of the gap, by a warning too, and others lose nothing."""
    stream = EventStream()
    slow, quick = stream.listen(), stream.listen()
    heard = []
    for number in range(LIMIT_WAITING + 3):
        stream.emit(event(number))
        heard.append((await anext(quick)).module)
    stream.close()
    with caplog.at_level(logging.WARNING, "coredeno.host"):
        got = [each async for each in slow]
    assert got == [EventsLost(count=3), *(event(number) for number in range(3, LIMIT_WAITING + 3))]
    assert heard == [f"m{number}" for number in range(LIMIT_WAITING + 3)]
    assert [record.getMessage() for record in caplog.records] == [
        "a listener to the host's events was too slow and lost 3 of them"
    ]


async def test_each_gap_is_told_of_where_it_is():
    """One that falls behind again hears of that again; in between it misses nothing, and what it holds is bounded."""
    stream = EventStream()
    slow = stream.listen()
    for number in range(LIMIT_WAITING * 3):
        stream.emit(event(number))
        assert len(slow._waiting) <= LIMIT_WAITING
    first = [await anext(slow) for _ in range(3)]
    for number in range(10):
        stream.emit(event(number))
    stream.close()
    rest = [each async for each in slow]
    assert first == [
        EventsLost(count=2 * LIMIT_WAITING),
        event(2 * LIMIT_WAITING),
        event(2 * LIMIT_WAITING + 1),
    ]
    assert rest[0] == EventsLost(count=8)
    assert rest[1] == event(2 * LIMIT_WAITING + 10)
    assert rest[-1] == event(9)
    assert len(rest) == 1 + LIMIT_WAITING


async def test_giving_up_once_loses_nothing():
    """A listener that was cancelled while it waited goes on with the next event."""
    stream = EventStream()
    listener = stream.listen()
    waiting = asyncio.create_task(anext(listener))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    stream.emit(event(1))
    assert (await anext(listener)).module == "m1"
    stream.close()


async def test_two_who_share_an_iterator_share_its_events():
    """Each event goes to one of them, and both hear of the end."""
    stream = EventStream()
    listener = stream.listen()
    tasks = [asyncio.create_task(taken(listener)) for _ in range(2)]
    await asyncio.sleep(0)
    stream.emit(event(1))
    await asyncio.sleep(0)
    stream.emit(event(2))
    stream.close()
    first, second = await asyncio.gather(*tasks)
    assert sorted([*first, *second]) == ["m1", "m2"]


@pytest.mark.parametrize("begun", [False, True])
async def test_an_iterator_that_was_dropped_gathers_nothing(begun):
    """Whoever forgets an iterator, begun or not, costs the host nothing any more."""
    stream = EventStream()
    listener = stream.listen()
    if begun:
        stream.emit(event())
        async for _ in listener:
            break
    assert len(stream._listeners) == 1
    del listener
    gc.collect()
    assert len(stream._listeners) == 0
    stream.emit(event())


async def test_a_listening_task_that_nobody_holds_lives():
    """A task that waits for events is not collected, though the app keeps no reference to it."""
    stream = EventStream()
    heard: list[Event] = []

    async def listen():
        async for each in stream.listen():
            heard.append(each)  # noqa: PERF401 - the test looks while it goes on

    asyncio.create_task(listen())  # noqa: RUF006 - the point of the test
    await asyncio.sleep(0)
    gc.collect()
    stream.emit(event())
    stream.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert heard == [event()]
