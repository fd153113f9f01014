"""Attacks on memory and threads: in V8's heap and outside it, by buffers, strings, WebAssembly and Workers."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from coredeno import ModuleState, PluginCrashed, SidecarExited
from tests.security.arena import Arena, gone

MEMORY_MB = 48
PATIENT_S = 30.0
"""A `hang_s` that leaves the memory to those who watch memory."""


async def each_falls(arena: Arena, bombs: Mapping[str, str]) -> dict[str, SidecarExited]:
    """Load each, call its `go`, and see it ERRORED and its process gone; why each sidecar ended."""
    reasons = {}
    for name, source in bombs.items():
        module = await arena.attacker(source, code=name)
        pid = arena.pid_of(module)
        with pytest.raises(PluginCrashed):
            await module.call("go", timeout_s=20)
        await arena.until_down(module)
        assert module.state is ModuleState.ERRORED
        assert isinstance(module.error, PluginCrashed)
        reason = module.error.__cause__
        assert isinstance(reason, SidecarExited)
        reasons[name] = reason
        await gone(pid)
    return reasons


def is_out_of_memory(reason: SidecarExited) -> bool:
    """Whether the watch over memory killed it, or V8 ended itself because it got no more."""
    by_v8 = reason.exit_code == -5 and "V8 ended it: out of memory" in reason.reason
    return reason.cause == "memory" or by_v8


HEAP_BOMBS = {
    "at-once": "export function go() { const kept = []; for (;;) kept.push(new Array(1 << 20).fill(1.5)); }",
    "with-pauses": """export async function go() {
        for (const kept = [];;) {
            for (let i = 0; i < 30000; i++) kept.push({ a: [i] });
            await new Promise((resolve) => setTimeout(resolve, 1));
        }
    }""",
}


async def test_heap_bomb(unopened_arena: Arena):
    """A heap that only grows ends its own sidecar, by V8's limit or by the watch, whether its plugin pauses or not."""
    async with unopened_arena.open(memory_mb=MEMORY_MB, hang_s=PATIENT_S) as arena:
        reasons = await each_falls(arena, HEAP_BOMBS)
        assert all(is_out_of_memory(reason) for reason in reasons.values()), reasons


BUFFER_BOMBS = {
    "at-once": """export function go() {
        for (const kept = [];;) {
            try { kept.push(new Uint8Array(1 << 22).fill(1)); } catch { continue; }
        }
    }""",
    "with-pauses": """export async function go() {
        for (const kept = [];;) {
            kept.push(new Uint8Array(1 << 20).fill(1));
            await new Promise((resolve) => setTimeout(resolve, 2));
        }
    }""",
}


async def test_arraybuffer_bomb(unopened_arena: Arena):
    """Buffers, which V8 does not count, are held to `memory_mb` by the watch over what the process really uses."""
    async with unopened_arena.open(memory_mb=MEMORY_MB, hang_s=PATIENT_S) as arena:
        reasons = await each_falls(arena, BUFFER_BOMBS)
        for reason in reasons.values():
            assert reason.cause == "memory"
            assert f"MiB of memory, wanted at most {MEMORY_MB} (Limits.memory_mb)" in reason.reason


THRASHERS = {
    "fresh-texts": """export function go() {
        for (let kept = [];;) {
            kept.push(JSON.stringify({ a: "y".repeat(1 << 18) }));
            if (kept.length > 100) kept = kept.slice(20);
        }
    }""",
    "joined": "export function go() { for (;;) { const s = 'x'.repeat(1 << 18); s.split('').join(''); } }",
}


async def test_string_gc_thrash(unopened_arena: Arena):
    """Texts that keep V8 collecting garbage without ever being too much are found by the heartbeat."""
    unopened_arena.config["heartbeat_s"] = 0.3
    async with unopened_arena.open(memory_mb=256, hang_s=0.7) as arena:
        for name, reason in (await each_falls(arena, THRASHERS)).items():
            assert reason.cause == "hang"
            assert f"module {name!r} has been busy without a pause for 0.7 s" in reason.reason


WASM_BOMBS = {
    "many": """export function go() {
        for (const kept = [];;) {
            try {
                const memory = new WebAssembly.Memory({ initial: 64 });
                new Uint8Array(memory.buffer).fill(1);
                kept.push(memory);
            } catch { continue; }
        }
    }""",
    "growing": """export function go() {
        const memory = new WebAssembly.Memory({ initial: 1, maximum: 65536 });
        for (;;) {
            try { memory.grow(64); } catch { continue; }
            new Uint8Array(memory.buffer).fill(1);
        }
    }""",
    "shared": """export function go() {
        const memory = new WebAssembly.Memory({ initial: 1, maximum: 65536, shared: true });
        for (;;) {
            try { memory.grow(64); } catch { continue; }
            new Uint8Array(memory.buffer).fill(1);
        }
    }""",
}


async def test_wasm_memory_bomb(unopened_arena: Arena):
    """Memory of WebAssembly, many, one that grows or one that is shared, is held to `memory_mb` as well."""
    async with unopened_arena.open(memory_mb=MEMORY_MB, hang_s=PATIENT_S) as arena:
        reasons = await each_falls(arena, WASM_BOMBS)
        assert {reason.cause for reason in reasons.values()} == {"memory"}, reasons


MANY_WORKERS = """
    const start = (source) => new Worker(`data:application/javascript,${encodeURIComponent(source)}`, {
        type: "module",
    });
    const SPAWN = `
        const again = (left) => {
            try { new Worker(self.location.href, { type: "module" }); } catch {}
            if (left > 0) setTimeout(again, 10, left - 1);
        };
        again(20);
    `;
"""
THREAD_BOMBS = {
    "from-one": MANY_WORKERS
    + """export async function go() {
        for (let i = 0; i < 300; i++) {
            try { start("setInterval(() => {}, 1e6)"); } catch {}
            await new Promise((resolve) => setTimeout(resolve, 5));
        }
        return new Promise(() => {});
    }""",
    "from-each-other": MANY_WORKERS
    + "export const go = () => { start(SPAWN); return new Promise(() => {}); };",
}


async def test_thread_bomb(unopened_arena: Arena):
    """Workers within Workers without end cost the sidecar that they are in: each takes of its memory."""
    async with unopened_arena.open(memory_mb=MEMORY_MB, hang_s=PATIENT_S) as arena:
        reasons = await each_falls(arena, THREAD_BOMBS)
        assert all(is_out_of_memory(reason) for reason in reasons.values()), reasons
