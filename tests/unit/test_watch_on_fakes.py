"""The watch over sidecars, on fakes whose answers the test chooses and a clock that it turns."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from coredeno.errors import InternalError, PluginCrashed, PluginTimeout, SidecarExited, StoreError, UsageError
from coredeno.health import PartHealth
from coredeno.module import ModuleState
from coredeno.sidecar.vitals import longest_report
from tests.worlds import World

FINE = {"modules": {}, "heap_bytes": 0, "rss_bytes": 0}


class Watched:
    """A host with one module whose sidecar answers a Ping as the test says."""

    def __init__(self, world: World, module: Any) -> None:
        self.world = world
        self.module = module
        self.pings = 0
        self.answer: Any = FINE
        sidecar = world.sidecar_of(module)

        async def ping(_sidecar: Any, _params: Any) -> Any:
            self.pings += 1
            if self.answer is None:
                await asyncio.Event().wait()
            return self.answer

        sidecar._METHODS = {**sidecar._METHODS, "Ping": ping}

    @classmethod
    async def load(cls, world: World) -> Watched:
        return cls(world, await world.load())

    async def pass_time(self, seconds: float) -> None:
        await self.world.clock.turn(seconds)

    @property
    def error(self) -> Any:
        assert self.module.state is ModuleState.ERRORED
        assert isinstance(self.module.error, PluginCrashed)
        return self.module.error.__cause__


async def test_each_sidecar_is_asked_now_and_then(tmp_path: Path):
    """Every `heartbeat_s`, and an answer that finds nobody busy changes nothing."""
    world = World(tmp_path)
    async with world.host:
        watched = await Watched.load(world)
        await watched.pass_time(100)
        assert 19 <= watched.pings <= 20
        assert watched.module.state is ModuleState.RUNNING
    assert world.clock.waiting == 0


async def test_no_answer_in_time_is_the_end(tmp_path: Path):
    """A main that is frozen or flooded costs its sidecar, with a reason that names the module alone in it."""
    world = World(tmp_path)
    async with world.host:
        watched = await Watched.load(world)
        watched.answer = None
        await watched.pass_time(14)
        assert watched.module.state is ModuleState.RUNNING
        await watched.pass_time(2)
        assert isinstance(watched.error, SidecarExited)
        assert watched.error.cause == "hang"
        assert "with module 'a' in it, has not answered for 10 s" in str(watched.module.error)


async def test_a_busy_module_is_the_end(tmp_path: Path):
    """However main says it is well itself."""
    world = World(tmp_path)
    async with world.host:
        watched = await Watched.load(world)
        watched.answer = {**FINE, "modules": {"a": {"state": "RUNNING", "busy_ms": 10_001, "inflight": 0}}}
        await watched.pass_time(5)
        assert watched.error.cause == "hang"
        assert "module 'a' has been busy" in str(watched.module.error)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({"modules": 5}, "Ping: Expected `object`"),
        ({"modules": {"a": {"busy_ms": -1}}}, "Ping: Expected `float` >= 0"),
        ({"modules": {"a": {"busy_ms": "much"}}}, "Ping: Expected `float`"),
        ({"modules": {}, "rss_bytes": -1}, "Ping: Expected `int` >= 0"),
        ([1], "Ping: Expected `object`"),
        ({"modules": {}, "more": "x" * longest_report(1)}, "Ping: its answer has"),
    ],
)
async def test_an_answer_that_is_none_is_the_end(tmp_path: Path, answer: Any, problem: str):
    """What a sidecar says of itself is hostile: of another form or size, it breaks the wire."""
    world = World(tmp_path)
    async with world.host:
        watched = await Watched.load(world)
        watched.answer = answer
        await watched.pass_time(5)
        assert problem in str(watched.error)


async def test_a_module_that_loads_or_ends_has_other_deadlines(tmp_path: Path):
    """`init` may compute for longer than `hang_s`; so may `dispose`."""
    world = World(tmp_path, load_timeout_s=100, unload_grace_s=100)
    async with world.host:
        reached = world.hold("init")
        loading = asyncio.create_task(world.load())
        await reached.wait()
        (sidecar,) = world.alive

        async def busy(_sidecar: Any, _params: Any) -> Any:
            return {**FINE, "modules": {"a": {"state": "LOADING", "busy_ms": 50_000, "inflight": 0}}}

        sidecar._METHODS = {**sidecar._METHODS, "Ping": busy}
        await world.clock.turn(50)
        sidecar._METHODS = type(sidecar)._METHODS
        world.release("init")
        module = await loading
        assert module.state is ModuleState.RUNNING

        reached = world.hold("dispose")
        unloading = asyncio.create_task(module.unload())
        await reached.wait()
        sidecar._METHODS = {**sidecar._METHODS, "Ping": busy}
        await world.clock.turn(50)
        assert not sidecar._exit.done()
        world.release("dispose")
        await unloading


async def test_a_heartbeat_that_fails_by_a_bug_is_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """What nobody foresaw is logged, and no sidecar lives on without a watch."""
    world = World(tmp_path)
    async with world.host:
        watched = await Watched.load(world)
        await watched.pass_time(5)
        home = world.host._parts.loader._placement.place_of(watched.module).home

        async def fail(*_args: object, **_options: object) -> None:
            raise ZeroDivisionError

        home.sidecar.rpc.request = fail
        await watched.pass_time(5)
        assert isinstance(watched.error, InternalError)
        assert "its heartbeat failed: ZeroDivisionError" in str(watched.error)
        assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]
    assert world.clock.waiting == 0


async def test_health_says_what_is_wrong_with_the_store(tmp_path: Path):
    """An error, or no answer in time, is a finding and not raised; and a host that does not run has no health."""
    world = World(tmp_path)
    with pytest.raises(UsageError, match="health: the host does not run"):
        await world.host.health()
    async with world.host:
        await world.load()
        health = await world.host.health()
        assert health.store.ok
        assert health.deno == "2.9.0"
        assert health.modules == {"a": ModuleState.RUNNING.value}
        assert health.sidecars[0].modules == ("a",)

        backend = world.host._parts.backend

        async def fail(*_args: object) -> dict[str, str]:
            raise StoreError("the disk is gone")

        async def hang(*_args: object) -> dict[str, str]:
            return await asyncio.Event().wait()  # type: ignore[return-value]

        honest, backend.read = backend.read, fail
        assert (await world.host.health()).store == PartHealth(ok=False, why="StoreError: the disk is gone")
        backend.read = hang
        asking = asyncio.create_task(world.host.health())
        await world.clock.turn(5)
        assert (await asking).store.why == "it has not answered within 5 s"
        backend.read = honest


# --- calls that do not end


async def overdue(watched: Watched) -> None:
    """A call of the module passes its deadline."""
    call = asyncio.create_task(watched.module.call("stubborn", timeout_s=1))
    await watched.pass_time(1)
    with pytest.raises(PluginTimeout):
        await call


async def test_a_call_that_does_not_end_is_looked_after(tmp_path: Path):
    """A module that computes on past the deadline and the grace costs its sidecar; one that answers does not."""
    for busy_ms, state in ((1_999, ModuleState.RUNNING), (2_000, ModuleState.ERRORED)):
        world = World(tmp_path / str(busy_ms))
        async with world.host:
            watched = await Watched.load(world)
            await overdue(watched)
            assert watched.pings == 1
            watched.answer = {**FINE, "modules": {"a": {"busy_ms": busy_ms}}}
            await watched.pass_time(1.9)
            assert watched.module.state is ModuleState.RUNNING
            await watched.pass_time(0.1)
            assert (watched.module.state, watched.pings) == (state, 2)
            if state is ModuleState.ERRORED:
                assert (watched.error.cause, watched.error.module) == ("hang", "a")
                assert "module 'a' has been busy without a pause, past the deadline of a call," in str(
                    watched.error
                )
                assert "for 2 s (Limits.cancel_grace_s)" in str(watched.error)
            world.free.set()
        assert world.clock.waiting == 0


async def test_a_sidecar_that_is_silent_past_a_deadline(tmp_path: Path):
    """A frozen process does not get `hang_s` when a call is overdue."""
    world = World(tmp_path)
    async with world.host:
        watched = await Watched.load(world)
        watched.answer = None
        await overdue(watched)
        await watched.pass_time(1.9)
        assert watched.module.state is ModuleState.RUNNING
        await watched.pass_time(0.1)
        assert watched.error.cause == "hang"
        assert "has not answered for 2 s (Limits.cancel_grace_s)" in str(watched.error)
        world.free.set()


async def test_many_overdue_calls_are_one_question(tmp_path: Path):
    """However many pass their deadline, the module is looked after once at a time."""
    world = World(tmp_path)
    async with world.host:
        watched = await Watched.load(world)
        calls = [asyncio.create_task(watched.module.call("stubborn", timeout_s=1)) for _ in range(50)]
        await watched.pass_time(1)
        await asyncio.gather(*calls, return_exceptions=True)
        assert watched.pings == 1
        await watched.pass_time(2)
        assert watched.pings == 2
        world.free.set()


async def test_a_module_that_ends_meanwhile_is_not_looked_after(tmp_path: Path):
    """It has another deadline for that, and nothing waits for the look."""
    world = World(tmp_path)
    async with world.host:
        watched = await Watched.load(world)
        await overdue(watched)
        watched.answer = {**FINE, "modules": {"a": {"busy_ms": 99_999}}}
        world.free.set()
        await watched.module.unload()
        await watched.pass_time(2)
        assert watched.pings == 1
    assert world.clock.waiting == 0


async def test_a_call_gets_its_grace_however_long_its_module_was_busy(tmp_path: Path):
    """What counts is how long it is busy past the deadline; a busy one that then pauses is left alone."""
    world = World(tmp_path)
    async with world.host:
        watched = await Watched.load(world)
        watched.answer = {**FINE, "modules": {"a": {"busy_ms": 5_000}}}
        await overdue(watched)
        assert (watched.module.state, watched.pings) == (ModuleState.RUNNING, 1)
        watched.answer = FINE
        await watched.pass_time(2)
        assert (watched.module.state, watched.pings) == (ModuleState.RUNNING, 2)
        world.free.set()


async def test_a_neighbour_may_compute_while_a_call_is_overdue(tmp_path: Path):
    """It is held to `hang_s`, whoever shares its sidecar."""
    world = World(tmp_path, "worker")
    async with world.host:
        watched = await Watched.load(world)
        other = await world.load("b")
        watched.answer = {**FINE, "modules": {"b": {"busy_ms": 5_000}}}
        await overdue(watched)
        await watched.pass_time(2)
        assert (watched.module.state, other.state) == (ModuleState.RUNNING, ModuleState.RUNNING)
        assert watched.pings == 2
        world.free.set()
