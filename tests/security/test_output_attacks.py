"""Attacks by what a plugin writes, to its process's output and to the log; and by Workers that it makes itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

import pytest

from coredeno.events import PermissionDenied
from tests.security.arena import Arena, gone

A_SECOND = 50
FLOODS = {
    "lines": '"a line\\n".repeat(8000)',
    "newlines": '"\\n".repeat(65536)',
    "no-newline": '"x".repeat(65536)',
}


async def test_stdout_flood(unopened_arena: Arena, caplog: pytest.LogCaptureFixture):
    """Output without end, of lines, of nothing but newlines, or without any, is drained and dropped over its rate."""
    caplog.set_level(logging.INFO, "coredeno")
    async with unopened_arena.open(log_lines_per_s=A_SECOND) as arena:
        for name, text in FLOODS.items():
            attacker = await arena.attacker(
                f"""
                const bytes = new TextEncoder().encode({text});
                export function go() {{
                    const end = Date.now() + 500;
                    while (Date.now() < end) {{ Deno.stdout.writeSync(bytes); Deno.stderr.writeSync(bytes); }}
                    return true;
                }}
                """,
                code=name,
            )
            pid = arena.pid_of(attacker)
            caplog.clear()
            began = time.monotonic()
            assert await attacker.call("go", timeout_s=20) is True
            await attacker.unload()
            await gone(pid)
            records = [record for record in caplog.records if record.name.startswith("coredeno")]
            assert len(records) <= (A_SECOND + 20) * (time.monotonic() - began + 2)
            assert max((len(record.getMessage()) for record in records), default=0) < 10_000
            if name != "no-newline":
                assert any(
                    "lines were dropped: more than 50 a second" in each.getMessage() for each in records
                )


async def test_quota_log(unopened_arena: Arena, caplog: pytest.LogCaptureFixture):
    """Log records without end, small and huge, by `core.log`, `console` and stray errors, are bounded and cut."""
    caplog.set_level(logging.DEBUG, "coredeno.plugin.attacker")
    async with unopened_arena.open(log_lines_per_s=A_SECOND, log_line_bytes=1000) as arena:
        attacker = await arena.attacker(
            """
            let core;
            export function init(c) { core = c; }
            export async function go() {
                const huge = "x".repeat(200_000);
                for (const end = Date.now() + 600; Date.now() < end;) {
                    for (let i = 0; i < 200; i++) { core.log.info("small"); console.error(i); }
                    core.log.warning(huge);
                    Promise.reject(new Error(huge));
                    setTimeout(() => { throw new Error(huge); });
                    await new Promise((resolve) => setTimeout(resolve, 1));
                }
                return true;
            }
            export const alive = () => true;
            """
        )
        began = time.monotonic()
        assert await attacker.call("go", timeout_s=20) is True
        assert await attacker.call("alive", timeout_s=20) is True
        await asyncio.sleep(1.3)  # how many were dropped is told once a second
        records = [record for record in caplog.records if record.name == "coredeno.plugin.attacker"]
        assert len(records) <= (A_SECOND + 5) * (time.monotonic() - began + 2)
        assert max(len(record.getMessage()) for record in records) < 1200
        assert any("dropped" in record.getMessage() for record in records)


async def test_quota_refusals(arena: Arena):
    """Names of half a megabyte, each refused, fill nobody's memory while the app has not looked at the events yet."""
    events = arena.host.events()
    attacker = await arena.attacker(
        """
        let core;
        export function init(c) { core = c; }
        export async function go() {
            const name = "\\\\".repeat(500_000);
            const ways = [
                () => core.store.group(name).get("key"),
                () => core.store.group(name).set("key", "value"),
                () => core.processes.start(name, []),
            ];
            let refused = 0;
            for (let i = 0; i < 90; i++) {
                await ways[i % 3]().catch((error) => { refused += error.name === "PermissionDenied" });
            }
            return refused;
        }
        """
    )
    assert await attacker.call("go", timeout_s=30) == 90
    denials = []
    while len(denials) < 90:
        event = await asyncio.wait_for(anext(events), 5)
        if isinstance(event, PermissionDenied):
            denials.append(event)
    assert max(len(denial.resource) + len(denial.remedy) for denial in denials) < 8_000


OPTIONAL = "permissions: {{optional: {{read: [{paths}], net: [{hosts}]}}}}".format(
    paths=", ".join(f"g/{number}" for number in range(256)),
    hosts=", ".join(f"n{number}.example.org" for number in range(256)),
)


async def test_quota_asking(arena: Arena):
    """Asking for permissions costs the host little: with the longest list of what is optional, and with long names."""
    attacker = await arena.attacker(
        """
        let core;
        export function init(c) { core = c; }
        const many = (make) => Array.from({ length: 64 }, (_, i) => make(i));
        const asked = [
            { read: many((i) => `g/255/${i}`) },
            { net: many((i) => `n255.example.org:${i + 1}`) },
            { read: many((i) => `h/${i}`) },
            { ["x".repeat(900_000)]: [] },
        ];
        export async function go() {
            const answers = [];
            for (let round = 0; round < 12; round++) {
                for (const each of asked) answers.push(core.permissions.query(each).catch((error) => error.name));
                answers.push(core.permissions.request(asked[round % 2]).catch((error) => error.name));
                answers.push(core.permissions.request(asked[2]).then((answer) => answer.reason.slice(0, 14)));
            }
            return [...new Set((await Promise.all(answers)).map((each) => each.state ?? each.reason ?? each))].sort();
        }
        """,
        OPTIONAL,
    )
    events = arena.host.events()
    assert await attacker.call("go", timeout_s=30) == [
        "InvalidArgument",
        "denied",
        "files.read 'h/",
        "prompt",
        "the app does not grant it",
        "the app was asked not long ago, and is not asked again yet",
    ]
    denials = 0
    with contextlib.suppress(TimeoutError):
        while True:
            denials += isinstance(await asyncio.wait_for(anext(events), 0.2), PermissionDenied)
    assert denials <= 4 * 24  # of each request some, however many it was for


ESCALATION = """
    const TRIES = `
        const gave = [];
        const ways = {
            read: () => Deno.readTextFileSync("/etc/passwd"),
            list: () => [...Deno.readDirSync("/")],
            write: () => Deno.writeTextFileSync("/tmp/coredeno-nested", "x"),
            run: () => new Deno.Command("/bin/true").outputSync(),
            env: () => Deno.env.toObject(),
            sys: () => Deno.hostname(),
            listen: () => Deno.listen({ hostname: "127.0.0.1", port: 0 }),
            dlopen: () => Deno.dlopen("/lib/x86_64-linux-gnu/libc.so.6", {}),
        };
        for (const [name, way] of Object.entries(ways)) { try { way(); gave.push(name); } catch { continue; } }
        for (const name of ["read", "write", "run", "env", "sys", "net", "ffi"]) {
            if ((await Deno.permissions.request({ name })).state === "granted") gave.push("asked " + name);
        }
        postMessage(gave);
    `;
    const url = (source) => `data:application/javascript,${encodeURIComponent(source)}`;
    const DEEPER = `
        const inner = new Worker(${JSON.stringify(url(TRIES))}, { type: "module", OPTIONS });
        inner.onmessage = (event) => postMessage(event.data);
        inner.onerror = (event) => { event.preventDefault(); postMessage(["error"]); };
    `;
    export function go({ deep, options }) {
        return new Promise((resolve) => {
            try {
                const text = JSON.stringify(options).slice(1, -1) || "name: ''";
                const source = deep ? DEEPER.replace("OPTIONS", text) : TRIES;
                const worker = new Worker(url(source), { type: "module", ...(deep ? {} : options) });
                const end = (what) => { worker.terminate(); resolve(what); };
                worker.onmessage = (event) => end(event.data);
                worker.onerror = (event) => { event.preventDefault(); end(["error"]); };
            } catch (error) { resolve([error.name]); }
        });
    }
"""
WANTED = (
    {"deno": {"permissions": {"read": True}}},
    {"deno": {"permissions": {"write": ["/tmp"], "run": True, "ffi": True}}},
    {"deno": {"permissions": {"env": True, "sys": True, "net": True}}},
)


async def test_nested_worker_escalate(arena: Arena):
    """A Worker of a plugin's, and one within that, gets no more than the plugin: more is refused when it is made."""
    attacker = await arena.attacker(ESCALATION)
    assert await attacker.call("go", {"deep": False, "options": {}}, timeout_s=5) == []
    for options in WANTED:
        assert await attacker.call("go", {"deep": False, "options": options}, timeout_s=5) == [
            "NotCapable"
        ], options
    assert await attacker.call("go", {"deep": True, "options": {}}, timeout_s=5) == []
    assert await attacker.call("go", {"deep": True, "options": WANTED[0]}, timeout_s=5) == ["error"]
