"""Attacks by a plugin for which Deno's sandbox is no more: what the operating system's layers leave it.

The sidecars of these tests run a copy of our runtime whose Workers get all permissions, under `deno run -A`, as if a
flaw in V8 or Deno had given them away. What confines the process is the product's, unchanged.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from pathlib import Path

import psutil
import pytest

from coredeno import PluginRaised
from coredeno.interfaces import LaunchOrder
from coredeno.sidecar import confinement, launcher
from coredeno.wire.codes import RUNTIME_FOLDER
from tests.security.arena import Arena

pytestmark = pytest.mark.isolation("process")

SECRET = "the canary sings"
CONFINED = "deno: { permissions } } as WorkerOptions"

FREE = """
    const REFUSED = /os error (1|13)\\b|EACCES|EPERM|Permission|not permitted/i;
    const told = async (one) => {
        try {
            const gave = await one();
            return gave === undefined ? null : `gave ${gave}`;
        } catch (error) {
            const problem = `${error.message} ${error.cause ?? ""}`;
            return REFUSED.test(problem) ? null : `${error.name}: ${problem}`;
        }
    };
    export const isFree = async () => [
        (await Deno.permissions.query({ name: "run" })).state, (await Deno.permissions.query({ name: "ffi" })).state,
    ];
    /** What came of each try that the system did not refuse. */
    export async function tries({ secrets, system, files, folders, programs, pids, victim, port, abstract }) {
        const ways = {};
        for (const path of secrets) ways[`read ${path}`] = () => Deno.readTextFileSync(path);
        for (const path of system) ways[`list ${path}`] = () => [...Deno.readDirSync(path)].length;
        // What changes something is tried on what the test made only: here it must be refused, in a mutant it works.
        for (const path of files) {
            ways[`read ${path}`] = () => Deno.readTextFileSync(path);
            ways[`write ${path}`] = () => (Deno.writeTextFileSync(path, "planted"), "");
            ways[`append ${path}`] = () => (Deno.writeTextFileSync(path, "planted", { append: true }), "");
            ways[`remove ${path}`] = () => (Deno.removeSync(path), "");
            ways[`truncate ${path}`] = () => (Deno.truncateSync(path), "");
        }
        for (const path of folders) {
            ways[`list ${path}`] = () => [...Deno.readDirSync(path)].length;
            ways[`make ${path}`] = () => (Deno.mkdirSync(`${path}/planted`), "");
            ways[`create ${path}`] = () => (Deno.writeTextFileSync(`${path}/planted.txt`, ""), "");
            ways[`symlink ${path}`] = () => (Deno.symlinkSync("/etc", `${path}/planted-link`), "");
        }
        for (const program of programs) {
            ways[`run ${program}`] = async () => (await new Deno.Command(program).output()).code;
        }
        for (const pid of pids) {
            ways[`signal ${pid}`] = () => (Deno.kill(pid, "SIGCONT"), "");
            ways[`environ ${pid}`] = () => Deno.readTextFileSync(`/proc/${pid}/environ`);
            ways[`memory ${pid}`] = () => (Deno.openSync(`/proc/${pid}/mem`).close(), "");
        }
        ways.kill = () => (Deno.kill(victim, "SIGKILL"), "");
        ways.connect = async () => ((await Deno.connect({ hostname: "127.0.0.1", port })).close(), "");
        ways.listen = () => (Deno.listen({ hostname: "127.0.0.1", port: 0 }).close(), "");
        ways.abstract = async () => ((await Deno.connect({ transport: "unix", path: `\\0${abstract}` })).close(), "");
        const came = {};
        for (const [way, one] of Object.entries(ways)) {
            const outcome = await told(one);
            if (outcome !== null) came[way] = outcome;
        }
        return came;
    }
"""


@pytest.fixture
def broken_deno(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on Deno confines nothing."""
    runtime = tmp_path / "runtime"
    shutil.copytree(RUNTIME_FOLDER, runtime)
    link = (runtime / "link.ts").read_text()
    assert link.count(CONFINED) == 1
    (runtime / "link.ts").write_text(
        link.replace(CONFINED, 'deno: { permissions: "inherit" } } as WorkerOptions')
    )

    def command_line(deno: Path, _order: LaunchOrder) -> list[str]:
        options = ["--no-config", "--no-lock", "--no-prompt", "--unstable-worker-options"]
        return [str(deno), "run", "-A", *options, str(runtime / "main.ts")]

    monkeypatch.setattr(launcher, "command_line", command_line)
    monkeypatch.setattr(confinement, "RUNTIME_FOLDER", runtime)


@pytest.mark.usefixtures("broken_deno")
async def test_escaped_sandbox(unopened_arena: Arena):
    """A plugin that got all permissions of Deno reads, writes, runs, signals and reaches nothing but its own."""
    arena = unopened_arena
    canary = arena.folder / "outside" / "canary.txt"
    canary.parent.mkdir()
    canary.write_text(SECRET)
    (arena.root / "data").mkdir(parents=True)
    (arena.root / "data" / "a.txt").write_text(SECRET)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        name = f"coredeno-{os.getpid()}"
        abstract.bind(f"\0{name}")
        abstract.listen()
        async with arena.open():
            await arena.host.store.set("bystander", "key", "kept")
            attacker = await arena.attacker(FREE)
            assert await attacker.call("isFree") == ["granted", "granted"], "else this would show nothing"
            theirs = arena.pid_of(arena.host.modules["bystander"])
            places = arena.host._parts.loader._placement._places
            other = places[arena.host.modules["bystander"]].root
            targets = {
                "secrets": [
                    *map(
                        str,
                        (
                            arena.root / ".core" / "store.db",
                            other / "main.ts",
                            RUNTIME_FOLDER.parent / "host.py",
                        ),
                    ),
                    *("/etc/passwd", "/etc/group", "/proc/1/environ"),
                ],
                "system": ["/", "/tmp", "/etc", "/home", "/dev/shm", "/proc"],
                "files": [
                    str(canary),
                    str(arena.root / "data" / "a.txt"),
                    str(arena.folder / "runtime" / "boot.ts"),
                ],
                "folders": [
                    *map(str, (arena.folder, canary.parent, arena.root, arena.root / ".core", other))
                ],
                "victim": theirs,
                "programs": ["/bin/sh", "/bin/true", "/usr/bin/env", sys.executable],
                "pids": [os.getpid(), theirs, 1],
                "port": server.getsockname()[1],
                "abstract": name,
            }
            came = await attacker.call("tries", targets, timeout_s=10)
            # It reads the runtime, as it must; it does not change it.
            assert set(came) <= {f"read {arena.folder / 'runtime' / 'boot.ts'}"}, came
            assert psutil.Process(theirs).is_running()
            assert await arena.host.store.get("bystander", "key") == "kept"
    assert canary.read_text() == SECRET
    assert not list(arena.folder.rglob("planted*"))


MOST_BYTES = 64 << 20
"""The largest file that `coredeno.sidecar.confinement` lets a sidecar write."""
WRITER = """
    const told = (one) => { try { one(); return "done"; } catch (error) { return String(error); } };
    /** Write and write to one file, then stretch it; how large it became, and what stopped each. */
    export function fill(path, most) {
        const file = Deno.openSync(path, { write: true, create: true });
        const piece = new Uint8Array(1 << 20);
        const whys = [
            told(() => { for (let size = 0; size < most;) size += file.writeSync(piece); }),
            told(() => file.truncateSync(2 ** 40)),
        ];
        const { size } = file.statSync();
        file.close();
        Deno.removeSync(path);
        return [size, whys];
    }
"""


@pytest.mark.usefixtures("broken_deno")
async def test_huge_file(arena: Arena):
    """Where a plugin that got all permissions may write, in its Deno's own folder, no file becomes larger than that."""
    attacker = await arena.attacker(WRITER)
    folder = psutil.Process(arena.pid_of(attacker)).environ()["DENO_DIR"]
    size, whys = await attacker.call(
        "fill", f"{folder}/huge", 2 * MOST_BYTES, timeout_s=20, returns=tuple[int, list[str]]
    )
    assert size == MOST_BYTES
    assert all("File too large" in why for why in whys), whys
    with pytest.raises(PluginRaised, match="denied"):
        await attacker.call("fill", str(arena.root / "huge"), 1)
