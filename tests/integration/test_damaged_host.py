"""A host whose store is damaged: refused or set aside at the start, told of, and lived with at run time."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from coredeno import HostConfig, PluginHost, StoreCorrupt, StoreError
from coredeno.events import StoreSetAside
from coredeno.testing import FakeLauncher, FakeProcesses, MemoryFiles, MemoryListener
from tests.hosts import nothing_left

GARBAGE = b"this was a database once" * 400


def host_on(root: Path, **config: object) -> PluginHost:
    """Store and audit log are the host's own, on the disk."""
    return PluginHost(
        root,
        config=HostConfig(**config),
        launcher=FakeLauncher({}),
        listener=MemoryListener(),
        files=MemoryFiles(),
        processes=FakeProcesses({}),
    )


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A root whose store is garbage."""
    (tmp_path / ".core").mkdir()
    (tmp_path / ".core" / "store.db").write_bytes(GARBAGE)
    return tmp_path


async def test_a_start_on_a_damaged_store_fails_unless_the_app_says_otherwise(damaged: Path):
    """Trust marks are in the store: nobody goes on without them by accident."""
    for config in ({}, {"corrupt_store": "refuse"}):
        async with nothing_left(damaged):
            with pytest.raises(StoreCorrupt, match=r"HostConfig\.corrupt_store") as caught:
                await host_on(damaged, **config).start()
        assert caught.value.path == str(damaged / ".core" / "store.db")
        assert caught.value.problem == "file is not a database"
        assert (damaged / ".core" / "store.db").read_bytes() == GARBAGE


async def test_a_store_that_is_set_aside_is_told_of(damaged: Path):
    """By an event, a row of the audit log, and the health of this life; the next one has nothing to tell."""
    host = host_on(damaged, corrupt_store="set_aside")
    events = host.events()
    async with host:
        event = await anext(events)
        assert isinstance(event, StoreSetAside)
        assert event.problem == "file is not a database"
        assert Path(event.path).parent == damaged / ".core"
        assert Path(event.path).read_bytes() == GARBAGE
        health = (await host.health()).store
        assert health.ok
        assert event.path in health.note
        assert event.problem in health.note
        [row] = [row async for row in host.audit.entries(kind="StoreSetAside")]
        assert json.loads(row.fields) == {"path": event.path, "problem": event.problem}
        assert await host.installed() == []
        await host.store.set("g", "k", "v")
    async with host_on(damaged, corrupt_store="set_aside") as host:
        assert (await host.health()).store.note == ""
        assert await host.store.get("g", "k") == "v"
        assert len([row async for row in host.audit.entries(kind="StoreSetAside")]) == 1


async def test_a_newer_store_is_refused_in_both_ways(tmp_path: Path):
    """It is whole, and only an older coredeno would think otherwise."""
    async with host_on(tmp_path):
        pass
    file = tmp_path / ".core" / "store.db"
    with file.open("r+b") as stream:
        stream.seek(60)
        stream.write((99).to_bytes(4, "big"))
    before = file.read_bytes()
    for corrupt_store in ("refuse", "set_aside"):
        async with nothing_left(tmp_path):
            with pytest.raises(StoreError, match=r"version 99, wanted at most \d: a newer coredeno"):
                await host_on(tmp_path, corrupt_store=corrupt_store).start()
        assert file.read_bytes() == before


async def test_damage_that_is_met_while_the_host_runs(tmp_path: Path):
    """A typed error for whoever meets it; the host lives on and works, its health says so, the next start decides."""
    file = tmp_path / ".core" / "store.db"
    async with host_on(tmp_path) as host:
        for number in range(100):
            await host.store.set("g", f"{number:03}", "v" * 3_000)
    async with host_on(tmp_path) as host:
        assert (await host.health()).store.ok
        await asyncio.to_thread(damage, file)
        with pytest.raises(StoreCorrupt, match=r"store\.db: database disk image is malformed"):
            await host.store.get_all("g")
        health = (await host.health()).store
        assert not health.ok
        assert "StoreCorrupt: store: reading from store.db: database disk image is malformed" in health.why
        await host.store.set("other", "k", "v")
        assert await host.store.get("other", "k") == "v"
        assert not (await host.health()).store.ok
    with pytest.raises(StoreCorrupt):
        await host_on(tmp_path).start()
    async with host_on(tmp_path, corrupt_store="set_aside") as host:
        assert (await host.health()).store.ok
        assert await host.store.get("other", "k") is None


def damage(file: Path) -> None:
    data = file.read_bytes()
    leaf = [at for at in range(4096, len(data), 4096) if data[at] == 0x0D][50]
    # From another process: here, closing the file would drop the locks that SQLite holds on it.
    code = "import os, sys; os.pwrite(os.open(sys.argv[1], os.O_WRONLY), b'\\xa5' * 4096, int(sys.argv[2]))"
    subprocess.run([sys.executable, "-c", code, os.fspath(file), str(leaf)], check=True)
