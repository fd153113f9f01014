"""What comes at a bad moment while modules come back: neighbours, hooks, callers that give up, a release at once."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coredeno import Hooks, HostConfig, ModuleState, RestartPolicy, events
from coredeno.errors import (
    CoreDenoError,
    IntegrityError,
    PluginTimeout,
    RestartLimitReached,
    SidecarExited,
    UsageError,
)
from coredeno.testing import FakeLauncher, MemoryFetcher, MemorySource, fake_host
from tests.shops import damage, plugin_files
from tests.unit.test_restarting_on_fakes import POLICY, WHAT, Storm, back, crash, until
from tests.worlds import BOTH, World, exited, say

ONCE = RestartPolicy(budget=0)


def hang(world, module):
    """Its sidecar is killed for what this module does."""
    place = world.host._parts.loader._placement.place_of(module)
    place.sidecar.broken(SidecarExited(reason="hangs", exit_code=None, cause="hang", module=module.code))


def is_loading(world, module):
    return any(sidecar._modules.get(module.code) for sidecar in world.alive)


# --- whose fault it was


async def test_a_restart_that_fails_by_a_neighbours_fault(world_of):
    """What is loading when another one brings their sidecar down is tried again at once, at no cost."""
    world = await world_of("worker", restart=POLICY)
    other, guilty = await world.load("a"), await world.load("b")
    world.hold("init")
    hang(world, guilty)
    for wait_s in (1, 2):  # until the budget of the guilty one is spent
        await until(world, lambda: is_loading(world, other))
        await world.clock.turn(wait_s)
        await until(world, lambda: is_loading(world, guilty))
        former = guilty.error
        hang(world, guilty)
        await until(world, lambda former=former: guilty.error is not former)
    world.release("init")
    await back(world, other, 0)
    assert guilty.state is ModuleState.QUARANTINED
    restarts = [event for event in await world.heard() if isinstance(event, events.ModuleRestarting)]
    assert [event for event in restarts if event.module == "a"] == [
        events.ModuleRestarting(module="a", delay_s=0, attempt=0)
    ] * 3


async def test_a_sidecar_whose_end_is_told_twice(world_of):
    """It is told when it is killed, and when it is gone: the guilty one has left by then, and is guilty still."""
    world = await world_of("worker", restart=POLICY)
    guilty, *others = [await world.load(code) for code in "abc"]
    sidecar, stop_all, free = world.sidecar_of(guilty), world.processes.stop_all, asyncio.Event()

    async def slow(owner=None):
        if owner in ("b", "c"):
            await free.wait()
        await stop_all(owner)

    kill, sidecar.kill = sidecar.kill, lambda: None
    world.processes.stop_all = slow
    hang(world, guilty)
    await world.settle()
    kill()
    await world.settle()
    free.set()
    for other in others:
        await back(world, other, 0)
    assert world.sidecar_of(others[0]) is world.sidecar_of(others[1])


# --- one after the other


async def test_a_release_while_its_former_self_ends(world_of):
    """The new one comes when nothing of the former one is left, and is not ended in its place."""
    world = await world_of("worker", restart=ONCE)
    module, other = await world.load("a"), await world.load("b")
    say(world.sidecar_of(module), exited(b"a"))
    await back(world, module, 0)  # alone: the next one is its own
    supervisor, entered = world.host._parts.supervisor, []
    take_place = supervisor.take_place

    async def noted(need):
        entered.append("stop processes" in world.held)
        return await take_place(need)

    supervisor.take_place = noted
    reached = world.hold("stop processes")
    say(world.sidecar_of(module), exited(b"a"))
    await reached.wait()
    assert module.state is ModuleState.QUARANTINED
    releasing = asyncio.create_task(world.host.release("a"))
    await world.settle()
    world.release("stop processes")
    released = await releasing
    assert entered == [False]
    assert await released.call("echo", 1) == [1]
    assert world.sidecar_of(released) is world.sidecar_of(other)


async def test_a_call_of_its_new_life_is_looked_after(world_of):
    """Though somebody still looks after one of its former life."""
    world = await world_of(restart=RestartPolicy(first_delay_s=0.1, jitter=0))
    module = await world.load()
    with pytest.raises(PluginTimeout):
        await asyncio.gather(module.call("stubborn", timeout_s=1), world.clock.turn(1))
    await crash(world, module)
    await back(world, module, 0.1)
    pings, sidecar = [], world.sidecar_of(module)

    async def ping(_sidecar: Any, _params: Any) -> Any:
        pings.append(world.clock.now())
        return {"modules": {}, "heap_bytes": 0, "rss_bytes": 0}

    sidecar._METHODS = {**sidecar._METHODS, "Ping": ping}
    with pytest.raises(PluginTimeout):
        await asyncio.gather(module.call("stubborn", timeout_s=1), world.clock.turn(1))
    await world.settle()
    assert pings == [pytest.approx(2.1)]


# --- hooks


@BOTH
async def test_a_hook_that_unloads_what_was_unloaded(world_of, isolation):
    """`unload` works in every state, and does not wait for the hook that calls it."""
    world = await world_of(isolation, restart=POLICY)
    module = await world.load()

    async def stopped(stopped, _reason):
        await stopped.unload()

    world.hook.module_stopped = stopped
    async with asyncio.timeout(10):
        await module.unload()
    assert module.state is ModuleState.STOPPED


@pytest.mark.parametrize("what", ["unload", "crash"])
async def test_events_come_in_their_order(world_of, what):
    """Whatever happens while a hook is told that a module has started, that it started comes first."""
    world = await world_of(restart=POLICY)

    async def started(module):
        await (module.unload() if what == "unload" else crash(world, module))

    world.hook.module_started = started
    await world.load()
    heard = [type(event) for event in await world.heard()]
    rest = [events.ModuleStopped] if what == "unload" else [events.ModuleCrashed, events.ModuleRestarting]
    assert [each for each in heard if each is not events.SidecarKilled] == [events.ModuleStarted, *rest]


async def test_a_hook_that_stops_the_host(world_of):
    """It has its way at once: the end of the host does not wait for who waits for it."""
    world = await world_of(restart=ONCE)
    module = await world.load()
    stopped = asyncio.Event()

    async def quarantined(_module, _error):
        await world.host.stop()
        stopped.set()

    world.hook.module_quarantined = quarantined
    async with asyncio.timeout(10):
        await crash(world, module)
        await stopped.wait()
    assert module.state is ModuleState.STOPPED


async def test_a_host_that_is_short_of_descriptors(world_of):
    """Files that could not be looked at may be what they were: it is tried again."""

    class Unread(MemorySource):
        is_short = False

        async def copy_to(self, folder: Path) -> None:
            if self.is_short:
                error = IntegrityError(".", expected="the release's folder", actual="Too many open files")
                raise error from OSError(errno.EMFILE, "Too many open files")
            await super().copy_to(folder)

    world = await world_of(restart=POLICY)
    source = Unread("code: a\nversion: 1.0\n")
    module = await world.host.load_source(source)
    source.is_short = True
    await crash(world, module)
    former = module.error
    await world.clock.turn(1)
    await until(world, lambda: module.error is not former)
    assert module.state is ModuleState.RESTARTING
    assert "Too many open files" in str(module.error)
    source.is_short = False
    await back(world, module, 2)


# --- callers that give up, and what has no answer


@BOTH
async def test_a_load_that_is_cancelled_while_hooks_are_told(world_of, isolation):
    """Nothing of it is left, as at any other moment."""
    world = await world_of(isolation, restart=POLICY)
    told = asyncio.Event()

    async def started(_module):
        told.set()
        await asyncio.Event().wait()

    world.hook.module_started = started
    loading = asyncio.create_task(world.load())
    await told.wait()
    module = world.host.modules["a"]
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert module.state is ModuleState.STOPPED
    assert not world.host.modules
    await world.clock.turn(0)
    assert len(world.alive) <= 1  # the spare


async def test_releasing_what_could_not_begin_to_load(world_of):
    """There is nothing that could be loaded as it was."""
    world = await world_of(restart=POLICY)
    await world.host._parts.loader.not_loaded("a", "1.0", IntegrityError("main.ts", expected="x", actual="y"))
    with pytest.raises(UsageError, match="release: module 'a' could not even begin to load, wanted"):
        await world.host.release("a")


# --- plugins that are installed


class Tagger:
    """What the published releases stand for."""


async def test_an_update_that_brings_nothing_new(tmp_path: Path):
    """It releases nobody that went down too often; another release is another matter."""
    published = {"v1": plugin_files()}
    launcher = FakeLauncher({"tagger": Tagger})
    config = HostConfig(restart=ONCE)
    host = fake_host(
        tmp_path, {}, config=config, launcher=launcher, fetcher=MemoryFetcher({"shop": published})
    )
    async with host:
        await host.install("shop")
        module = await host.load("tagger")
        heard = host.events()
        for sidecar in launcher.sidecars:
            sidecar.kill()
        async for event in heard:
            if isinstance(event, events.ModuleQuarantined):
                break
        await host.update("tagger")
        assert host.modules["tagger"] is module
        assert isinstance(module.error, RestartLimitReached)
        [listed] = await host.installed()
        assert "not started again" in (listed.problem or "")
        published["v2"] = plugin_files(version="2.0.0")
        await host.update("tagger")
        assert host.modules["tagger"].state is ModuleState.RUNNING
        assert [plugin.problem for plugin in await host.installed()] == [None]


async def test_a_load_that_is_cancelled_while_hooks_are_told_of_its_failure(tmp_path: Path):
    """The plugin in quarantine is the installed one all the same, and can be put right and released."""
    told = asyncio.Event()

    class Slow(Hooks):
        async def module_quarantined(self, module, error):
            told.set()
            await asyncio.Event().wait()

    fetcher = MemoryFetcher({"shop": {"v1": plugin_files()}})
    async with fake_host(tmp_path, {"tagger": Tagger}, hooks=[Slow()], fetcher=fetcher) as host:
        await host.install("shop")
        (folder,) = tmp_path.glob(".core/plugins/tagger/*")
        honest = (folder / "main.ts").read_bytes()
        damage(folder, lambda folder: (folder / "main.ts").write_bytes(b"changed"))
        loading = asyncio.create_task(host.load("tagger"))
        await told.wait()
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        [listed] = await host.installed()
        assert "main.ts" in (listed.problem or "")
        damage(folder, lambda folder: (folder / "main.ts").write_bytes(honest))
        assert (await host.release("tagger")).state is ModuleState.RUNNING


# --- all of it at once


class WorseStorm(Storm):
    """Callers give up, sidecars are killed by name and without one, and everything takes its time."""

    async def cancel(self, _code: str) -> None:
        for task in self.pending[-3:]:
            task.cancel()

    async def hang(self, code: str) -> None:
        self.end(code, SidecarExited(reason="hangs", exit_code=None, cause="hang", module=code))

    async def swell(self, code: str) -> None:
        self.end(code, SidecarExited(reason="swells", exit_code=None, cause="memory"))

    def end(self, code: str, error: SidecarExited) -> None:
        module = self.world.host.modules.get(code)
        place = module and self.world.host._parts.loader._placement.place_of(module)
        if place:
            place.sidecar.broken(error)

    async def overdue(self, code: str) -> None:
        module = self.world.host.modules.get(code)
        if module is not None:
            self.begin(module.call("stubborn", timeout_s=1))

    async def hold(self, code: str) -> None:
        if STEP[code] not in self.world.held:
            self.world.hold(STEP[code])

    async def let_go(self, code: str) -> None:
        if STEP[code] in self.world.held:
            self.world.release(STEP[code])

    async def few_turns(self, code: str) -> None:
        for _ in range({"a": 1, "b": 3, "c": 0}[code]):
            await asyncio.sleep(0)
        for _ in range(10 if code == "c" else 0):  # what threads do, such as making folders, gets on
            await asyncio.to_thread(int)

    async def calm(self) -> None:
        for code in STEP:
            await self.let_go(code)
        self.world.free.set()
        for outcome in await self.ended():
            is_told = isinstance(outcome, CoreDenoError | asyncio.CancelledError)
            assert is_told or not isinstance(outcome, BaseException)
        async with asyncio.timeout(10):
            await self.rest()

    def left(self) -> list[object]:
        """What the host still knows of modules."""
        loader = self.world.host._parts.loader
        placement, desk = loader._placement, loader._desk
        tables = [loader.modules, loader._wanted, loader._orders, loader._loading, loader._unloading]
        tables += [
            loader._leaving,
            loader._supervisor._watch._looks,
            loader._tasks,
            loader._revival._lives,
            desk._held,
        ]
        tables += [placement._places, placement._callers, placement._entering, placement._lost]
        return [table for table in tables if table]


STEP = {"a": "init", "b": "dispose", "c": "stop processes"}
WORSE = [*WHAT, "cancel", "hang", "swell", "overdue", "hold", "let_go", "few_turns"]
WORSE_STEPS = st.lists(st.tuples(st.sampled_from(WORSE), st.sampled_from("abc")), max_size=50)


@BOTH
@settings(deadline=None)
@given(steps=WORSE_STEPS)
@example(steps=[("hold", "a"), ("load", "a"), ("few_turns", "c"), ("hang", "a")])
@example(
    steps=[
        ("load", "a"),
        ("few_turns", "c"),
        ("hang", "a"),
        ("turn", "b"),
        ("few_turns", "c"),
        ("swell", "a"),
    ]
)
async def test_a_worse_storm(tmp_path_factory, isolation, steps):
    """Whoever waits is told, and when all modules are unloaded nothing is known of them any more."""
    world = World(tmp_path_factory.mktemp("app"), isolation, POLICY)
    storm = WorseStorm(world)
    async with world.host:
        for what, code in steps:
            await getattr(storm, what)(code)
        await storm.calm()
        for module in list(world.host.modules.values()):
            await module.unload()
        await until(world, lambda: len(world.alive) <= 1)  # the spare
        await world.clock.turn(4)  # looks at modules that are gone
        assert storm.left() == []
        assert len(world.host.gateway._peers) <= 1
    assert world.clock.waiting == 0
    assert not world.alive
