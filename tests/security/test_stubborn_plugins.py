"""Attacks by plugins that do not end, do not answer, or end what they should not."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import psutil
import pytest

from coredeno import (
    Context,
    CoreDenoError,
    Module,
    ModuleState,
    PluginCrashed,
    PluginTimeout,
    Service,
    SidecarExited,
    rpc,
)
from tests.hosts import is_gone
from tests.security.arena import Arena, gone

SPIN = "for (;;);"


async def test_sync_loop(unopened_arena: Arena):
    """A loop without end in `init`, in a call, in a timer with no call under way, or in `dispose` costs its process."""
    unopened_arena.config["heartbeat_s"] = 0.3
    async with unopened_arena.open(load_timeout_s=0.7, call_timeout_s=0.5, hang_s=0.8) as arena:
        before = children()
        with pytest.raises((PluginTimeout, PluginCrashed)):
            await arena.attacker(f"export function init() {{ {SPIN} }}", code="in-init")
        assert arena.host.modules["in-init"].state is ModuleState.ERRORED
        called = await arena.attacker(f"export function go() {{ {SPIN} }}", code="in-call")
        pid = arena.pid_of(called)
        with pytest.raises((PluginTimeout, PluginCrashed)):
            await called.call("go")
        await called.unload()
        await gone(pid)
        disposed = await arena.attacker(f"export function dispose() {{ {SPIN} }}", code="in-dispose")
        pid = arena.pid_of(disposed)
        async with asyncio.timeout(5):
            await disposed.unload()
        assert disposed.state is ModuleState.STOPPED
        await gone(pid)
        timed = await arena.attacker(
            f"export const go = () => {{ setTimeout(() => {{ {SPIN} }}, 50); }};", code="in-timer"
        )
        pid = arena.pid_of(timed)
        await timed.call("go")
        await arena.until_down(timed)  # nobody calls it: only the heartbeat can find out
        await gone(pid)
        reason = why(timed)
        assert reason.cause == "hang"
        assert "module 'in-timer' has been busy without a pause for 0.8 s" in reason.reason
        assert len(children()) <= len(before) + 1  # a spare may have come


def children() -> set[int]:
    """The processes that this one has started and that run."""
    return {child.pid for child in psutil.Process().children() if not is_gone(child.pid)}


def why(module: Module) -> SidecarExited:
    """Why the sidecar of a module that is down has ended."""
    assert module.state is ModuleState.ERRORED
    assert isinstance(module.error, PluginCrashed)
    reason = module.error.__cause__
    assert isinstance(reason, SidecarExited)
    return reason


LOOPS = (
    f"setTimeout(() => {{ {SPIN} }}, 30);",
    "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);",
    "const again = () => queueMicrotask(again); again();",
    "/(a*)*b/.exec('a'.repeat(40));",
)


async def test_loop_after_stop(arena: Arena):
    """A plugin that loops on when it is told to end, in whatever way, is killed within the grace, and gone."""
    for number, loop in enumerate(LOOPS):
        source = f"export const dispose = () => {{ {loop} }}; export const f = () => 1;"
        module = await arena.attacker(source, code=f"looper-{number}")
        pid = arena.pid_of(module)
        started = time.monotonic()
        await module.unload()
        assert time.monotonic() - started < 3
        await gone(pid)


async def goes_down(arena: Arena, source: str, *, code: str = "attacker") -> Module:
    """Load it, call its `go`, and see it ERRORED; the code can be loaded again."""
    module = await arena.attacker(source, code=code)
    pid = arena.pid_of(module)
    with pytest.raises(PluginCrashed):
        await module.call("go", timeout_s=5)
    await arena.until_down(module)
    assert module.state is ModuleState.ERRORED
    assert isinstance(module.error, PluginCrashed)
    await gone(pid)
    again = await arena.attacker("export const f = () => 1;", code=code)
    assert await again.call("f") == 1
    await again.unload()
    return module


async def test_self_close(arena: Arena):
    """A Worker that closes itself is ERRORED, wherever it does so: never LOADING, and nobody waits for it."""
    await goes_down(arena, "export const go = () => { self.close(); return new Promise(() => {}); };")
    hangs = "await new Promise(() => {});"
    for number, source in enumerate(
        (f"self.close(); {hangs}", f"export const init = async () => {{ self.close(); {hangs} }};")
    ):
        with pytest.raises(PluginCrashed):
            await arena.attacker(source, code=f"early-{number}")
        assert arena.host.modules[f"early-{number}"].state is ModuleState.ERRORED


async def test_process_exit(arena: Arena):
    """`Deno.exit` and `process.exit` of a Worker end that module, with whatever code."""
    for number, end in enumerate(("Deno.exit(0)", "process.exit(78)", "process.reallyExit(-1)")):
        call = f"export const go = () => {{ {end}; return new Promise(() => {{}}); }};"
        source = f"import process from 'node:process'; {call}"
        await goes_down(arena, source, code=f"exits-{number}")
    with pytest.raises(PluginCrashed):
        await arena.attacker("Deno.exit(0);", code="early")
    assert arena.host.modules["early"].state is ModuleState.ERRORED


async def test_init_never_resolves(unopened_arena: Arena):
    """A load that never ends ends at its deadline, as PluginTimeout; the module is ERRORED."""
    async with unopened_arena.open(load_timeout_s=0.5) as arena:
        for number, source in enumerate(
            (
                "export const init = () => new Promise(() => {});",
                "await new Promise(() => {}); export const f = () => 1;",
                "export const init = () => ({ then() {} });",
            )
        ):
            with pytest.raises(PluginTimeout):
                await arena.attacker(source, code=f"never-{number}")
            assert arena.host.modules[f"never-{number}"].state is ModuleState.ERRORED


SELF_KILLS = ('process.kill(process.pid, "SIGKILL")', 'Deno.kill(Deno.pid, "SIGKILL")')


async def test_kill_self(arena: Arena):
    """A plugin that kills its own process with SIGKILL is ERRORED, and the reason has the signal."""
    for number, kill in enumerate(SELF_KILLS):
        source = f"""
            import process from "node:process";
            export const go = () => {{ {kill}; return new Promise(() => {{}}); }};
        """
        reason = why(await goes_down(arena, source, code=f"suicide-{number}"))
        assert (reason.exit_code, reason.cause) == (-signal.SIGKILL, "other")


async def test_kill_host(arena: Arena):
    """No process but its own is in a plugin's reach: signals to the host, its group and the bystander are refused."""
    bystander = arena.pid_of(arena.host.modules["bystander"])
    attacker = await arena.attacker(
        """
        import process from "node:process";
        const attempt = (way) => { try { way(); return "sent"; } catch (error) { return error.name ?? "Error"; } };
        const each = (pid, name) => [() => process.kill(pid, name), () => Deno.kill(pid, name)].map(attempt);
        const NAMES = ["SIGKILL", "SIGSTOP", "SIGTERM", "SIGUSR1"];
        export const go = (pids) => pids.flatMap((pid) => NAMES.flatMap((name) => each(pid, name)));
        export const parent = () => process.ppid;
        """
    )
    pids = [os.getpid(), -os.getpid(), os.getppid(), bystander, -bystander, -1, 1]
    came = await attacker.call("go", pids, timeout_s=5)
    assert len(came) == 8 * len(pids)
    assert "sent" not in came, came
    assert not is_gone(bystander)


SWALLOWED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGPIPE")


async def test_swallow_sigterm(arena: Arena):
    """A plugin that hears and swallows every signal that can be swallowed is ended within the grace all the same."""
    attacker = await arena.attacker(
        """
        import process from "node:process";
        const heard = [];
        export const listen = (names) => names.forEach((name) => {
            process.on(name, () => heard.push(`process ${name}`));
            Deno.addSignalListener(name, () => heard.push(`Deno ${name}`));
        });
        export const all = () => heard;
        export const dispose = () => new Promise(() => {});
        """
    )
    await attacker.call("listen", SWALLOWED)
    pid = arena.pid_of(attacker)
    for name in SWALLOWED:
        os.kill(pid, signal.Signals[name])
    wanted = {f"{by} {name}" for by in ("process", "Deno") for name in SWALLOWED}
    end = time.monotonic() + 5
    while set(await attacker.call("all", returns=list[str])) != wanted:
        assert time.monotonic() < end
        await asyncio.sleep(0.01)
    started = time.monotonic()
    await attacker.unload()
    assert time.monotonic() - started < 3
    await gone(pid)


SELF_STOPS = ('process.kill(process.pid, "SIGSTOP")', 'Deno.kill(Deno.pid, "SIGSTOP")')


async def test_sigstop_self(unopened_arena: Arena):
    """A plugin that stops its own process answers nobody: its calls end in time, and the heartbeat has it killed."""
    unopened_arena.config["heartbeat_s"] = 0.3
    async with unopened_arena.open(call_timeout_s=0.5, hang_s=1.0) as arena:
        for number, stop in enumerate(SELF_STOPS):
            source = f"""
                import process from "node:process";
                export const go = () => {{ {stop}; return new Promise(() => {{}}); }};
            """
            attacker = await arena.attacker(source, code=f"stopper-{number}")
            pid = arena.pid_of(attacker)
            call = asyncio.create_task(attacker.call("go"))
            end = time.monotonic() + 5
            while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
                assert time.monotonic() < end
                await asyncio.sleep(0.005)
            with pytest.raises((PluginTimeout, PluginCrashed)):
                await call
            await arena.until_down(attacker)
            reason = why(attacker)
            assert reason.cause == "hang"
            assert "has not answered for 1 s" in reason.reason
            await gone(pid)


LATE = """
    let core;
    export function init(c) {
        core = c;
        addEventListener("unhandledrejection", (event) => event.preventDefault());
    }
    export const go = () => {
        const spam = () => {
            for (let i = 0; i < 20; i++) core.store.set("late", "old").catch(() => {});
            core.log.info("late");
            core.services.witness.hear("old").catch(() => {});
            setTimeout(spam);
        };
        spam();
        return new Promise(() => {});
    };
    export const who = () => "old";
    export const dispose = () => new Promise(() => {});
"""


class Witness(Service, name="witness"):
    """A service of the app that knows whether somebody has spoken to it."""

    def __init__(self) -> None:
        self.heard = asyncio.Event()

    @rpc
    async def hear(self, ctx: Context, value: str) -> None:
        """Hear it."""
        self.heard.set()


async def test_reload_race(unopened_arena: Arena):
    """What an old instance still says when the new one is there is not taken for the new one's: not an answer of it."""
    witness = Witness()
    unopened_arena.services.append(witness)
    async with unopened_arena.open() as arena:
        for _ in range(3):
            old = await arena.attacker(LATE, "services: {witness: []}")
            witness.heard.clear()
            call = asyncio.create_task(old.call("go", timeout_s=10))
            async with asyncio.timeout(5):
                await witness.heard.wait()  # from now on it asks without a pause
            await old.unload()
            with pytest.raises(PluginCrashed):
                await call
            await arena.host.store.set("attacker", "late", "clean")
            new = await arena.attacker(LATE.replace('"old"', '"new"'), "services: {witness: []}")
            assert await asyncio.gather(*(new.call("who") for _ in range(20))) == ["new"] * 20
            with pytest.raises(CoreDenoError):
                await old.call("who")
            await new.unload()
            assert await arena.host.store.get("attacker", "late") == "clean"


WITNESS = """
    const heard = [];
    new BroadcastChannel("left").onmessage = (event) => heard.push(event.data);
    /** How many are heard while a timer of its own, as fast as theirs, comes so often. */
    export const during = (turns) => new Promise((resolve) => {
        heard.length = 0;
        const timer = setInterval(() => {
            if (--turns > 0) return;
            clearInterval(timer);
            resolve(heard.length);
        }, 5);
    });
"""
LEAVER = """
    const beat = (who) => `
        const channel = new BroadcastChannel("left");
        setInterval(() => channel.postMessage("${who}"), 5);
        channel.postMessage("${who}");
    `;
    const heard = new Set();
    let tell;
    const all = new Promise((resolve) => { tell = resolve; });
    new BroadcastChannel("left").onmessage = (event) => {
        if (heard.add(event.data).size === 3) tell([...heard].sort());
    };
    export function init() {
        eval(beat("eval"));
        setInterval(new Function(beat("function")), 50);
        const url = `data:application/javascript,${encodeURIComponent(beat("worker"))}`;
        new Worker(url, { type: "module" });
    }
    /** Who beats, as soon as all do. */
    export const beating = () => all;
"""


async def test_eval_after_unload(arena: Arena):
    """Code that a plugin left behind, in timers, evaluated and in a nested Worker, runs no more once it is unloaded."""
    witness = await arena.attacker(WITNESS, code="witness")
    attacker = await arena.attacker(LEAVER)
    pid = arena.pid_of(attacker)
    assert await attacker.call("beating", timeout_s=5) == ["eval", "function", "worker"]
    if arena.isolation == "process":
        await attacker.unload()
        await gone(pid)
        return
    assert arena.pid_of(witness) == pid
    assert await witness.call("during", 20, timeout_s=5) > 0  # it hears them, as long as they are there
    await attacker.unload()
    await witness.call("during", 1, timeout_s=5)  # what was on its way
    assert await witness.call("during", 60, timeout_s=5) == 0
