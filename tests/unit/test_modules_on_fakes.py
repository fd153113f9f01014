"""Modules of a host on fakes: load, call, unload, and everything that can go wrong meanwhile."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coredeno import (
    Context,
    Hooks,
    HostConfig,
    Limits,
    ModuleState,
    Policy,
    Service,
    events,
    rpc,
)
from coredeno.errors import (
    InternalError,
    InvalidResult,
    LimitExceeded,
    ManifestError,
    MessageTooLarge,
    NotFound,
    PermissionDenied,
    PluginCrashed,
    PluginError,
    PluginRaised,
    PluginTimeout,
    ProtocolError,
    SidecarExited,
    UsageError,
)
from coredeno.interfaces import ProcessResult
from coredeno.testing import (
    FakeLauncher,
    FakeProcesses,
    MemoryFiles,
    MemorySource,
    MemoryStore,
    TurnedClock,
    fake_host,
)
from tests.hosts import nothing_left

NET = "permissions: {net: ['a.example:443']}"


class Point(msgspec.Struct):
    x: int
    y: int = 0


class Plugin:
    """What the tests call."""

    def __init__(self, world):
        self._world = world
        world.plugins.append(self)

    async def init(self, core):
        self._core = core
        await self._world.step("init")

    async def dispose(self):
        await self._world.step("dispose")

    async def echo(self, *args):
        return list(args)

    def add(self, a, b=0):
        return a + b

    async def give(self, name):
        return {
            "point": {"x": 1},
            "text": "x",
            "large": "x" * 100_000,
            "set": {1},
            "nan": float("nan"),
            "surrogate": "\ud800",
            "bytes": b"\0\xff",
        }[name]

    async def fail(self, name):
        raise {
            "type": TypeError("x is not a function"),
            "surrogate": ValueError("\ud800"),
            "long": ValueError("x" * 20_000),
            "empty": ValueError(),
        }[name]

    async def hang(self, name=None):
        self._world.running.append(name)
        try:
            await self._world.free.wait()
        except asyncio.CancelledError:
            self._world.cancelled.append(name)
            raise
        finally:
            self._world.running.remove(name)
        return name

    async def stubborn(self):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await self._world.free.wait()

    async def context(self):
        return [self._core.call.deadline_ms, self._core.call.trace]

    async def read(self, path):
        return await self._core.files.read(path)

    async def ask(self, method, params):
        return await self._core.request(method, params)

    async def keep(self, size):
        await self._core.store.set("k", "x" * size)

    async def start(self, command):
        return await self._core.processes.start(command)

    async def settings(self):
        return self._core.config


class App(Service, name="app"):
    def __init__(self, world):
        self.world = world
        self.contexts: list[Context] = []

    @rpc
    async def echo(self, ctx: Context, value: Any) -> Any:
        self.contexts.append(ctx)
        return value

    @rpc
    async def wait(self, ctx: Context) -> None:
        self.contexts.append(ctx)
        await self.world.free.wait()

    @rpc
    async def fail(self, ctx: Context, how: str) -> None:
        raise {
            "told": NotFound("no such city"),
            "bug": ZeroDivisionError("secret"),
            "protocol": ProtocolError("another sidecar broke its wire"),
        }[how]


class Listening(Hooks):
    """Notes what it hears; raises where it shall."""

    def __init__(self):
        self.heard: list[tuple[str, ...]] = []
        self.fails = False

    async def _note(self, *what):
        self.heard.append(what)
        if self.fails:
            raise ZeroDivisionError

    async def module_started(self, module):
        await self._note("started", module.code, module.state.value)

    async def module_stopped(self, module, reason):
        await self._note("stopped", module.code, reason)

    async def module_crashed(self, module, error):
        await self._note("crashed", module.code, type(error).__name__)


class World:
    def __init__(self, root: Path, isolation="process", **limits):
        self.clock = TurnedClock()
        self.plugins: list[Plugin] = []
        self.running: list[Any] = []
        self.cancelled: list[Any] = []
        self.free = asyncio.Event()
        self.faults: dict[str, BaseException] = {}
        self.held: dict[str, asyncio.Event] = {}
        self.reached: dict[str, asyncio.Event] = {}
        self.hook = Listening()
        self.app = App(self)
        self.files = MemoryFiles({"data/a": b"content"})
        self.processes = HeldProcesses(self)
        self.launcher = FakeLauncher(dict.fromkeys("abc", lambda: Plugin(self)))
        self.root = root
        self.host = fake_host(
            root,
            {},
            hooks=[self.hook],
            services=[self.app],
            config=HostConfig(
                isolation=isolation, limits=Limits(**limits), programs={"tool": "/bin/tool"}, policy=Policy()
            ),
            store=MemoryStore(),
            files=self.files,
            processes=self.processes,
            launcher=self.launcher,
            clock=self.clock,
        )
        self.events = self.host.events()

    async def step(self, name):
        self.reached.setdefault(name, asyncio.Event()).set()
        if name in self.held:
            await self.held[name].wait()
        if name in self.faults:
            raise self.faults[name]

    def hold(self, name):
        self.held[name] = asyncio.Event()
        self.reached[name] = asyncio.Event()
        return self.reached[name]

    def release(self, name):
        self.held.pop(name).set()

    async def load(self, code="a", more="", **options):
        return await self.host.load_source(MemorySource(f"code: {code}\nversion: 1.0\n{more}"), **options)

    @property
    def alive(self):
        return [sidecar for sidecar in self.launcher.sidecars if not sidecar._exit.done()]

    def sidecar_of(self, module):
        name = self.host._loader._places[module].sidecar.order.name
        return next(each for each in self.launcher.sidecars if each._order.name == name)

    async def settle(self):
        await self.clock.turn(0)

    async def heard(self):
        """The events so far."""
        await self.settle()
        found = []
        while self.events._waiting:
            found.append(await anext(self.events))
        return found


class HeldProcesses(FakeProcesses):
    def __init__(self, world):
        super().__init__({"/bin/tool": self.run})
        self.world = world

    async def run(self, _args):
        await asyncio.Event().wait()
        return ProcessResult(exit_code=0, stdout="", stderr="")

    async def stop_all(self, owner=None):
        await super().stop_all(owner)
        if owner is not None:
            await self.world.step("stop processes")


@pytest.fixture
async def made(tmp_path):
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


BOTH = pytest.mark.parametrize("isolation", ["process", "worker"])


# --- load


@BOTH
async def test_a_module_that_runs(made, isolation):
    """`init` has returned, its functions are known, and everybody is told."""
    world = await made(isolation)
    module = await world.load()
    assert module.state is ModuleState.RUNNING
    assert (module.code, module.version, module.error) == ("a", "1.0", None)
    assert repr(module) == "<Module a 1.0 RUNNING>"
    assert world.host.modules == {"a": module}
    assert await module.status() == "RUNNING"
    assert "echo" in module.exports
    assert not module.exports & {"init", "dispose"}
    assert world.hook.heard == [("started", "a", "RUNNING")]
    assert [(type(event), event.module) for event in await world.heard()] == [(events.ModuleStarted, "a")]
    with pytest.raises(TypeError):
        world.host.modules["a"] = None


@BOTH
async def test_settings_reach_the_module(made, isolation):
    """`config` is what the plugin finds in `core.config`, binary values too; what cannot cross fails the load."""
    world = await made(isolation)
    module = await world.load(config={"level": 3, "key": b"\0"})
    assert await module.call("settings") == {"level": 3, "key": b"\0"}
    with pytest.raises(UsageError, match=r"params\.config\.bad"):
        await world.load("b", config={"bad": {1}})
    assert world.host.modules["b"].state is ModuleState.ERRORED


@BOTH
async def test_a_spare_follows_each_load(made, isolation):
    """After a load there is a spare again, before anybody asks for it."""
    world = await made(isolation)
    await world.load("a")
    await asyncio.shield(world.host._loader._supervisor._spare)
    assert len(world.alive) == 2
    await world.load("b", NET)
    assert len(world.alive) == 3


@BOTH
@pytest.mark.parametrize(
    ("manifest", "error", "message"),
    [
        ("colour: red", ManifestError, "colour"),
        ("permissions: {net: ['127.0.0.1']}", PermissionDenied, "127.0.0.1"),
    ],
)
async def test_a_manifest_that_is_refused(made, isolation, manifest, error, message):
    """Nothing was started for it, and there is no module."""
    world = await made(isolation)
    with pytest.raises(error, match=message):
        await world.load(more=manifest)
    assert world.host.modules == {}
    assert len(world.alive) == 1
    assert world.plugins == []


@BOTH
async def test_an_init_that_throws(made, isolation):
    """The load raises it; the module stays, ERRORED, and can be replaced."""
    world = await made(isolation)
    world.faults["init"] = ValueError("bad weather")
    with pytest.raises(PluginRaised, match="a: ValueError: bad weather") as caught:
        await world.load()
    module = world.host.modules["a"]
    assert (module.state, module.error) == (ModuleState.ERRORED, caught.value)
    assert world.hook.heard == [("crashed", "a", "PluginRaised")]
    assert [type(event) for event in await world.heard()] == [events.ModuleCrashed]
    with pytest.raises(PluginCrashed, match="it is down"):
        await module.call("echo")
    with pytest.raises(UsageError, match="status"):
        await module.status()
    world.faults.clear()
    again = await world.load()
    assert world.host.modules == {"a": again}
    assert await again.call("echo", 1) == [1]


@BOTH
async def test_an_init_that_never_returns(made, isolation):
    """After the time for loading it is ended, and its sidecar with it."""
    world = await made(isolation, load_timeout_s=3)
    reached = world.hold("init")
    loading = asyncio.create_task(world.load(more=NET))
    await reached.wait()
    await world.clock.turn(2.9)
    assert world.host.modules["a"].state is ModuleState.LOADING
    await world.clock.turn(2)
    with pytest.raises(PluginTimeout, match="load: not done after 3 s"):
        await loading
    assert world.host.modules["a"].state is ModuleState.ERRORED
    assert len(world.alive) == 1


@BOTH
async def test_a_sidecar_that_ends_while_it_loads(made, isolation):
    """The load raises `PluginCrashed`, with the sidecar's own error as its cause."""
    world = await made(isolation)
    reached = world.hold("init")
    loading = asyncio.create_task(world.load())
    await reached.wait()
    world.launcher.sidecars[0].kill(-5)
    with pytest.raises(PluginCrashed, match="out of memory") as caught:
        await loading
    assert isinstance(caught.value.__cause__, SidecarExited)
    assert world.host.modules["a"].error is caught.value


@BOTH
async def test_a_source_that_fails(made, isolation):
    """Its error is told, an odd one as a bug; the place is given up."""
    world = await made(isolation)

    class Broken(MemorySource):
        error: BaseException = ProtocolError("")

        async def copy_to(self, folder):
            raise self.error

    for error, kind in (
        (PluginError("a file is a link"), PluginError),
        (OSError("disk full"), InternalError),
    ):
        Broken.error = error
        with pytest.raises(kind) as caught:
            await world.host.load_source(Broken("code: a"))
        assert world.host.modules["a"].error is caught.value
    await world.settle()
    assert len(world.alive) <= 1


@BOTH
async def test_a_load_that_is_answered_with_nonsense(made, isolation):
    """An answer of another form is the sidecar's fault: the load fails, and the sidecar is ended."""
    world = await made(isolation)

    async def nonsense(_sidecar, _params):
        return {"ok": True, "exports": "all"}

    sidecar = world.launcher.sidecars[0]
    sidecar._METHODS = {**sidecar._METHODS, "LoadModule": nonsense}
    with pytest.raises(PluginError, match="exports"):
        await world.load()
    assert world.host.modules["a"].state is ModuleState.ERRORED
    assert sidecar._exit.done()


@BOTH
@pytest.mark.parametrize(
    "answer", [{"ok": "yes"}, [], {"ok": True, "clean": False}, NotFound("no such module")]
)
async def test_an_unload_that_is_answered_with_nonsense(made, isolation, answer):
    """Then it is not known to have ended: the process is, whoever shares it."""
    world = await made(isolation)
    module = await world.load()
    sidecar = world.sidecar_of(module)

    async def nonsense(_sidecar, _params):
        if isinstance(answer, Exception):
            raise answer
        return answer

    sidecar._METHODS = {**sidecar._METHODS, "UnloadModule": nonsense}
    await module.unload()
    assert module.state is ModuleState.STOPPED
    assert sidecar._exit.done()


@BOTH
async def test_a_load_that_the_stop_overtakes(made, isolation):
    """A manifest that takes long to read is not loaded into a host that stops meanwhile."""
    world = await made(isolation)
    reading, go_on = asyncio.Event(), asyncio.Event()

    class Slow(MemorySource):
        async def read_manifest(self):
            reading.set()
            await go_on.wait()
            return await super().read_manifest()

    loading = asyncio.create_task(world.host.load_source(Slow("code: a")))
    await reading.wait()
    await world.host.stop()
    go_on.set()
    with pytest.raises(UsageError, match="the host is stopping"):
        await loading
    assert world.host.modules == {}


@BOTH
async def test_one_module_of_a_code(made, isolation):
    """While one loads or runs a second load of its code is refused, and harms it not."""
    world = await made(isolation)
    reached = world.hold("init")
    loading = asyncio.create_task(world.load())
    await reached.wait()
    with pytest.raises(UsageError, match="module 'a' is LOADING already"):
        await world.load()
    world.release("init")
    module = await loading
    with pytest.raises(UsageError, match="module 'a' is RUNNING already"):
        await world.load()
    assert await module.call("echo", 1) == [1]
    assert len(world.plugins) == 1


@BOTH
async def test_many_load_at_once(made, isolation):
    """Each gets its own place; of the same code one gets in."""
    world = await made(isolation)
    results = await asyncio.gather(*(world.load(code) for code in "abcabc"), return_exceptions=True)
    modules = [result for result in results if not isinstance(result, BaseException)]
    assert sorted(module.code for module in modules) == ["a", "b", "c"]
    assert all(isinstance(result, UsageError) for result in results if isinstance(result, BaseException))
    for module in modules:
        assert await module.call("echo", module.code) == [module.code]
    sidecars = {world.sidecar_of(module) for module in modules}
    assert len(sidecars) == (3 if isolation == "process" else 1)


@BOTH
async def test_a_load_that_is_cancelled_while_init_runs(made, isolation):
    """Nothing of it is left: no module, no sidecar but the spare, no process of its own."""
    world = await made(isolation)
    reached = world.hold("init")
    loading = asyncio.create_task(world.load(more=NET))
    await reached.wait()
    module = world.host.modules["a"]
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert world.host.modules == {}
    assert module.state is ModuleState.STOPPED
    assert len(world.alive) == 1
    await module.unload()
    world.release("init")
    assert (await world.load()).state is ModuleState.RUNNING


@BOTH
async def test_a_load_that_is_cancelled_twice(made, isolation):
    """The second cancellation does not leave it half way."""
    world = await made(isolation)
    reached = world.hold("init")
    loading = asyncio.create_task(world.load(more=NET))
    await reached.wait()
    stopping = world.hold("stop processes")
    loading.cancel()
    await stopping.wait()
    loading.cancel()
    await asyncio.sleep(0)
    world.release("stop processes")
    with pytest.raises(asyncio.CancelledError):
        await loading
    await world.settle()
    assert world.host.modules == {}
    assert len(world.alive) == 1


@BOTH
@pytest.mark.parametrize("turns", range(6))
async def test_a_load_that_is_cancelled_as_it_ends(made, isolation, turns):
    """Either it is there and runs, or nothing of it is left; never a sidecar without a module."""
    world = await made(isolation)
    reached = world.hold("init")
    loading = asyncio.create_task(world.load(more=NET))
    await reached.wait()
    module = world.host.modules["a"]
    world.release("init")
    for _ in range(100):
        await asyncio.sleep(0)
        if module.state is ModuleState.RUNNING:
            break
    for _ in range(turns):
        await asyncio.sleep(0)
    loading.cancel()
    await asyncio.gather(loading, return_exceptions=True)
    await world.settle()
    if world.host.modules:
        assert module.state is ModuleState.RUNNING
        assert await module.call("echo", 1) == [1]
    else:
        assert module.state is ModuleState.STOPPED
        assert not [sidecar for sidecar in world.alive if "a" in sidecar._modules]


# --- call


@BOTH
async def test_arguments_and_results(made, isolation):
    """A function gets exactly what was passed, and the caller what it returned."""
    world = await made(isolation)
    module = await world.load()
    assert await module.call("echo") == []
    assert await module.call("echo", 1, "a", None, [b"\0", {"k": b"\1"}], 2.5) == [
        1,
        "a",
        None,
        [b"\0", {"k": b"\1"}],
        2.5,
    ]
    assert await module.call("add", 1) == 1
    assert await module.call("add", 1, 2, returns=int) == 3
    assert await module.call("echo", Point(1, 2), returns=list[Point]) == [Point(1, 2)]
    assert await module.call("give", "point", returns=Point) == Point(1)
    assert await module.call("give", "bytes", returns=bytes) == b"\0\xff"


RAISES = [
    ("give", ["text"], {"returns": int}, InvalidResult, "a: give: returned something else than wanted"),
    ("give", ["text"], {"returns": bytes}, InvalidResult, "Expected `bytes`, got `str`"),
    ("give", ["point"], {"returns": list[int]}, InvalidResult, "Expected `array`"),
    ("give", ["set"], {}, PluginRaised, "DataError"),
    ("give", ["surrogate"], {}, PluginRaised, "DataError"),
    ("give", ["large"], {}, LimitExceeded, "too large"),
    ("fail", ["type"], {}, PluginRaised, "a: TypeError: x is not a function"),
    ("fail", ["surrogate"], {}, PluginRaised, "\ufffd"),
    ("fail", ["long"], {}, PluginRaised, "xxx"),
    ("fail", ["empty"], {}, PluginRaised, "a: ValueError$"),
    ("add", [], {}, PluginRaised, "TypeError"),
    ("read", ["data/none"], {}, PluginRaised, "NotFound"),
    ("read", ["secret"], {}, PluginRaised, "PermissionDenied"),
    ("ask", ["files.chmod", {}], {}, PluginRaised, "MethodNotFound"),
    ("ask", ["store.get", {"key": 5}], {}, PluginRaised, "InvalidArgument"),
    ("keep", [60_000], {}, PluginRaised, "LimitExceeded"),
    ("ask", ["services.app.fail", {"args": ["told"]}], {}, PluginRaised, "NotFound: no such city"),
    ("ask", ["services.app.fail", {"args": ["bug"]}], {}, PluginRaised, "InternalError"),
    ("echo", [{1}], {}, UsageError, r"params\.args\[0\]"),
    ("echo", [0, {"k": [float("nan")]}], {}, UsageError, r"params\.args\[1\]\.k\[0\] is nan"),
    ("echo", ["\ud800"], {}, UsageError, "lone surrogate"),
    ("echo", ["x" * 60_000], {}, MessageTooLarge, "message of 6"),
    ("echo", [b"x" * 60_000], {}, MessageTooLarge, "message of 6"),
    ("echo", [], {"returns": object()}, UsageError, "decode into"),
    (
        "nothing",
        [],
        {},
        UsageError,
        "exports no function 'nothing'; it exports add, ask, context, echo, fail",
    ),
    ("init", [], {}, UsageError, "exports no function 'init'"),
    ("_core", [], {}, UsageError, "exports no function"),
]


@BOTH
@pytest.mark.parametrize(
    "case", RAISES, ids=lambda case: f"{case[0]}-{str(case[1])[:15]!a}-{case[3].__name__}"
)
async def test_what_a_call_raises(made, isolation, case):
    """Each failure has its class; the next call goes on as if nothing had been."""
    function, args, options, error, message = case
    world = await made(isolation, message_bytes=50_000)
    module = await world.load(more="permissions: {read: [data]}\nservices: {app: []}")
    for _ in range(2):
        with pytest.raises(error, match=message) as caught:
            await module.call(function, *args, **options)
        assert type(caught.value) is error
        assert len(str(caught.value)) < 9000
    assert await module.call("echo", 1) == [1]
    assert module.state is ModuleState.RUNNING


@pytest.mark.parametrize(
    ("path", "name", "code"),
    [("secret", "PermissionDenied", "PERMISSION_DENIED"), ("data/none", "NotFound", "NOT_FOUND")],
)
async def test_an_error_of_the_gate_that_the_plugin_does_not_catch(made, path, name, code):
    """It reaches the caller as `PluginRaised` with the status as its code; a refusal is an event too."""
    world = await made()
    module = await world.load(more="permissions: {read: [data]}")
    with pytest.raises(PluginRaised) as caught:
        await module.call("read", path)
    assert (caught.value.name, caught.value.code, caught.value.module) == (name, code, "a")
    denials = [event for event in await world.heard() if isinstance(event, events.PermissionDenied)]
    assert [event.resource for event in denials] == (["secret"] if path == "secret" else [])


@BOTH
async def test_small_messages_still_carry_files(made, isolation):
    """With the smallest `message_bytes` a module can still read a small file."""
    world = await made(isolation, message_bytes=4096)
    module = await world.load(more="permissions: {read: [data]}")
    assert await module.call("read", "data/a") == b"content"


@BOTH
async def test_a_service_sees_who_asks(made, isolation):
    """Module, deadline and trace are those of the call in which the request is made."""
    world = await made(isolation, call_timeout_s=30)
    module = await world.load(more="services: {app: []}")
    assert await module.call("ask", "services.app.echo", {"args": ["x"]}, trace="t-1", timeout_s=5) == "x"
    assert world.app.contexts == [Context("a", "1.0", 5.0, "t-1")]
    assert await module.call("context", timeout_s=2, trace="t") == [2000, "t"]
    assert await module.call("context") == [30_000, None]


@BOTH
async def test_a_service_that_passes_on_another_modules_fault(made, isolation):
    """A `ProtocolError` of one sidecar, raised by a service, kills no other one that asked that service."""
    world = await made(isolation)
    module = await world.load(more="services: {app: []}")
    with pytest.raises(PluginRaised, match="InternalError"):
        await module.call("ask", "services.app.fail", {"args": ["protocol"]})
    assert await module.call("echo", 1) == [1]


# --- time


@BOTH
async def test_a_call_that_is_not_done_in_time(made, isolation):
    """It raises `PluginTimeout`, is cancelled in the plugin, and the module goes on."""
    world = await made(isolation, call_timeout_s=3)
    module = await world.load()
    first = asyncio.create_task(module.call("hang", "first"))
    second = asyncio.create_task(module.call("hang", "second", timeout_s=1))
    await world.clock.turn(0.9)
    assert world.running == ["first", "second"]
    await world.clock.turn(0.1)
    with pytest.raises(PluginTimeout, match="a: hang: not done after 1 s") as caught:
        await second
    assert isinstance(caught.value, TimeoutError)
    assert (caught.value.module, caught.value.timeout_s) == ("a", 1)
    await world.clock.turn(2)
    with pytest.raises(PluginTimeout, match="not done after 3 s"):
        await first
    assert world.cancelled == ["second", "first"]
    assert await module.call("echo", 1) == [1]


async def test_a_request_inherits_the_deadline_of_its_call(made):
    """When the call's time is over, what it asked a service for is cancelled too."""
    world = await made()
    module = await world.load(more="services: {app: []}")
    call = asyncio.create_task(module.call("ask", "services.app.wait", {"args": []}, timeout_s=2))
    await world.clock.turn(1.9)
    assert not call.done()
    await world.clock.turn(0.1)
    with pytest.raises((PluginTimeout, PluginRaised)):
        await call
    await world.settle()
    session = world.host.gateway.peer(world.sidecar_of(module)._order.token).session
    assert session is not None
    assert session._tasks == {}


@pytest.mark.parametrize("timeout_s", [float("nan"), float("inf"), "5", -1])
async def test_timeouts_that_are_none(made, timeout_s):
    """A time that no JSON carries is the app's mistake: the sidecar is not killed for it."""
    world = await made()
    module = await world.load()
    with pytest.raises((UsageError, PluginTimeout)):
        await module.call("echo", timeout_s=timeout_s)
    assert await module.call("echo", 1) == [1]


@pytest.mark.parametrize("trace", [5, b"t", ["t"], object()])
async def test_traces_that_are_no_text(made, trace):
    """So is a trace that is no text."""
    world = await made()
    module = await world.load()
    with pytest.raises(UsageError, match="trace"):
        await module.call("echo", trace=trace)
    assert await module.call("echo", 1) == [1]


@BOTH
async def test_a_call_that_is_cancelled(made, isolation):
    """It is cancelled in the plugin."""
    world = await made(isolation)
    module = await world.load()
    call = asyncio.create_task(module.call("hang", "x"))
    await world.settle()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await world.settle()
    assert world.cancelled == ["x"]
    assert await module.call("echo", 1) == [1]


@BOTH
async def test_asking_for_the_status(made, isolation):
    """It has a deadline too, and a sidecar that ends meanwhile is a `PluginCrashed`."""
    world = await made(isolation, call_timeout_s=3)
    module = await world.load()
    asked = asyncio.Event()

    async def hang(_sidecar, _params):
        asked.set()
        await asyncio.Event().wait()

    sidecar = world.sidecar_of(module)
    sidecar._METHODS = {**sidecar._METHODS, "ModuleStatus": hang}
    status = asyncio.create_task(module.status())
    await asked.wait()
    await world.clock.turn(3)
    with pytest.raises(PluginTimeout, match="a: status: not done after 3 s"):
        await status
    asked.clear()
    status = asyncio.create_task(module.status())
    await asked.wait()
    sidecar.kill()
    with pytest.raises(PluginCrashed, match="status"):
        await status


# --- bounds


@BOTH
async def test_calls_over_the_bound_wait(made, isolation):
    """They begin as others end, in their order; each has its own deadline, waiting included."""
    world = await made(isolation, calls_in_flight=2)
    module = await world.load()
    calls = [asyncio.create_task(module.call("hang", number, timeout_s=number + 1)) for number in range(5)]
    await world.settle()
    assert world.running == [0, 1]
    await world.clock.turn(1)
    with pytest.raises(PluginTimeout):
        await calls[0]
    await world.settle()
    assert world.running == [1, 2]
    calls[3].cancel()
    with pytest.raises(asyncio.CancelledError):
        await calls[3]
    world.free.set()
    assert await asyncio.gather(calls[1], calls[2], calls[4]) == [1, 2, 4]
    assert world.cancelled == [0]
    assert world.clock.waiting == 0


async def test_a_call_may_run_out_of_time_before_it_begins(made):
    """Then the plugin never hears of it."""
    world = await made(calls_in_flight=1)
    module = await world.load()
    first = asyncio.create_task(module.call("hang", "first", timeout_s=9))
    second = asyncio.create_task(module.call("hang", "second", timeout_s=1))
    await world.clock.turn(1)
    with pytest.raises(PluginTimeout):
        await second
    assert world.running == ["first"]
    world.free.set()
    assert await first == "first"
    assert world.cancelled == []


async def test_a_call_that_was_given_up_counts_until_it_is_answered(made):
    """A plugin that goes on regardless keeps its slot: the bound is of what it really works on."""
    world = await made(calls_in_flight=1)
    module = await world.load()
    first = asyncio.create_task(module.call("stubborn", timeout_s=1))
    await world.clock.turn(1)
    with pytest.raises(PluginTimeout):
        await first
    second = asyncio.create_task(module.call("echo", 2, timeout_s=10))
    await world.clock.turn(5)
    assert not second.done()
    world.free.set()
    assert await second == [2]


@pytest.mark.parametrize("function", ["echo", "hang"])
async def test_no_slot_is_ever_lost(made, function):
    """However calls end, and in whatever turn they are given up, all slots come back."""
    world = await made(calls_in_flight=2)
    module = await world.load()
    for turns in range(12):
        calls = [asyncio.create_task(module.call(function, number)) for number in range(4)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await world.settle()
    bad = [
        module.call("echo", {1}),
        module.call("none"),
        module.call("echo", "\ud800"),
        module.call("give", "set"),
    ]
    await asyncio.gather(*bad, return_exceptions=True)
    world.free.set()
    assert await asyncio.gather(*(module.call("hang", number) for number in range(6))) == list(range(6))
    assert module._slots._value == 2


@BOTH
async def test_a_manifest_narrows_the_limits(made, isolation):
    """It never widens them."""
    world = await made(isolation, calls_in_flight=4, memory_mb=64, call_timeout_s=9)
    small = await world.load("a", "limits: {calls_in_flight: 1, memory_mb: 32, call_timeout_s: 2}")
    large = await world.load("b", "limits: {calls_in_flight: 900, memory_mb: 900, call_timeout_s: 900}")
    assert (small.limits.calls_in_flight, small.limits.memory_mb, small.limits.call_timeout_s) == (1, 32, 2)
    assert (large.limits.calls_in_flight, large.limits.memory_mb, large.limits.call_timeout_s) == (4, 64, 9)
    assert world.sidecar_of(small)._order.heap_mb == 32
    assert world.sidecar_of(large)._order.heap_mb == 64


# --- crashes


@BOTH
async def test_a_sidecar_that_is_killed_in_the_middle_of_calls(made, isolation):
    """All calls raise `PluginCrashed` at once, waiting ones too; the module is ERRORED and everybody is told."""
    world = await made(isolation, calls_in_flight=3)
    module = await world.load()
    other = await world.load("b", NET)
    calls = [asyncio.create_task(module.call("hang", number)) for number in range(6)]
    await world.settle()
    world.sidecar_of(module).kill(-5)
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [PluginCrashed] * 6
    assert "out of memory" in str(results[0])
    assert isinstance(results[0].__cause__, SidecarExited)
    assert module.state is ModuleState.ERRORED
    assert isinstance(module.error, PluginCrashed)
    assert isinstance(module.error.__cause__, SidecarExited)
    assert world.host.modules["a"] is module
    assert world.hook.heard[-1] == ("crashed", "a", "PluginCrashed")
    assert [type(event) for event in await world.heard()][-1] is events.ModuleCrashed
    with pytest.raises(PluginCrashed, match="it is down"):
        await module.call("echo")
    assert await other.call("echo", 1) == [1]
    again = await world.load()
    assert await again.call("echo", 1) == [1]


async def test_a_shared_sidecar_takes_all_its_modules_with_it(made):
    """In worker isolation each of them is told; in other sidecars nobody is."""
    world = await made("worker")
    modules = [await world.load(code) for code in "ab"]
    other = await world.load("c", NET)
    world.sidecar_of(modules[0]).kill()
    await world.settle()
    assert [module.state for module in modules] == [ModuleState.ERRORED] * 2
    assert other.state is ModuleState.RUNNING
    again = [await world.load(code) for code in "ab"]
    assert len({world.sidecar_of(module) for module in again}) == 1


def say(sidecar, line):
    sidecar._transport.send(line + b"\n")


def exited(code):
    return (
        b'{"jsonrpc":"2.0","method":"ModuleExited","params":{"code":"%s","reason":"it\\nended \\u001b"}}'
        % code
    )


@BOTH
async def test_a_worker_that_ends_by_itself(made, isolation):
    """Its module is ERRORED; the sidecar goes, unless others share it. Other codes mean nothing."""
    world = await made(isolation)
    module, other = await world.load("a"), await world.load("b")
    sidecar = world.sidecar_of(module)
    say(sidecar, exited(b"none"))
    await world.settle()
    assert module.state is ModuleState.RUNNING
    say(sidecar, exited(b"a"))
    await world.settle()
    assert module.state is ModuleState.ERRORED
    assert str(module.error) == "a: it\\nended \\x1b"
    assert await other.call("echo", 1) == [1]
    assert sidecar._exit.done() == (isolation == "process")
    say(sidecar, exited(b"a"))
    await world.settle()
    assert [type(event) for event in await world.heard()].count(events.ModuleCrashed) == 1


async def test_a_module_that_is_loaded_again_while_its_former_one_goes(made):
    """What is late in taking the former one out does not touch the new one."""
    world = await made("worker")
    module, other = await world.load("a"), await world.load("b")
    sidecar = world.sidecar_of(module)
    reached = world.hold("dispose")
    say(sidecar, exited(b"a"))
    await reached.wait()
    again = await world.load("a", "permissions: {read: [data]}")
    assert await again.call("read", "data/a") == b"content"
    world.release("dispose")
    await world.clock.turn(2)
    assert await other.call("echo", 1) == [1]
    assert again.state is ModuleState.RUNNING
    assert await again.call("read", "data/a") == b"content"


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","method":"Unknown","params":{}}',
        b'{"jsonrpc":"2.0","method":"ModuleExited","params":{}}',
        b'{"jsonrpc":"2.0","method":"ModuleExited","params":{"code":1,"reason":""}}',
        b'{"jsonrpc":"2.0","method":"ModuleExited"}',
        b'{"jsonrpc":"2.0","method":"ModuleExited","params":{"code":"\xff"}}',
        b'{"jsonrpc":"2.0","id":77,"result":1}',
        b"no JSON",
    ],
)
@BOTH
async def test_a_sidecar_that_breaks_its_wire(made, isolation, line):
    """It is killed, and its modules are ERRORED, whatever it said."""
    world = await made(isolation)
    module = await world.load()
    call = asyncio.create_task(module.call("hang"))
    await world.settle()
    sidecar = world.sidecar_of(module)
    say(sidecar, line)
    (result,) = await asyncio.gather(call, return_exceptions=True)
    await world.settle()
    assert type(result) is PluginCrashed
    assert sidecar._exit.done()
    assert module.state is ModuleState.ERRORED


async def test_a_forged_frame_on_the_session(made):
    """A sidecar that speaks for a module of another one is killed; that module is not harmed."""
    world = await made()
    module, other = await world.load("a"), await world.load("b")
    sidecar = world.sidecar_of(module)
    sidecar._session.notify("log.write", {"level": "info", "message": "m"}, module="b")
    await world.settle()
    assert sidecar._exit.done()
    assert module.state is ModuleState.ERRORED
    assert "not its own" in str(module.error)
    assert await other.call("echo", 1) == [1]


@BOTH
async def test_what_a_sidecar_writes_is_logged(made, isolation, caplog):
    """Under its module's name, where there is only one."""
    world = await made(isolation)
    module = await world.load()
    with caplog.at_level(logging.INFO):
        world.sidecar_of(module)._door.output("first")
        if isolation == "worker":
            await world.load("b")
            world.sidecar_of(module)._door.output("shared")
    lines = [
        (record.name, record.getMessage()) for record in caplog.records if "first" in record.getMessage()
    ]
    assert lines == [("coredeno.plugin.a", "sidecar-1: first")]
    if isolation == "worker":
        assert ("coredeno.sidecar", "sidecar-1: shared") in [(r.name, r.getMessage()) for r in caplog.records]


# --- unload


@BOTH
async def test_an_unload(made, isolation):
    """`dispose` has run, the host forgets it, everybody is told; its code can be loaded again."""
    world = await made(isolation)
    module = await world.load()
    sidecar = world.sidecar_of(module)
    token = world.host.gateway.issue_token("a")
    await module.unload()
    assert module.state is ModuleState.STOPPED
    assert world.host.modules == {}
    assert world.reached["dispose"].is_set()
    assert sidecar._exit.done()
    with pytest.raises(PermissionDenied):
        world.host.gateway.peer(token)
    assert world.hook.heard[-1] == ("stopped", "a", "the app unloaded it")
    assert [type(event) for event in await world.heard()] == [events.ModuleStarted, events.ModuleStopped]
    with pytest.raises(UsageError, match="is STOPPED, wanted RUNNING"):
        await module.call("echo")
    assert (await world.load()).state is ModuleState.RUNNING


@BOTH
async def test_unloading_one_of_two(made, isolation):
    """The other one goes on, also where they share a sidecar."""
    world = await made(isolation)
    module, other = await world.load("a"), await world.load("b")
    await module.unload()
    assert await other.call("echo", 1) == [1]
    assert world.host.modules == {"b": other}


@BOTH
async def test_unloading_twice(made, isolation):
    """At once or after each other: it is done once."""
    world = await made(isolation)
    module = await world.load()
    await asyncio.gather(*(module.unload() for _ in range(3)))
    await module.unload()
    assert [entry for entry in world.hook.heard if entry[0] == "stopped"] == [
        ("stopped", "a", "the app unloaded it")
    ]


@BOTH
async def test_unloading_one_that_failed(made, isolation):
    """An ERRORED module is forgotten; twice is harmless, and a newer one of its code is left alone."""
    world = await made(isolation)
    world.faults["init"] = ValueError("no")
    with pytest.raises(PluginRaised):
        await world.load()
    first = world.host.modules["a"]
    with pytest.raises(PluginRaised):
        await world.load()
    second = world.host.modules["a"]
    await first.unload()
    assert world.host.modules == {"a": second}
    await second.unload()
    await second.unload()
    assert world.host.modules == {}
    assert second.state is ModuleState.STOPPED
    assert "stopped" not in {entry[0] for entry in world.hook.heard}


@BOTH
async def test_unloading_one_that_crashed(made, isolation):
    """Its place is given up once, by whoever comes first."""
    world = await made(isolation)
    module = await world.load(more=NET)
    world.sidecar_of(module).kill()
    await module.unload()
    await world.settle()
    assert world.host.modules == {}
    assert len(world.alive) == 1


@BOTH
async def test_unloading_one_that_loads(made, isolation):
    """The load ends with an error that says so; nothing is left."""
    world = await made(isolation)
    reached = world.hold("init")
    loading = asyncio.create_task(world.load(more=NET))
    await reached.wait()
    module = world.host.modules["a"]
    await module.unload()
    with pytest.raises(UsageError, match="was unloaded while it was loading"):
        await loading
    assert module.state is ModuleState.STOPPED
    assert world.host.modules == {}
    assert len(world.alive) == 1
    assert "started" not in {entry[0] for entry in world.hook.heard}
    assert not [event for event in await world.heard() if isinstance(event, events.ModuleStarted)]


@BOTH
@pytest.mark.parametrize("turns", range(6))
async def test_unloading_one_that_has_just_loaded(made, isolation, turns):
    """In whatever turn: it ends as STOPPED, and the load never gives a module that does not run any more."""
    world = await made(isolation)
    reached = world.hold("init")
    loading = asyncio.create_task(world.load(more=NET))
    await reached.wait()
    module = world.host.modules["a"]
    world.release("init")
    for _ in range(turns):
        await asyncio.sleep(0)
    was_done = loading.done()
    await module.unload()
    (result,) = await asyncio.gather(loading, return_exceptions=True)
    assert was_done or isinstance(result, UsageError)
    assert module.state is ModuleState.STOPPED
    assert world.host.modules == {}
    kinds = [entry[0] for entry in world.hook.heard]
    assert kinds in ([], ["stopped"], ["started", "stopped"])


@BOTH
async def test_calls_that_run_while_their_module_is_unloaded(made, isolation):
    """They raise `PluginCrashed`, those that wait too; a neighbour's go on."""
    world = await made(isolation, calls_in_flight=2)
    module, other = await world.load("a"), await world.load("b")
    calls = [asyncio.create_task(module.call("hang", number)) for number in range(4)]
    neighbour = asyncio.create_task(other.call("hang", "b"))
    await world.settle()
    await module.unload()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [PluginCrashed] * 4
    world.free.set()
    assert await neighbour == "b"


@BOTH
async def test_a_dispose_that_throws(made, isolation, caplog):
    """It is the plugin's own matter: logged, and the unload goes on; neighbours are not harmed."""
    world = await made(isolation)
    module, other = await world.load("a"), await world.load("b")
    world.faults["dispose"] = ValueError("no way")
    with caplog.at_level(logging.ERROR, "coredeno.plugin.a"):
        await module.unload()
    assert "no way" in caplog.text
    assert module.state is ModuleState.STOPPED
    assert await other.call("echo", 1) == [1]


@BOTH
async def test_a_dispose_that_hangs(made, isolation):
    """After the grace the module is ended with its process, whoever shares it: nothing else stops it for certain."""
    world = await made(isolation, unload_grace_s=2)
    module, other = await world.load("a"), await world.load("b")
    sidecar = world.sidecar_of(module)
    reached = world.hold("dispose")
    unloading = asyncio.create_task(module.unload())
    await reached.wait()
    await world.clock.turn(1.9)
    assert not unloading.done()
    await world.clock.turn(1)
    await unloading
    assert module.state is ModuleState.STOPPED
    assert sidecar._exit.done()
    assert other.state is (ModuleState.RUNNING if isolation == "process" else ModuleState.ERRORED)
    assert world.clock.waiting == 0


@BOTH
async def test_an_unload_whose_caller_gives_up(made, isolation):
    """It goes on without the caller."""
    world = await made(isolation)
    module = await world.load()
    reached = world.hold("dispose")
    unloading = asyncio.create_task(module.unload())
    await reached.wait()
    unloading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await unloading
    world.release("dispose")
    await module.unload()
    assert module.state is ModuleState.STOPPED


@BOTH
async def test_processes_end_with_their_module(made, isolation):
    """What it started is stopped; what others started goes on."""
    world = await made(isolation)
    module = await world.load("a", "permissions: {run: [tool]}")
    other = await world.load("b", "permissions: {run: [tool]}")
    ids = [await module.call("start", "tool"), await other.call("start", "tool")]
    await module.unload()
    assert [world.processes.owner_of(process_id) for process_id in ids] == [None, "b"]


@BOTH
async def test_a_part_that_fails_while_a_module_is_unloaded(made, isolation):
    """The module is out all the same: STOPPED, forgotten, and its sidecar ended."""
    world = await made(isolation)
    module = await world.load(more=NET)
    sidecar = world.sidecar_of(module)
    world.faults["stop processes"] = OSError("a bug in the app's own part")
    await asyncio.gather(module.unload(), return_exceptions=True)
    await world.settle()
    assert module.state is ModuleState.STOPPED
    assert world.host.modules == {}
    assert sidecar._exit.done()


# --- hooks


@BOTH
async def test_hooks_that_raise(made, isolation, caplog):
    """Each is logged, and fails neither a load nor an unload nor a crash."""
    world = await made(isolation)
    world.hook.fails = True
    with caplog.at_level(logging.ERROR, "coredeno.host"):
        module = await world.load()
        await module.unload()
        world.faults["init"] = ValueError("no")
        with pytest.raises(PluginRaised):
            await world.load()
        world.faults.clear()
        again = await world.load()
        world.sidecar_of(again).kill()
        await world.settle()
    assert [entry[0] for entry in world.hook.heard] == ["started", "stopped", "crashed", "started", "crashed"]
    assert (
        len([record for record in caplog.records if "a hook of the app failed" in record.getMessage()]) == 5
    )
    assert len(await world.heard()) == 5
