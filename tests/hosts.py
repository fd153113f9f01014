"""What tests of whole hosts share: launchers that remember, and eyes for what a host leaves behind."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from coredeno.interfaces import HostDoor, LaunchOrder
from coredeno.sidecar.launcher import DenoLauncher, DenoProcess
from tests import leaks


class RememberingLauncher:
    """Launches as `DenoLauncher` does, and keeps what it was told and what it gave."""

    def __init__(self, deno: Path | None = None) -> None:
        self.orders: list[LaunchOrder] = []
        self.processes: list[DenoProcess] = []
        self._launcher = DenoLauncher(deno)

    async def launch(self, order: LaunchOrder, door: HostDoor) -> DenoProcess:
        self.orders.append(order)
        process = await self._launcher.launch(order, door)
        self.processes.append(process)
        return process


@asynccontextmanager
async def nothing_left(root: Path) -> AsyncIterator[None]:
    """Judge a block at its end: all is as before, nobody holds the root, and no sidecar has a folder in it."""
    loop = asyncio.get_running_loop()
    before = leaks.belongings(loop)
    yield
    left = await leaks.settled_in_loop(before, frozenset())
    assert not left, leaks.report(left)
    assert_unused(root)


def assert_unused(root: Path) -> None:
    """No host holds this root, and none left more in it than what it keeps."""
    core = root / ".core"
    if not core.is_dir():
        return
    left = {entry.name for entry in core.iterdir()} - {
        "audit.db",
        "deno-cache",
        "lock",
        "plugins",
        "store.db",
        "view.yml",
    }
    left |= {f"plugins/.staging/{entry.name}" for entry in core.glob("plugins/.staging/*")}
    assert not left, f"{core} has {left}"
    if (core / "lock").exists():
        lock = os.open(core / "lock", os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(lock)


def compiled_before(root: Path, compiled: Path) -> None:
    """Give a new root what an earlier host has compiled of our own runtime: that saves a third of a start."""
    if compiled.exists():
        shutil.copytree(compiled, root / ".core" / "deno-cache", dirs_exist_ok=True)


def is_gone(pid: int) -> bool:
    """Whether it runs no more; whoever is in charge of orphans may not have reaped it yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
