"""Stores whose process is killed: what was acknowledged is there, and a migration is done or not begun."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coredeno.interfaces import StoreQuota
from coredeno.services.keyvalue import Store
from coredeno.store.schema import VERSION
from coredeno.store.sqlite import FILE_NAME, SqliteStore
from tests.crash.storing_victim import GROUP, TASKS, value_of

PROJECT = Path(__file__).resolve().parents[2]
KILLS = 12


def acknowledged_before_the_end(folder: Path, first: int, after_s: float) -> dict[str, int]:
    """Let a victim store until it is killed; gives the last number of each key that it was told is done."""
    command = [sys.executable, "-m", "tests.crash.storing_victim", str(folder), str(first)]
    with subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as victim:
        try:
            assert victim.stdout.readline() == "ready\n", victim.stderr.read()
            time.sleep(after_s)
        finally:
            victim.kill()
        out, err = victim.communicate()
    assert victim.returncode == -signal.SIGKILL, err
    # A last line may be cut.
    lines = [line.split() for line in out.splitlines(keepends=True) if line.endswith("\n")]
    return {key: int(number) for key, number in lines}


async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path):
    """At random instants while sixteen tasks share transactions: each key is as it was last told, or one step on.

    The next victim works on what the last one left. All that is found is whole, and counted right.
    """
    dice = random.Random(11)
    last = dict.fromkeys((f"key-{task}" for task in range(TASKS)), 0)
    done = 0
    for _ in range(KILLS):
        first = max(last.values()) + 2
        heard = await asyncio.to_thread(acknowledged_before_the_end, tmp_path, first, dice.uniform(0, 0.2))
        done += len(heard)
        store = SqliteStore()
        await store.open(tmp_path)
        found = await store.read(GROUP)
        for key, before in last.items():
            # A task waits for one change before it makes the next.
            after = heard[key] + 1 if key in heard else first
            allowed = {heard.get(key, before): "told", after: "under way"}
            values = {value_of(key, number) if number else None for number in allowed}
            assert found.get(key) in values, (key, allowed, found.get(key, "")[:40])
            last[key] = after
            if found.get(key) != value_of(key, after):
                last[key] = heard.get(key, before)
        size = sum(len(key) + len(value) for key, value in found.items())
        assert await store.count(GROUP) == len(found)
        # To the byte: there is room for one more, and not for two.
        await Store(store).set(GROUP, "x", "y", quota=StoreQuota(keys=TASKS + 1, bytes=size + 2))
        await Store(store).delete(GROUP, "x")
        await store.aclose()
    assert done > KILLS


# What the first released version made, statement by statement, and never again.
FIRST_VERSION = """
CREATE TABLE entry ("group" TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY ("group", key));
CREATE VIEW change AS SELECT "group", key, value FROM entry;
CREATE TRIGGER change_set INSTEAD OF INSERT ON change WHEN NEW.value IS NOT NULL BEGIN
    INSERT INTO entry VALUES (NEW."group", NEW.key, NEW.value)
    ON CONFLICT ("group", key) DO UPDATE SET value = excluded.value;
END;
CREATE TRIGGER change_delete INSTEAD OF INSERT ON change WHEN NEW.value IS NULL AND NEW.key IS NOT NULL BEGIN
    DELETE FROM entry WHERE "group" = NEW."group" AND key = NEW.key;
END;
CREATE TRIGGER change_delete_group INSTEAD OF INSERT ON change WHEN NEW.value IS NULL AND NEW.key IS NULL BEGIN
    DELETE FROM entry WHERE "group" = NEW."group";
END;
PRAGMA application_id = 0x636F7265;
PRAGMA user_version = 1;
"""
ROWS = {f"{number:04}": str(number) * 30 for number in range(2_000)}

# Opens the store, and is gone at the statement so and so of those that its connections run.
DIES_AT = """
import asyncio, os, signal, sys
from pathlib import Path
from coredeno.store import connection
from coredeno.store.sqlite import SqliteStore

at, ran, connect = int(sys.argv[2]), [], connection._connect

def counted(file, busy_timeout_s):
    opened = connect(file, busy_timeout_s)

    def ran_one(sql):
        ran.append(sql)
        if len(ran) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    opened.set_trace_callback(ran_one)
    return opened

connection._connect = counted

async def main():
    store = SqliteStore()
    await store.open(Path(sys.argv[1]))
    print(len(ran))
    await store.aclose()

asyncio.run(main())
"""


def of_the_first_version(folder: Path) -> Path:
    folder.mkdir()
    file = folder / FILE_NAME
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(FIRST_VERSION)
        database.execute("BEGIN")
        database.executemany("INSERT INTO change VALUES ('g', ?, ?)", ROWS.items())
        database.execute("COMMIT")
    return file


def open_and_die_at(folder: Path, statement: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", DIES_AT, str(folder), str(statement)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def shape_of(file: Path) -> tuple[int, list[str]]:
    """The version, and all that there is in the schema; without another change to the file than its log."""
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        [(version,)] = database.execute("PRAGMA user_version")
        names = [
            name
            for (name,) in database.execute(
                "SELECT type || ' ' || name || sql FROM sqlite_master WHERE sql > ''"
            )
        ]
        return version, sorted(names)


@pytest.mark.timeout(300)
async def test_a_migration_that_is_killed_is_done_or_not_begun(tmp_path: Path):
    """Killed at each of its statements in turn, it leaves the old version or the new one, whole; the next goes on."""
    old = shape_of(of_the_first_version(tmp_path / "old"))
    whole = open_and_die_at(tmp_path / "old", 0)
    statements = int(whole.stdout)
    new = shape_of(tmp_path / "old" / FILE_NAME)
    assert (old[0], new[0]) == (1, VERSION)
    assert statements > 12
    found = []
    for statement in range(1, statements + 1):
        folder = tmp_path / str(statement)
        file = of_the_first_version(folder)
        killed = await asyncio.to_thread(open_and_die_at, folder, statement)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        shape = shape_of(file)
        assert shape in (old, new), f"killed at statement {statement}"
        found.append(shape == new)
        store = SqliteStore()
        await store.open(folder)
        assert await store.read("g") == ROWS
        assert await store.count("g") == len(ROWS)
        await store.aclose()
        assert shape_of(file) == new
    # Old up to some statement and new from then on: nothing was done twice or half.
    assert found == sorted(found)
    assert not found[0]
