"""Attacks on what a plugin's Worker shares with its process: sockets, cache, stage, output, input and channels."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
from pathlib import Path

import psutil
import pytest

from coredeno import CoreDenoError, Hooks, Module, ModuleState, RestartPolicy
from tests.security.arena import Arena, gone

TAKER = """
    import net from "node:net";
    const taken = new Map();
    const read = [];
    function take(fd) {
        const socket = new net.Socket({ fd, readable: true, writable: true });
        socket.on("error", () => {});
        socket.on("data", (bytes) => read.push(new Uint8Array(bytes)));
        taken.set(fd, socket);
        return socket;
    }
    export function sockets() {
        const found = [];
        for (let fd = 3; fd < 64; fd++) {
            try { take(fd); found.push(fd); } catch { continue; }
        }
        return found;
    }
    export function write(bytes, fds) {
        for (const fd of fds) {
            try { (taken.get(fd) ?? take(fd)).write(bytes); } catch { continue; }
        }
        return new Promise(() => {});
    }
    export const listen = async () => {
        for (let fd = 3; fd < 64; fd++) {
            try { take(fd).resume(); } catch { continue; }
        }
        await new Promise((resolve) => setTimeout(resolve, 200));
        return read;
    };
"""
SOME_FDS = list(range(3, 40))


async def ends(module: Module, *call: object) -> None:
    """Call what can only end with the module's end, or not at all."""
    name, *args = call
    with contextlib.suppress(CoreDenoError):
        await module.call(str(name), *args, timeout_s=1)


async def test_fd_hijack_write(arena: Arena):
    """Garbage on all sockets of its process costs a plugin that process, and nobody in another one."""
    for number, garbage in enumerate(
        (b"\xff" * 70_000, b'{"jsonrpc":"2.0","id":1,"result":', b"\0" * 100 + b"\n")
    ):
        attacker = await arena.attacker(TAKER, code=f"writer-{number}")
        pid = arena.pid_of(attacker)
        assert len(await attacker.call("sockets", returns=list[int])) >= 2  # it really has both wires
        await ends(attacker, "write", garbage, SOME_FDS)
        with contextlib.suppress(CoreDenoError):
            await attacker.unload()
        await gone(pid)


async def test_fd_hijack_read(arena: Arena):
    """Who reads from all sockets of its process finds no token and nothing of a module in another one."""
    place = arena.host._parts.loader._placement._places
    probe = await arena.attacker(TAKER, code="probe", group="probes")
    assert len(await probe.call("sockets", returns=list[int])) >= 2  # both wires can really be taken
    attacker = await arena.attacker(TAKER)
    tokens = [one.token.encode() for one in place.values()]
    call = asyncio.create_task(attacker.call("listen", timeout_s=1.5))
    bystander = arena.host.modules["bystander"]
    await asyncio.gather(*(bystander.call("echo", f"private {n}") for n in range(20)))
    try:
        read = b"".join(await call)
    except CoreDenoError:
        read = b""
    assert b"private" not in read
    assert not any(token in read for token in tokens)


def session_frame(requests: list[dict[str, object]]) -> bytes:
    """A batch of the Session, as an HTTP/2 DATA frame of its stream."""
    text = json.dumps(requests).encode()
    length = len(text)
    varint = bytes([length & 0x7F | 0x80, length >> 7]) if length > 127 else bytes([length])
    batch = b"\x0a" + varint + text
    message = b"\0" + len(batch).to_bytes(4, "big") + batch
    return len(message).to_bytes(3, "big") + b"\0\0" + (1).to_bytes(4, "big") + message


@pytest.mark.isolation("process")
async def test_fd_hijack_forge(arena: Arena):
    """Who takes over its process's socket to the host and speaks on it as another module is killed, unheard."""
    await arena.host.store.set("bystander", "k", "mine")
    spoken = [
        {"jsonrpc": "2.0", "id": 7_000_001, "method": "store.set", "params": {"key": "k", "value": "forged"}},
        {"jsonrpc": "2.0", "id": 7_000_002, "method": "store.get", "params": {"key": "k"}},
    ]
    frame = session_frame([{**one, "module": "bystander"} for one in spoken])
    probe = await arena.attacker(TAKER, code="probe")
    fds = await probe.call("sockets", returns=list[int])
    await probe.unload()
    reasons = []
    for fd in fds:
        attacker = await arena.attacker(TAKER, code=f"forger-{fd}")
        pid = arena.pid_of(attacker)
        await ends(attacker, "write", frame, [fd])
        reasons.append(str(attacker.error))
        assert await arena.host.store.get("bystander", "k") == "mine"
        await attacker.unload()
        await gone(pid)
    assert any("bystander" in reason for reason in reasons), reasons


FORGER = """
    import net from "node:net";
    let core, socket;
    export function init(c) { core = c; }
    function take(fd) {
        socket ??= new net.Socket({ fd, readable: true, writable: true });
        socket.on("error", () => {});
        return socket;
    }
    const say = (fd, message) => take(fd).write(JSON.stringify({ jsonrpc: "2.0", ...message }) + "\\n");
    export function leave(fd, code) {
        say(fd, { method: "ModuleExited", params: { code, reason: "forged" } });
    }
    export function hang(fd, code) {
        take(fd).on("data", (bytes) => {
            for (const line of String(bytes).trim().split("\\n")) {
                const { id, method } = JSON.parse(line);
                if (method === "Ping") say(fd, { id, result: { modules: { [code]: { busy_ms: 1e6 } }, rss_bytes: 0 } });
            }
        });
    }
    async function start() {
        for (;;) {
            core.processes.start("sleep", ["77777"]).catch(() => {});
            await new Promise((resolve) => setTimeout(resolve, 2));
        }
    }
    export function stay(fd, code) { leave(fd, code); return start(); }
    export const dispose = start;
    export const echo = (value) => value;
"""


class Crashes(Hooks):
    """Notes why modules went down."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    async def module_crashed(self, module: Module, error: CoreDenoError) -> None:
        self.reasons.append(str(error))


async def wire_of(arena: Arena, crashes: Crashes) -> int:
    """The number that the JSON-RPC wire has in each sidecar: who forges its own end there is believed."""
    probe = await arena.attacker(TAKER, code="probe", group="probes")
    fds = await probe.call("sockets", returns=list[int])
    await probe.unload()
    for fd in fds:
        spy = await arena.attacker(FORGER, code=f"spy-{fd}", group=f"spies-{fd}")
        await ends(spy, "leave", fd, spy.code)
        await asyncio.sleep(0.1)
        await spy.unload()
        if f"{spy.code}: forged" in crashes.reasons:
            return fd
    raise AssertionError(crashes.reasons)


def sleepers() -> list[psutil.Process]:
    """What the forger has started, and runs."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "77777" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


async def test_forged_exit_outlives(unopened_arena: Arena):
    """Who says that it has ended, and goes on, can begin nothing any more; its programs have ended with it."""
    arena, crashes = unopened_arena, Crashes()
    arena.hooks = [crashes]
    arena.config |= {"programs": {"sleep": "/bin/sleep"}}
    async with arena.open():
        fd = await wire_of(arena, crashes)
        for code in ("one", "two", "three"):
            attacker = await arena.attacker(FORGER, "permissions: {run: [sleep]}", code=code)
            pid = arena.pid_of(attacker)
            await ends(attacker, "stay", fd, code)
            await arena.until_down(attacker)
            assert str(attacker.error) == f"{code}: forged"
            await attacker.unload()
            await gone(pid)
            assert not sleepers()


@pytest.mark.isolation("worker")
@pytest.mark.parametrize("lie", ["leave", "hang"])
async def test_forged_exit_blames(unopened_arena: Arena, lie: str):
    """Who tells of a neighbour that it ended or hangs drives it out, and costs it none of its restarts."""
    arena, crashes = unopened_arena, Crashes()
    arena.hooks = [crashes]
    restart = RestartPolicy(first_delay_s=0.01, longest_delay_s=0.01, jitter=0, budget=2, stable_s=60)
    arena.config |= {"restart": restart, "heartbeat_s": 0.1}
    async with arena.open():
        fd = await wire_of(arena, crashes)
        attacker = await arena.attacker(FORGER)
        victim = await arena.attacker("export const echo = (value) => value;", code="victim")
        assert arena.pid_of(attacker) == arena.pid_of(victim)
        crashes.reasons.clear()
        for _ in range(8):
            with contextlib.suppress(CoreDenoError):
                await attacker.call(lie, fd, "victim", timeout_s=1)
            await asyncio.sleep(0.4)
        wanted = "victim: forged" if lie == "leave" else "module 'victim' has been busy"
        assert any(wanted in reason for reason in crashes.reasons), crashes.reasons
        assert await victim.call("echo", 1) == 1
        assert victim.restarts == 1
        assert victim.state is ModuleState.RUNNING


async def test_broadcast_collude(arena: Arena):
    """BroadcastChannel, locks and caches carry nothing from one process to another."""
    source = """
        const heard = [];
        const channel = new BroadcastChannel("collusion");
        channel.onmessage = (event) => heard.push(event.data);
        export async function say() {
            channel.postMessage("hello");
            try { await (await caches.open("collusion")).put("http://x/", new Response("hello")); } catch {}
            try { localStorage.setItem("collusion", "hello"); } catch {}
        }
        export async function hears() {
            await new Promise((resolve) => setTimeout(resolve, 100));
            try { if (await (await caches.open("collusion")).match("http://x/")) heard.push("cache"); } catch {}
            try { if (localStorage.getItem("collusion")) heard.push("storage"); } catch {}
            return heard;
        }
    """
    one = await arena.attacker(source, code="one", group="ones")
    other = await arena.attacker(source, code="other", group="others")
    assert arena.pid_of(one) != arena.pid_of(other)
    await one.call("say")
    assert await other.call("hears") == []


def content_of(folder: Path) -> dict[str, str]:
    """All files of a folder and what is in them."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


VANDAL = """
    import fs from "node:fs";
    export async function go(folders) {
        const done = [];
        for (const folder of [new URL(".", import.meta.url).pathname, ...folders]) {
            const file = `${folder}/main.ts`;
            const ways = [
                () => Deno.writeTextFileSync(file, "evil"),
                () => Deno.writeTextFileSync(`${folder}/new.ts`, "evil"),
                () => Deno.removeSync(folder, { recursive: true }),
                () => Deno.renameSync(file, `${folder}/other.ts`),
                () => Deno.symlinkSync("/etc", `${folder}/link`),
                () => Deno.truncateSync(file),
                () => Deno.chmodSync(folder, 0o777),
                () => Deno.openSync(file, { write: true }),
                () => Deno.mkdirSync(`${folder}/folder`),
                () => Deno.makeTempFileSync({ dir: folder }),
                () => fs.writeFileSync(file, "evil"),
                () => fs.appendFileSync(file, "evil"),
                () => fs.openSync(file, "r+"),
            ];
            for (const way of ways) {
                try { way(); done.push(`${folder}: ${way}`); } catch { continue; }
            }
        }
        return done;
    }
"""


async def test_stage_write(arena: Arena):
    """No plugin changes its own stage, another's, or our runtime: what was verified is what runs."""
    attacker = await arena.attacker(VANDAL)
    places = arena.host._parts.loader._placement._places
    stages = [place.root for place in places.values()]
    before = [await asyncio.to_thread(content_of, stage) for stage in stages]
    assert await attacker.call("go", [str(stage) for stage in stages], timeout_s=5) == []
    assert [await asyncio.to_thread(content_of, stage) for stage in stages] == before


async def test_cache_poison(arena: Arena):
    """No plugin changes what Deno compiled, for itself, for others, or for hosts to come."""
    attacker = await arena.attacker(VANDAL)
    core = arena.root / ".core"
    caches = [
        path for path in core.rglob("*") if path.is_dir() and path.name in ("deno-cache", "gen", "deno")
    ]
    kept = core / "deno-cache"
    assert kept in caches
    before = await asyncio.to_thread(content_of, kept)
    folders = [*caches, *(path.parent for path in caches), kept / "gen" / "file"]
    assert await attacker.call("go", [str(folder) for folder in folders], timeout_s=10) == []
    assert await asyncio.to_thread(content_of, kept) == before
    again = await arena.attacker("export const f = () => 1;", code="again", group="again")
    assert await again.call("f") == 1


async def test_stdout_forge(arena: Arena, caplog: pytest.LogCaptureFixture):
    """What a plugin writes to stdout and stderr is a line of the log, with nothing in it that rules a terminal."""
    caplog.set_level(logging.INFO, "coredeno")
    attacker = await arena.attacker("""
        const write = (out, text) => out.writeSync(new TextEncoder().encode(text));
        export function go() {
            for (const out of [Deno.stdout, Deno.stderr]) {
                write(out, '{"protocol":1,"ready":true,"deno":"9.9.9","pid":1}\\n');
                write(out, '{"jsonrpc":"2.0","id":1,"result":{"ok":true,"exports":["forged"],"load_ms":1}}\\n');
                write(out, "\\x1b]0;owned\\x07\\x1b[2J\\u202e\\r\\x00 the end\\n");
                write(out, "2026-01-01 ERROR coredeno.host forged\\n");
            }
        }
        export const alive = () => true;
    """)
    await attacker.call("go")
    assert await attacker.call("alive") is True
    assert attacker.exports == {"go", "alive"}
    await attacker.unload()  # its pipes are read to their end
    written = [record for record in caplog.records if "the end" in record.getMessage()]
    assert all(record.name in ("coredeno.plugin.attacker", "coredeno.sidecar") for record in written)
    assert not any(mark in caplog.text for mark in ("\x1b", "\x07", "\u202e", "\x00", "\r"))


async def test_stdin_steal(arena: Arena):
    """There is no secret left on stdin for a plugin: reading it gives nothing, and closing it ends itself alone."""
    attacker = await arena.attacker("""
        import process from "node:process";
        export async function steal() {
            const got = [];
            process.stdin.on("data", (data) => got.push(String(data)));
            const buffer = new Uint8Array(4096);
            Deno.stdin.read(buffer).then((n) => got.push(n)).catch(() => {});
            await new Promise((resolve) => setTimeout(resolve, 150));
            return got;
        }
        export const shut = () => { Deno.stdin.close(); return new Promise(() => {}); };
    """)
    pid = arena.pid_of(attacker)
    assert await attacker.call("steal") == []
    await ends(attacker, "shut")
    await attacker.unload()
    assert attacker.state is ModuleState.STOPPED
    await gone(pid)
