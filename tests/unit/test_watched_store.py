"""What a host knows of its store by watching it: writes that fail, damage, silence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coredeno.errors import LimitExceeded, StoreCorrupt, StoreError, StoreFull
from coredeno.health import PartHealth
from coredeno.interfaces import StoreChange, StoreQuota
from coredeno.services.watched_store import WatchedStore
from coredeno.testing.memory_store import FaultyStore, MemoryStore
from coredeno.testing.turned_clock import TurnedClock

FULL = StoreFull("store: writing to store.db: database or disk is full, wanted free space on its disk")
DAMAGED = StoreCorrupt("reading from", path="store.db", problem="malformed")
CHANGE = StoreChange(group="g", key="k", value="v")
WELL = PartHealth(ok=True)


class World:
    def __init__(self) -> None:
        self.clock = TurnedClock()
        self.memory = MemoryStore()
        self.faulty = FaultyStore(self.memory)
        self.store = WatchedStore(self.faulty, clock=self.clock)

    async def write(self, error: type[StoreError] | None = None) -> None:
        if error is None:
            await self.store.write([CHANGE])
            return
        with pytest.raises(error):
            await self.store.write([CHANGE])


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World()
    await world.store.open(tmp_path)
    yield world
    await world.store.aclose()


async def test_a_store_that_works_is_well_and_left_alone(world: World):
    """While writes succeed, asking for its health writes nothing."""
    world.faulty.fail_writes(FULL)
    assert await world.store.health() == WELL
    await world.write(StoreFull)  # the fault was still there: nobody had written


async def test_a_write_that_failed_is_seen_until_another_one_succeeds(world: World):
    """The health tries for itself: an app that stops writing while it is unwell would never be well again."""
    world.faulty.fail_writes(FULL, times=3)
    await world.write(StoreFull)
    for _ in range(2):
        assert await world.store.health() == PartHealth(ok=False, why=f"StoreFull: {FULL}")
    assert await world.store.health() == WELL
    assert world.memory.groups == {}  # the attempt leaves nothing
    assert await world.store.health() == WELL


async def test_any_write_shows_that_it_works_again(world: World):
    """Not only that of the health."""
    world.faulty.fail_writes(StoreError("store: locked"), times=1)
    await world.write(StoreError)
    await world.write()
    world.faulty.fail_writes(FULL)
    assert await world.store.health() == WELL


async def test_a_write_over_its_quota_says_nothing_about_the_store(world: World):
    """Who is refused for being too large finds a store that works."""
    with pytest.raises(LimitExceeded):
        await world.store.write([CHANGE], quota=StoreQuota(keys=0, bytes=0))
    world.faulty.fail_writes(FULL)
    assert await world.store.health() == WELL


@pytest.mark.parametrize("ask", ["read", "count", "write"])
async def test_damage_is_not_forgotten(world: World, ask: str, caplog: pytest.LogCaptureFixture):
    """Whatever met it: what is damaged does not heal, and only the next start looks at all of it. It is logged once."""
    caplog.set_level(logging.INFO)
    for _ in range(2):
        if ask == "write":
            world.faulty.fail_writes(DAMAGED)
            await world.write(StoreCorrupt)
        else:
            world.faulty.fail_reads(DAMAGED)
            with pytest.raises(StoreCorrupt):
                await (world.store.read("g") if ask == "read" else world.store.count("g"))
    await world.write()
    assert await world.store.read("g") == {"k": "v"}
    assert await world.store.health() == PartHealth(ok=False, why=f"StoreCorrupt: {DAMAGED}")
    assert caplog.messages == [f"the store is damaged; the next start checks it: {DAMAGED}"]


async def test_a_read_that_fails_or_hangs_is_a_finding(world: World):
    """Nothing is raised, and five seconds are enough."""
    world.faulty.fail_reads(StoreError("gone"))
    assert await world.store.health() == PartHealth(ok=False, why="StoreError: gone")
    world.faulty.hold()
    asking = asyncio.create_task(world.store.health())
    await world.clock.turn(5)
    assert (await asking).why == "it has not answered within 5 s"
    world.faulty.release()
    assert await world.store.health() == WELL


async def test_a_note_is_told_whatever_the_health(world: World):
    """It is about the start, and stays."""
    world.store.note = "it was set aside"
    assert await world.store.health() == PartHealth(ok=True, note="it was set aside")
    world.faulty.fail_reads(StoreError("gone"))
    assert (await world.store.health()).note == "it was set aside"


async def test_a_disk_that_is_full_now_and_then_does_not_fill_the_log(
    world: World, caplog: pytest.LogCaptureFixture
):
    """One line a minute that it fails, and one that it works after each of those."""
    caplog.set_level(logging.INFO)
    failed, works = f"the store cannot be written: {FULL}", "the store is written again"
    for _ in range(5):
        world.faulty.fail_writes(FULL)
        await world.write(StoreFull)
        await world.write()
    assert caplog.messages == [failed, works]
    await world.clock.turn(60)
    world.faulty.fail_writes(FULL, times=2)
    await world.write(StoreFull)
    await world.write(StoreFull)
    await world.write()
    assert caplog.messages == [failed, works] * 2
