"""The app's own services through a real Deno: types both ways, who asks, how long, and who may not.

`test_core.py` has what all requests share, in both isolations; the gate does not know which one it is.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from coredeno import (
    Context,
    Hooks,
    HostConfig,
    Module,
    PermissionDenied,
    PluginCrashed,
    PluginHost,
    PluginRaised,
    PluginTimeout,
    Policy,
    Service,
    ServiceRegistry,
    UsageError,
    rpc,
)
from tests.hosts import compiled_before, nothing_left

Running = Callable[..., AbstractAsyncContextManager[PluginHost]]
Write = Callable[..., Path]

PLUGIN = """
let core;
export function init(c) { core = c; }
export function ask(service, method, ...args) { return core.services[service][method](...args); }
export function offered() {
  return Object.fromEntries(Object.keys(core.services).map((name) => [name, Object.keys(core.services[name])]));
}
export async function caught(service, method, ...args) {
  try {
    return await core.services[service][method](...args);
  } catch (error) {
    return { name: error.name, code: error.code, message: error.message, ...error };
  }
}
export async function many(service, method, count) {
  return await Promise.all(Array.from({ length: count }, (_, i) => core.services[service][method](i)));
}
export async function bytes() {
  const sent = Uint8Array.from({ length: 256 }, (_, i) => i);
  const box = await core.services.typed.wrap({ label: "b", data: sent }, [sent, sent.subarray(1, 3).slice()]);
  return [box.data instanceof Uint8Array, box.data.length, box.parts.map((part) => part.length)];
}
export async function late() {
  const told = core.services.clock.wait();
  return await told.catch((error) => `${error.name} ${error.code}`);
}
"""


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


class Box(msgspec.Struct):
    label: str
    data: bytes = b""
    size: Size = Size.SMALL


class Shipment(msgspec.Struct):
    data: bytes
    parts: list[bytes]
    sent: dt.datetime = dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC)


class Typed(Service, name="typed"):
    """What msgspec reads and writes."""

    def __init__(self) -> None:
        self.boxes: list[Box] = []

    @rpc
    async def box(self, ctx: Context, box: Box) -> Box:
        self.boxes.append(box)
        return box

    @rpc
    async def wrap(self, ctx: Context, box: Box, parts: list[bytes]) -> Shipment:
        return Shipment(box.data, parts)

    @rpc
    async def days_between(self, ctx: Context, first: dt.date, second: dt.date) -> int:
        return (second - first).days

    @rpc
    async def at_most_ten(self, ctx: Context, value: Annotated[int, msgspec.Meta(le=10)], by: int = 1) -> int:
        return value + by

    @rpc
    async def either(self, ctx: Context, value: int | str | None = None) -> str:
        return type(value).__name__


class Clock(Service, name="clock"):
    """What a service knows of its caller's time, and how it is told that nobody waits any more."""

    def __init__(self) -> None:
        self.contexts: list[Context] = []
        self.entered = asyncio.Event()
        self.ended = asyncio.Event()

    @rpc
    async def wait(self, ctx: Context) -> None:
        self.contexts.append(ctx)
        self.entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()

    @rpc
    async def who(self, ctx: Context) -> list[str | None]:
        return [ctx.module, ctx.version, ctx.trace]

    @rpc
    async def echo(self, ctx: Context, value: int) -> int:
        await asyncio.sleep(0)
        return value


class Guarded(Service, name="guarded"):
    """Each method wants a word of the manifest, or none."""

    @rpc(permission="guarded:read")
    async def read(self, ctx: Context) -> str:
        return "read"

    @rpc(permission="guarded:write")
    async def write(self, ctx: Context) -> str:
        return "written"

    @rpc
    async def look(self, ctx: Context) -> str:
        return "seen"


ALL = "services: {typed: [], clock: [], guarded: [read]}"


@asynccontextmanager
async def starting(
    folder: Path, compiled: Path, *services: Service, hooks: tuple[Hooks, ...] = (), **config: Any
) -> AsyncIterator[PluginHost]:
    compiled_before(folder / "app", compiled)
    settings = HostConfig(allow_unsigned=True, **config)
    host = PluginHost(folder / "app", services=services, hooks=hooks, config=settings)
    async with nothing_left(folder / "app"), host:
        yield host


@pytest.fixture
def running(tmp_path: Path, compiled: Path) -> Running:
    """Starts a host with these services, hooks and settings."""
    return partial(starting, tmp_path, compiled)


async def test_structs_cross_both_ways(running: Running, write: Write):
    """A Struct with an enum, bytes and defaults arrives as one, and goes back as an object."""
    typed = Typed()
    async with running(typed) as host:
        module = await host.load_path(write("p", PLUGIN, ALL))
        answer = await module.call(
            "ask", "typed", "box", {"label": "a", "size": "large", "data": b"\x00\xff"}
        )
        assert answer == {"label": "a", "size": "large", "data": b"\x00\xff"}
        assert await module.call("ask", "typed", "box", {"label": "ü"}, returns=Box) == Box("ü")
        assert typed.boxes == [Box("a", b"\x00\xff", Size.LARGE), Box("ü")]
        assert await module.call("bytes") == [True, 256, [256, 2]]
        assert await module.call("ask", "typed", "days_between", "2024-02-28", "2024-03-01") == 2
        wrapped = await module.call("ask", "typed", "wrap", {"label": "a"}, [], returns=Shipment)
        assert wrapped == Shipment(b"", [])


async def test_arguments_that_are_left_out_or_null(running: Running, write: Write):
    """Defaults stand for what is left out; null is a value of its own, allowed where the hint says so."""
    async with running(Typed()) as host:
        module = await host.load_path(write("p", PLUGIN, ALL.replace("clock: [], guarded: [read]", "")))
        assert await module.call("ask", "typed", "at_most_ten", 1) == 2
        assert await module.call("ask", "typed", "at_most_ten", 1, 5) == 6
        for args, kind in (((), "NoneType"), ((None,), "NoneType"), ((7,), "int"), (("7",), "str")):
            assert await module.call("ask", "typed", "either", *args) == kind


async def test_a_wrong_argument_is_named_with_its_place(running: Running, write: Write):
    """`InvalidArgument` names the method and the argument, and inside a Struct the field."""
    async with running(Typed()) as host:
        module = await host.load_path(write("p", PLUGIN, "services: {typed: []}"))
        for method, args, said in (
            ("at_most_ten", [11], "argument 'value': Expected `int` <= 10"),
            ("at_most_ten", [1, "2"], "argument 'by': Expected `int`, got `str`"),
            ("at_most_ten", [None], "argument 'value': Expected `int`, got `null`"),
            ("at_most_ten", [], "typed.at_most_ten"),
            ("at_most_ten", [1, 2, 3], "typed.at_most_ten"),
            ("box", [{"label": 1}], "argument 'box': Expected `str`, got `int` - at `$.args[0].label`"),
            ("box", [{"label": "a", "size": "huge"}], "argument 'box': Invalid enum value 'huge'"),
            ("box", [{"label": "a", "data": "text"}], "argument 'box': Expected `bytes`, got `str`"),
            ("box", [{}], "argument 'box': Object missing required field `label`"),
            ("days_between", ["2024-02-30", "2024-03-01"], "argument 'first': Invalid"),
            ("wrap", [{"label": "a"}, [b"x", "y"]], "argument 'parts': Expected `bytes`"),
        ):
            told = await module.call("caught", "typed", method, *args)
            assert (told["name"], told["code"]) == ("InvalidArgument", "INVALID_ARGUMENT"), (method, args)
            assert said in told["message"], told["message"]


async def test_services_come_from_the_constructor_and_from_hooks(running: Running, write: Write):
    """Both ways at once, and several hooks; a name that two of them take ends the start."""

    class Registers(Hooks):
        def __init__(self, service: Service) -> None:
            self.service = service

        async def register_services(self, services: ServiceRegistry) -> None:
            await asyncio.sleep(0)
            services.add(self.service)

    hooks = (Registers(Clock()), Registers(Guarded()))
    async with running(Typed(), hooks=hooks) as host:
        module = await host.load_path(write("p", PLUGIN, ALL))
        assert await module.call("offered") == {
            "clock": ["echo", "wait", "who"],
            "guarded": ["look", "read", "write"],
            "typed": ["at_most_ten", "box", "days_between", "either", "wrap"],
        }
    with pytest.raises(UsageError, match="there is a service 'clock' already"):
        async with running(Clock(), hooks=(Registers(Clock()),)):
            pass


async def test_what_is_not_in_the_manifest_is_not_there_and_is_refused(running: Running, write: Write):
    """A service that is not listed does not exist for the plugin; a word that is not listed is refused by the gate."""
    async with running(Typed(), Clock(), Guarded()) as host:
        module = await host.load_path(write("p", PLUGIN, "services: {guarded: [read]}"))
        assert list(await module.call("offered")) == ["guarded"]
        assert await module.call("ask", "guarded", "look") == "seen"
        assert await module.call("ask", "guarded", "read") == "read"
        told = await module.call("caught", "guarded", "write")
        assert (told["name"], told["code"]) == ("PermissionDenied", "PERMISSION_DENIED")
        assert (told["permission"], told["resource"]) == ("services.guarded", "guarded:write")
        assert "services in the manifest" in told["remedy"]
        with pytest.raises(PluginRaised, match="TypeError"):
            await module.call("ask", "clock", "who")
        nothing = await host.load_path(write("nothing", PLUGIN))
        assert await nothing.call("offered") == {}


async def test_the_apps_policy_is_above_the_manifest(running: Running, write: Write):
    """A manifest that asks for more than the app grants is refused at the load, with what would allow it."""
    policy = Policy(services={"guarded": ("read",)})
    async with running(Clock(), Guarded(), policy=policy) as host:
        for asked, resource in (("clock: []", "clock"), ("guarded: [read, write]", "guarded:write")):
            with pytest.raises(PermissionDenied) as caught:
                await host.load_path(write("p", PLUGIN, f"services: {{{asked}}}"))
            assert caught.value.resource == resource
            assert caught.value.remedy
        module = await host.load_path(write("p", PLUGIN, "services: {guarded: [read]}"))
        assert await module.call("ask", "guarded", "read") == "read"


async def test_each_module_is_known_by_its_own_name(running: Running, write: Write):
    """`ctx` tells the module, its version, and the trace of the call in which it asks, and only in that one."""
    async with running(Clock()) as host:
        first, second = [
            await host.load_path(write(code, PLUGIN, "services: {clock: []}")) for code in ("one", "two")
        ]
        answers = await asyncio.gather(
            first.call("ask", "clock", "who", trace="t-1"),
            first.call("ask", "clock", "who"),
            second.call("ask", "clock", "who", trace="t-2"),
        )
        assert answers == [["one", "1.0.0", "t-1"], ["one", "1.0.0", None], ["two", "1.0.0", "t-2"]]


async def test_many_requests_at_once_are_answered_each_by_its_own(running: Running, write: Write):
    """A thousand requests of two modules at the same time: every answer finds its request."""
    async with running(Clock()) as host:
        modules = [
            await host.load_path(write(code, PLUGIN, "services: {clock: []}")) for code in ("one", "two")
        ]
        answers = await asyncio.gather(*(module.call("many", "clock", "echo", 500) for module in modules))
        assert answers == [[*range(500)]] * 2


async def test_the_deadline_of_a_call_reaches_the_service(running: Running, write: Write):
    """`ctx.deadline_s` is what is left of it; when it has passed the service's task is cancelled."""
    clock = Clock()
    async with running(clock) as host:
        module = await host.load_path(write("p", PLUGIN, "services: {clock: []}"))
        with pytest.raises(PluginTimeout):
            await module.call("late", timeout_s=0.3)
        async with asyncio.timeout(5):
            await clock.ended.wait()
        (context,) = clock.contexts
        assert context.deadline_s is not None
        assert 0 < context.deadline_s <= 0.3


@pytest.mark.parametrize("end", ["cancel", "unload", "stop"])
async def test_a_service_that_nobody_waits_for_is_cancelled(running: Running, write: Write, end: str):
    """Its task ends when the call in which it was asked is cancelled, and when the module or the host goes."""
    clock = Clock()

    async def end_it(host: PluginHost, module: Module, calling: asyncio.Task[Any]) -> None:
        if end == "cancel":
            calling.cancel()
        elif end == "unload":
            await module.unload()
        else:
            await host.stop()

    async with running(clock) as host:
        module = await host.load_path(write("p", PLUGIN, "services: {clock: []}"))
        calling = asyncio.create_task(module.call("late"))
        await clock.entered.wait()
        await end_it(host, module, calling)
        async with asyncio.timeout(5):
            await clock.ended.wait()
        async with asyncio.timeout(5):
            (outcome,) = await asyncio.gather(calling, return_exceptions=True)
        # A plugin that is unloaded is told so, and may still say something.
        assert isinstance(outcome, asyncio.CancelledError | PluginCrashed) or outcome == "Cancelled CANCELLED"
