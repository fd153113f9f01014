"""Attacks by and on what a process inherits: its environment, its command line, what lies in `/proc`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest

from coredeno import UsageError
from tests.security.arena import Arena

SECRET = "the canary sings"

PROBE = """
    const told = async (one) => {
        try {
            const gave = await one();
            return gave === undefined ? null : String(typeof gave === "object" ? JSON.stringify(gave) : gave);
        } catch (error) {
            return error.name === "NotCapable" ? null : `threw ${error.name}: ${error.message}`;
        }
    };
    const fs = (path) => import("node:fs").then((fs) => fs.readFileSync(path, "utf8"));
    /** What each of the ways to the environment gave; those that were refused are left out. */
    export async function environment(names) {
        const ways = {
            all: () => Deno.env.toObject(),
            keys: async () => Object.keys((await import("node:process")).default.env).join() || undefined,
            has: () => names.some((name) => Deno.env.has(name)),
            loads: async () => (await import("node:process")).default.loadEnvFile(".env"),
            report: async () => (await import("node:process")).default.report?.getReport?.().environmentVariables,
            homedir: async () => (await import("node:os")).default.homedir(),
            userInfo: async () => (await import("node:os")).default.userInfo(),
            hostname: () => Deno.hostname(),
            execPath: () => Deno.execPath(),
        };
        for (const name of names) {
            ways[`get ${name}`] = () => Deno.env.get(name);
            ways[`process ${name}`] = async () => (await import("node:process")).default.env[name];
            ways[`global ${name}`] = () => globalThis.process?.env?.[name];
        }
        const came = {};
        for (const [way, one] of Object.entries(ways)) {
            const outcome = await told(one);
            if (outcome !== null) came[way] = outcome;
        }
        return came;
    }
    export const snapshot = (path) =>
        told(async () => (await import("node:v8")).writeHeapSnapshot(path));
    export async function files(paths) {
        const came = {};
        const ways = {
            read: (path) => Deno.readTextFileSync(path),
            open: async (path) => (await Deno.open(path)).close(),
            list: (path) => [...Deno.readDirSync(path)].length,
            stat: (path) => Deno.statSync(path).size,
            link: (path) => Deno.readLinkSync(path),
            real: (path) => Deno.realPathSync(path),
            write: (path) => Deno.writeTextFileSync(path, "1000"),
            node: fs,
            fetched: async (path) => (await fetch(`file://${path}`)).text(),
            watched: (path) => Deno.watchFs(path).close(),
            sqlite: async (path) => new (await import("node:sqlite")).DatabaseSync(path).close(),
            env: async (path) => (await import("node:process")).default.loadEnvFile(path),
            dlopen: (path) => Deno.dlopen(path, {}).close(),
        };
        for (const path of paths) for (const [way, one] of Object.entries(ways)) {
            const outcome = await told(() => one(path));
            if (outcome !== null) came[`${way} ${path}`] = outcome;
        }
        return came;
    }
"""

INJECTED = {
    "DENO_PERMISSION_BROKER_PATH": "/tmp/broker.sock",
    "NODE_OPTIONS": "--require /tmp/evil.js",
    "LD_PRELOAD": "/tmp/evil.so",
    "LD_AUDIT": "/tmp/evil.so",
    "DENO_V8_FLAGS": "--max-old-space-size=100000",
    "DENO_DIR": "/tmp/evil",
    "DENO_AUTH_TOKENS": f"{SECRET}@example.com",
    "DENO_CERT": "/tmp/evil.pem",
    "DENO_TLS_CA_STORE": "system",
    "DENO_AUTO_CONFIG": "/tmp/deno.json",
    "DENO_UNSTABLE_CONFIG": "1",
    "DENO_COVERAGE_DIR": "/tmp/coverage",
    "DENO_INSPECT": "127.0.0.1:9229",
    "DENO_SERVE_ADDRESS": "tcp:0.0.0.0:1",
    "OTEL_DENO": "true",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
    "NPM_CONFIG_REGISTRY": "http://127.0.0.1:1",
    "HTTP_PROXY": "http://127.0.0.1:1",
    "HTTPS_PROXY": "http://127.0.0.1:1",
    "SSLKEYLOGFILE": "/tmp/keys",
    "FORCE_COLOR": "1",
    "APP_SECRET": SECRET,
}
OURS = {"DENO_DIR", "DENO_CACHE_DB_MODE", "DENO_NO_PROMPT", "DENO_NO_UPDATE_CHECK", "NO_COLOR"}


async def test_env_probe(arena: Arena):
    """No way leads to a variable, or to the user's name or home; only where Deno lies, and NO_COLOR, are no secret."""
    attacker = await arena.attacker(PROBE, files={".env": "EVIL=1\n"})
    came = await attacker.call("environment", ["PATH", "HOME", *sorted(OURS), "EVIL"], timeout_s=10)
    told = {way: what for way, what in came.items() if what not in ("{}", "false", "null")}
    assert told.pop("execPath").endswith("deno")
    assert {way.rpartition(" ")[2] for way in told} <= {"NO_COLOR"}, told


async def test_env_injection_host(unopened_arena: Arena, monkeypatch: pytest.MonkeyPatch):
    """Nothing of the host's own environment reaches a sidecar, whatever would change Deno, node, the loader or TLS."""
    for name, value in INJECTED.items():
        if name not in ("LD_PRELOAD", "LD_AUDIT"):
            monkeypatch.setenv(name, value)
    async with unopened_arena.open():
        # Those would already harm what the tests start themselves, so they come when the host runs.
        monkeypatch.setenv("LD_PRELOAD", INJECTED["LD_PRELOAD"])
        monkeypatch.setenv("LD_AUDIT", INJECTED["LD_AUDIT"])
        attacker = await unopened_arena.attacker(PROBE, "limits: {memory_mb: 48}")
        for module in unopened_arena.host.modules.values():
            process = psutil.Process(unopened_arena.pid_of(module))
            assert set(process.environ()) == OURS
            injected = {value for value in INJECTED.values() if len(value) > 1}
            assert injected.isdisjoint([*process.environ().values(), *process.cmdline()])
            assert SECRET not in " ".join(process.cmdline())
        came = await attacker.call("environment", sorted(INJECTED), timeout_s=10)
        assert SECRET not in str(came)
        monkeypatch.delenv("LD_PRELOAD")
        monkeypatch.delenv("LD_AUDIT")


async def test_proc_environ(arena: Arena):
    """Neither its own process nor the host's nor another module's can be looked into through `/proc`."""
    attacker = await arena.attacker(PROBE, "permissions: {read: [.]}")
    processes = [
        "self",
        "thread-self",
        "1",
        str(os.getpid()),
        str(arena.pid_of(arena.host.modules["bystander"])),
    ]
    paths = [
        f"/proc/{process}/{name}"
        for process in processes
        for name in ("environ", "cmdline", "maps", "mem", "fd/0", "root/etc/passwd", "cwd", "oom_score_adj")
    ]
    came = await attacker.call(
        "files", [*paths, "/proc", "/sys", "/dev/mem", "/proc/sysrq-trigger"], timeout_s=10
    )
    assert came == {}


async def test_secrets_in_argv(arena: Arena):
    """A token stands in no command line and no environment: other users may read the one, its children the other."""
    await arena.attacker(PROBE)
    loader = arena.host._parts.loader
    for place in loader._placement._places.values():
        process = psutil.Process(place.sidecar.pid)
        assert len(place.token) >= 40
        for seen in (*process.cmdline(), *process.environ().values()):
            assert place.token not in seen


@pytest.mark.isolation("process")
@pytest.mark.parametrize(
    "odd", ["a,b", "a\nb", "a\x1bb", "a\u2028b"], ids=["comma", "newline", "escape", "separator"]
)
async def test_comma_in_path(unopened_arena: Arena, odd: str):
    """A root whose path would split or forge a list of permissions starts no sidecar, and the error says why."""
    arena = unopened_arena
    arena.root = arena.folder / odd / "app"
    with pytest.raises(UsageError, match="has a comma or a control character"):
        async with arena.open():
            pass
    assert not [child for child in psutil.Process().children() if "deno" in child.name()]


@pytest.mark.isolation("process")
async def test_odd_root(unopened_arena: Arena):
    """Spaces, quotes, stars and words that look like options are a part of the root's name and nothing else."""
    arena = unopened_arena
    arena.root = arena.folder / "-A --allow-all '*' \"$HOME\" %41 [x]" / "app"
    (arena.root / "data").mkdir(parents=True)
    (arena.root / "data" / "mine.txt").write_text("mine")
    async with arena.open():
        attacker = await arena.attacker(
            PROBE + "let core; export function init(c) { core = c; } "
            "export const read = () => core.files.readText('data/mine.txt');",
            "permissions: {read: [data]}",
        )
        assert await attacker.call("read") == "mine"
        own = str(arena.host._parts.loader._placement.place_of(attacker).root)
        outside = [
            str(arena.root),
            str(Path(own).parent.parent),
            "/etc/passwd",
            str(arena.folder),
            sys.executable,
        ]
        assert await attacker.call("files", outside, timeout_s=10) == {}
