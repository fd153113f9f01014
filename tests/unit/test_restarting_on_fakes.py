"""Modules that come back after they went down, on fakes and a clock that the test turns."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Coroutine
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coredeno import ModuleState, RestartPolicy, events
from coredeno.errors import (
    CoreDenoError,
    IntegrityError,
    PermissionDenied,
    PluginCrashed,
    PluginTimeout,
    RestartLimitReached,
    SidecarError,
    SidecarExited,
    UsageError,
)
from coredeno.testing import MemorySource
from tests.worlds import BOTH, NET, World, exited, say

POLICY = RestartPolicy(first_delay_s=1, longest_delay_s=8, jitter=0, budget=2, window_s=100, stable_s=50)


@pytest.fixture
def reviving(world_of):
    """Worlds whose hosts bring modules back."""
    return partial(world_of, restart=POLICY)


async def crash(world, module):
    world.sidecar_of(module).kill(-5)
    await world.settle()


async def until(world, condition):
    """Wait for what threads do meanwhile, such as copying files: no clock turns them."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)
            await world.settle()


async def back(world, module, after_s):
    """Let so much time pass, and the module come up."""
    await world.clock.turn(after_s)
    await until(world, lambda: module.state is ModuleState.RUNNING)


async def failed(world, module, after_s):
    """Let so much time pass, and an attempt to bring the module up fail."""
    former = module.error
    await world.clock.turn(after_s)
    await until(world, lambda: module.error is not former)


@BOTH
async def test_a_module_that_went_down_comes_back(reviving, isolation):
    """The same module, in a new sidecar, with all that it had; everybody is told of each step."""
    world = await reviving(isolation)
    module = await world.load("a", config={"key": "value"})
    former = world.sidecar_of(module)
    await world.heard()
    await crash(world, module)
    assert module.state is ModuleState.RESTARTING
    assert isinstance(module.error, PluginCrashed)
    assert former not in world.alive
    await world.clock.turn(0.99)
    assert module.state is ModuleState.RESTARTING
    await back(world, module, 0.01)
    assert (module.state, module.error, module.restarts) == (ModuleState.RUNNING, None, 1)
    assert world.host.modules["a"] is module
    assert await module.call("settings") == {"key": "value"}
    assert await module.call("echo", 1) == [1]
    heard = [event for event in await world.heard() if not isinstance(event, events.SidecarKilled)]
    assert [type(event).__name__ for event in heard] == ["ModuleCrashed", "ModuleRestarting", "ModuleStarted"]
    assert heard[1] == events.ModuleRestarting(module="a", delay_s=1, attempt=1)
    assert world.hook.heard[-2:] == [("crashed", "a", "PluginCrashed"), ("started", "a", "RUNNING")]


@BOTH
async def test_calls_wait_for_it(reviving, isolation):
    """Those under way fail, those that come meanwhile wait until it is up, within their own deadline."""
    world = await reviving(isolation)
    module = await world.load()
    under_way = asyncio.create_task(module.call("hang", 1))
    await world.settle()
    await crash(world, module)
    with pytest.raises(PluginCrashed):
        await under_way
    waiting = [asyncio.create_task(module.call("echo", number)) for number in range(3)]
    too_short = asyncio.create_task(module.call("echo", 9, timeout_s=0.5))
    await world.clock.turn(0.6)
    with pytest.raises(PluginTimeout) as caught:
        await too_short
    assert isinstance(caught.value.__cause__, PluginCrashed)
    await back(world, module, 0.4)
    assert await asyncio.gather(*waiting) == [[0], [1], [2]]


async def test_a_call_that_waits_has_what_is_left_of_its_time(reviving):
    """The deadline is the call's, however long it waited for the module."""
    world = await reviving()
    module = await world.load()
    await crash(world, module)
    call = asyncio.create_task(module.call("context", timeout_s=3))
    await back(world, module, 1)
    deadline_ms, _trace = await call
    assert deadline_ms == pytest.approx(2000)


async def test_calls_that_wait_keep_within_the_slots(reviving):
    """However many wait, the module has as many at once as it may; one that is cancelled takes none."""
    world = await reviving(calls_in_flight=2)
    module = await world.load()
    await crash(world, module)
    calls = [asyncio.create_task(module.call("hang", number)) for number in range(5)]
    await world.settle()
    calls[0].cancel()
    await back(world, module, 1)
    await world.settle()
    assert len(world.running) == 2
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await world.settle()
    assert await module.call("echo", 1) == [1]


@BOTH
async def test_a_budget_that_is_spent(reviving, isolation):
    """It is put into quarantine, with the reason; calls fail at once, those that waited too; the app may release it."""
    world = await reviving(isolation)
    module = await world.load(config={"key": 1})
    for wait_s in (1, 2):
        await crash(world, module)
        await back(world, module, wait_s)
    await crash(world, module)
    assert module.state is ModuleState.QUARANTINED
    error = module.error
    assert isinstance(error, RestartLimitReached)
    assert (error.module, error.restarts, error.window_s) == ("a", 2, 100)
    assert isinstance(error.__cause__, PluginCrashed)
    assert isinstance(error.__cause__.__cause__, SidecarExited)
    assert "out of memory" in str(error)
    assert world.hook.heard[-2:] == [
        ("crashed", "a", "PluginCrashed"),
        ("quarantined", "a", "RestartLimitReached"),
    ]
    assert [type(event) for event in await world.heard()][-1] is events.ModuleQuarantined
    with pytest.raises(PluginCrashed, match="it is down: a: not started again"):
        await module.call("echo", 1)
    await world.clock.turn(1000)
    assert module.state is ModuleState.QUARANTINED

    released = await world.host.release("a")
    assert released is world.host.modules["a"]
    assert (released.state, released.restarts) == (ModuleState.RUNNING, 0)
    assert await released.call("settings") == {"key": 1}
    await crash(world, released)
    assert released.state is ModuleState.RESTARTING


async def test_what_cannot_be_released(reviving):
    """Only what is in quarantine."""
    world = await reviving()
    await world.load()
    with pytest.raises(UsageError, match="release: module 'a' is RUNNING, wanted QUARANTINED"):
        await world.host.release("a")
    with pytest.raises(UsageError, match="release: module 'none' is not loaded, wanted QUARANTINED"):
        await world.host.release("none")


async def test_a_release_that_fails(reviving):
    """It is loaded as by `load`: what it raises is raised, and it is down again."""
    world = await reviving(restart=RestartPolicy(budget=0))
    module = await world.load()
    await crash(world, module)
    assert module.state is ModuleState.QUARANTINED
    world.faults["init"] = ValueError("still broken")
    with pytest.raises(Exception, match="still broken"):
        await world.host.release("a")
    assert world.host.modules["a"].state is ModuleState.ERRORED


async def test_a_module_that_was_stable_begins_anew(reviving):
    """Three times in an hour is no reason to give it up."""
    world = await reviving()
    module = await world.load()
    for _ in range(5):
        await crash(world, module)
        await back(world, module, 1)
        await world.clock.turn(50)
    assert module.restarts == 5


async def test_an_init_that_fails_at_a_restart(reviving):
    """It is tried again, later, within the budget; each failure is told."""
    world = await reviving()
    module = await world.load()
    world.faults["init"] = ValueError("no")
    await crash(world, module)
    await world.heard()
    await failed(world, module, 1)
    assert module.state is ModuleState.RESTARTING
    assert [type(event).__name__ for event in await world.heard()] == ["ModuleCrashed", "ModuleRestarting"]
    del world.faults["init"]
    await back(world, module, 2)
    await crash(world, module)
    assert module.state is ModuleState.QUARANTINED


async def test_a_sidecar_that_cannot_be_launched_at_a_restart(reviving):
    """It is no module's fault: it is tried for as long as it takes, and costs nothing of the budget."""
    world = await reviving()
    module = await world.load()
    launch = world.launcher.launch

    async def fail(_order, _door):
        raise SidecarExited(reason="no process left", exit_code=None)

    world.launcher.launch = fail
    await crash(world, module)
    for wait_s in (1, 2, 4, 8, 8, 8):
        await failed(world, module, wait_s)
    assert module.state is ModuleState.RESTARTING
    assert "no process left" in str(module.error)
    world.launcher.launch = launch
    await back(world, module, 8)
    await crash(world, module)
    assert module.state is ModuleState.RESTARTING
    await back(world, module, 8)
    await crash(world, module)
    assert module.state is ModuleState.QUARANTINED


@BOTH
async def test_nothing_is_kept_of_a_sidecar_that_did_not_come_up(reviving, isolation):
    """Nor of why, once whoever asked for it was told: an error holds all through which it came."""
    world = await reviving(isolation)
    supervisor = world.host._parts.supervisor

    async def fail(_order, _door):
        raise SidecarExited(reason="no process left", exit_code=None)

    await supervisor._spare
    world.launcher.launch = fail
    await (await world.load("a")).unload()  # takes the spare
    for code in "bc":
        with pytest.raises(SidecarExited):
            await world.load(code, group=code)
    assert supervisor._shared == {}


async def test_no_room_for_its_files(reviving):
    """A disk that is full is no module's fault either, wherever the room is missing."""

    class Unlucky(MemorySource):
        has_room = True

        async def copy_to(self, folder: Path) -> None:
            if not self.has_room:
                raise SidecarError("copy of the plugin: cannot be written: No space left on device")
            await super().copy_to(folder)

    world = await reviving()
    source = Unlucky("code: a\nversion: 1.0\n")
    module = await world.host.load_source(source)
    source.has_room = False
    await crash(world, module)
    for wait_s in (1, 2, 4, 8, 8):
        await failed(world, module, wait_s)
    assert module.state is ModuleState.RESTARTING
    source.has_room = True
    await back(world, module, 8)


async def test_a_spare_for_which_there_was_no_room(reviving):
    """What went wrong with the spare is not told to the next module: by then there may be room again."""
    world = await reviving()
    module = await world.load()
    (run,) = (world.root / ".core" / "run").iterdir()
    loader = world.host._parts.loader
    await loader._supervisor._spare
    aside = run.with_name("aside")
    run.rename(aside)
    await (await world.load("b")).unload()  # takes the spare, and so a new one is begun
    await asyncio.wait([loader._supervisor._spare])
    assert isinstance(loader._supervisor._spare.exception(), SidecarError)
    shutil.rmtree(run, ignore_errors=True)
    aside.rename(run)
    assert await (await world.load("c")).call("echo", 1) == [1]
    assert await module.call("echo", 1) == [1]


async def test_files_that_are_not_what_they_were(reviving):
    """They would not be on the next attempt either: quarantine at once, whatever is left of the budget."""

    class Tampered(MemorySource):
        is_whole = True

        async def copy_to(self, folder: Path) -> None:
            if not self.is_whole:
                raise IntegrityError("main.ts", expected="x", actual="y")
            await super().copy_to(folder)

    world = await reviving()
    source = Tampered("code: a\nversion: 1.0\n")
    module = await world.host.load_source(source)
    source.is_whole = False
    await crash(world, module)
    await failed(world, module, 1)
    assert module.state is ModuleState.QUARANTINED
    assert isinstance(module.error, IntegrityError)
    source.is_whole = True
    assert (await world.host.release("a")).state is ModuleState.RUNNING


@BOTH
async def test_a_worker_that_ends_by_itself(reviving, isolation):
    """Its module alone comes back, within its budget where it is alone; a neighbour has noticed nothing."""
    world = await reviving(isolation)
    module, other = await world.load("a"), await world.load("b")
    if isolation == "worker":  # a neighbour may have said it
        say(world.sidecar_of(module), exited(b"a"))
        await back(world, module, 0)
        assert world.sidecar_of(module) is not world.sidecar_of(other)
    for wait_s in (1, 2):
        say(world.sidecar_of(module), exited(b"a"))
        await world.settle()
        assert module.state is ModuleState.RESTARTING
        assert await other.call("echo", 1) == [1]
        await back(world, module, wait_s)
        assert await module.call("echo", 1) == [1]
    say(world.sidecar_of(module), exited(b"a"))
    await world.settle()
    assert module.state is ModuleState.QUARANTINED
    assert (other.state, other.restarts) == (ModuleState.RUNNING, 0)


async def test_an_end_that_a_neighbour_tells_of(reviving):
    """However often it says so, and though it was unloaded meanwhile: it costs nobody else any of his budget."""
    world = await reviving("worker")
    modules = {code: await world.load(code) for code in "abc"}
    teller = world.sidecar_of(modules["a"])
    for _ in range(5):
        say(teller, exited(b"b"))
        await back(world, modules["b"], 0)
    assert modules["b"].restarts == 1
    await modules["a"].unload()
    say(teller, exited(b"c"))  # by what it has left behind
    await back(world, modules["c"], 0)
    assert modules["c"].restarts == 1
    assert len({world.sidecar_of(modules[code]) for code in "bc"}) == 2


@BOTH
async def test_a_hang_that_a_neighbour_tells_of(reviving, isolation):
    """Where several modules share a sidecar, its word names nobody; alone, a module pays for its own hang."""
    world = await reviving(isolation)
    modules = [await world.load(code) for code in "ab"]

    async def ping(_sidecar, _params):
        return {"modules": {"b": {"busy_ms": 99_999}}, "heap_bytes": 0, "rss_bytes": 0}

    def lie():
        for sidecar in world.alive:
            sidecar._METHODS = {**sidecar._METHODS, "Ping": ping}

    waits = [1, 2] if isolation == "process" else [0, 1, 2]
    for wait_s in waits:
        lie()
        await world.clock.turn(5)
        await back(world, modules[1], wait_s)
        assert len({world.sidecar_of(module) for module in modules}) == 2
    lie()
    await world.clock.turn(5)
    assert [module.state.value for module in modules] == ["RUNNING", "QUARANTINED"]
    assert modules[0].restarts == len(waits) - 2


async def test_nobody_can_say_whose_fault_it_was(reviving):
    """Each module of the sidecar comes back at once, alone, at no cost; the guilty one shows itself then."""
    world = await reviving("worker")
    modules = [await world.load(code) for code in "abc"]
    await crash(world, modules[0])
    for module in modules:
        await back(world, module, 0)
    assert len({world.sidecar_of(module) for module in modules}) == 3
    for wait_s in (1, 2):
        await crash(world, modules[1])
        await back(world, modules[1], wait_s)
    await crash(world, modules[1])
    assert [module.state.value for module in modules] == ["RUNNING", "QUARANTINED", "RUNNING"]
    assert [module.restarts for module in modules] == [1, 3, 1]


async def test_a_module_that_is_to_blame(reviving):
    """It is named by the error: the others come back at once, together, at no cost."""
    world = await reviving("worker")
    guilty, other = await world.load("a"), await world.load("b")
    for number in range(3):
        place = world.host._parts.loader._placement.place_of(guilty)
        place.sidecar.broken(SidecarExited(reason="hangs", exit_code=None, cause="hang", module="a"))
        await back(world, other, 0)
        assert other.restarts == number + 1
        if number < 2:
            await back(world, guilty, 4)
            assert world.sidecar_of(guilty) is world.sidecar_of(other)
    assert guilty.state is ModuleState.QUARANTINED


async def test_a_neighbour_that_does_not_end(reviving):
    """What an unload costs its neighbours is not their fault."""
    world = await reviving("worker")
    stubborn, other = await world.load("a"), await world.load("b")
    world.hold("dispose")
    unloading = asyncio.create_task(stubborn.unload())
    await world.clock.turn(5)
    await unloading
    await back(world, other, 0)
    assert other.restarts == 1
    assert await other.call("echo", 1) == [1]


@BOTH
@pytest.mark.parametrize("after_s", [0, 0.5, 1])
async def test_unloading_one_that_restarts(reviving, isolation, after_s):
    """While it waits and while it loads: it is gone, whoever waits for it is told, and nothing comes back."""
    world = await reviving(isolation)
    module = await world.load()
    await crash(world, module)
    waiting = asyncio.create_task(module.call("echo", 1))
    reached = world.hold("init")
    await world.clock.turn(after_s)
    if after_s == 1:
        await reached.wait()
    assert module.state is ModuleState.RESTARTING
    await module.unload()
    assert module.state is ModuleState.STOPPED
    with pytest.raises(PluginCrashed, match="it was unloaded"):
        await waiting
    assert "a" not in world.host.modules
    assert world.hook.heard[-1][:2] == ("stopped", "a")
    world.release("init")
    await world.clock.turn(100)
    again = await world.load()
    assert await again.call("echo", 1) == [1]


async def test_another_cannot_take_its_place(reviving):
    """A module that comes back is there."""
    world = await reviving()
    module = await world.load()
    await crash(world, module)
    with pytest.raises(UsageError, match="module 'a' is RESTARTING already"):
        await world.load()
    await back(world, module, 1)


@BOTH
async def test_stopping_the_host_while_modules_restart(reviving, isolation):
    """Nothing is left, wherever they were."""
    world = await reviving(isolation)
    modules = [await world.load(code) for code in "abc"]
    world.hold("init")
    for module in modules:
        if module.state is ModuleState.RUNNING:
            await crash(world, module)
    await world.clock.turn(1)
    await world.host.stop()
    assert [module.state for module in modules] == [ModuleState.STOPPED] * 3


async def test_what_was_taken_from_it_does_not_come_back(reviving):
    """A module cannot get a permission back by going down, nor one that is taken back while it is down."""
    world = await reviving()
    module = await world.load("a", "permissions: {read: [data], write: [data]}")
    assert await module.call("read", "data/a") == b"content"
    await world.host.revoke("a", "files.read")
    await crash(world, module)
    await world.host.revoke("a", "files.write")
    await back(world, module, 1)
    assert (module.grants.read, module.grants.write) == ((), ())
    with pytest.raises(Exception, match="was refused"):
        await module.call("read", "data/a")
    granted = [event for event in await world.heard() if isinstance(event, events.PermissionGranted)]
    assert len(granted) == 2  # at its load, and never again


async def test_taking_its_network_while_it_is_down(reviving):
    """It does not come back: what it may reach was fixed at its load."""
    world = await reviving()
    module = await world.load("a", NET)
    await crash(world, module)
    await world.host.revoke("a", "net")
    assert module.state is ModuleState.STOPPED
    await world.clock.turn(100)
    assert "a" not in world.host.modules


async def test_clients_of_the_app_keep_their_tokens(reviving):
    """A token that was issued for a module is good until it is unloaded, restarts or not."""
    world = await reviving()
    module = await world.load()
    gateway = world.host.gateway
    token = gateway.issue_token("a")
    await crash(world, module)
    assert gateway.peer(token).caller("a").code == "a"
    await back(world, module, 1)
    assert gateway.peer(token).caller("a").code == "a"
    await module.unload()
    with pytest.raises(PermissionDenied):
        gateway.peer(token)


class Storm:
    """What may happen to the modules of a host, one thing after the other."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.pending: list[asyncio.Task[object]] = []

    async def turn(self, code: str) -> None:
        await self.world.clock.turn({"a": 0.3, "b": 1, "c": 5}[code])

    async def load(self, code: str) -> None:
        self.begin(self.world.load(code))

    async def unload(self, code: str) -> None:
        module = self.world.host.modules.get(code)
        if module is not None:
            self.begin(module.unload())

    async def call(self, code: str) -> None:
        module = self.world.host.modules.get(code)
        if module is not None:
            self.begin(module.call("echo", 1, timeout_s=2))

    async def release(self, code: str) -> None:
        self.begin(self.world.host.release(code))

    async def crash(self, code: str) -> None:
        if self.is_running(code):
            self.world.sidecar_of(self.world.host.modules[code]).kill()

    async def exit(self, code: str) -> None:
        if self.is_running(code):
            say(self.world.sidecar_of(self.world.host.modules[code]), exited(code.encode()))

    async def fail_init(self, code: str) -> None:
        self.world.faults["init"] = ValueError("no")
        await self.turn(code)
        del self.world.faults["init"]

    def is_running(self, code: str) -> bool:
        module = self.world.host.modules.get(code)
        placement = self.world.host._parts.loader._placement
        # One that is being unloaded may have left its sidecar already.
        return (
            module is not None
            and module.state is ModuleState.RUNNING
            and placement.place_of(module) is not None
        )

    def begin(self, work: Coroutine[object, object, object]) -> None:
        self.pending.append(asyncio.create_task(work))

    async def ended(self) -> list[object]:
        """What all that was begun has come to, when the longest deadline is over."""
        await self.world.clock.turn(40)
        async with asyncio.timeout(10):
            return await asyncio.gather(*self.pending, return_exceptions=True)

    async def rest(self) -> None:
        """Wait until no module is on its way."""
        on_the_way = {ModuleState.RESTARTING, ModuleState.LOADING}
        modules = self.world.host.modules
        while {module.state for module in modules.values()} & on_the_way:
            await asyncio.sleep(0.001)
            await self.world.clock.turn(1)


WHAT = ["turn", "turn", "load", "unload", "call", "release", "crash", "crash", "exit", "fail_init"]
STEPS = st.lists(st.tuples(st.sampled_from(WHAT), st.sampled_from("abc")), max_size=40)


@BOTH
@settings(deadline=None)
@given(steps=STEPS)
async def test_a_storm(tmp_path_factory, isolation, steps):
    """Whatever happens in whatever order: every call ends typed, no module has two sidecars, and nothing is left."""
    world = World(tmp_path_factory.mktemp("app"), isolation, POLICY)
    storm = Storm(world)
    async with world.host:
        for what, code in steps:
            await getattr(storm, what)(code)
        for outcome in await storm.ended():
            assert not isinstance(outcome, BaseException) or isinstance(outcome, CoreDenoError)
        async with asyncio.timeout(10):
            await storm.rest()
        modules = world.host.modules.values()
        up = [module for module in modules if module.state is ModuleState.RUNNING]
        for module in up:
            assert await module.call("echo", 1) == [1]
        homes = {world.sidecar_of(module)._order.name for module in up}
        assert isolation == "worker" or len(homes) == len(up)
        assert len(world.alive) - len(homes) in (0, 1)  # and the spare
    assert world.clock.waiting == 0
    assert not world.alive
