"""A host's life on fakes: it starts whole or not at all, stops in order, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from coredeno import Context, Hooks, HostConfig, ModuleState, PluginHost, Policy, Service, rpc
from coredeno.errors import (
    DenoNotFound,
    ManifestError,
    PluginCrashed,
    SidecarExited,
    StoreError,
    UsageError,
)
from coredeno.events import ModuleStarted, ModuleStopped, SidecarKilled
from coredeno.testing import (
    FakeLauncher,
    FakeProcesses,
    MemoryFiles,
    MemoryListener,
    MemorySource,
    MemoryStore,
    TurnedClock,
)
from tests.hosts import assert_unused, nothing_left


class Calm:
    """A plugin that does nothing, and one function that never ends."""

    async def hang(self):
        await asyncio.Event().wait()


class Slow:
    """A plugin whose `init` takes as long as the test wants."""

    def __init__(self, world):
        self._world = world

    async def init(self, core):
        await self._world.step("init")


class World:
    """A host whose parts note what is done with them, fail where they shall, and wait where they shall."""

    def __init__(self, root: Path, *, isolation="process", hooks=(), services=()):
        self.log: list[str] = []
        self.faults: dict[str, BaseException] = {}
        self.held: dict[str, asyncio.Event] = {}
        self.reached: dict[str, asyncio.Event] = {}
        self.clock = TurnedClock()
        self.root = root
        self.launcher = Launcher(self)
        self.backend = Store(self)
        self.host = PluginHost(
            root,
            hooks=hooks,
            services=services,
            config=HostConfig(allow_unsigned=True, isolation=isolation, policy=Policy()),
            store=self.backend,
            files=MemoryFiles(),
            processes=Processes(self),
            launcher=self.launcher,
            listener=Listener(self),
            clock=self.clock,
        )

    async def step(self, name):
        self.log.append(name)
        self.reached.setdefault(name, asyncio.Event()).set()
        if name in self.held:
            await self.held[name].wait()
        if name in self.faults:
            raise self.faults[name]

    def hold(self, name):
        self.held[name] = asyncio.Event()
        return self.reached.setdefault(name, asyncio.Event())

    @property
    def alive(self):
        return [sidecar for sidecar in self.launcher.sidecars if not sidecar._exit.done()]

    async def load(self, code="a"):
        return await self.host.load_source(MemorySource(f"code: {code}"))


class Store(MemoryStore):
    def __init__(self, world):
        super().__init__()
        self.world = world

    async def open(self, folder):
        await self.world.step("open store")
        await super().open(folder)

    async def aclose(self):
        await super().aclose()
        await self.world.step("close store")


class Processes(FakeProcesses):
    def __init__(self, world):
        super().__init__({})
        self.world = world

    async def stop_all(self, owner=None):
        await super().stop_all(owner)
        if owner is None:
            await self.world.step("stop processes")


class Listener(MemoryListener):
    def __init__(self, world):
        self.world = world

    def bind(self, socket):
        self.world.log.append("bind")
        assert len(str(socket)) < 100
        if "bind" in self.world.faults:
            raise self.world.faults["bind"]

    async def prepare(self):
        await self.world.step("prepare")

    async def serve(self, gateway):
        await self.world.step("serve")

    async def aclose(self):
        await self.world.step("close listener")


class Launcher(FakeLauncher):
    def __init__(self, world):
        super().__init__({"a": Calm, "b": Calm, "slow": lambda: Slow(world)})
        self.world = world

    async def launch(self, order, door):
        await self.world.step("launch")
        return await super().launch(order, door)


OPENING = {"bind", "open store", "prepare", "serve", "launch"}
CLOSING = ["close listener", "stop processes", "close store"]


@pytest.fixture
async def made(tmp_path):
    """Makes worlds; stops their hosts, so that a test that failed leaves nothing behind."""
    worlds = []

    def make(name="app", **options):
        worlds.append(World(tmp_path / name, **options))
        return worlds[-1]

    yield make
    for world in worlds:
        world.faults.clear()
        for event in world.held.values():
            event.set()
        await world.host.stop()


BOTH = pytest.mark.parametrize("isolation", ["process", "worker"])


# --- start and stop


@BOTH
async def test_a_life(made, isolation):
    """Everything is opened, and closed in the reverse order; afterwards the root is as it was."""
    world = made(isolation=isolation)
    async with nothing_left(world.root):
        async with world.host as host:
            assert set(world.log) == OPENING
            assert len(world.alive) == 1
            assert host.socket.name == "core.sock"
            assert host.socket.parent.stat().st_mode & 0o777 == 0o700
            await world.load()
            assert await host.store.get("g", "k", "none") == "none"
        assert world.log[-3:] == CLOSING
        assert world.alive == []
        assert host.modules == {}
        assert world.clock.waiting == 0
    assert_unused(world.root)


async def test_the_root_is_made(made, tmp_path):
    """A missing root is no mistake."""
    world = made("far/away")
    async with world.host:
        assert (tmp_path / "far" / "away" / ".core").stat().st_mode & 0o777 == 0o700


async def test_a_root_that_cannot_be_made(made, tmp_path):
    """A file in its place is a `UsageError` that names it."""
    (tmp_path / "app").write_text("a file")
    world = made()
    async with nothing_left(tmp_path):
        with pytest.raises(UsageError, match="cannot be used"):
            await world.host.start()
    assert world.log == []


async def test_one_host_a_root(made):
    """A second one is refused, and the first goes on; after its end the root is free."""
    first, second, third = made(), made(), made()
    async with first.host:
        with pytest.raises(UsageError, match="in use by another host"):
            await second.host.start()
        assert second.log == []
        await first.load()
        assert first.host.socket.parent.is_dir()
    async with third.host:
        assert len(third.alive) == 1


async def test_a_host_starts_once(made):
    """While it runs, and after it has stopped."""
    world = made()
    async with world.host:
        with pytest.raises(UsageError, match="was started before"):
            await world.host.start()
        assert len(world.alive) == 1
    with pytest.raises(UsageError, match="was started before"):
        await world.host.start()


async def test_what_a_host_has_before_its_start_and_after_its_end(made):
    """Before: nothing, and errors that say so; after: no loads, no modules."""
    world = made()
    host = world.host
    assert host.modules == {}
    assert host.name == ""
    for read in (lambda: host.store, lambda: host.gateway, lambda: host.socket):
        with pytest.raises(UsageError, match="wanted after start"):
            read()
    with pytest.raises(UsageError, match="the host does not run"):
        await world.load()
    await host.stop()
    async with host:
        assert host.modules == {}
    with pytest.raises(UsageError, match="the host does not run"):
        await world.load()
    with pytest.raises(UsageError):
        host.socket  # noqa: B018 - reading it is the test


async def test_unsigned_plugins_need_a_word_of_the_app(tmp_path):
    """Without `allow_unsigned` a folder is not loaded."""
    async with PluginHost(
        tmp_path / "app", store=MemoryStore(), launcher=FakeLauncher({}), listener=MemoryListener()
    ) as host:
        with pytest.raises(UsageError, match=r"allow_unsigned=True"):
            await host.load_path(tmp_path)


async def test_the_apps_own_manifest(made):
    """It names the app, and is a ceiling over all plugins."""
    world = made()
    (world.root / ".core").mkdir(parents=True)
    (world.root / ".core" / "view.yml").write_text("code: app\nname: My app\npermissions: {read: [data]}\n")
    async with world.host as host:
        assert host.name == "My app"
        source = MemorySource("code: a\npermissions: {read: [data/in, other]}")
        with pytest.raises(PermissionError, match="other"):
            await host.load_source(source)
        module = await host.load_source(MemorySource("code: a\npermissions: {read: [data/in]}"))
        assert module.grants.read == ("data/in",)


async def test_events_end_with_the_host(made):
    """Whoever listens hears everything up to the end, also what the end itself brings."""
    world = made()
    listener = world.host.events()
    async with world.host:
        await world.load()
    # The spare may be killed while it comes up, or be up already.
    heard = [event async for event in listener if not isinstance(event, SidecarKilled)]
    assert [type(event) for event in heard] == [ModuleStarted, ModuleStopped]
    assert heard[1].reason == "the host stops"
    assert [event async for event in world.host.events()] == []


async def test_services_of_the_app(made):
    """Those that were given, and those that hooks register; after the start it is too late."""

    class One(Service, name="one"):
        @rpc
        async def f(self, ctx: Context) -> str:
            return ctx.module

    class Two(One, name="two"):
        pass

    class Registering(Hooks):
        async def register_services(self, services):
            self.services = services
            services.add(Two())

    hook = Registering()
    world = made(services=[One()], hooks=[hook, Hooks()])
    async with world.host as host:
        module = await host.load_source(MemorySource("code: a\nservices: {one: [], two: []}"))
        assert set(module.grants.services) == {"one", "two"}
        with pytest.raises(UsageError, match="the host has started"):
            hook.services.add(One())


@pytest.mark.parametrize("hook", [Hooks, object(), None])
def test_hooks_are_instances(hook, tmp_path):
    """A class, or anything else, is a mistake that shows at once."""
    with pytest.raises(UsageError, match="wanted instances of Hooks"):
        PluginHost(tmp_path, hooks=[hook])


def test_services_are_instances(tmp_path):
    """So are services."""
    with pytest.raises(UsageError, match="wanted an instance of a Service subclass"):
        PluginHost(tmp_path, services=[object()])


# --- a start that fails


class Odd(Exception):
    """An exception that is none of ours."""


FAULTS = [
    ("open store", StoreError("corrupt")),
    ("open store", Odd("a bug in the app's own store")),
    ("bind", UsageError("the socket cannot be made")),
    ("prepare", Odd("an import failed")),
    ("serve", Odd("cannot listen")),
    ("launch", DenoNotFound("there is none")),
    ("launch", SidecarExited(reason="it could not be started", exit_code=1)),
]


@BOTH
@pytest.mark.parametrize(
    ("step", "error"), FAULTS, ids=lambda case: case if isinstance(case, str) else type(case).__name__
)
async def test_a_start_that_fails_at_a_step(made, isolation, step, error):
    """The error is told; what was opened is closed, in order, and once; the root is free again."""
    world = made(isolation=isolation)
    world.faults[step] = error
    async with nothing_left(world.root):
        with pytest.raises(type(error)) as caught:
            await world.host.start()
        assert caught.value is error
        assert world.log[-3:] == CLOSING
        assert [name for name in world.log if name not in OPENING] == CLOSING
        assert world.alive == []
        await world.host.stop()
        assert [name for name in world.log if name not in OPENING] == CLOSING
        with pytest.raises(UsageError, match="the host does not run"):
            await world.load()
        assert world.clock.waiting == 0
    async with made().host:
        pass


class Failing(Hooks):
    def __init__(self, error):
        self.error = error

    async def register_services(self, services):
        raise self.error


@pytest.mark.parametrize("error", [Odd("a bug"), UsageError("wrong")])
async def test_a_hook_that_cannot_register(made, error):
    """It ends the start before anything was opened."""
    world = made(hooks=[Failing(error)])
    async with nothing_left(world.root):
        with pytest.raises(type(error)):
            await world.host.start()
        assert world.log == []
    async with made().host:
        pass


async def test_a_service_that_is_wrong(made):
    """So does a service that cannot be registered."""

    class Registering(Hooks):
        async def register_services(self, services):
            services.add(Service())

    world = made(hooks=[Registering()])
    with pytest.raises(UsageError, match="its name is ''"):
        await world.host.start()
    assert world.log == []


@pytest.mark.parametrize("text", ["code: [", "permissions: {}", "code: a\ncolour: red"])
async def test_an_own_manifest_that_is_wrong(made, text):
    """It ends the start; the error names the file."""
    world = made()
    (world.root / ".core").mkdir(parents=True)
    (world.root / ".core" / "view.yml").write_text(text)
    async with nothing_left(world.root):
        with pytest.raises(ManifestError, match=r"\.core/view\.yml"):
            await world.host.start()
    assert world.log == []


async def test_two_steps_that_fail(made):
    """One error is told, and all is closed once."""
    world = made()
    world.faults = {"open store": StoreError("corrupt"), "launch": DenoNotFound("none")}
    async with nothing_left(world.root):
        with pytest.raises((StoreError, DenoNotFound)):
            await world.host.start()
        assert [name for name in world.log if name not in OPENING] == CLOSING


@pytest.mark.parametrize("step", ["open store", "prepare", "serve", "launch"])
async def test_a_start_that_is_cancelled_at_a_step(made, step):
    """It is undone before the cancellation goes on."""
    world = made()
    reached = world.hold(step)
    async with nothing_left(world.root):
        starting = asyncio.create_task(world.host.start())
        await reached.wait()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert world.log[-3:] == CLOSING
        assert world.alive == []


@pytest.mark.parametrize("step", ["open store", "serve", "launch"])
async def test_a_stop_while_the_host_starts(made, step):
    """The start ends with an error that says so, and all is undone."""
    world = made()
    reached = world.hold(step)
    async with nothing_left(world.root):
        starting = asyncio.create_task(world.host.start())
        await reached.wait()
        await world.host.stop()
        assert world.alive == []
        assert [name for name in world.log if name not in OPENING] == CLOSING
        with pytest.raises(UsageError, match="was stopped meanwhile"):
            await starting


@pytest.mark.parametrize("how", ["cancel", "stop"])
@BOTH
async def test_a_start_that_ends_at_any_moment(made, how, isolation):
    """Wherever it was: nothing is left, and the next host can use the root."""
    for turns in range(0, 60, 3):
        world = made(isolation=isolation)
        async with nothing_left(world.root):
            starting = asyncio.create_task(world.host.start())
            for _ in range(turns):
                await (
                    asyncio.to_thread(int) if turns % 2 else asyncio.sleep(0)
                )  # a turn, or time for a thread
            if how == "cancel":
                starting.cancel()
            else:
                await world.host.stop()
            await asyncio.gather(starting, return_exceptions=True)
            await world.host.stop()
            assert world.alive == []
            assert sum(name == "close store" for name in world.log) <= 1


# --- a stop that is disturbed


async def test_stops_at_once(made):
    """Many who stop wait for the same stop."""
    world = made()
    await world.host.start()
    await world.load()
    await asyncio.gather(*(world.host.stop() for _ in range(3)))
    await world.host.stop()
    assert [name for name in world.log if name not in OPENING] == CLOSING


async def test_a_stop_that_is_cancelled(made):
    """It finishes first; the cancellation comes after."""
    world = made()
    await world.host.start()
    reached = world.hold("stop processes")
    stopping = asyncio.create_task(world.host.stop())
    await reached.wait()
    for _ in range(3):
        stopping.cancel()
        await asyncio.sleep(0)
    assert not stopping.done()
    world.held["stop processes"].set()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert world.log[-3:] == CLOSING


@pytest.mark.parametrize("step", CLOSING)
@pytest.mark.parametrize("error", [Odd("a bug"), StoreError("the disk is full"), TimeoutError("slow")])
async def test_a_part_that_cannot_be_closed(made, step, error, caplog):
    """It is logged by name, and the other steps are done all the same."""
    world = made()
    async with nothing_left(world.root):
        await world.host.start()
        world.faults[step] = error
        with caplog.at_level(logging.ERROR, "coredeno.host"):
            await world.host.stop()
        assert world.log[-3:] == CLOSING
        assert len(caplog.records) == 1
        assert caplog.records[0].getMessage().startswith("stop: ")


@pytest.mark.parametrize("step", CLOSING)
async def test_a_part_that_hangs(made, step, caplog):
    """Each step has its own deadline; after it the next is done."""
    world = made()
    async with nothing_left(world.root):
        await world.host.start()
        reached = world.hold(step)
        stopping = asyncio.create_task(world.host.stop())
        await reached.wait()
        with caplog.at_level(logging.ERROR, "coredeno.host"):
            await world.clock.turn(5)
            await stopping
        assert world.log[-3:] == CLOSING
        assert "not done after 5 s" in caplog.text
        assert world.clock.waiting == 0


@BOTH
async def test_a_stop_while_calls_run(made, isolation):
    """Calls end at once, with `PluginCrashed`; the modules are STOPPED."""
    world = made(isolation=isolation)
    async with nothing_left(world.root):
        await world.host.start()
        modules = [await world.load(code) for code in "ab"]
        calls = [asyncio.create_task(module.call("hang")) for module in modules for _ in range(3)]
        await world.clock.turn(0)
        await world.host.stop()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [PluginCrashed] * 6
        assert [module.state for module in modules] == [ModuleState.STOPPED] * 2
        assert world.clock.waiting == 0


@BOTH
async def test_a_stop_while_modules_load(made, isolation):
    """Whoever loads is told, and nothing comes up afterwards."""
    world = made(isolation=isolation)
    async with nothing_left(world.root):
        await world.host.start()
        await world.load("a")
        reached = world.hold("init")
        loading = asyncio.create_task(world.load("slow"))
        await reached.wait()
        await world.host.stop()
        (result,) = await asyncio.gather(loading, return_exceptions=True)
        assert isinstance(result, UsageError | PluginCrashed | SidecarExited)
        assert world.alive == []
        assert world.host.modules == {}


async def test_an_exception_in_the_block(made):
    """It comes out as it is, after everything was stopped."""
    world = made()
    with pytest.raises(Odd):
        async with world.host:
            raise Odd
    assert world.log[-3:] == CLOSING
