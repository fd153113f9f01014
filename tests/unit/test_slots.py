"""Slots are taken in the order in which they are asked for, and none is lost or made."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coredeno.slots import Slots


async def taker(slots, took, name):
    await slots.take()
    took.append(name)


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_waits_longest_is_next():
    """And nobody who comes later takes the slot before it has woken up."""
    slots = Slots(2)
    assert slots.take_now()
    await slots.take()
    assert not slots.take_now()
    took = []
    tasks = [asyncio.create_task(taker(slots, took, name)) for name in "abc"]
    await settle()
    assert took == []
    slots.give_back()
    assert not slots.take_now()
    slots.give_back()
    await settle()
    assert took == ["a", "b"]
    slots.give_back()
    await asyncio.gather(*tasks)
    assert took == ["a", "b", "c"]
    assert slots.free == 0
    slots.give_back()
    slots.give_back()
    assert slots.free == 2


@pytest.mark.parametrize("when", ["before", "in the same turn", "in the same turn, first"])
async def test_one_that_is_cancelled_takes_none(when):
    """Not even if it was given one in the turn in which it was cancelled: that goes to the next."""
    slots = Slots(1)
    assert slots.take_now()
    took = []
    first, second = (asyncio.create_task(taker(slots, took, name)) for name in "ab")
    await settle()
    if when == "before":
        first.cancel()
        await settle()
        slots.give_back()
    elif when == "in the same turn":
        slots.give_back()
        first.cancel()
    else:
        first.cancel()
        slots.give_back()
    await settle()
    assert first.cancelled()
    await second
    assert took == ["b"]
    slots.give_back()
    assert slots.free == 1
    assert not slots._waiting


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from(["take", "give", "cancel", "turn"]), st.integers(0, 9))),
)
async def test_none_is_lost_or_made(count, steps):
    """Whatever happens in whatever order, taken and free ones are as many as there were."""
    slots = Slots(count)
    tasks = []
    took = []

    def held():
        return [task for task in tasks if task.done() and not task.cancelled()]

    given_back = 0
    for what, number in steps:
        if what == "take":
            tasks.append(asyncio.create_task(taker(slots, took, len(tasks))))
        elif what == "give" and len(held()) > given_back:
            given_back += 1
            slots.give_back()
        elif what == "cancel" and tasks:
            tasks[number % len(tasks)].cancel()
        elif what == "turn":
            await asyncio.sleep(0)
        assert 0 <= slots.free <= count
        assert len(held()) - given_back <= count
    await settle()
    assert slots.free + len(held()) - given_back == count
    waiting = [task for task in tasks if not task.done()]
    assert not (waiting and slots.free)
    assert took == sorted(took)
    for task in waiting:
        task.cancel()
    await settle()
    assert not slots._waiting
