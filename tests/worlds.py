"""A host on fakes with everything that tests of modules want to see, hold up or break."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coredeno import (
    Context,
    Hooks,
    HostConfig,
    Limits,
    Policy,
    RestartPolicy,
    Service,
    rpc,
)
from coredeno.config import Program
from coredeno.errors import (
    NotFound,
    ProtocolError,
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

NET = "permissions: {net: ['a.example:443']}"

PROGRAMS = {"tool": Program("/bin/tool", allow_options=True)}


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

    async def module_quarantined(self, module, error):
        await self._note("quarantined", module.code, type(error).__name__)


class World:
    def __init__(self, root: Path, isolation="process", restart: RestartPolicy | None = None, **limits):
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
                isolation=isolation,
                limits=Limits(**limits),
                restart=restart,
                programs=PROGRAMS,
                policy=Policy(),
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
        name = self.host._parts.loader._placement.place_of(module).sidecar.order.name
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


def say(sidecar, line):
    sidecar._transport.send(line + b"\n")


def exited(code):
    return (
        b'{"jsonrpc":"2.0","method":"ModuleExited","params":{"code":"%s","reason":"it\\nended \\u001b"}}'
        % code
    )


BOTH = pytest.mark.parametrize("isolation", ["process", "worker"])
