"""Attacks on a host that is a program of its own: at its terminal, at its death, and when a thread of it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tests.security.arena import Arena, gone

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("lone_host.py")
LOOPER = "export function go() { for (;;); }"


@contextlib.asynccontextmanager
async def lone_host(arena: Arena, source: str, mode: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The program, with a plugin of this source."""
    plugin = await asyncio.to_thread(arena.write, "attacker", source)
    sockets = await asyncio.to_thread(tempfile.mkdtemp)  # a killed host cannot remove what it made there
    process = await asyncio.create_subprocess_exec(
        *command(arena, plugin, mode),
        env={**environment(), "TMPDIR": sockets},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
        await asyncio.to_thread(shutil.rmtree, sockets)


def command(arena: Arena, plugin: Path, mode: str) -> list[str]:
    """The command line of the program."""
    return [sys.executable, str(PROGRAM), str(arena.root), arena.isolation, str(plugin), mode]


def environment() -> dict[str, str]:
    """Ours, and in it the way to coredeno before the one to the packages, if that is said there."""
    ways = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, ways))}


async def says(process: asyncio.subprocess.Process, wanted: str) -> None:
    """The next line of the program is this."""
    assert process.stdout is not None
    async with asyncio.timeout(20):
        assert (await process.stdout.readline()).decode() == f"{wanted}\n"


def descendants(pid: int) -> list[psutil.Process]:
    """All processes beneath this one: the sidecars and the spare."""
    return psutil.Process(pid).children(recursive=True)


async def all_gone(pids: list[int], within_s: float) -> None:
    """All of them run no more within this time."""
    end = time.monotonic() + within_s
    for pid in pids:
        await gone(pid, max(0.0, end - time.monotonic()))


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
async def test_host_sigkill(unopened_arena: Arena, *, stopped: bool):
    """A host that is killed while a module loops leaves no process, not even stopped ones: all are gone in a second."""
    async with lone_host(unopened_arena, LOOPER, "loop") as process:
        await says(process, "looping")
        children = descendants(process.pid)
        pids = [each.pid for each in children]
        busy = [pid for pid in pids if psutil.Process(pid).cpu_times().user > 0.1]
        assert busy
        for pid in pids if stopped else ():  # which so do not notice that nobody is there any more
            os.kill(pid, signal.SIGSTOP)
        process.kill()
        assert await process.wait() == -signal.SIGKILL
        try:
            await all_gone(pids, within_s=1)
        finally:
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()


async def test_spawn_thread_ends(unopened_arena: Arena):
    """Sidecars end with the thread on whose loop their host ran, busy ones too, though the process lives on."""
    async with lone_host(unopened_arena, LOOPER, "thread") as process:
        await says(process, "looping")
        pids = [each.pid for each in descendants(process.pid)]
        assert pids
        assert process.stdin is not None
        process.stdin.write(b"\n")
        await says(process, "thread ended")
        await all_gone(pids, within_s=1)
        assert process.returncode is None


PROMPTER = """
    import fs from "node:fs";
    import readline from "node:readline";
    import tty from "node:tty";
    import process from "node:process";
    const ASKED = [
        { name: "read", path: "/etc/passwd" }, { name: "run" }, { name: "write" }, { name: "env" },
        { name: "net", host: "example.com" }, { name: "sys" }, { name: "ffi" },
    ];
    const WAYS = {
        prompt: () => prompt("attacker: password?"),
        confirm: () => confirm("attacker: sure?"),
        alert: () => alert("attacker: look"),
        read: () => Deno.readTextFileSync("/etc/passwd"),
        run: () => new Deno.Command("/bin/sh").outputSync(),
        tty: () => Deno.openSync("/dev/tty", { read: true, write: true }),
        nodeTty: () => fs.openSync("/dev/tty", "r+"),
        raw: () => Deno.stdin.setRaw(true),
        size: () => Deno.consoleSize(),
        isTerminal: () => [Deno.stdin, Deno.stdout, Deno.stderr].some((one) => one.isTerminal()),
        isatty: () => Array.from({ length: 64 }, (_, fd) => fd).some((fd) => tty.isatty(fd)),
        line: () => new Promise((resolve) => {
            const lines = readline.createInterface({ input: process.stdin });
            lines.question("attacker: name?", resolve);
            setTimeout(() => resolve(null), 200);
        }),
    };
    export async function go() {
        const gave = {};
        for (const [name, way] of Object.entries(WAYS)) {
            try { gave[name] = (await way()) ?? null; } catch { gave[name] = "refused"; }
        }
        for (const wanted of ASKED) {
            try { gave[`ask ${wanted.name}`] = (await Deno.permissions.request(wanted)).state; } catch (e) {
                gave[`ask ${wanted.name}`] = e.name;
            }
        }
        return gave;
    }
"""


def at_a_terminal(argv: list[str], typed: bytes) -> tuple[bytes, int]:
    """Run a program whose controlling terminal has this typed ahead; what was shown there, and its exit code."""
    terminal, its_end = pty.openpty()
    try:
        os.write(terminal, typed)
        done = subprocess.run(
            argv,
            env=environment(),
            stdin=its_end,
            stdout=its_end,
            stderr=its_end,
            start_new_session=True,
            timeout=30,
            check=False,
        )
        os.write(its_end, b"the end")
        shown = b""
        while not shown.endswith(b"the end"):
            shown += os.read(terminal, 4096)
        return shown, done.returncode
    finally:
        os.close(its_end)
        os.close(terminal)


async def test_prompt_tty(unopened_arena: Arena):
    """A plugin of a host with a terminal asks nobody: nothing is shown there, and what is typed is the app's."""
    plugin = await asyncio.to_thread(unopened_arena.write, "attacker", PROMPTER)
    argv = command(unopened_arena, plugin, "call")
    shown, status = await asyncio.to_thread(at_a_terminal, argv, b"y\n")
    assert status == 0, shown
    said = json.loads(await asyncio.to_thread(unopened_arena.root.with_suffix(".json").read_text))
    assert said["has_terminal"]  # else there is nothing to attack
    assert said["typed"] == "y\n"
    came = said["came"]
    assert {came.pop(name) for name in ("isTerminal", "isatty")} == {False}
    assert set(came.values()) == {"refused", "denied", None}, came
    assert shown == b"y\r\nthe end"  # what was typed, as a terminal shows it, and what this test writes
