"""How modules in a real Deno begin and end, and what bounds them: loads, limits, unloads, crashes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from coredeno import (
    LimitExceeded,
    MessageTooLarge,
    ModuleState,
    PluginCrashed,
    PluginRaised,
    PluginTimeout,
    SidecarExited,
    UsageError,
)
from coredeno.events import ModuleCrashed
from tests.integration.waiting_app import App, calls_end, cancelled, first_event, next_note


@pytest.fixture
def app() -> App:
    return App()


class TestLoads:
    async def test_init_runs_once_before_the_load_returns(self, boot, plugins: Path, app: App):
        """`init(core)` has run to its end when `load_path` returns, and runs never again."""
        calls = await (await boot(app)).load_path(plugins / "calls")
        assert app.notes.get_nowait() == "init begins"
        await calls.call("plain")
        assert await calls.call("life") == {"inits": 1, "isReady": True}
        assert app.notes.empty()

    async def test_exports_are_the_functions_that_can_be_called(self, boot, plugins: Path, app: App, write):
        """`exports` names what can be called; for anything else a call is a usage error, before it is sent."""
        host = await boot(app)
        calls = await host.load_path(plugins / "calls")
        assert {"plain", "arrow", "default", "a name with spaces"} < calls.exports
        assert not {"notAFunction", "init", "dispose", "constructor", "toString", ""} & calls.exports
        ends = await host.load_path(write("ends", "export function init() {} export function dispose() {}"))
        assert ends.exports == frozenset()
        for function in ("nothing", "notAFunction", "init", "toString", "constructor", "__proto__", ""):
            with pytest.raises(UsageError, match=r"calls.*exports no function"):
                await calls.call(function)
        assert await calls.call("plain", 1) == [1]

    async def test_config_reaches_the_plugin(self, boot, write):
        """`core.config` is what the host was given for the load, bytes too, and cannot be changed; `{}` else."""
        host = await boot()
        source = """
            let core;
            export function init(c) { core = c; }
            export const config = () => core.config;
            export function change() { core.config.a.b.push(1); }
        """
        config = {"a": {"b": [1, "x"]}, "key": b"\x00\x01", "__proto__": {"c": 1}}
        one = await host.load_path(write("one", source), config=config)
        assert await one.call("config") == config
        with pytest.raises(PluginRaised, match="TypeError"):
            await one.call("change")
        two = await host.load_path(write("two", source))
        assert await two.call("config") == {}
        with pytest.raises(UsageError, match=r"config\.a"):
            await host.load_path(write("three", source), config={"a": float("nan")})


class TestBounds:
    async def test_the_limit_is_the_default(self, boot, plugins: Path, app: App):
        """A call that names no deadline has that of `Limits.call_timeout_s`."""
        calls = await (await boot(app, call_timeout_s=0.1)).load_path(plugins / "calls")
        with pytest.raises(PluginTimeout) as caught:
            await calls.call("wait", "a")
        assert caught.value.timeout_s == 0.1

    async def test_a_slot_is_taken_until_the_plugin_is_done(self, boot, plugins: Path, app: App, eventually):
        """A cancelled call counts as in flight until the plugin has answered, and its slot is free again then."""
        calls = await (await boot(app, calls_in_flight=1)).load_path(plugins / "calls")
        await next_note(app, "init begins")
        for name in "abc":
            task = asyncio.create_task(calls.call("ask", name))
            await next_note(app, f"{name} blocks")
            await cancelled(task)
            await next_note(app, f"{name} is cancelled")
        assert await calls.call("plain", 1, timeout_s=5) == [1]

    async def test_no_trace_is_none(self, boot, plugins: Path, app: App):
        """A call without a trace has none, and its deadline is that of the limits."""
        calls = await (await boot(app, call_timeout_s=25)).load_path(plugins / "calls")
        *seen, context = await calls.call("context")
        assert {look["trace"] for look in seen} == {None}
        assert context["trace"] is None
        assert 10 < context["deadline_s"] <= 25

    async def test_calls_over_the_bound_wait(self, boot, plugins: Path, app: App, eventually):
        """With 8 calls in flight further ones wait in the host, in their order, and none fails."""
        calls = await (await boot(app, calls_in_flight=8)).load_path(plugins / "calls")
        tasks = [asyncio.create_task(calls.call("gated", n)) for n in range(40)]
        await eventually(lambda: app.inside == 8)
        assert await calls_end(tasks, app) == list(range(40))
        assert app.most_inside == 8

    async def test_waiting_counts_against_the_deadline(self, boot, plugins: Path, app: App, eventually):
        """A call that waits for its turn until its deadline is a `PluginTimeout`; those before it go on."""
        calls = await (await boot(app, calls_in_flight=1)).load_path(plugins / "calls")
        first = asyncio.create_task(calls.call("gated", 1))
        second = asyncio.create_task(calls.call("gated", 2))
        await eventually(lambda: app.inside == 1)
        with pytest.raises(PluginTimeout, match=r"gated: not done after 0\.05 s"):
            await calls.call("gated", 3, timeout_s=0.05)
        assert await calls_end([first, second], app) == [1, 2]

    async def test_requests_over_the_bound_wait(self, boot, plugins: Path, app: App, eventually):
        """With 8 requests in flight a module's further ones wait in its own `await`, and none fails."""
        calls = await (await boot(app, requests_in_flight=8)).load_path(plugins / "calls")
        tasks = [asyncio.create_task(calls.call("gated", n)) for n in range(40)]
        await eventually(lambda: app.inside == 8)
        assert await calls_end(tasks, app) == list(range(40))
        assert app.most_inside == 8

    async def test_modules_call_at_once(self, boot, write, app: App):
        """Modules are independent: all answer while each has a call that does not end."""
        host = await boot(app)
        source = """
            let core;
            export function init(c) { core = c; }
            export const code = () => core.code;
            export const block = () => core.services.app.block(core.code);
        """
        codes = ["one", "two", "three"]
        modules = await asyncio.gather(
            *(host.load_path(write(code, source, "services: {app: [use]}")) for code in codes)
        )
        stuck = [asyncio.create_task(module.call("block")) for module in modules]
        assert {await app.notes.get() for _ in codes} == {f"{code} blocks" for code in codes}
        assert [await module.call("code") for module in modules] == codes
        for task in stuck:
            await cancelled(task)

    async def test_over_the_limit_fails_before_it_is_sent(self, boot, plugins: Path, app: App):
        """Arguments over the limit are `MessageTooLarge`, with the sizes; the next call works."""
        calls = await (await boot(app, message_bytes=65536)).load_path(plugins / "calls")
        for value in ("x" * 65536, b"x" * 65536, ["é" * 30000, b"x" * 6000], "\x00" * 11000):
            with pytest.raises(MessageTooLarge) as caught:
                await calls.call("plain", value)
            assert caught.value.limit_bytes == 65536
            assert 65536 < caught.value.size_bytes < 70000
            assert await calls.call("plain", 1) == [1]
        for value in ("x" * 65000, b"x" * 65000):
            assert await calls.call("plain", value) == [value]

    async def test_a_result_over_the_limit_fails_alone(self, boot, write):
        """A result over the limit fails its own call, typed; the module goes on."""
        host = await boot(message_bytes=65536)
        big = await host.load_path(
            write(
                "big",
                """
                export const text = (n) => "x".repeat(n);
                export const bytes = (n) => new Uint8Array(n);
                export const list = (n) => new Array(n);
                export const error = (n) => { throw new Error("x".repeat(n)); };
                """,
            )
        )
        for function, n in (("text", 65536), ("bytes", 65536), ("list", 65536), ("list", 4_000_000_000)):
            with pytest.raises(LimitExceeded, match=r"too l|wanted at most 65536"):
                await big.call(function, n)
            with pytest.raises(PluginRaised):
                await big.call("error", 65536)
        assert len(await big.call("text", 65000)) == 65000
        assert await big.call("bytes", 65000) == bytes(65000)
        assert big.state is ModuleState.RUNNING

    async def test_a_request_over_the_limit_fails_alone(self, boot, write, app: App):
        """A module's own request over the limit is rejected in the module, and the next one is not."""
        host = await boot(app, message_bytes=65536)
        source = """
            let core;
            export function init(c) { core = c; }
            export async function ask(n) {
                const outcomes = [];
                for (const value of ["x".repeat(n), new Uint8Array(n), "x", new Uint8Array(1)]) {
                    outcomes.push(await core.services.app.echo(value).then(
                        (echoed) => echoed.length, (error) => [error.name, error.code]));
                }
                return outcomes;
            }
        """
        asker = await host.load_path(write("asker", source, "services: {app: [use]}"))
        refusal = ["LimitExceeded", "RESOURCE_EXHAUSTED"]
        assert await asker.call("ask", 65536) == [refusal, refusal, 1, 1]
        assert await asker.call("ask", 60000) == [60000, 60000, 1, 1]


class TestEnds:
    async def test_sigkill_fails_every_call_typed(self, boot, plugins: Path, app: App):
        """SIGKILL of the sidecar: within a second all pending calls raise `PluginCrashed` from `SidecarExited`."""
        host = await boot(app)
        events = host.events()
        calls = await host.load_path(plugins / "calls")
        await next_note(app, "init begins")
        pid = await calls.call("pid")
        pending = [asyncio.create_task(calls.call("ask", str(n), timeout_s=60)) for n in range(20)]
        for n in range(20):
            await next_note(app, f"{n} blocks")
        os.kill(pid, signal.SIGKILL)
        started = time.monotonic()
        errors = await asyncio.gather(*pending, return_exceptions=True)
        assert time.monotonic() - started < 1
        for error in errors:
            assert type(error) is PluginCrashed
            assert error.module == "calls"
            assert type(error.__cause__) is SidecarExited
            assert error.__cause__.exit_code == -signal.SIGKILL
        assert calls.state is ModuleState.ERRORED
        assert isinstance(calls.error, PluginCrashed)
        assert {await app.notes.get() for _ in pending} == {f"{n} is cancelled" for n in range(20)}
        with pytest.raises(PluginCrashed, match="plain: it is down"):
            await calls.call("plain")
        assert await first_event(events, ModuleCrashed) == ModuleCrashed(
            module="calls", error=str(calls.error)
        )
        again = await host.load_path(plugins / "calls")
        assert await again.call("plain", 1) == [1]
        assert host.modules == {"calls": again}

    async def test_a_busy_loop_harms_only_its_module(self, boot, plugins: Path, app: App, write, eventually):
        """A call that spins times out; other modules answer meanwhile; `unload` ends it within its grace."""
        host = await boot(app, unload_grace_s=0.3)
        calls = await host.load_path(plugins / "calls")
        other = await host.load_path(write("other", "export const pid = () => Deno.pid;"), group="other")
        await next_note(app, "init begins")
        process = psutil.Process(await calls.call("pid"))
        pid = await other.call("pid")
        task = asyncio.create_task(calls.call("spin", timeout_s=0.5))
        await next_note(app, "spinning")
        answered = 0
        while not task.done():
            assert await other.call("pid") == pid
            answered += 1
        with pytest.raises(PluginTimeout):
            await task
        assert answered > 20
        pending = asyncio.create_task(calls.call("plain", timeout_s=60))
        started = time.monotonic()
        await calls.unload()
        assert time.monotonic() - started < 0.3 + 1.5
        assert not process.is_running()
        with pytest.raises(PluginCrashed):
            await pending
        assert calls.state is ModuleState.STOPPED
        assert dict(host.modules) == {"other": other}
        assert await other.call("pid") == pid

    async def test_a_spinning_host_app_stops(self, boot, plugins: Path, app: App):
        """A host whose module spins stops all the same, and leaves no process (the leak guard looks)."""
        host = await boot(app, unload_grace_s=0.1)
        calls = await host.load_path(plugins / "calls")
        await next_note(app, "init begins")
        task = asyncio.create_task(calls.call("spin"))
        await next_note(app, "spinning")
        started = time.monotonic()
        await host.stop()
        assert time.monotonic() - started < 3
        with pytest.raises(PluginCrashed):
            await task

    async def test_unload_runs_dispose_and_ends_calls(self, boot, write, app: App):
        """`unload` aborts the calls under way, runs `dispose` to its end, and takes the module out of the host."""
        host = await boot(app)
        source = """
            let core;
            export function init(c) { core = c; }
            let aborted = "no";
            export async function block() {
                await core.services.app.note("blocks");
                await new Promise((resolve) => core.call.signal.addEventListener("abort", resolve));
                aborted = core.call.signal.reason.name;
                throw core.call.signal.reason;
            }
            export async function dispose() {
                await new Promise((resolve) => setTimeout(resolve, 10));
                await core.store.set("aborted", aborted);
            }
        """
        module = await host.load_path(write("tidy", source, "services: {app: [use]}"))
        task = asyncio.create_task(module.call("block"))
        await next_note(app, "blocks")
        await asyncio.gather(module.unload(), module.unload())
        with pytest.raises(PluginCrashed, match="tidy"):
            await task
        assert await host.store.get_all("tidy") == {"aborted": "Cancelled"}
        assert module.state is ModuleState.STOPPED
        assert not host.modules
        await module.unload()
        with pytest.raises(UsageError, match="STOPPED"):
            await module.call("block")

    async def test_dispose_that_does_not_return(self, boot, write):
        """A `dispose` that never returns, or throws, is cut off at the grace; the module is gone."""
        host = await boot(unload_grace_s=0.2)
        for code, dispose in (("hangs", "return new Promise(() => {})"), ("throws", "throw new Error('no')")):
            module = await host.load_path(write(code, f"export function dispose() {{ {dispose} }}"))
            started = time.monotonic()
            await module.unload()
            assert time.monotonic() - started < 1.5
            assert module.state is ModuleState.STOPPED
        assert not host.modules

    async def test_load_again_after_unload(self, boot, write):
        """A code that was unloaded can be loaded again, and runs the new files; over a RUNNING one it cannot."""
        host = await boot()
        for n in range(3):
            module = await host.load_path(write("again", f"export const n = () => {n};"))
            assert await module.call("n") == n
            with pytest.raises(UsageError, match="RUNNING already"):
                await host.load_path(write("again", "export const n = () => -1;"))
            assert await module.call("n") == n
            await module.unload()

    async def test_status(self, boot, plugins: Path, app: App):
        """`status` asks the sidecar itself."""
        calls = await (await boot(app)).load_path(plugins / "calls")
        assert await calls.status() == "RUNNING"
        await calls.unload()
        with pytest.raises(UsageError, match="STOPPED"):
            await calls.status()
