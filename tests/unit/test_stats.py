"""What a host counts of its modules: every figure exactly, on fakes and a clock that the test turns."""

from __future__ import annotations

import asyncio
import logging
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coredeno import CallErrors, ModuleState, ModuleStats, RequestStats, RestartPolicy
from coredeno.errors import (
    InternalError,
    InvalidResult,
    MessageTooLarge,
    PluginCrashed,
    PluginRaised,
    PluginTimeout,
    UsageError,
)
from coredeno.stats import LATENCIES_KEPT, nearest_rank
from coredeno.tally import Tally
from coredeno.testing import MemorySource, TurnedClock, fake_host
from tests.worlds import BOTH

POLICY = RestartPolicy(first_delay_s=1, longest_delay_s=8, jitter=0, budget=2, window_s=100, stable_s=50)


def stats_of(world, code="a") -> ModuleStats:
    return world.host.stats().modules[code]


def latencies(stats: ModuleStats):
    return stats.latency_p50_s, stats.latency_p90_s, stats.latency_p99_s, stats.latency_max_s


# --- quantiles


@pytest.mark.parametrize(
    ("values", "percent", "wanted"),
    [
        ([], 50, None),
        ([3.0], 1, 3.0),
        ([3.0], 100, 3.0),
        ([1.0, 2.0], 50, 1.0),
        ([1.0, 2.0], 51, 2.0),
        ([1.0, 2.0, 3.0], 50, 2.0),
        ([float(each) for each in range(1, 101)], 99, 99.0),
        ([float(each) for each in range(1, 102)], 99, 100.0),
        ([float(each) for each in range(1, 1025)], 90, 922.0),
    ],
)
def test_a_quantile_is_a_value_that_was_there(values, percent, wanted):
    """The nearest rank: the value in the place of so many in a hundred, rounded up."""
    assert nearest_rank(values, percent) == wanted


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.integers(1, 100))
def test_so_many_in_a_hundred_are_not_above_a_quantile(values, percent):
    """It is the smallest value of which that is true."""
    found = nearest_rank(sorted(values), percent)
    enough = math.ceil(percent * len(values) / 100)
    assert found in values
    assert sum(value <= found for value in values) >= enough
    assert sum(value < found for value in values) < enough


def test_only_the_latest_calls_have_latencies():
    """Of more than 1,024 the oldest are forgotten."""
    tally = Tally()
    tally.took_s.extend([9.0, *[1.0] * LATENCIES_KEPT])
    shown = tally.stats(
        version="", state="", restarts=0, sidecar="", sidecar_modules=0, memory_bytes=None, cpu_s=None
    )
    assert LATENCIES_KEPT == 1024
    assert latencies(shown) == (1.0, 1.0, 1.0, 1.0)


# --- calls


@BOTH
async def test_a_module_that_was_not_called(world_of, isolation):
    """Everything is 0, and what is not known is None: fakes have no process."""
    world = await world_of(isolation)
    await world.load()
    assert stats_of(world) == ModuleStats(
        version="1.0",
        state="RUNNING",
        restarts=0,
        calls=0,
        errors=CallErrors(),
        cancelled=0,
        in_flight=0,
        waiting=0,
        latency_p50_s=None,
        latency_p90_s=None,
        latency_p99_s=None,
        latency_max_s=None,
        requests=RequestStats(),
        bytes_in=0,
        bytes_out=0,
        sidecar="sidecar-1",
        sidecar_modules=1,
        memory_bytes=None,
        cpu_s=None,
    )


async def test_latencies_are_what_calls_took(world_of):
    """Ten calls of 1 to 10 seconds; one that gave up counts by what it took, too."""
    world = await world_of(call_timeout_s=60)
    module = await world.load()
    for seconds in (4, 1, 10, 3, 9, 7, 2, 8, 6, 5):
        call = asyncio.create_task(module.call("hang"))
        await world.clock.turn(seconds)
        world.free.set()
        await call
        world.free.clear()
    assert latencies(stats_of(world)) == (5.0, 9.0, 10.0, 10.0)
    call = asyncio.create_task(module.call("hang", timeout_s=20))
    await world.clock.turn(20)
    with pytest.raises(PluginTimeout):
        await call
    assert latencies(stats_of(world)) == (6.0, 10.0, 20.0, 20.0)
    assert stats_of(world).calls == 11


async def test_calls_under_way_and_calls_that_wait(world_of):
    """A call waits while there is no slot for it; what it waited is a part of what it took."""
    world = await world_of(calls_in_flight=2)
    module = await world.load()
    calls = [asyncio.create_task(module.call("hang", number)) for number in range(5)]
    await world.clock.turn(3)
    now = stats_of(world)
    assert (now.calls, now.in_flight, now.waiting) == (0, 2, 3)
    calls[4].cancel()
    await world.settle()
    now = stats_of(world)
    assert (now.calls, now.cancelled, now.in_flight, now.waiting) == (1, 1, 2, 2)
    world.free.set()
    assert await asyncio.gather(*calls[:4]) == [0, 1, 2, 3]
    now = stats_of(world)
    assert (now.calls, now.cancelled, now.in_flight, now.waiting) == (5, 1, 0, 0)
    assert latencies(now) == (3.0, 3.0, 3.0, 3.0)
    assert now.errors.total == 0


async def test_a_call_that_was_given_up_is_under_way_no_more(world_of):
    """Cancelled, or too late: it has ended for the app, though the plugin keeps its slot."""
    world = await world_of(calls_in_flight=2, cancel_grace_s=1000)
    module = await world.load()
    late = asyncio.create_task(module.call("stubborn", timeout_s=1))
    cancelled = asyncio.create_task(module.call("stubborn"))
    await world.settle()
    assert stats_of(world).in_flight == 2
    cancelled.cancel()
    await world.clock.turn(1)
    with pytest.raises(PluginTimeout):
        await late
    now = stats_of(world)
    assert (now.in_flight, now.calls, now.cancelled, now.errors) == (0, 2, 1, CallErrors(timeout=1))


async def test_each_error_has_its_kind(world_of):
    """What the plugin threw, what came too late, what went down, and all else; what is refused at once is no call."""
    world = await world_of(message_bytes=50_000)
    module = await world.load()
    for _ in range(2):
        with pytest.raises(PluginRaised):
            await module.call("fail", "type")
    with pytest.raises(InvalidResult):
        await module.call("give", "text", returns=int)
    with pytest.raises(MessageTooLarge):
        await module.call("echo", "x" * 60_000)
    late = asyncio.create_task(module.call("hang", timeout_s=2))
    await world.clock.turn(2)
    with pytest.raises(PluginTimeout):
        await late
    for refused in (
        module.call("nothing"),
        module.call("echo", {1}),
        module.call("echo", timeout_s=math.nan),
        module.call("echo", returns=object()),
    ):
        with pytest.raises(UsageError):
            await refused
    with pytest.raises(PluginTimeout):
        await module.call("echo", timeout_s=0)
    hanging = asyncio.create_task(module.call("hang"))
    await world.settle()
    world.sidecar_of(module).kill()
    with pytest.raises(PluginCrashed):
        await hanging
    with pytest.raises(PluginCrashed):
        await module.call("echo")
    now = stats_of(world)
    assert now.state == "ERRORED"
    assert now.errors == CallErrors(raised=2, timeout=1, crashed=1, other=2)
    assert now.errors.total == now.calls == 6
    assert (now.in_flight, now.waiting) == (0, 0)


# --- requests


async def test_requests_by_how_they_end(world_of):
    """Refused, failed, given up, or done; log records are no requests."""
    world = await world_of()
    module = await world.load(more="permissions: {read: [data]}\nservices: {app: []}")
    assert await module.call("read", "data/a") == b"content"
    for path in ("secret", "data/none"):
        with pytest.raises(PluginRaised):
            await module.call("read", path)
    with pytest.raises(PluginRaised, match="MethodNotFound"):
        await module.call("ask", "files.chmod", {})
    with pytest.raises(PluginRaised, match="InternalError"):
        await module.call("ask", "services.app.fail", {"args": ["bug"]})
    world.plugins[0]._core.log("info", "no request")
    waiting = asyncio.create_task(module.call("ask", "services.app.wait", {"args": []}))
    await world.settle()
    assert stats_of(world).requests == RequestStats(count=5, denied=1, failed=3, in_flight=1)
    waiting.cancel()
    await world.settle()
    assert stats_of(world).requests == RequestStats(count=6, denied=1, failed=3, cancelled=1)


async def test_a_request_past_its_deadline_is_cancelled(world_of):
    """It is told as too late, and counted as one that nobody waits for any more."""
    world = await world_of()
    module = await world.load(more="services: {app: []}")
    late = asyncio.create_task(module.call("ask", "services.app.wait", {"args": []}, timeout_s=1))
    await world.clock.turn(1)
    with pytest.raises(PluginTimeout):
        await late
    assert stats_of(world).requests == RequestStats(count=1, cancelled=1)


async def test_modules_are_counted_apart(world_of):
    """Also where they share a sidecar."""
    world = await world_of("worker")
    one, _two = await world.load("a"), await world.load("b", more="permissions: {read: [data]}")
    await one.call("echo")
    with pytest.raises(PluginRaised):
        await one.call("read", "data/a")
    a, b = stats_of(world, "a"), stats_of(world, "b")
    assert (a.calls, a.errors.raised, a.requests.denied) == (2, 1, 1)
    assert (b.calls, b.requests, b.bytes_in, b.bytes_out) == (0, RequestStats(), 0, 0)
    assert (a.sidecar, a.sidecar_modules) == (b.sidecar, b.sidecar_modules) == ("sidecar-1", 2)


# --- bytes


async def test_the_bytes_of_a_call(world_of):
    """Of the call its line and its binary values, of the answer the same; of an error too."""
    world = await world_of()
    module = await world.load()
    number = module._rpc._next_id
    assert await module.call("echo", "x", b"four") == ["x", b"four"]
    params = {"code": "a", "function": "echo", "args": ["x", None], "deadline_ms": 30000.0, "number": 1}
    place = [{"at": ["params", "args", 1], "len": 4}]
    call = {"jsonrpc": "2.0", "method": "Call", "params": params, "id": number, "bytes": place}
    place = [{"at": ["result", 1], "len": 4}]
    answer = {"jsonrpc": "2.0", "id": number, "result": ["x", None], "bytes": place}
    now = stats_of(world)
    assert (now.bytes_out, now.bytes_in) == (
        len(msgspec.json.encode(call)) + 4,
        len(msgspec.json.encode(answer)) + 4,
    )
    with pytest.raises(PluginRaised) as caught:
        await module.call("fail", "type", trace="t")
    params = {**params, "function": "fail", "args": ["type"], "number": 2, "trace": "t"}
    call = {"jsonrpc": "2.0", "method": "Call", "params": params, "id": number + 1}
    data = {"name": "TypeError", "message": caught.value.message, "stack": ""}
    error = {"code": -32000, "message": caught.value.message, "data": data}
    answer = {"jsonrpc": "2.0", "id": number + 1, "error": error}
    after = stats_of(world)
    assert after.bytes_out - now.bytes_out == len(msgspec.json.encode(call))
    assert after.bytes_in - now.bytes_in == len(msgspec.json.encode(answer))


async def test_the_bytes_of_a_request(world_of):
    """Of the request its params and binary values, of the answer the message; a log record has params only."""
    world = await world_of()
    module = await world.load(more="permissions: {read: [data], write: [data]}")
    core = world.plugins[0]._core
    await core.files.write("data/b", b"1234567890")
    params = {"path": "data/b", "data": None}
    answer = {"jsonrpc": "2.0", "id": 2, "result": None}
    now = stats_of(world)
    assert (now.bytes_in, now.bytes_out) == (
        len(msgspec.json.encode(params)) + 10,
        len(msgspec.json.encode(answer)),
    )
    assert await core.files.read("data/b") == b"1234567890"
    answer = {**answer, "id": 3, "bytes": [{"at": ["result"], "len": 10}]}
    after = stats_of(world)
    assert after.bytes_in - now.bytes_in == len(b'{"path":"data/b"}')
    assert after.bytes_out - now.bytes_out == len(msgspec.json.encode(answer)) + 10
    core.log("info", "x")
    await world.settle()
    last = stats_of(world)
    assert last.bytes_in - after.bytes_in == len(b'{"level":"info","message":"x","call":null}')
    assert last.bytes_out == after.bytes_out
    assert module.state is ModuleState.RUNNING


# --- its life


async def test_counts_outlast_restarts(world_of):
    """A module that comes back has all that was counted before; who waits for it waits."""
    world = await world_of(restart=POLICY)
    module = await world.load()
    assert await module.call("echo", 1) == [1]
    before = stats_of(world)
    world.sidecar_of(module).kill()
    await world.settle()
    waiting = asyncio.create_task(module.call("echo", 2))
    await world.settle()
    down = stats_of(world)
    assert (down.state, down.restarts, down.waiting, down.in_flight) == ("RESTARTING", 0, 1, 0)
    assert (down.sidecar, down.sidecar_modules, down.memory_bytes, down.cpu_s) == ("", 0, None, None)
    await world.clock.turn(1)
    assert await waiting == [2]
    up = stats_of(world)
    assert (up.state, up.restarts, up.calls, up.waiting) == ("RUNNING", 1, 2, 0)
    assert up.bytes_out > before.bytes_out
    assert up.sidecar not in ("", before.sidecar)


async def test_a_module_that_is_loaded_anew_begins_anew(world_of):
    """Counts are those of one module, not of its code; one that is unloaded is told of no more."""
    world = await world_of()
    module = await world.load()
    await module.call("echo")
    await module.unload()
    assert world.host.stats().modules == {}
    await world.load()
    assert stats_of(world).calls == 0


async def test_a_host_that_does_not_run_has_no_stats(world_of):
    """It says so."""
    world = await world_of()
    await world.host.stop()
    with pytest.raises(UsageError, match="stats: the host does not run"):
        world.host.stats()


async def test_what_the_sidecar_uses_is_what_was_read_of_it(world_of):
    """Memory and processor time are those of the sidecar in which the module is."""
    world = await world_of()
    module = await world.load()
    vitals = world.host._parts.loader._placement.place_of(module).home.vitals
    vitals.used_bytes, vitals.cpu_s = 5, 1.25
    now = stats_of(world)
    assert (now.memory_bytes, now.cpu_s) == (5, 1.25)


# --- log records


def said(caplog, text):
    (record,) = [record for record in caplog.records if record.getMessage() == text]
    return record.name, record.plugin, record.plugin_version, record.call_id


class Speaker:
    def init(self, core):
        self.core = core
        core.log("info", "init")

    def say(self, text):
        self.core.log("info", text)


async def test_a_log_record_names_its_call(tmp_path, caplog):
    """By the trace that the app gave it, else by its number; outside of calls by nothing."""
    caplog.set_level(logging.INFO)
    clock = TurnedClock()
    async with fake_host(tmp_path, {"a": Speaker}, clock=clock) as host:
        module = await host.load_source(MemorySource("code: a\nversion: 1.0"))
        await module.call("say", "first")
        await module.call("say", "traced", trace="request 7\n")
        await module.call("say", "third")
        await module.call("say", "long", trace="x" * 1000)
        await clock.turn(0)
    log = ("coredeno.plugin.a", "a", "1.0")
    assert said(caplog, "init") == (*log, None)
    assert said(caplog, "first") == (*log, "1")
    assert said(caplog, "traced") == (*log, "request 7\\n")
    assert said(caplog, "third") == (*log, "3")
    assert said(caplog, "long") == (*log, "x" * 256)


@BOTH
async def test_what_a_sidecar_writes_is_a_record_of_its_only_module(world_of, caplog, isolation):
    """Where two share it nobody can say whose it is, and it is the sidecar's."""
    caplog.set_level(logging.INFO)
    world = await world_of(isolation)
    one, two = await world.load("a"), await world.load("b")
    world.sidecar_of(one)._door.output("100 %s")
    if isolation == "process":
        assert said(caplog, "sidecar-1: 100 %s") == ("coredeno.plugin.a", "a", "1.0", None)
    else:
        (record,) = [record for record in caplog.records if record.getMessage() == "sidecar-1: 100 %s"]
        assert (record.name, hasattr(record, "plugin")) == ("coredeno.sidecar", False)
        await two.unload()
        world.sidecar_of(one)._door.output("alone")
        assert said(caplog, "sidecar-1: alone") == ("coredeno.plugin.a", "a", "1.0", None)


async def test_an_error_of_another_kind_is_counted_too():
    """What is no error of ours at all, such as a bug, is `other`; the end of the loop's patience is a cancel."""
    tally = Tally()
    for error in (InternalError("x"), ZeroDivisionError(), asyncio.CancelledError(), KeyboardInterrupt()):
        tally.call_failed(error)
    assert (tally.other, tally.cancelled) == (2, 2)
