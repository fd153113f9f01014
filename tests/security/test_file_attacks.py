"""Attacks on files outside of what was granted: links, names, modes, and everything between a check and its use."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from coredeno import Module, PluginError, PluginRaised
from tests.security.arena import Arena

SECRET = "the canary sings"
GRANTS = "permissions: {read: [data], write: [data]}"
REACHER = """
    let core;
    export function init(c) { core = c; }
    export const read = (path) => core.files.readText(path);
    export const write = (path, text) => core.files.write(path, text);
    export const list = async (path) => (await core.files.list(path)).map((entry) => entry.name);
    export const remove = (path) => core.files.delete(path);
    export async function tries(way, paths) {
        const came = {};
        for (const path of paths) {
            try {
                came[path] = await ({ read, write, list, remove })[way](path, "x");
            } catch (error) {
                came[path] = error.name;
            }
        }
        return came;
    }
    export async function race(rounds) {
        const seen = {};
        const note = (what) => { seen[what] = (seen[what] ?? 0) + 1; };
        const ways = [
            () => core.files.readText("data/x/canary.txt"),
            () => core.files.readText("data/f"),
            () => core.files.write("data/x/planted.txt", "planted"),
            () => core.files.write("data/f", "planted"),
            () => core.files.write("data/x/deep/planted.txt", "planted"),
            () => core.files.delete("data/x/victim.txt"),
            async () => (await core.files.list("data/x")).map((entry) => entry.name).join(),
        ];
        for (let round = 0; round < rounds; round++) {
            await Promise.all(ways.map((way) => way().then(
                (gave) => note(`gave ${gave}`),
                (error) => note(error.name),
            )));
        }
        return seen;
    }
"""


def lay_out(arena: Arena) -> Path:
    """The folder `data` in the app root, and a canary outside of the root; the canary's path."""
    (arena.root / "data").mkdir(parents=True)
    (arena.root / "data" / "mine.txt").write_text("mine")
    outside = arena.folder / "outside"
    outside.mkdir()
    canary = outside / "canary.txt"
    canary.write_text(SECRET)
    canary.chmod(0o640)
    return canary


async def outcome(module: Module, *call: object) -> str:
    """What a call gave, or the name of the error that it raised in the plugin."""
    name, *args = call
    try:
        return f"gave {await module.call(str(name), *args)}"
    except PluginRaised as error:
        return error.name


def untouched(canary: Path) -> bool:
    """Whether the canary, and the folder round it, are as they were."""
    return (
        canary.read_text() == SECRET
        and stat.S_IMODE(canary.stat().st_mode) == 0o640
        and [path.name for path in canary.parent.iterdir()] == [canary.name]
    )


async def ship(arena: Arena, link: Path, target: Path | str) -> None:
    """A plugin whose folder holds a symlink is not loaded; the error names the link."""
    folder = arena.write("shipped", "export const f = () => 1;")
    where = folder / link
    where.parent.mkdir(exist_ok=True, parents=True)
    where.unlink(missing_ok=True)
    where.symlink_to(target)
    with pytest.raises(PluginError, match=str(link)):
        await arena.host.load_path(folder)
    await arena.host.modules["shipped"].unload()
    where.unlink()


async def test_symlink_file(arena: Arena):
    """A link to a file is never followed, wherever it leads, whoever made it: to read, write, list, remove or load."""
    canary = lay_out(arena)
    data = arena.root / "data"
    links = {
        "out": canary,
        "up": "../../outside/canary.txt",
        "store": "../.core/store.db",
        "in": "mine.txt",
        "self": "self",
        "fd": "/proc/self/fd/0",
    }
    for name, target in links.items():
        (data / name).symlink_to(target)
    attacker = await arena.attacker(REACHER, GRANTS)
    for name in links:
        assert await outcome(attacker, "read", f"data/{name}") == "NotFound", name
        assert await outcome(attacker, "write", f"data/{name}", "x") == "FailedPrecondition", name
        assert await outcome(attacker, "remove", f"data/{name}") == "NotFound", name
        assert (data / name).is_symlink()
    assert await attacker.call("list", "data") == ["mine.txt"]
    assert untouched(canary)
    assert (data / "mine.txt").read_text() == "mine"
    for target in (canary, "main.ts", "/etc/passwd", "/dev/zero"):
        await ship(arena, Path("secret.txt"), target)


async def test_symlink_dir(arena: Arena):
    """A link to a folder is never passed through, not even one that leads to where it stands."""
    canary = lay_out(arena)
    data = arena.root / "data"
    links = {
        "out": canary.parent,
        "up": "../..",
        "root": "/",
        "here": ".",
        "proc": "/proc/self/root",
        "core": "../.core",
    }
    for name, target in links.items():
        (data / name).symlink_to(target, target_is_directory=True)
    attacker = await arena.attacker(REACHER, GRANTS)
    for name in links:
        for path in ("canary.txt", "mine.txt", "store.db", "outside/canary.txt", "etc/passwd"):
            assert await outcome(attacker, "read", f"data/{name}/{path}") == "NotFound", (name, path)
            assert await outcome(attacker, "remove", f"data/{name}/{path}") == "NotFound", (name, path)
        assert await outcome(attacker, "list", f"data/{name}") == "NotFound", name
        assert await outcome(attacker, "write", f"data/{name}/new.txt", "x") == "FailedPrecondition", name
        assert await outcome(attacker, "write", f"data/{name}/new/new.txt", "x") == "FailedPrecondition", name
    assert untouched(canary)
    assert sorted(path.name for path in data.iterdir()) == sorted(["mine.txt", *links])
    for target in (canary.parent, ".", "/"):
        await ship(arena, Path("lib") / "more", target)


SWAPPER = """
import ctypes, os, sys
os.nice(5)
folder = os.open(sys.argv[1], os.O_RDONLY)
libc = ctypes.CDLL(None, use_errno=True)
pairs = [(b"x", b"x-link"), (b"f", b"f-link")]
print("swaps", flush=True)
while True:
    for one, other in pairs:
        if libc.renameat2(folder, one, folder, other, 2):  # RENAME_EXCHANGE: there is no moment without either
            sys.exit(os.strerror(ctypes.get_errno()))
"""
PORTABLE_SWAPPER = """
import os, sys
os.nice(5)
os.chdir(sys.argv[1])
print("swaps", flush=True)
while True:
    for one in ("x", "f"):
        os.rename(one, "aside")
        os.rename(one + "-link", one)
        os.rename(one, one + "-link")
        os.rename("aside", one)
"""


@asynccontextmanager
async def swapping(folder: Path) -> AsyncIterator[None]:
    """Meanwhile another process swaps a folder and a file for links, and back, as fast as it can."""
    program = SWAPPER if sys.platform == "linux" else PORTABLE_SWAPPER
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(folder), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"swaps\n"
    try:
        yield
        assert process.returncode is None, "it swapped until the end"
    finally:
        process.kill()
        await process.communicate()


async def test_symlink_swap(arena: Arena):
    """What is swapped for a link between a check and its use is not followed, however often it is tried."""
    canary = lay_out(arena)
    victim = canary.parent / "victim.txt"
    victim.write_text("alive")
    data = arena.root / "data"
    (data / "x").mkdir()
    (data / "x" / "canary.txt").write_text("harmless")
    (data / "f").write_text("harmless")
    (data / "x-link").symlink_to(canary.parent, target_is_directory=True)
    (data / "f-link").symlink_to(canary)
    attacker = await arena.attacker(REACHER, GRANTS)
    async with swapping(data):
        seen = await attacker.call("race", 150, timeout_s=20)
    assert not [what for what in seen if SECRET in what or "victim" in what]
    assert set(seen) > {"gave harmless", "NotFound"}, f"it never met both: {seen}"
    assert canary.read_text() == SECRET
    assert sorted(path.name for path in canary.parent.iterdir()) == ["canary.txt", "victim.txt"]


async def test_write_through_link(arena: Arena):
    """A write replaces no link and goes through none, not to make what it leads to either."""
    canary = lay_out(arena)
    data = arena.root / "data"
    (data / "dangling").symlink_to(canary.parent / "planted.txt")
    (data / "present").symlink_to(canary)
    (data / "folder").symlink_to(canary.parent, target_is_directory=True)
    attacker = await arena.attacker(REACHER, GRANTS)
    for path in ("dangling", "present", "folder", "folder/planted.txt", "folder/canary.txt", "folder/a/b"):
        assert await outcome(attacker, "write", f"data/{path}", "planted") == "FailedPrecondition", path
    assert untouched(canary)
    assert {path.name for path in data.iterdir() if path.is_symlink()} == {"dangling", "present", "folder"}


async def test_hardlink(arena: Arena):
    """A plugin makes no hard link; and what it writes to one does not reach the file's other names."""
    canary = lay_out(arena)
    os.link(canary, arena.root / "data" / "hard")
    attacker = await arena.attacker(
        REACHER
        + """
        export function link(from, to) {
            const tries = [() => Deno.linkSync(from, to), () => Deno.symlinkSync(from, to)];
            return tries.map((one) => { try { one(); return "gave"; } catch (error) { return error.name; } });
        }
        """,
        GRANTS,
    )
    own = str(arena.host._parts.loader._placement.place_of(attacker).root)
    for source in (str(canary), f"{own}/main.ts", "/etc/passwd"):
        for target in (f"{own}/link", str(arena.root / "data" / "link")):
            assert await attacker.call("link", source, target) == ["NotCapable", "NotCapable"]
    await attacker.call("write", "data/hard", "mine now")
    assert await attacker.call("read", "data/hard") == "mine now"
    await attacker.call("remove", "data/hard")
    assert untouched(canary)


async def test_path_prefix(arena: Arena):
    """A grant of `data` covers what is beneath that very name, no other spelling; and none covers `.core`."""
    canary = lay_out(arena)
    for name in ("data-secrets", "data.txt", "Data", "database"):
        (arena.root / name).mkdir()
        (arena.root / name / "a.txt").write_text(SECRET)
    attacker = await arena.attacker(REACHER, GRANTS)
    refused = {
        "PermissionDenied": (
            *(
                "data-secrets",
                "data.txt",
                "DATA",
                "Data",
                "database",
                "dat",
                "data ",
                "data.",
                ".",
                "d",
                "data-",
            ),
            *(".core", ".core/store.db", ".CORE/store.db", "./.core", ".core.", ".core ", ".c\u200dore"),
        ),
        "InvalidArgument": (
            *("data/../data-secrets", "data/..", "data//x", "/data", "../data", "data\\..", "", "data\0"),
            *(
                str(canary),
                "data/./../x",
                "\x1bdata",
                "data/\n",
                "a" * 5000,
                "data/" + "a" * 300,
                "//",
                "~\\",
            ),
        ),
    }
    for error, paths in refused.items():
        whole = [path + below for path in paths for below in (("", "/a.txt") if path else ("",))]
        for way in ("read", "write", "list", "remove"):
            came = await attacker.call("tries", way, whole)
            assert came == dict.fromkeys(whole, error), way
    for spelled in ("data/mine.txt", "./data/mine.txt", "data/./mine.txt"):
        assert await attacker.call("read", spelled) == "mine"
    whole = await arena.attacker(REACHER, "permissions: {read: [.], write: [.]}", code="whole")
    assert await whole.call("read", "data-secrets/a.txt") == SECRET
    spellings = (".core", "./.core", ".CORE", ".core.", ".core ", ".c\u200dore", "\uff0ecore", "./.Core/.")
    hosts = [spelling + below for spelling in spellings for below in ("", "/store.db", "/new.txt")]
    for way in ("read", "write", "list", "remove"):
        assert await whole.call("tries", way, hosts) == dict.fromkeys(hosts, "PermissionDenied"), way
    assert (arena.root / "data-secrets" / "a.txt").read_text() == SECRET
    assert untouched(canary)


async def test_chmod_setuid(arena: Arena):
    """Nothing that a plugin ships or writes is ever executable, set-user-id or writable by others."""
    lay_out(arena)
    tool = arena.root / "data" / "tool"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o6755)
    folder = arena.write(
        "attacker", REACHER, GRANTS, files={"evil": "#!/bin/sh\n", "sub/evil": "#!/bin/sh\n"}
    )
    for shipped in ("evil", "sub/evil", "main.ts"):
        (folder / shipped).chmod(0o6777)
    (folder / "sub").chmod(0o3777)
    attacker = await arena.host.load_path(folder, group="attackers")
    await attacker.call("write", "data/tool", "#!/bin/sh\nid\n")
    await attacker.call("write", "data/new", "#!/bin/sh\nid\n")
    for written in ("tool", "new"):
        assert stat.S_IMODE((arena.root / "data" / written).stat().st_mode) & 0o7133 == 0
    stage = arena.host._parts.loader._placement.place_of(attacker).root
    for copied in ("evil", "sub/evil", "main.ts"):
        assert stat.S_IMODE((stage / copied).stat().st_mode) & 0o7333 == 0
    assert stat.S_IMODE((stage / "sub").stat().st_mode) & 0o7022 == 0


async def test_odd_files(arena: Arena):
    """A fifo, socket or device in a granted folder neither holds anybody up nor is written to."""
    lay_out(arena)
    data = arena.root / "data"
    os.mkfifo(data / "fifo")
    (data / "zero").symlink_to("/dev/zero")
    attacker = await arena.attacker(REACHER, GRANTS)
    for way in ("read", "write", "remove"):
        more = ["x"] if way == "write" else []
        async with asyncio.timeout(2):
            assert await outcome(attacker, way, "data/fifo", *more) == "FailedPrecondition"
    assert await attacker.call("list", "data") == ["mine.txt"]
    folder = arena.write("shipped", REACHER)
    os.mkfifo(folder / "fifo")
    with pytest.raises(PluginError, match="fifo"):
        await arena.host.load_path(folder)
