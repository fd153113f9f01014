"""What unit tests of modules share."""

from __future__ import annotations

import pytest

from tests.hosts import nothing_left
from tests.worlds import World


@pytest.fixture
async def world_of(tmp_path):
    """Makes worlds whose hosts run; stops them, so that a test that failed leaves nothing behind."""
    worlds = []

    async def make(isolation="process", **limits):
        world = World(tmp_path / "app", isolation, **limits)
        worlds.append(world)
        await world.host.start()
        return world

    async with nothing_left(tmp_path / "app"):
        yield make
        for world in worlds:
            world.faults.clear()
            for event in [*world.held.values(), world.free]:
                event.set()
            await world.host.stop()
