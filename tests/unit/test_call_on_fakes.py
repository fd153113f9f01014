"""Modules of a host on fakes: calls, their values, errors, deadlines and bounds."""

from __future__ import annotations

import asyncio

import pytest

from coredeno import (
    Context,
    ModuleState,
    events,
)
from coredeno.errors import (
    InvalidResult,
    LimitExceeded,
    MessageTooLarge,
    PluginCrashed,
    PluginRaised,
    PluginTimeout,
    UsageError,
)
from tests.worlds import BOTH, Point

# --- call


@BOTH
async def test_arguments_and_results(world_of, isolation):
    """A function gets exactly what was passed, and the caller what it returned."""
    world = await world_of(isolation)
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
async def test_what_a_call_raises(world_of, isolation, case):
    """Each failure has its class; the next call goes on as if nothing had been."""
    function, args, options, error, message = case
    world = await world_of(isolation, message_bytes=50_000)
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
async def test_an_error_of_the_gate_that_the_plugin_does_not_catch(world_of, path, name, code):
    """It reaches the caller as `PluginRaised` with the status as its code; a refusal is an event too."""
    world = await world_of()
    module = await world.load(more="permissions: {read: [data]}")
    with pytest.raises(PluginRaised) as caught:
        await module.call("read", path)
    assert (caught.value.name, caught.value.code, caught.value.module) == (name, code, "a")
    denials = [event for event in await world.heard() if isinstance(event, events.PermissionDenied)]
    assert [event.resource for event in denials] == (["secret"] if path == "secret" else [])


@BOTH
async def test_small_messages_still_carry_files(world_of, isolation):
    """With the smallest `message_bytes` a module can still read a small file."""
    world = await world_of(isolation, message_bytes=4096)
    module = await world.load(more="permissions: {read: [data]}")
    assert await module.call("read", "data/a") == b"content"


@BOTH
async def test_a_service_sees_who_asks(world_of, isolation):
    """Module, deadline and trace are those of the call in which the request is made."""
    world = await world_of(isolation, call_timeout_s=30)
    module = await world.load(more="services: {app: []}")
    assert await module.call("ask", "services.app.echo", {"args": ["x"]}, trace="t-1", timeout_s=5) == "x"
    assert world.app.contexts == [Context("a", "1.0", 5.0, "t-1")]
    assert await module.call("context", timeout_s=2, trace="t") == [2000, "t"]
    assert await module.call("context") == [30_000, None]


@BOTH
async def test_a_service_that_passes_on_another_modules_fault(world_of, isolation):
    """A `ProtocolError` of one sidecar, raised by a service, kills no other one that asked that service."""
    world = await world_of(isolation)
    module = await world.load(more="services: {app: []}")
    with pytest.raises(PluginRaised, match="InternalError"):
        await module.call("ask", "services.app.fail", {"args": ["protocol"]})
    assert await module.call("echo", 1) == [1]


# --- time


@BOTH
async def test_a_call_that_is_not_done_in_time(world_of, isolation):
    """It raises `PluginTimeout`, is cancelled in the plugin, and the module goes on."""
    world = await world_of(isolation, call_timeout_s=3)
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


async def test_a_request_inherits_the_deadline_of_its_call(world_of):
    """When the call's time is over, what it asked a service for is cancelled too."""
    world = await world_of()
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
async def test_timeouts_that_are_none(world_of, timeout_s):
    """A time that no JSON carries is the app's mistake: the sidecar is not killed for it."""
    world = await world_of()
    module = await world.load()
    with pytest.raises((UsageError, PluginTimeout)):
        await module.call("echo", timeout_s=timeout_s)
    assert await module.call("echo", 1) == [1]


@pytest.mark.parametrize("trace", [5, b"t", ["t"], object()])
async def test_traces_that_are_no_text(world_of, trace):
    """So is a trace that is no text."""
    world = await world_of()
    module = await world.load()
    with pytest.raises(UsageError, match="trace"):
        await module.call("echo", trace=trace)
    assert await module.call("echo", 1) == [1]


@BOTH
async def test_a_call_that_is_cancelled(world_of, isolation):
    """It is cancelled in the plugin."""
    world = await world_of(isolation)
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
async def test_asking_for_the_status(world_of, isolation):
    """It has a deadline too, and a sidecar that ends meanwhile is a `PluginCrashed`."""
    world = await world_of(isolation, call_timeout_s=3)
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
async def test_calls_over_the_bound_wait(world_of, isolation):
    """They begin as others end, in their order; each has its own deadline, waiting included."""
    world = await world_of(isolation, calls_in_flight=2)
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


async def test_a_call_may_run_out_of_time_before_it_begins(world_of):
    """Then the plugin never hears of it."""
    world = await world_of(calls_in_flight=1)
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


async def test_a_call_that_was_given_up_counts_until_it_is_answered(world_of):
    """A plugin that goes on regardless keeps its slot: the bound is of what it really works on."""
    world = await world_of(calls_in_flight=1)
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
async def test_no_slot_is_ever_lost(world_of, function):
    """However calls end, and in whatever turn they are given up, all slots come back."""
    world = await world_of(calls_in_flight=2)
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
    assert module._slots.free == 2


@BOTH
async def test_a_manifest_narrows_the_limits(world_of, isolation):
    """It never widens them."""
    world = await world_of(isolation, calls_in_flight=4, memory_mb=64, call_timeout_s=9)
    small = await world.load("a", "limits: {calls_in_flight: 1, memory_mb: 32, call_timeout_s: 2}")
    large = await world.load("b", "limits: {calls_in_flight: 900, memory_mb: 900, call_timeout_s: 900}")
    assert (small.limits.calls_in_flight, small.limits.memory_mb, small.limits.call_timeout_s) == (1, 32, 2)
    assert (large.limits.calls_in_flight, large.limits.memory_mb, large.limits.call_timeout_s) == (4, 64, 9)
    assert world.sidecar_of(small)._order.heap_mb == 32
    assert world.sidecar_of(large)._order.heap_mb == 64
