"""Attacks on what the system counts for a process: its open files, and what it leaves on the disk when it breaks."""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator

import psutil
import pytest

from coredeno import PluginCrashed, SidecarExited
from tests.security.arena import Arena, gone

MOST_OPEN = 1024
"""What `coredeno.sidecar.confinement` lets a sidecar have open."""

OPENER = """
    import fs from "node:fs";
    const own = new URL("main.ts", import.meta.url);
    const WAYS = {
        deno: () => { const file = Deno.openSync(own); return () => file.close(); },
        node: () => { const fd = fs.openSync(own); return () => fs.closeSync(fd); },
    };
    let closers = [];
    /** Open and open; how many it got, and why no more. */
    export function open(way, most) {
        while (closers.length < most) {
            try { closers.push(WAYS[way]()); } catch (error) { return [closers.length, String(error)]; }
        }
        return [closers.length, "there is no end"];
    }
    export const close = () => { closers.forEach((one) => one()); closers = []; };
"""
TOO_MANY = ("Too many open files", "EMFILE", "os error 24")


async def test_descriptor_bomb(arena: Arena):
    """Who opens files without end gets those that a sidecar may have; the host and all others have their own."""
    for way in ("deno", "node"):
        attacker = await arena.attacker(OPENER, code=way)
        pid = arena.pid_of(attacker)
        count, why = await attacker.call("open", way, 2 * MOST_OPEN, timeout_s=20, returns=tuple[int, str])
        assert MOST_OPEN // 2 < count < MOST_OPEN, (way, count, why)
        assert any(word in why for word in TOO_MANY), (way, why)
        other = await arena.attacker("export const f = () => 1;", code="other", group="others")
        assert await other.call("f") == 1
        await other.unload()
        with contextlib.suppress(PluginCrashed):  # Deno itself may not live without one that is free
            await attacker.call("close", timeout_s=5)
        await attacker.unload()
        await gone(pid)


CRASHES = ("SIGABRT", "SIGSEGV", "SIGQUIT")
"""Signals for which the system writes the memory of a process to the disk, where it may."""


@pytest.fixture
def dumping() -> Iterator[None]:
    """This process may leave an image of its memory; what it starts would inherit that."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


@pytest.mark.usefixtures("dumping")
async def test_core_dump(arena: Arena):
    """A process that breaks, by whatever signal, may leave no image of its memory, in which its token would stand."""
    for name in CRASHES:
        attacker = await arena.attacker(
            f"""
            import process from "node:process";
            export function go() {{
                setInterval(() => process.kill(process.pid, "{name}"), 5);  // Rust lets the first SIGSEGV pass
                return new Promise(() => {{}});
            }}
            """,
            code=name.lower(),
        )
        pid = arena.pid_of(attacker)
        assert psutil.Process(pid).rlimit(psutil.RLIMIT_CORE) == (0, 0)
        with pytest.raises(PluginCrashed):
            await attacker.call("go", timeout_s=5)
        await arena.until_down(attacker)
        assert isinstance(attacker.error, PluginCrashed)
        reason = attacker.error.__cause__
        assert isinstance(reason, SidecarExited)
        assert reason.exit_code == -signal.Signals[name]
        await gone(pid)
