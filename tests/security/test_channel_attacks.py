"""Attacks on the channel between a Worker and its main: stealing it, and saying on it what must not be said."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from coredeno import ModuleState, PluginCrashed, PluginRaised
from tests.security.arena import Arena
from tests.security.runtimes import give_port_away

THIEF = """
    let stolen = null;
    const seen = [];
    const applied = Reflect.apply;
    const see = (value) => {
        if (value instanceof MessagePort) stolen = value;
        else if (value instanceof Event) seen[seen.length] = value;
    };
    const lookAgain = () => seen.splice(0).forEach((event) => [event.target, event.currentTarget].forEach(see));
    const trap = (prototype, key) => Object.defineProperty(prototype, key, {
        configurable: true,
        get() { see(this); },
        set(value) {
            [this, value, value?.item, value?.target].forEach(see);
            Object.defineProperty(this, key, { value, writable: true, configurable: true, enumerable: true });
        },
    });
    let isLooking = false;
    const wrap = (prototype, key) => {
        const { value, get } = Object.getOwnPropertyDescriptor(prototype, key);
        const how = value ? { writable: true } : {};
        Object.defineProperty(prototype, key, { configurable: true, ...how, [value ? "value" : "get"](...args) {
            if (!isLooking) {
                isLooking = true;
                see(this);
                for (let i = 0; i < args.length; i++) see(args[i]);
                isLooking = false;
            }
            return applied(value ?? get, this, args);
        } });
    };
    const WAYS = {
        methods: () => {
            const kinds = [EventTarget, Event, MessageEvent, MessagePort, Object.getPrototypeOf(MessagePort)];
            for (const { prototype } of kinds) {
                if (!prototype) continue;
                for (const key of Reflect.ownKeys(prototype)) {
                    try { wrap(prototype, key); } catch { continue; }
                }
            }
        },
        classBeneath: () => {
            const parent = Object.getPrototypeOf(MessageEvent);
            function Between(...args) {
                const event = Reflect.construct(parent, args, new.target);
                see(event);
                return event;
            }
            Between.prototype = parent.prototype;
            Object.setPrototypeOf(MessageEvent, Between);
        },
        prototypeBeneath: () => Object.setPrototypeOf(MessageEvent.prototype, new Proxy(Event.prototype, {
            get(target, key, self) { see(self); return Reflect.get(target, key, self); },
            set(target, key, value, self) { see(self); return Reflect.set(target, key, value, self); },
        })),
        setters: () => Reflect.ownKeys(new MessageEvent("message")).forEach((key) => trap(Object.prototype, key)),
        promises: () => Deno[Deno.internal].core.setPromiseHooks(see, see, see, (promise) => {
            see(Deno[Deno.internal].core.getPromiseDetails(promise)[1]);
        }),
        calls: () => {
            for (const key of ["call", "apply", "bind"]) wrap(Function.prototype, key);
            for (const key of ["push", "map", "filter", "forEach", "splice"]) wrap(Array.prototype, key);
            wrap(Reflect, "apply");
        },
        stacks: () => {
            Error.prepareStackTrace = (_error, sites) => sites.forEach((site) => see(site.getThis()));
            const put = Array.prototype.at;
            Array.prototype.at = function (...args) { new Error("look").stack; return put.apply(this, args); };
        },
    };
    export function start(way) {
        try { WAYS[way](); } catch (error) { return error.name; }
        setInterval(lookAgain, 2);
        return "tried";
    }
    export const ways = () => Object.keys(WAYS);
    export async function hasIt() {
        await new Promise((resolve) => setTimeout(resolve, 10));
        lookAgain();
        return stolen !== null;
    }
"""


@pytest.mark.isolation("worker")
async def test_port_steal(arena: Arena):
    """The port to main is not had by the ways here; one is known that has it, and main believes no port anyway."""
    asks = await arena.attacker(THIEF, code="asks")
    ways = await asks.call("ways", returns=list[str])

    async def tries(way: str) -> None:
        thief = await arena.attacker(THIEF, code=f"thief-{way.lower()}")
        await thief.call("start", way)
        for _ in range(2):
            assert await thief.call("hasIt") is False, way

    await asyncio.gather(*map(tries, ways))


async def each_falls(arena: Arena, posts: Iterable[tuple[str, str]], *, alone: bool = False) -> None:
    """A module that posts such a thing goes down for that reason; the one that shares its process is not harmed.

    Args:
        arena: where.
        posts: what is done, and what then stands in the error.
        alone: whether each has a process of its own, which it may keep busy until it is killed.
    """
    sibling = await arena.attacker("export const echo = (value) => value;", code="sibling")

    async def falls(number: int, post: str, reason: str) -> None:
        source = f"export const go = () => {{ {post}; return new Promise(() => {{}}); }};"
        group = f"sinners-{number}" if alone else "attackers"
        module = await arena.attacker(source, code=f"sinner-{number}", group=group)
        with pytest.raises(PluginCrashed):
            await module.call("go", timeout_s=10)
        assert module.state is ModuleState.ERRORED
        assert re.search(reason, str(module.error)), (post, module.error)

    if alone:
        for number, one in enumerate(posts):
            await falls(number, *one)
    else:
        await asyncio.gather(*(falls(number, *one) for number, one in enumerate(posts)))
    assert await sibling.call("echo", 1) == 1


FORGED = (
    ('["loaded",["more"]]', "nothing is being loaded"),
    ('["unloadable",{"name":"E","message":"m","stack":""}]', "nothing is being loaded"),
    ('["disposed"]', "nobody asked"),
    ('["done",1e9,1,[]]', "not under way"),
    ('["failed",1e9,"PluginRaised",{}]', "not under way"),
    ('["pong",7]', "without a ping"),
    ('["load",{}]', "no known kind"),
    ('["ask",1,"store.get",{"key":null},[{"at":["params","key"],"len":9}],null]', "missing"),
    ('["log","fatal","x",null]', "no such level"),
)


@pytest.mark.isolation("worker")
async def test_forge_loaded(unopened_arena: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Who says by itself that it is loaded, or that anything else is done, is down: it has no say in that."""
    give_port_away(tmp_path, monkeypatch)
    async with unopened_arena.open() as arena:
        early = """self.postMessage('[["loaded",["forged"]]]'); await new Promise(() => {});"""
        with pytest.raises(PluginCrashed, match="Worker's own channel"):
            await arena.attacker(early, code="early")
        assert arena.host.modules["early"].state is ModuleState.ERRORED
        await each_falls(arena, [(f"port.postMessage('[{frame}]')", reason) for frame, reason in FORGED])


@pytest.mark.isolation("worker")
async def test_null_message(unopened_arena: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A message that is none, on either channel, ends its module; main and its other modules live on."""
    give_port_away(tmp_path, monkeypatch)
    messages = ("null", "undefined", "0", "''", "'null'", "'[null]'", "'{}'", "[]", "[null]", "['[]', null]")
    async with unopened_arena.open() as arena:
        await each_falls(
            arena,
            [
                *((f"port.postMessage({message})", "protocol error") for message in messages),
                *((f"self.postMessage({message})", "Worker's own channel") for message in messages[:2]),
            ],
        )


ODD = (
    "(() => { const a = []; a[0] = a; return a; })()",
    "(() => { const a = {}; a.a = a; return a; })()",
    "new SharedArrayBuffer(8)",
    """['[["log","info","x",null]]', new SharedArrayBuffer(8)]""",
    """['[["log","info","x",null]]', new Uint8Array(8)]""",
    """['[["log","info","x",null]]', new ArrayBuffer(8)]""",
    "new Map([[1, new Error('x')]])",
    "new WebAssembly.Module(new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]))",
)


@pytest.mark.isolation("worker")
async def test_cyclic_or_sab_message(unopened_arena: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Cycles and shared memory cross neither as values nor as messages: a cycle raises, shared bytes are a copy."""
    give_port_away(tmp_path, monkeypatch)
    async with unopened_arena.open() as arena:
        await each_falls(arena, [(f"port.postMessage({message})", "protocol error") for message in ODD])
        honest = await arena.attacker(
            """
            const shared = new Uint8Array(new SharedArrayBuffer(4)).fill(1);
            export const bytes = () => { setTimeout(() => shared.fill(9)); return shared; };
            export const cycle = () => { const a = { b: {} }; a.b.a = a; return a; };
            """,
            code="values",
        )
        assert await honest.call("bytes") == b"\x01\x01\x01\x01"
        with pytest.raises(PluginRaised, match="cycle"):
            await honest.call("cycle")
        assert honest.state is ModuleState.RUNNING


@pytest.mark.isolation("worker")
async def test_flood_large(unopened_arena: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Large messages without end, on the port, by requests and by log, cost the module, or are held to its bounds."""
    give_port_away(tmp_path, monkeypatch)
    async with unopened_arena.open() as arena:
        huge = "const huge = 'x'.repeat(4 << 20); for (let i = 0; i < 16; i++) port.postMessage(huge)"
        raw = (
            "const raw = new ArrayBuffer(4 << 20); for (let i = 0; i < 16; i++) port.postMessage(['[]', raw])"
        )
        ask = """const text = 'x'.repeat(9e5); for (let i = 1; i < 64; i++) {
            port.postMessage(`[["ask",${i},"store.set",{"key":"k","value":"${text}"},[],null]]`);
        }"""
        log = """for (let i = 0; i < 3000; i++) port.postMessage('[["log","info","' + 'x'.repeat(8000) + '",null]]')"""
        await each_falls(
            arena,
            [
                (huge, "message: 4194304 long, wanted at most"),
                (raw, "wanted at most"),
                (ask, "too many bytes in flight"),
                (log, "more records than it may send"),
            ],
            alone=True,
        )


@pytest.mark.isolation("worker")
async def test_flood_small(unopened_arena: Arena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Small messages without end cost the module, or are held to its bounds: requests wait, records are dropped."""
    give_port_away(tmp_path, monkeypatch)
    async with unopened_arena.open() as arena:
        ask = """for (let i = 1; i < 3000; i++) port.postMessage(`[["ask",${i},"store.get",{"key":"k"},[],null]]`)"""
        own = "for (let i = 0; i < 3000; i++) self.postMessage(i)"
        await each_falls(
            arena,
            [
                (ask, "too many requests in flight"),
                (own, "own channel"),
            ],
            alone=True,
        )
        honest = await arena.attacker(
            """
            let core;
            export function init(c) { core = c; }
            export const ask = async () => {
                await Promise.all(Array.from({ length: 3000 }, () => core.store.get("k")));
                for (let i = 0; i < 50000; i++) core.log.info("x");
                return "done";
            };
            """,
            code="asks",
        )
        assert await honest.call("ask", timeout_s=20) == "done"
        assert honest.state is ModuleState.RUNNING
