"""Attacks on what the gate guards besides files: the store, programs, the processes of others."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import psutil
import pytest

from coredeno import ManifestError, Policy
from coredeno.config import Program
from coredeno.events import PermissionDenied
from tests.security.arena import Arena

REACHER = """
    let core;
    export function init(c) { core = c; }
    const told = (work) => work().then((gave) => `gave ${JSON.stringify(gave)}`, (error) => error.name);
    /** What came of each method on a group of the store. */
    export async function store(name) {
        const group = core.store.group(name);
        return {
            get: await told(() => group.get("key")),
            set: await told(() => group.set("key", "planted")),
            delete: await told(() => group.delete("key")),
            getAll: await told(() => group.getAll()),
            count: await told(() => group.count()),
            deleteGroup: await told(() => group.deleteGroup()),
            render: await told(() => group.render("{{key}} {key} ${key}")),
            storeGet: await told(() => core.storeGet(name, "key")),
            storeSet: await told(() => core.storeSet(name, "key", "planted")),
        };
    }
    export const start = (command, args) => told(async () => (await core.processes.start(command, args)).id);
    export const started = async (command, args) => (await core.processes.start(command, args)).id;
    export async function run(command, args) {
        return (await (await core.processes.start(command, args)).wait()).stdout;
    }
    export const stop = (id) => told(() => core.processStop(id));
"""


async def test_store_reserved(arena: Arena):
    """The host's own groups are out of reach to every method, whatever the manifest asks for."""
    await arena.host.store.set("_plugins", "key", "kept")
    heard = arena.host.events()
    attacker = await arena.attacker(REACHER, "permissions: {store: {read: [shared], write: [shared]}}")
    for name in ("_plugins", "_plugin_seqs", "_host", "_", "_attacker"):
        outcomes = await attacker.call("store", name)
        assert set(outcomes.values()) == {"PermissionDenied"}, (name, outcomes)
    async with asyncio.timeout(5):
        denial = await anext(event async for event in heard if isinstance(event, PermissionDenied))
    assert (denial.module, denial.resource) == ("attacker", "_plugins")
    assert await arena.host.store.get("_plugins", "key") == "kept"
    for asked in ("_plugins", "_"):
        with pytest.raises(ManifestError, match="not beginning with '_'"):
            await arena.attacker(REACHER, f"permissions: {{store: {{read: [{asked}]}}}}", code="asking")


async def test_store_foreign(arena: Arena):
    """A module's group is its own: others read or change it by no method, and to read is not to write."""
    for group in ("bystander", "read-only", "write-only"):
        await arena.host.store.set(group, "key", "kept")
    attacker = await arena.attacker(REACHER, "permissions: {store: {read: [read-only], write: [write-only]}}")
    for name in (
        "bystander",
        "Attacker",
        "attacker ",
        "attacker/../bystander",
        "__proto__",
        "constructor",
        "*",
        ".",
    ):
        outcomes = await attacker.call("store", name)
        assert set(outcomes.values()) <= {"PermissionDenied", "InvalidArgument"}, (name, outcomes)
    changes = {"set", "delete", "deleteGroup", "storeSet"}
    for name, refused in (
        ("read-only", changes),
        ("write-only", {"get", "getAll", "count", "render", "storeGet"}),
    ):
        outcomes = await attacker.call("store", name)
        assert {way for way, outcome in outcomes.items() if outcome == "PermissionDenied"} == refused
    assert await arena.host.store.get("bystander", "key") == "kept"
    assert await arena.host.store.get("read-only", "key") == "kept"


async def test_run_unlisted(unopened_arena: Arena):
    """A program starts if the app approved it and the manifest names it, by that name; nothing else, no shell."""
    arena = unopened_arena
    arena.config |= {
        "programs": {"echo": "/bin/echo", "sleep": "/bin/sleep"},
        "policy": Policy(run=("echo", "ghost")),
    }
    async with arena.open():
        attacker = await arena.attacker(REACHER, "permissions: {run: [echo, ghost]}")
        for command in (
            *(
                "sleep",
                "ghost",
                "sh",
                "/bin/sh",
                "/bin/echo",
                "./echo",
                "../echo",
                "ECHO",
                "echo ",
                "echo\0",
                "",
            ),
            *("echo; id", "echo\nid", "$(id)", "`id`", "echo|id", "__proto__", "constructor", "."),
        ):
            assert await attacker.call("start", command, []) in ("PermissionDenied", "InvalidArgument"), (
                command
            )
        assert (
            await attacker.call("run", "echo", ["$(id)", "; id", "`id`", "$HOME", "*"])
            == "$(id) ; id `id` $HOME *\n"
        )


PRINTER = (
    "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd(), os.getpid()]))"
)


async def test_run_args(unopened_arena: Arena):
    """Arguments come as they are, none is more than that; one that begins with `-` only where the app allowed it."""
    arena = unopened_arena
    printer = arena.folder / "printer"
    printer.write_text(f"#!{sys.executable}\n{PRINTER}\n")
    printer.chmod(0o755)
    free = Program(printer, ("--fixed",), allow_options=True)
    arena.config |= {
        "programs": {"printer": free, "plain": printer},
        "policy": Policy(run=("printer", "plain")),
    }
    nasty = [
        "--",
        "-c",
        "--help",
        "-x id",
        "a b",
        "",
        "'\"",
        "$(id)",
        "\n",
        "%s",
        "\u202e",
        "@/etc/passwd",
        "LD_PRELOAD=x",
    ]
    async with arena.open():
        attacker = await arena.attacker(
            REACHER + "export const printed = async (args) => JSON.parse(await run('printer', args));",
            "permissions: {run: [printer, plain]}",
        )
        got, environment, folder, _pid = await attacker.call("printed", nasty)
        assert got == ["--fixed", *nasty]
        for option in ("-", "--", "-c", "--help", "-x id"):
            assert await attacker.call("start", "plain", ["a", option]) == "PermissionDenied", option
        assert {"PATH", "LANG", "HOME"} >= set(environment) - {"LC_CTYPE", "PWD", "SHLVL", "_"}
        assert Path(folder) == arena.root
        for args in (["a\0b"], ["x" * 200_000], ["x"] * 2000):
            assert await attacker.call("start", "printer", args) in ("InvalidArgument", "LimitExceeded"), (
                args[:1]
            )


async def test_process_stop_foreign(unopened_arena: Arena):
    """A module stops and waits for its own programs only: not those of others, the host's, or any by number."""
    arena = unopened_arena
    arena.config |= {"programs": {"sleep": "/bin/sleep"}, "policy": Policy(run=("sleep",))}
    async with arena.open():
        owner = await arena.attacker(REACHER, "permissions: {run: [sleep]}", code="owner")
        attacker = await arena.attacker(REACHER, "permissions: {run: [sleep]}")
        theirs = await owner.call("started", "sleep", ["1000"])
        mine = await attacker.call("started", "sleep", ["1000"])
        sleeping = [child for child in psutil.Process().children() if child.name() == "sleep"]
        assert len(sleeping) == 2
        numbers = [str(child.pid) for child in sleeping]
        for process_id in (theirs, *numbers, "1", "-1", "0", "", f"{theirs} ", "__proto__"):
            assert await attacker.call("stop", process_id) == "PermissionDenied", process_id
        assert all(child.is_running() for child in sleeping)
        assert (await attacker.call("stop", mine)).startswith("gave")
        assert len([child for child in sleeping if child.is_running()]) == 1
        await owner.unload()
        assert not any(child.is_running() for child in sleeping)


FILLER = """
    let core;
    export function init(c) { core = c; }
    /** Set as many keys as the store takes, all at once; how many it took, and why it took no more. */
    export async function fill(name, count, size) {
        const group = core.store.group(name);
        const value = "x".repeat(size);
        const refusals = new Set();
        let taken = 0;
        await Promise.all(Array.from({ length: count }, (_, number) =>
            group.set(`key-${number}`, value).then(() => taken++, (error) => refusals.add(error.name))));
        return [taken, [...refusals]];
    }
    export const long = (size) => core.store.set("k".repeat(size), "").then(() => "set", (error) => error.name);
    export const clear = (name) => core.store.group(name).deleteGroup();
"""


async def test_quota_store(unopened_arena: Arena):
    """A module fills its groups up to the bounds of keys and of bytes, also by many at once, and no further."""
    arena = unopened_arena
    arena.limits |= {"store_keys": 50, "store_bytes": 20_000}
    async with arena.open():
        attacker = await arena.attacker(FILLER, "permissions: {store: {write: [shared]}}")
        other = await arena.attacker(FILLER, "permissions: {store: {write: [shared]}}", code="other")
        assert await attacker.call("fill", "attacker", 300, 1) == [50, ["LimitExceeded"]]
        await attacker.call("clear", "attacker")
        taken, refusals = await attacker.call("fill", "attacker", 45, 1000)
        assert refusals == ["LimitExceeded"]
        kept = await arena.host.store.get_all("attacker")
        assert len(kept) == taken
        assert sum(len(key) + len(value) for key, value in kept.items()) <= 20_000
        # What others wrote counts: two that may write to one group have one bound there, not two.
        outcomes = await asyncio.gather(*(each.call("fill", "shared", 60, 1) for each in (attacker, other)))
        assert [refused for _, refused in outcomes] == [["LimitExceeded"], ["LimitExceeded"]]
        assert await arena.host.store.count("shared") == 50
        assert await attacker.call("long", 30_000) != "set"
        # The app has no such bound, and a module under it works on.
        await arena.host.store.set("shared", "app", "x" * 50_000)
        assert (await other.call("fill", "other", 10, 10))[0] == 10
