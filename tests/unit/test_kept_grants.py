"""Kept grants whose plugin is loaded, revoked or removed at the same moment; on fakes, with a slow store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from coredeno import Grant, Hooks, PluginHost, PluginRaised, StoreError, events
from coredeno.grant_records import GRANTS
from coredeno.interfaces import StoreChange, StoreQuota
from coredeno.testing import MemoryFetcher, MemoryFiles, MemoryStore, TurnedClock, fake_host
from tests.shops import plugin_files

PHOTOS = {"read": ["photos"]}
MANIFEST = "permissions: {optional: {read: [photos, more], write: [photos]}}\n"


class Tagger:
    async def init(self, core: Any) -> None:
        self.core = core

    async def request(self, permissions: Any) -> Any:
        return await self.core.permissions.request(permissions)

    async def read(self, path: str) -> bytes:
        return await self.core.files.read(path)


class Granting(Hooks):
    async def permission_requested(self, _request: object) -> Grant:
        return Grant.until_revoked()


class SlowStore(MemoryStore):
    """Gives or takes what the next read or write of kept grants is about, and returns when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.slow: str | None = None
        self.reached = asyncio.Event()
        self.free = asyncio.Event()

    def hold(self, what: str) -> None:
        self.slow = what
        self.reached.clear()
        self.free.clear()

    async def _wait(self, what: str) -> None:
        if self.slow == what:
            self.slow = None
            self.reached.set()
            await self.free.wait()

    async def read(
        self, group: str, keys: Sequence[str] | None = None, *, limit_bytes: int | None = None
    ) -> dict[str, str]:
        found = await super().read(group, keys, limit_bytes=limit_bytes)
        if group == GRANTS:
            await self._wait("read")
        return found

    async def write(self, changes: Sequence[StoreChange], *, quota: StoreQuota | None = None) -> None:
        if any(change.group == GRANTS for change in changes):
            await self._wait("write")
        await super().write(changes, quota=quota)


class World:
    """A host with an installed plugin, whose grants are all kept."""

    def __init__(self, root: Path, plugin: type = Tagger) -> None:
        self.store = SlowStore()
        self.clock = TurnedClock()
        self.host: PluginHost = fake_host(
            root,
            {"tagger": plugin},
            hooks=[Granting()],
            store=self.store,
            files=MemoryFiles({"photos/a": b"a", "more/a": b"m"}),
            fetcher=MemoryFetcher({"shop": {"v1": plugin_files(manifest=MANIFEST)}}),
            clock=self.clock,
        )

    async def install(self) -> Any:
        await self.host.install("shop")
        return await self.host.load("tagger")

    async def settle(self) -> None:
        """All goes on that does not wait for the store."""
        await self.clock.turn(0)

    async def let_go(self, *under_way: asyncio.Task[Any]) -> list[Any]:
        await self.settle()
        self.store.free.set()
        return await asyncio.gather(*under_way)

    @property
    def kept(self) -> dict[str, str]:
        return self.store.groups.get(GRANTS, {})


async def refused(call: Any) -> None:
    with pytest.raises(PluginRaised) as caught:
        await call
    assert caught.value.name == "PermissionDenied"


async def test_a_grant_that_is_revoked_while_its_module_loads(tmp_path: Path):
    """It may be read before it is revoked, but is not held when `revoke` has returned."""
    world = World(tmp_path)
    async with world.host as host:
        module = await world.install()
        await module.call("request", {"read": ["photos", "more"]})
        await module.unload()
        world.store.hold("read")
        loading = asyncio.create_task(host.load("tagger"))
        await world.store.reached.wait()
        revoking = asyncio.create_task(host.revoke("tagger", "files.read", "photos"))
        module, taken = await world.let_go(loading, revoking)
        assert taken == ("photos",)
        await refused(module.call("read", "photos/a"))
        assert await module.call("read", "more/a") == b"m"
        assert module.grants.read == ("more",)
        assert "photos" not in str(world.kept)


@pytest.mark.parametrize("step", ["read", "write"])
async def test_a_module_that_loads_while_its_grant_is_revoked(tmp_path: Path, step: str):
    """It does not get what is on its way out."""
    world = World(tmp_path)
    async with world.host as host:
        module = await world.install()
        await module.call("request", PHOTOS)
        await module.unload()
        world.store.hold(step)
        revoking = asyncio.create_task(host.revoke("tagger", "files.read"))
        await world.store.reached.wait()
        loading = asyncio.create_task(host.load("tagger"))
        _taken, module = await world.let_go(revoking, loading)
        await refused(module.call("read", "photos/a"))
        assert module.grants.read == ()


@pytest.mark.parametrize("step", ["read", "write"])
async def test_a_grant_that_is_revoked_while_it_is_kept(tmp_path: Path, step: str):
    """It is given, and then taken back: neither the module nor the store has it, and both are told in their order."""
    world = World(tmp_path)
    async with world.host as host:
        module = await world.install()
        listener = host.events()
        world.store.hold(step)
        asking = asyncio.create_task(module.call("request", PHOTOS))
        await world.store.reached.wait()
        revoking = asyncio.create_task(host.revoke("tagger", "files.read"))
        _answer, taken = await world.let_go(asking, revoking)
        assert taken == ("photos",)
        await refused(module.call("read", "photos/a"))
        assert world.kept == {}
        told = [await anext(listener) for _ in range(3)]
        assert [type(event) for event in told] == [
            events.PermissionGranted,
            events.PermissionRevoked,
            events.PermissionDenied,
        ]


@pytest.mark.parametrize("step", ["read", "write"])
async def test_a_grant_that_is_kept_while_its_plugin_is_removed(tmp_path: Path, step: str):
    """Nothing is left of it, for the next plugin of that code."""
    world = World(tmp_path)
    async with world.host as host:
        module = await world.install()
        world.store.hold(step)
        asking = asyncio.create_task(module.call("request", PHOTOS))
        await world.store.reached.wait()
        removing = asyncio.create_task(host.remove("tagger"))
        await world.settle()
        world.store.free.set()
        await removing
        await asyncio.gather(asking, return_exceptions=True)
        await world.settle()
        assert world.kept == {}
        assert (await world.install()).grants.read == ()


async def test_a_module_that_asks_when_its_plugin_is_removed_already(tmp_path: Path):
    """Its last requests are refused: what is kept would be there for the next plugin of that code."""
    answers: list[Any] = []

    class AsksAtLast(Tagger):
        async def dispose(self) -> None:
            answers.append(await self.core.permissions.request(PHOTOS))

    world = World(tmp_path, AsksAtLast)
    async with world.host as host:
        await world.install()
        await host.remove("tagger")
        assert answers == [{"granted": False, "reason": "the plugin was removed meanwhile"}]
        assert world.kept == {}
        module = await world.install()  # the next one may have it
        assert module.grants.read == ()
        assert (await module.call("request", PHOTOS))["granted"]
        assert world.kept


@pytest.mark.parametrize("step", ["read", "write"])
async def test_a_plugin_that_is_removed_while_a_grant_is_revoked(tmp_path: Path, step: str):
    """What the revoking leaves of its record is not written again behind the removal."""
    world = World(tmp_path)
    async with world.host as host:
        module = await world.install()
        await module.call("request", {"read": ["photos"], "write": ["photos"]})
        world.store.hold(step)
        revoking = asyncio.create_task(host.revoke("tagger", "files.read"))
        await world.store.reached.wait()
        removing = asyncio.create_task(host.remove("tagger"))
        await world.let_go(revoking, removing)
        assert world.kept == {}


async def test_a_removal_that_fails_takes_nothing(tmp_path: Path):
    """The plugin goes on, and may have grants kept as before."""
    world = World(tmp_path)
    async with world.host as host:
        module = await world.install()
        await module.call("request", PHOTOS)
        write = world.store.write

        async def fail(*_args: object, **_options: object) -> None:
            raise StoreError("full")

        world.store.write = fail  # type: ignore[method-assign]
        with pytest.raises(StoreError):
            await host.remove("tagger")
        world.store.write = write  # type: ignore[method-assign]
        assert (await module.call("request", {"write": ["photos"]}))["granted"]
        assert "files.write" in str(world.kept)
