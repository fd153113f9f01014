"""The audit log on the disk: nothing is changed through SQL, what is changed anyway is found, a kill breaks nothing."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from coredeno import AuditBroken, StoreError, StoreFull
from coredeno.audit.audit import Audit
from coredeno.audit.chain import EMPTY, linked
from coredeno.audit.sqlite import SqliteAudit
from coredeno.clock import LoopClock
from coredeno.events import PluginRemoved
from coredeno.interfaces import AuditHead, AuditRow
from coredeno.testing import MemorySource, fake_host
from tests.hosts import assert_unused, nothing_left

PROJECT = Path(__file__).resolve().parents[2]
KILLS = 10


def changed_by_sql(folder: Path, *statements: str) -> None:
    """As somebody would who can write to the file."""
    with contextlib.closing(sqlite3.connect(folder / "audit.db")) as connection, connection:
        for statement in statements:
            connection.execute(statement)


async def filled(folder: Path, count: int) -> AuditHead:
    """A log with so many rows; gives its head."""
    log = SqliteAudit()
    await log.open(folder)
    rows = linked(EMPTY, [AuditRow(at="t", kind="k", fields=f'{{"n":{n}}}') for n in range(count)])
    await log.append(rows)
    await log.aclose()
    return AuditHead(seq=rows[-1].seq, digest=rows[-1].digest)


@contextlib.asynccontextmanager
async def audit_on(folder: Path):
    audit = Audit(SqliteAudit(), clock=LoopClock(), emit=lambda event: None)
    try:
        await audit.open(folder)
        yield audit
    finally:
        await audit.aclose()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entry SET kind = 'x' WHERE seq = 2",
        "DELETE FROM entry WHERE seq = 3",
        "DELETE FROM entry",
        "INSERT OR REPLACE INTO entry VALUES (2, '', '', '', '', '', '')",
        "INSERT INTO entry VALUES (9, '', '', '', '', '', '')",
        "INSERT INTO entry VALUES (NULL, '', '', '', '', '', '')",
        "INSERT INTO entry VALUES (-1, '', '', '', '', '', '')",
    ],
)
async def test_sql_changes_no_row(statement: str, tmp_path: Path):
    """The database itself refuses to change, delete, replace, or add elsewhere than at the end."""
    head = await filled(tmp_path, 3)
    with pytest.raises(sqlite3.IntegrityError, match="rows of the audit log are"):
        changed_by_sql(tmp_path, statement)
    async with audit_on(tmp_path) as audit:
        assert await audit.verify(head) == head


@pytest.mark.parametrize(
    ("statement", "seq"),
    [
        ("UPDATE entry SET fields = '{\"n\":7}' WHERE seq = 2", 2),
        ("UPDATE entry SET fields = CAST(x'ff' AS TEXT) WHERE seq = 2", 2),
        ("UPDATE entry SET fields = 7 WHERE seq = 2", 2),
        ("DELETE FROM entry WHERE seq = 3", 3),
        ("DELETE FROM entry WHERE seq = 1", 1),
        ("UPDATE entry SET seq = CASE seq WHEN 5 THEN -6 ELSE -5 END WHERE seq IN (5, 6)", 5),
    ],
)
async def test_what_was_changed_without_the_triggers_is_found(statement: str, seq: int, tmp_path: Path):
    """A changed, missing or reordered row, and which it is."""
    await filled(tmp_path, 200)
    changed_by_sql(
        tmp_path,
        "DROP TRIGGER entry_update",
        "DROP TRIGGER entry_delete",
        statement,
        "UPDATE entry SET seq = -seq WHERE seq < 0",
    )
    async with audit_on(tmp_path) as audit:
        with pytest.raises(AuditBroken) as caught:
            await audit.verify()
        assert caught.value.seq == seq


async def test_triggers_that_were_dropped_are_there_again(tmp_path: Path):
    """From the next start on."""
    await filled(tmp_path, 3)
    changed_by_sql(tmp_path, "DROP TRIGGER entry_delete")
    async with audit_on(tmp_path):
        pass
    with pytest.raises(sqlite3.IntegrityError, match="never deleted"):
        changed_by_sql(tmp_path, "DELETE FROM entry")


async def test_a_cut_off_end_is_found_by_a_head_that_was_kept(tmp_path: Path):
    """And only by it."""
    head = await filled(tmp_path, 200)
    changed_by_sql(tmp_path, "DROP TRIGGER entry_delete", "DELETE FROM entry WHERE seq > 190")
    async with audit_on(tmp_path) as audit:
        assert (await audit.verify()).seq == 190
        with pytest.raises(AuditBroken, match=r"row 191: the log ends before it, wanted rows up to 200"):
            await audit.verify(head)


async def test_an_end_that_is_cut_off_while_a_host_runs_is_not_written_over(tmp_path: Path):
    """The next write fails, and then it is known why, though nobody has kept a head; the file is left as it is."""
    await filled(tmp_path, 200)
    async with audit_on(tmp_path) as audit:
        changed_by_sql(tmp_path, "DROP TRIGGER entry_delete", "DELETE FROM entry WHERE seq > 190")
        audit.record(PluginRemoved(module="m"))
        with pytest.raises(StoreError, match="only added at its end"):
            await audit.flush()
        with pytest.raises(AuditBroken, match=r"row 200: the log ends before it, wanted rows up to 200"):
            await audit.flush()
        assert (await audit.verify()).seq == 190


async def test_the_file_is_private_and_its_companions_go(tmp_path: Path):
    """Mode 0600 while it is open, with those beside it, whatever the umask; alone when it is closed."""
    log = SqliteAudit()
    await log.open(tmp_path)
    await log.append(linked(EMPTY, [AuditRow(kind="k")]))
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    await log.aclose()
    assert modes == {"audit.db": 0o600, "audit.db-wal": 0o600, "audit.db-shm": 0o600}
    assert [file.name for file in tmp_path.iterdir()] == ["audit.db"]


def not_a_database(file: Path) -> None:
    file.write_bytes(b"no database at all" * 1000)


def of_another_program(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE theirs (x)")


def newer(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(f"PRAGMA application_id = {0x636F7261}")
        connection.execute("PRAGMA user_version = 2")


def a_folder(file: Path) -> None:
    file.mkdir()


@pytest.mark.parametrize("spoil", [not_a_database, of_another_program, newer, a_folder])
async def test_a_host_does_not_start_on_a_file_that_is_no_log(spoil: Callable[[Path], None], tmp_path: Path):
    """It says which file, leaves it byte for byte as it is, and starts once it was put aside."""
    file = tmp_path / ".core" / "audit.db"
    file.parent.mkdir()
    spoil(file)
    before = file.read_bytes() if file.is_file() else None
    async with nothing_left(tmp_path):
        with pytest.raises(StoreError, match=r"audit: opening .*audit\.db.*wanted .*put it\s+aside"):
            await fake_host(tmp_path, {}, audit=SqliteAudit()).start()
    assert (file.read_bytes() if file.is_file() else None) == before
    file.rename(tmp_path / "aside")
    async with fake_host(tmp_path, {}, audit=SqliteAudit()) as host:
        assert await host.audit.head() == EMPTY


async def test_a_start_that_is_cancelled_leaves_no_thread(tmp_path: Path):
    """At whatever moment; the leak guard looks."""
    for turns in range(8):
        log = SqliteAudit()
        opening = asyncio.create_task(log.open(tmp_path))
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await opening
        closing = asyncio.create_task(log.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await closing
        await log.aclose()
    assert [file.name for file in tmp_path.iterdir()] == ["audit.db"]


async def test_a_full_database_fails_a_write_whole_and_the_next_may_succeed(tmp_path: Path):
    """A real "disk is full" of SQLite: nothing of the batch is there, and the log goes on when there is room."""
    async with audit_on(tmp_path) as audit:
        log: SqliteAudit = audit._backend

        def pages(most: int) -> None:
            log._opened().execute(f"PRAGMA max_page_count = {most}")

        await log._run(partial(pages, 12), "limiting")
        rows = linked(EMPTY, [AuditRow(at="t", kind="k", fields="x" * 1000)] * 200)
        with pytest.raises(StoreFull, match="database or disk is full, wanted free space on its disk"):
            await log.append(rows)
        assert await log.last() == 0
        await log._run(partial(pages, 10**6), "limiting")
        await log.append(rows)
        assert (await audit.verify()).seq == 200


async def test_a_thread_that_cannot_be_had_is_a_store_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What the machine lacks is told as such; nothing is left, and the next log opens."""

    def refused(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    log = SqliteAudit()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        with pytest.raises(StoreError, match=r"opening .*: can't start new thread, wanted one more thread"):
            await log.open(tmp_path)
    await log.aclose()
    async with audit_on(tmp_path) as audit:
        assert await audit.verify() == EMPTY


async def test_a_host_keeps_its_log_beneath_its_root(tmp_path: Path):
    """From one life to the next, in one chain, and nothing but the file is left."""
    for life in (1, 2):
        async with nothing_left(tmp_path), fake_host(tmp_path, {"calm": dict}, audit=SqliteAudit()) as host:
            await host.load_source(MemorySource("name: calm\ncode: calm\nversion: '1'\n"))
            assert (await host.audit.head()).seq == 2 * life - 1
    assert_unused(tmp_path)
    async with audit_on(tmp_path / ".core") as audit:
        assert [row.kind async for row in audit.entries()] == ["ModuleStarted", "ModuleStopped"] * 2
        assert (await audit.verify()).seq == 4


def victim(root: Path, after_s: float) -> int:
    """Let a host log until it is killed; gives the highest number that it was told is on the disk."""
    command = [sys.executable, "-m", "tests.crash.logging_victim", str(root)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"ready\n", process.stderr.read().decode()
            time.sleep(after_s)
        finally:
            process.kill()
        out, err = process.communicate()
        assert process.returncode == -signal.SIGKILL, err.decode()
        # A last line may be cut.
        return max((int(line) for line in out.splitlines(keepends=True) if line.endswith(b"\n")), default=0)


async def test_a_host_that_is_killed_leaves_a_whole_chain(tmp_path: Path):
    """At ten random instants while it installs, removes and denies: what it was told is durable is there."""
    dice = random.Random(4)
    seen = 0
    for _ in range(KILLS):
        durable = await asyncio.to_thread(victim, tmp_path, dice.uniform(0.0, 0.3))
        async with audit_on(tmp_path / ".core") as audit:
            head = await audit.verify()
        assert head.seq >= max(durable, seen)
        seen = head.seq
    assert seen > KILLS
    async with fake_host(tmp_path, {}, audit=SqliteAudit()) as host:
        kinds = {row.kind async for row in host.audit.entries()}
    assert {"PluginInstalled", "PluginRemoved", "PermissionDenied"} <= kinds
