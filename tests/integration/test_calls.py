"""Calls between a host and a module in a real Deno: arguments, deadlines, cancelling, context, size."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from coredeno import (
    InvalidResult,
    Module,
    ModuleState,
    PluginTimeout,
    UsageError,
)
from tests.integration.waiting_app import App, cancelled, next_note

pytestmark = pytest.mark.asyncio(loop_scope="module")
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def service() -> App:
    return App()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def calls(shared_boot, plugins: Path, rested, service: App) -> Module:
    """The plugin, in a host that all tests share: they leave nothing under way in it."""
    host = await shared_boot(service)
    module = await host.load_path(plugins / "calls")
    await rested(host)
    return module


@pytest.fixture
def app(service: App) -> App:
    """The service, with nothing heard in it yet."""
    while not service.notes.empty():
        service.notes.get_nowait()
    return service


class Row(msgspec.Struct):
    name: str
    size: int


class TestCalling:
    async def test_arguments_arrive_exactly(self, calls: Module, app: App):
        """Every exported function is called with exactly the arguments that were passed, and gives its result."""
        every = [
            (),
            (1,),
            (None,),
            ("a", 2.5, True, [1, [2]], {"k": {"l": None}}, b"\x00\xff"),
            ([],),
            ({}, {}),
        ]
        for function in ("plain", "arrow", "later", "default", "bound", "a name with spaces"):
            for args in every:
                assert await calls.call(function, *args) == list(args), (function, args)

    async def test_what_is_not_passed_is_not_there(self, calls: Module, app: App):
        """No argument is added: defaults of JavaScript apply, and `this` is undefined."""
        assert await calls.call("seen") == [0, True, "default"]
        assert await calls.call("seen", None) == [1, False, "default"]
        assert await calls.call("seen", 1, None, 3) == [3, False, None]
        assert await calls.call("receiver") == "undefined"

    async def test_returns_is_validated(self, calls: Module, app: App):
        """The result has the type `returns`, or `InvalidResult` names the module, the function and the place."""
        rows = await calls.call("plain", {"name": "a", "size": 1}, returns=list[Row])
        assert rows == [Row("a", 1)]
        assert await calls.call("plain", b"x", None, returns=tuple[bytes, None]) == (b"x", None)
        for wanted, args, place in (
            (list[Row], ({"name": "a", "size": "1"},), r"`int`, got `str`.*\$\[0\]\.size"),
            (list[Row], ({"name": "a"},), r"missing required field `size`.*\$\[0\]"),
            (list[bytes], ("eHg=",), r"`bytes`, got `str`.*\$\[0\]"),
            (list[str], (b"x",), r"`str`, got `bytes`.*\$\[0\]"),
            (int, (), r"`int`, got `array`"),
        ):
            with pytest.raises(InvalidResult, match=rf"calls: plain: .*{place}"):
                await calls.call("plain", *args, returns=wanted)

    async def test_a_type_that_cannot_be_decoded_is_refused(self, calls: Module, app: App):
        """A `returns` that msgspec knows nothing of is a usage error, before anything is sent."""
        with pytest.raises(UsageError, match="Semaphore"):
            await calls.call("wait", "never", returns=asyncio.Semaphore)


class TestDeadlines:
    async def test_a_call_over_its_time_fails_typed(self, calls: Module, app: App):
        """`PluginTimeout` is a `TimeoutError` with its facts; the plugin's signal is aborted; others go on."""
        with pytest.raises(PluginTimeout, match=r"calls: wait: not done after 0\.1 s") as caught:
            await calls.call("wait", "a", timeout_s=0.1)
        assert isinstance(caught.value, TimeoutError)
        assert (caught.value.module, caught.value.timeout_s) == ("calls", 0.1)
        told = await calls.call("lastWait")
        assert told.pop("reason") in ("PluginTimeout", "Cancelled")  # its own timer, or the host's word
        assert told == {"name": "a", "aborted": True}
        assert calls.state is ModuleState.RUNNING

    async def test_a_deadline_reaches_the_service(self, calls: Module, app: App):
        """At the deadline of a call the host's task for the plugin's own request is cancelled."""
        with pytest.raises(PluginTimeout):
            await calls.call("ask", "a", timeout_s=0.1)
        await next_note(app, "a blocks")
        await next_note(app, "a is cancelled")
        told = await calls.call("lastWait")
        assert (told["kind"], told["code"]) in (
            ("PluginTimeout", "DEADLINE_EXCEEDED"),
            ("Cancelled", "CANCELLED"),
        )

    async def test_whatever_the_plugin_says_then(self, calls: Module, app: App):
        """At the deadline the caller gets `PluginTimeout`, also where the plugin throws the reason at once."""
        at_once = [calls.call("wait", str(n), timeout_s=0.1 + n / 1000) for n in range(50)]
        for error in await asyncio.gather(*at_once, return_exceptions=True):
            assert type(error) is PluginTimeout
            assert re.fullmatch(r"calls: wait: not done after 0\.1\d* s", str(error))

    async def test_no_time_at_all(self, calls: Module, app: App):
        """A deadline that has passed already fails the call, typed, and harms no other."""
        for timeout_s in (0, -1, 0.000001):
            with pytest.raises(PluginTimeout):
                await calls.call("waitUnheard", timeout_s=timeout_s)  # the last one may reach the plugin
        assert await calls.call("plain", 1) == [1]


class TestCancelling:
    async def test_cancel_aborts_the_signal(self, calls: Module, app: App):
        """Cancelling the caller's task aborts `core.call.signal`, and only that of this call."""
        other = asyncio.create_task(calls.call("ask", "b"))
        await next_note(app, "b blocks")
        task = asyncio.create_task(calls.call("wait", "a"))
        await next_note(app, "waiting a")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await calls.call("lastWait") == {"name": "a", "aborted": True, "reason": "Cancelled"}
        assert not other.done()
        await cancelled(other)
        await next_note(app, "b is cancelled")

    async def test_cancel_reaches_the_service(self, calls: Module, app: App):
        """The plugin's own request, made inside the call, is cancelled in the host and rejected in the plugin."""
        task = asyncio.create_task(calls.call("ask", "a"))
        await next_note(app, "a blocks")
        await cancelled(task)
        await next_note(app, "a is cancelled")
        told = await calls.call("lastWait")
        assert told == {"name": "a", "kind": "Cancelled", "code": "CANCELLED", "aborted": True}


class TestContext:
    async def test_trace_and_deadline(self, calls: Module, app: App):
        """`core.call` says trace and deadline through awaits and timers; the service finds both in `Context`."""
        clock_ms = await calls.call("now")
        *seen, context = await calls.call("context", timeout_s=20, trace="trace-é-1")
        assert len(seen) == 5
        assert {look["trace"] for look in seen} == {"trace-é-1"}
        (deadline,) = {look["deadline"] for look in seen}
        assert clock_ms + 15_000 < deadline < clock_ms + 30_000
        assert context["module"] == "calls"
        assert context["version"] == "1.2.3"
        assert context["trace"] == "trace-é-1"
        assert 10 < context["deadline_s"] <= 20

    async def test_calls_do_not_mix(self, calls: Module, app: App):
        """Of many calls at once each sees its own trace, in the plugin and in the service."""
        traces = [f"t{n}" for n in range(50)]
        for trace, seen in zip(
            traces, await asyncio.gather(*(calls.call("context", trace=t) for t in traces)), strict=True
        ):
            assert {look["trace"] for look in seen} == {trace}

    async def test_after_the_call(self, calls: Module, app: App):
        """A plugin may go on, and ask, after the call that began it has been answered."""
        assert await calls.call("afterwards") is None
        await next_note(app, "after the call")


class TestConcurrency:
    async def test_a_thousand_calls_through_a_service(self, calls: Module, app: App):
        """1,000 calls at once to a module that itself calls a service: each gets its own answer."""
        values = [{"n": n, "text": "x" * (n % 100)} for n in range(1000)]
        assert await asyncio.gather(*(calls.call("through", value) for value in values)) == values


class TestSize:
    async def test_large_bytes_both_ways(self, calls: Module, app: App):
        """8 MiB of bytes cross unchanged, to the plugin and back, and through a service, several at once."""
        data = [os.urandom(8 * MIB) for _ in range(2)]
        plain, through, small = await asyncio.gather(
            calls.call("plain", data[0]), calls.call("through", data[1]), calls.call("plain", b"small")
        )
        assert hashlib.sha256(plain[0]).digest() == hashlib.sha256(data[0]).digest()
        assert hashlib.sha256(through).digest() == hashlib.sha256(data[1]).digest()
        assert small == [b"small"]

    async def test_large_text_both_ways(self, calls: Module, app: App):
        """Half a million characters of all kinds cross unchanged, to the plugin and back, and through a service."""
        text = 'é😀"\\\x00\u2028a' * 65_536
        assert await calls.call("plain", text) == [text]
        assert await calls.call("through", text) == text
