"""Attacks on the bounds of the app root when one of them has fallen: no gate before it, or the kernel's files in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coredeno import permissions
from coredeno.services import builtin, file_names
from coredeno.services.rooted_files import RootedFiles
from tests.security.arena import Arena
from tests.security.test_file_attacks import REACHER, lay_out, untouched

pytestmark = pytest.mark.isolation("process")

WHOLE = "permissions: {read: [.], write: [.]}"


@pytest.fixture
def broken_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on neither the gate nor the file service minds where a path leads."""

    def as_it_comes(path: str) -> str:
        return "/".join(part for part in path.split("/") if part not in ("", ".")) or "."

    for module in (builtin, permissions, file_names):
        monkeypatch.setattr(module, "normalise_path", as_it_comes)


@pytest.mark.usefixtures("broken_gate")
async def test_broken_gate(arena: Arena):
    """A path that leads back, and that nobody has refused, is refused by the kernel: nothing leads above a folder."""
    canary = lay_out(arena)
    attacker = await arena.attacker(REACHER, WHOLE)
    assert await attacker.call("read", "data//./mine.txt") == "mine"  # else the gate still looks at paths
    outside = f"{canary.parent.name}/{canary.name}"
    paths = [
        *(
            f"../{outside}",
            f"data/../../{outside}",
            f"../{canary.parent.name}",
            f"../{canary.parent.name}/new.txt",
        ),
        *("..", "../..", "data/..", "data/../data/mine.txt", "data/../.core/store.db"),
    ]
    for way in ("read", "write", "list", "remove"):
        came = await attacker.call("tries", way, paths)
        assert {path: what for path, what in came.items() if what != "FailedPrecondition"} == {}, way
    assert untouched(canary)
    assert (arena.root / "data" / "mine.txt").read_text() == "mine"


async def test_kernel_files(unopened_arena: Arena):
    """What the kernel makes up, such as an environment, is no file, though it lies in the root and is granted."""
    arena = unopened_arena
    arena.parts["files"] = RootedFiles(Path("/proc"))
    own = str(os.getpid())
    async with arena.open():
        attacker = await arena.attacker(REACHER, WHOLE)
        files = [f"{own}/environ", f"{own}/comm", f"{own}/root/etc/passwd", "self/environ", "version"]
        came = await attacker.call("tries", "read", files)
        assert {path: what for path, what in came.items() if what != "NotFound"} == {}
        folders = [".", own, f"{own}/fd", f"{own}/root", "sys/kernel"]
        assert await attacker.call("tries", "list", folders) == dict.fromkeys(folders, "NotFound")
        # Of what can be changed only what is this process's own: in a mutant it may succeed.
        assert await attacker.call("tries", "write", [f"{own}/comm"]) == {f"{own}/comm": "FailedPrecondition"}
        assert await attacker.call("tries", "remove", [f"{own}/comm"]) == {f"{own}/comm": "NotFound"}
