from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from coredeno.clock import LoopClock
from coredeno.config import CorruptStore
from coredeno.errors import LimitExceeded, StoreCorrupt, StoreError, StoreFull, UsageError
from coredeno.interfaces import StoreChange, StoreQuota
from coredeno.services.watched_store import WatchedStore
from coredeno.store import schema, statements
from coredeno.store.sqlite import FILE_NAME, SqliteStore

NEVER_CLOSED = """
import asyncio, sys
from pathlib import Path
from coredeno.interfaces import StoreChange
from coredeno.store.sqlite import SqliteStore

store = SqliteStore()

async def main():
    await store.open(Path(sys.argv[1]))
    await store.write([StoreChange(group="g", key="k", value="v")])

asyncio.run(main())
print("main has ended")
"""

WRITES_BEYOND_THE_LIMIT = """
import asyncio, resource, sys
from pathlib import Path
from coredeno.errors import StoreError
from coredeno.interfaces import StoreChange
from coredeno.store.sqlite import SqliteStore

def change(key, value):
    return StoreChange(group="g", key=key, value=value)

async def main():
    store = SqliteStore()
    await store.open(Path(sys.argv[1]))
    await store.write([change("before", "v")])
    unlimited, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    results = await asyncio.gather(
        store.write([change("small", "v")]),
        store.write([change("large", "v" * 1_000_000)]),
        store.write([change("small too", "v")]),
        return_exceptions=True,
    )
    print([str(result) for result in results])
    print(sorted(await store.read("g")))
    resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, hard))
    await store.write([change("after", "v" * 1_000_000)])
    await store.aclose()

asyncio.run(main())
"""

QUOTA_IS_USED_UP = """
import errno, os

def pwrite(*_arguments):
    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

os.pwrite = pwrite
"""


def change(key: str, value: str | None = "v", group: str = "g") -> StoreChange:
    return StoreChange(group=group, key=key, value=value)


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def modes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}


def database_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "_connection_worker_thread" in thread.name]


@asynccontextmanager
async def opened(folder: Path, **options: float) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(**options)
    try:
        await store.open(folder)
        yield store
    finally:
        await store.aclose()
        assert not database_threads()


def commits(folder: Path) -> int:
    """Transactions in the write-ahead log: frames of 24 + 4,096 bytes whose header has the size of the file.

    https://www.sqlite.org/fileformat2.html#walformat
    """
    log = (folder / f"{FILE_NAME}-wal").read_bytes()
    return sum(any(log[frame + 4 : frame + 8]) for frame in range(32, len(log), 24 + 4_096))


async def test_a_commit_is_synced_to_the_disk(tmp_path: Path):
    """SQLite is told to sync at every commit: a kill of the process cannot show it, a power cut would."""
    async with opened(tmp_path) as store:
        for pragma, wanted in {"journal_mode": "wal", "synchronous": 2, "fullfsync": 1}.items():
            assert await store._writer.fetch((f"PRAGMA {pragma}", ()), "asking") == [(wanted,)]


async def test_writes_at_once_share_transactions(tmp_path: Path):
    """64 writes of one turn of the loop, of both kinds, are one transaction; tasks that go on share too."""
    async with opened(tmp_path) as store:
        before = commits(tmp_path)
        await asyncio.gather(*(store.write([change(str(n), None if n % 3 else "v")]) for n in range(64)))
        assert commits(tmp_path) == before + 1

        async def write(key: str) -> None:
            for number in range(10):
                await store.write([change(key, str(number))])

        await asyncio.gather(*(write(str(task)) for task in range(64)))
        assert commits(tmp_path) <= before + 1 + 20
        assert set((await store.read("g")).values()) == {"9"}


async def test_large_values_share_a_transaction_up_to_a_megabyte(tmp_path: Path):
    """Writes of large values are divided: bound all at once they would hold up the event loop."""
    async with opened(tmp_path) as store:
        before = commits(tmp_path)
        await asyncio.gather(*(store.write([change(str(n), "v" * 300_000)]) for n in range(12)))
        assert commits(tmp_path) == before + 4
        assert await store.count("g") == 12


async def test_a_write_of_many_changes_is_one_transaction(tmp_path: Path):
    """More changes than one statement takes are still made together, or not at all."""
    async with opened(tmp_path) as store:
        before = commits(tmp_path)
        await store.write([change(str(number)) for number in range(600)])
        assert commits(tmp_path) == before + 1
        bad = [change(str(number), "new") for number in range(600)] + [change("k", "\ud800")]
        with pytest.raises(StoreError, match="surrogates"):
            await store.write(bad)
        assert commits(tmp_path) == before + 1
        assert set((await store.read("g")).values()) == {"v"}


async def test_reads_at_once_share_a_trip(tmp_path: Path):
    """64 reads of one turn of the loop are one statement, and each gets its own answer."""
    async with opened(tmp_path) as store:
        await store.write([change(str(number), str(number)) for number in range(50)])
        ran: list[str] = []
        await store._reader._connection.set_trace_callback(ran.append)
        found = await asyncio.gather(*(store.read("g", [str(number)]) for number in range(64)))
        assert len(ran) == 1
        assert found == [{str(n): str(n)} if n < 50 else {} for n in range(64)]


async def test_statements_come_in_few_shapes(tmp_path: Path):
    """However many share a trip, SQLite has compiled the statement before: there are nine shapes at most."""
    async with opened(tmp_path) as store:
        for number in range(1, 256, 7):
            await asyncio.gather(*(store.read("g", [str(n)]) for n in range(number)))
        assert statements._read_sql.cache_info().currsize <= 9


async def test_large_values_come_whole(tmp_path: Path):
    """Answers of many megabytes are put together right, by group and by key."""
    wanted = {f"{n:02}": chr(0xE0 + n) * (150_000 if n % 2 else 3) for n in range(40)}
    wanted |= {f"edge {size}": "x" * size for size in (65_471, 65_472, 65_535, 65_536, 65_537)}
    wanted |= {"nul": "\0" * 100_000, "zzz": ""}
    async with opened(tmp_path) as store:
        await store.write([change(key, value) for key, value in wanted.items()])
        assert await store.read("g") == wanted
        assert await asyncio.gather(*(store.read("g", [key]) for key in wanted)) == [
            {key: value} for key, value in wanted.items()
        ]


async def test_two_stores_use_one_file(tmp_path: Path):
    """Two stores, opened on a new file at once, write at once, and each sees what the other has written."""
    async with opened(tmp_path) as first, contextlib.AsyncExitStack() as stack:
        others = [SqliteStore() for _ in range(3)]
        for other in others:
            stack.push_async_callback(other.aclose)
        await asyncio.gather(*(other.open(tmp_path) for other in others))
        stores = [first, *others]
        await asyncio.gather(
            *(store.write([change(f"{i}-{n}")]) for n in range(20) for i, store in enumerate(stores))
        )
        for store in stores:
            assert await store.count("g") == 80


async def test_new_files_may_be_opened_at_once(tmp_path: Path):
    """Whoever is first makes the file; the others wait and use it."""
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        stores = [SqliteStore() for _ in range(4)]
        try:
            await asyncio.gather(*(store.open(folder) for store in stores))
            await stores[0].write([change("k")])
            assert [await store.read("g") for store in stores] == [{"k": "v"}] * 4
        finally:
            await asyncio.gather(*(store.aclose() for store in stores))


async def test_opening_waits_for_another_that_holds_the_file(tmp_path: Path):
    """A file that another process holds is opened when it lets go, else it is a StoreError."""
    other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT * FROM sqlite_master").fetchall()
    impatient = SqliteStore(busy_timeout_s=0.05)
    with pytest.raises(StoreError, match=r"opening .*database is locked, wanted no other process"):
        await impatient.open(tmp_path)
    patient = SqliteStore()
    opening = asyncio.create_task(patient.open(tmp_path))
    await asyncio.sleep(0.1)
    assert not opening.done()
    other.execute("ROLLBACK")
    await opening
    await patient.aclose()
    other.close()


async def test_a_locked_database_is_a_store_error(tmp_path: Path):
    """Writes wait for another's lock for the time given, once for all; reads go on; later it works."""
    async with opened(tmp_path, busy_timeout_s=0.2) as store:
        await store.write([change("k")])
        other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        loop = asyncio.get_running_loop()
        before = loop.time()
        results = await asyncio.gather(
            *(store.write([change("k", str(number))]) for number in range(20)), return_exceptions=True
        )
        assert loop.time() - before < 2
        assert {str(result) for result in results} == {
            "store: writing to store.db: database is locked, wanted no other process to hold it for so long"
        }
        assert await store.read("g", ["k"]) == {"k": "v"}
        other.execute("ROLLBACK")
        other.close()
        await store.write([change("k", "after")])
        assert await store.read("g") == {"k": "after"}


def newer(file: Path) -> None:
    connection = sqlite3.connect(file)
    connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    connection.execute("PRAGMA user_version = 999")
    connection.close()


def foreign(file: Path) -> None:
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE bookmarks (url)")
    connection.close()


def truncated(file: Path) -> None:
    connection = sqlite3.connect(file)
    schema.prepare(connection, file)
    connection.executemany(
        "INSERT INTO entry VALUES ('g', ?, ?)", [(str(n), "v" * 1_000) for n in range(1_000)]
    )
    connection.commit()
    connection.close()
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (newer, "schema has version 999, wanted at most 2"),
        (foreign, "another program's database"),
        (truncated, "malformed, wanted an undamaged database"),
        (
            lambda file: file.write_bytes(b"dear diary, " * 1_000),
            "file is not a database, wanted an undamaged database",
        ),
        (lambda file: file.write_bytes(b"SQLite format 3\0" + bytes(10_000)), "wanted a"),
        (lambda file: file.mkdir(), "unable to open database file"),
    ],
    ids=["newer", "foreign", "truncated", "text", "header", "folder"],
)
async def test_a_file_that_is_refused_is_left_as_it_is(make, said, tmp_path: Path):
    """A StoreError names the file and what is wrong; file and folder are byte for byte as before."""
    file = tmp_path / FILE_NAME
    await asyncio.to_thread(make, file)
    before = None if file.is_dir() else content(tmp_path)
    store = SqliteStore()
    with pytest.raises(StoreError) as caught:
        await store.open(tmp_path)
    assert not database_threads()
    assert str(file) in str(caught.value)
    assert said in str(caught.value)
    assert before is None or content(tmp_path) == before
    with pytest.raises(UsageError):
        await store.read("g")
    await store.aclose()


async def test_a_folder_that_is_missing_is_a_store_error(tmp_path: Path):
    """Nothing is made where nothing was."""
    store = SqliteStore()
    with pytest.raises(StoreError, match=r"opening .*/missing/store.db: No such file.*wanted a folder"):
        await store.open(tmp_path / "missing")
    await store.aclose()
    assert content(tmp_path) == {}


async def test_an_old_sqlite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A SQLite that lacks what the store needs is named at once, and no file is made."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 24, 0))
    with pytest.raises(StoreError, match=r"SQLite is 3.*, wanted at least 3\.25"):
        await SqliteStore().open(tmp_path)
    assert content(tmp_path) == {}


def test_a_journal_that_cannot_be_wal_is_refused():
    """Where SQLite cannot keep a write-ahead log, the store does not pretend to be durable."""
    connection = sqlite3.connect(":memory:")
    with pytest.raises(StoreError, match="journal is 'memory', wanted WAL"):
        schema.prepare(connection, Path("store.db"))
    connection.close()


def damage(file: Path, at: int, data: bytes) -> None:
    """From another process: here, closing the file would drop the locks that SQLite holds on it."""
    code = "import os, sys; os.pwrite(os.open(sys.argv[1], os.O_WRONLY), sys.stdin.buffer.read(), int(sys.argv[2]))"
    subprocess.run([sys.executable, "-c", code, str(file), str(at)], input=data, check=True)


def leaves(file: Path) -> list[int]:
    """Where the pages of tables are in the file whose rows they hold.

    https://www.sqlite.org/fileformat2.html#b_tree_pages
    """
    data = file.read_bytes()
    return [at for at in range(4096, len(data), 4096) if data[at] == 0x0D]


async def test_a_damaged_page_fails_only_the_reads_that_need_it(tmp_path: Path):
    """Of many reads at once those that meet damage done at run time are `StoreCorrupt`; the others get their values."""
    file = tmp_path / FILE_NAME
    async with opened(tmp_path) as store:
        await store.write([change(f"{n:03}", "v" * 3_000) for n in range(200)])
    async with opened(tmp_path) as store:
        # One table leaf in the middle of the file becomes noise.
        await asyncio.to_thread(damage, file, leaves(file)[100], b"\xa5" * 4096)
        results = await asyncio.gather(
            *(store.read("g", [f"{n:03}"]) for n in range(200)), return_exceptions=True
        )
        failed = [result for result in results if isinstance(result, StoreCorrupt)]
        assert 1 <= len(failed) <= 4
        assert {(error.path, error.problem) for error in failed} == {
            (FILE_NAME, "database disk image is malformed")
        }
        assert "reading from store.db: database disk image is malformed" in str(failed[0])
        assert sum(isinstance(result, dict) and len(result) == 1 for result in results) == 200 - len(failed)
        with pytest.raises(StoreCorrupt, match="malformed"):
            await store.read("g")
        await store.write([change("after")])
        assert await store.read("g", ["after"]) == {"after": "v"}
    with pytest.raises(StoreCorrupt, match=r"opening .*store\.db: "):
        await SqliteStore().open(tmp_path)


async def test_text_that_was_damaged_is_corruption(tmp_path: Path):
    """What is no UTF-8 any more was never written so: a `StoreCorrupt`, whether it is read alone or with others."""
    file = tmp_path / FILE_NAME
    async with opened(tmp_path) as store:
        await store.write([change("small", "é" * 20), change("large", "ü" * 50_000), change("whole", "v")])
    data = file.read_bytes()
    damage(file, data.index("é".encode() * 10) + 2, b"\xff\xfe")
    damage(file, data.index("ü".encode() * 10) + 2, b"\xff\xfe")
    async with opened(tmp_path) as store:
        for keys in (["small"], ["large"], None):
            with pytest.raises(StoreCorrupt, match=r"reading from store\.db: .*UTF-8"):
                await store.read("g", keys)
        assert await store.read("g", ["whole"]) == {"whole": "v"}


def by_another(file: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(statement)


def text_is_a_number(file: Path) -> None:
    data = file.read_bytes()
    at = data.index(b"grpthekeya") - 1  # the last of the record's header: which type its value has
    assert data[at] == 13 + 2 * len("a")
    damage(file, at, b"\x01")  # https://www.sqlite.org/fileformat2.html#record_format


def text_is_bytes(file: Path) -> None:
    by_another(file, "UPDATE entry SET value = CAST(value AS BLOB)")


def long_text_is_bytes(file: Path) -> None:
    by_another(file, f"UPDATE entry SET value = zeroblob({1 << 17})")


def numbers_are_text(file: Path) -> None:
    by_another(file, "UPDATE usage SET keys = 'many', bytes = 'much'")


@pytest.mark.parametrize("spoil", [text_is_a_number, text_is_bytes, long_text_is_bytes, numbers_are_text])
async def test_what_is_no_text_any_more_is_corruption(spoil: Callable[[Path], None], tmp_path: Path):
    """Met at run time, however it is read, it is a `StoreCorrupt`, and `health` tells of it from then on."""
    async with opened(tmp_path) as store:
        await store.write([change("thekey", "a", group="grp"), change("k")])
    async with opened(tmp_path) as store:
        await asyncio.to_thread(spoil, tmp_path / FILE_NAME)
        watched = WatchedStore(store, clock=LoopClock())
        reads = [partial(watched.read, "grp", keys) for keys in (["thekey"], None)]
        if spoil is numbers_are_text:
            reads = [partial(watched.count, "grp"), partial(watched.read, "grp", limit_bytes=1)]
        for read in reads:
            with pytest.raises(
                StoreCorrupt, match=r"store: (reading from|counting in) store\.db: "
            ) as caught:
                await read()
            assert caught.value.path == FILE_NAME
        health = await watched.health()
        assert not health.ok
        assert "StoreCorrupt" in health.why


async def test_keys_that_are_counted_and_not_there_are_corruption(tmp_path: Path):
    """A read with a limit, which looks at both, does not look for ever."""
    async with opened(tmp_path) as store:
        await store.write([change("k")])
        await asyncio.to_thread(by_another, tmp_path / FILE_NAME, "DELETE FROM entry")
        with pytest.raises(StoreCorrupt, match="keys are counted that are not there"):
            await store.read("g", limit_bytes=100)


async def test_older_files_are_migrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file of an older version gets what is new, once, and keeps its data."""
    async with opened(tmp_path) as store:
        await store.write([change("k")])
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE added (x)",)))
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    for _ in range(2):
        async with opened(tmp_path) as store:
            assert await store.read("g") == {"k": "v"}
            assert await store._writer.fetch(("PRAGMA user_version", ()), "asking") == [(schema.VERSION,)]
            assert await store._writer.fetch(("SELECT count(*) FROM added", ()), "asking") == [(0,)]


async def test_a_file_of_the_first_version_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What a store of before quotas holds counts, to the byte."""
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        patch.setattr(schema, "VERSION", 1)

        def fill() -> None:
            connection = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
            schema.prepare(connection, tmp_path / FILE_NAME)
            rows = [("g", "é", "12"), ("g", "b", "\0\0"), ("h", "c", "x" * 50)]
            connection.executemany("INSERT INTO change VALUES (?, ?, ?)", rows)
            connection.close()

        await asyncio.to_thread(fill)
    quota = StoreQuota(keys=3, bytes=9)
    async with opened(tmp_path) as store:
        assert (await store.count("g"), await store.count("h")) == (2, 1)
        with pytest.raises(
            LimitExceeded, match="it has 2 keys and 7 bytes, and would have more than the 3 keys and 9"
        ):
            await store.write([StoreChange(group="g", key="k", value="12")], quota=quota)
        await store.write([StoreChange(group="g", key="k", value="1")], quota=quota)


async def test_what_is_counted_is_what_is_there(tmp_path: Path):
    """After any row of changes, refused ones too, the count of each group is that of its keys and bytes."""
    chance = random.Random(7)
    async with opened(tmp_path) as store:
        for _ in range(30):
            writes = []
            for _ in range(40):
                key = chance.choice([None, *"abcdefghijk", "é\0"]) if chance.random() < 0.9 else None
                value = None if key is None or chance.random() < 0.3 else "é" * chance.randrange(9)
                writes.append(StoreChange(group=chance.choice("gh"), key=key, value=value))
            quota = StoreQuota(keys=7, bytes=60)
            await asyncio.gather(*(store.write([w], quota=quota) for w in writes), return_exceptions=True)
            sql = """
                SELECT "group", count(*), sum(length(CAST(key AS BLOB)) + length(CAST(value AS BLOB)))
                FROM entry GROUP BY 1 EXCEPT SELECT "group", keys, bytes FROM usage
            """
            rows = await store._writer.fetch((sql, ()), "comparing")
            assert rows == []
            assert await store._writer.fetch(
                ("SELECT count(*) FROM usage WHERE keys > 7 OR keys < 1 OR bytes > 60", ()), "asking"
            ) == [(0,)]


async def test_who_is_refused_does_not_slow_down_the_others(tmp_path: Path):
    """64 writes at once of which half are refused are one transaction, not one for each."""
    async with opened(tmp_path) as store:
        quota = StoreQuota(keys=0, bytes=0)
        before = commits(tmp_path)
        results = await asyncio.gather(
            *(store.write([change(str(n))], quota=quota if n % 2 else None) for n in range(64)),
            return_exceptions=True,
        )
        assert sum(isinstance(result, LimitExceeded) for result in results) == 32
        assert await store.count("g") == 32
        assert commits(tmp_path) == before + 1


async def test_a_large_write_over_its_quota_changes_nothing(tmp_path: Path):
    """More changes than one statement takes are refused together."""
    async with opened(tmp_path) as store:
        with pytest.raises(LimitExceeded):
            await store.write([change(str(n)) for n in range(600)], quota=StoreQuota(keys=599, bytes=1 << 20))
        assert await store.count("g") == 0
        many = [str(number) for number in range(600)]
        await store.write([change(key) for key in many], quota=StoreQuota(keys=600, bytes=1 << 20))
        assert len(await store.read("g", many, limit_bytes=1 << 20)) == 600
        with pytest.raises(LimitExceeded):
            await store.read("g", many, limit_bytes=100)


async def test_a_group_that_is_emptied_and_filled_while_it_is_read(tmp_path: Path):
    """A read with a limit gives what the group had at some moment, or refuses it; never nothing for something."""
    async with opened(tmp_path) as store:
        small, large = [change("k")], [change("k", "v" * 100)]
        await store.write(small)
        done = False

        async def change_it() -> None:
            while not done:
                await store.write(large)
                await store.write(small)

        changing = asyncio.create_task(change_it())
        for _ in range(100):
            try:
                assert await store.read("g", limit_bytes=10) == {"k": "v"}
            except LimitExceeded:
                continue
        done = True
        await changing


async def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A migration is all or nothing: the file stays at its version, and the older coredeno can go on."""
    async with opened(tmp_path) as store:
        await store.write([change("k")])
    with monkeypatch.context() as patch:
        patch.setattr(
            schema, "MIGRATIONS", (*schema.MIGRATIONS, ("CREATE TABLE added (x)", "CREATE NONSENSE"))
        )
        patch.setattr(schema, "VERSION", schema.VERSION + 1)
        with pytest.raises(StoreError, match="syntax error, wanted it to be done"):
            await SqliteStore().open(tmp_path)
    async with opened(tmp_path) as store:
        assert await store.read("g") == {"k": "v"}
        found = await store._writer.fetch(
            ("SELECT name FROM sqlite_master WHERE name = 'added'", ()), "asking"
        )
        assert found == []


async def test_a_full_disk_fails_what_needs_room_and_nothing_else(tmp_path: Path):
    """SQLITE_FULL is a StoreFull of the writes that are too large; others at once, and later, succeed."""
    async with opened(tmp_path) as store:
        await store.write([change("first")])
        await store._writer.fetch(("PRAGMA max_page_count = 40", ()), "limiting")
        results = await asyncio.gather(
            store.write([change("a")]),
            store.write([change("large", "v" * 500_000)]),
            store.write([change(str(number), "v" * 300) for number in range(2_000)]),
            store.write([change("b")]),
            return_exceptions=True,
        )
        wanted = "store: writing to store.db: database or disk is full, wanted free space on its disk"
        assert [result and str(result) for result in results] == [None, wanted, wanted, None]
        assert [type(result) for result in results[1:3]] == [StoreFull, StoreFull]
        assert await store.read("g") == {"a": "v", "b": "v", "first": "v"}
        await store.write([change("first", None)])
        await store._writer.fetch(("PRAGMA max_page_count = 1000000", ()), "limiting")
        await store.write([change("large", "v" * 500_000)])
        assert list(await store.read("g")) == ["a", "b", "large"]


async def test_files_that_cannot_grow_fail_a_write_and_leave_the_store_usable(tmp_path: Path):
    """Where the system refuses to let the file grow, the write is a StoreError; with room again all works."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", WRITES_BEYOND_THE_LIMIT, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
    )
    results, keys = done.stdout.splitlines()
    error = "store: writing to store.db: disk I/O error, wanted a disk that works, and room on it"
    assert results == str(["None", error, "None"])
    assert keys == "['before', 'small', 'small too']"
    async with opened(tmp_path) as store:
        assert list(await store.read("g")) == ["after", "before", "small", "small too"]


async def test_a_quota_that_is_used_up_is_a_full_disk(tmp_path: Path):
    """SQLite calls it an I/O error; where the disk, asked at once, says that it has no room, it is `StoreFull`."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", QUOTA_IS_USED_UP + WRITES_BEYOND_THE_LIMIT, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
    )
    error = "store: writing to store.db: disk I/O error, wanted free space on its disk"
    assert done.stdout.splitlines()[0] == str(["None", error, "None"])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
async def test_no_room_for_the_file_itself(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is `StoreFull` whoever says so, SQLite or the system."""

    def refused(*_arguments: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        with pytest.raises(
            StoreFull, match=rf"opening .*: {os.strerror(code)}, wanted free space on its disk"
        ):
            await SqliteStore().open(tmp_path)


@pytest.mark.parametrize("name", ["_connection_worker_thread", "Timer", "asyncio_"])
async def test_a_thread_that_cannot_be_had_is_a_store_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its own threads, the one that watches over the check, or one to look at the file in; nothing is left."""
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if name in f"{type(thread).__name__} {thread.name}":
            raise RuntimeError("can't start new thread")
        real(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(StoreError, match=r"opening .*: can't start new thread, wanted one more thread"):
            await SqliteStore(corrupt="set_aside").open(tmp_path)
    assert not database_threads()
    async with opened(tmp_path) as store:
        await store.write([change("k")])


@pytest.mark.parametrize("corrupt", ["refuse", "set_aside"])
async def test_a_folder_that_is_a_file_is_a_store_error(corrupt: CorruptStore, tmp_path: Path):
    """Also for whoever looks at what lies there first."""
    folder = tmp_path / "file"
    folder.write_bytes(b"")
    with pytest.raises(StoreError, match=r"opening .*/file/store.db: Not a directory, wanted a folder"):
        await SqliteStore(corrupt=corrupt).open(folder)


async def test_cancelled_callers_harm_nobody(tmp_path: Path):
    """Of many callers half are cancelled at many moments: the others get answers, and all writes are made."""
    async with opened(tmp_path) as store:
        for turns in range(6):
            tasks = [asyncio.create_task(store.write([change(f"{turns}-{n}")])) for n in range(10)]
            tasks += [asyncio.create_task(store.read("g", [str(n)])) for n in range(10)]
            tasks += [asyncio.create_task(store.read("g")), asyncio.create_task(store.count("g"))]
            for _ in range(turns):
                await asyncio.sleep(0)
            begun = turns > 0
            for task in tasks[::2]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert not any(isinstance(result, StoreError) for result in results)
            assert not any(isinstance(result, asyncio.CancelledError) for result in results[1::2])
            await store.write([change("last")])
            made = sum(key.startswith(f"{turns}-") for key in await store.read("g"))
            assert made == (10 if begun else 5)


async def test_open_may_be_cancelled(tmp_path: Path):
    """Cancelled at any moment, `open` leaves no thread after `aclose`, and a file that can be opened."""
    for turns in range(8):
        store = SqliteStore()
        opening = asyncio.create_task(store.open(tmp_path))
        for _ in range(turns):
            await asyncio.sleep(0.0005 if turns > 4 else 0)
        opening.cancel()
        await asyncio.wait({opening})
        await store.aclose()
        assert not database_threads()
        with pytest.raises(UsageError):
            await store.read("g")
    async with opened(tmp_path) as store:
        await store.write([change("k")])


async def test_open_closes_what_it_began_when_it_is_cancelled(tmp_path: Path, eventually):
    """A cancelled `open` is cleared away without `aclose` too."""
    store = SqliteStore()
    opening = asyncio.create_task(store.open(tmp_path))
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await eventually(lambda: store._closing is not None and store._closing.done())
    assert not database_threads()


async def test_aclose_may_be_cancelled(tmp_path: Path):
    """A cancelled `aclose` goes on: writes under way are made, and a second one waits for its end."""
    store = SqliteStore()
    await store.open(tmp_path)
    writing = asyncio.create_task(store.write([change("k")]))
    await asyncio.sleep(0)
    closing = asyncio.create_task(store.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait({closing})
    assert closing.cancelled()
    await store.aclose()
    assert not database_threads()
    await writing
    assert list(content(tmp_path)) == [FILE_NAME]
    async with opened(tmp_path) as store:
        assert await store.read("g") == {"k": "v"}


async def test_reads_under_way_are_answered_when_it_closes(tmp_path: Path):
    """Reads that were called before `aclose` get their answers."""
    store = SqliteStore()
    await store.open(tmp_path)
    await store.write([change("k")])
    reads = [asyncio.create_task(store.read("g", keys)) for keys in (["k"], None)]
    counting = asyncio.create_task(store.count("g"))
    await asyncio.sleep(0)
    await store.aclose()
    assert await asyncio.gather(*reads) == [{"k": "v"}, {"k": "v"}]
    assert await counting == 1


@pytest.mark.parametrize(
    ("keys", "limit_bytes"), [(["k"], 100), (["k"], 1), (None, 1), ([str(n) for n in range(200)], 1)]
)
async def test_reads_of_several_trips_are_answered_when_it_closes(
    keys: list[str] | None, limit_bytes: int, tmp_path: Path
):
    """To look at the size first is a trip of its own; what is called after `aclose` is a `UsageError`."""
    store = SqliteStore()
    await store.open(tmp_path)
    await store.write([change("k")])
    reading = asyncio.create_task(store.read("g", keys, limit_bytes=limit_bytes))
    await asyncio.sleep(0)
    closing = asyncio.create_task(store.aclose())
    await asyncio.sleep(0)
    with pytest.raises(UsageError):
        await store.read("g", keys, limit_bytes=limit_bytes)
    await closing
    assert not database_threads()
    if limit_bytes == 100:
        assert await reading == {"k": "v"}
    else:
        with pytest.raises(LimitExceeded):
            await reading


async def test_a_read_that_is_cancelled_does_not_keep_it_from_closing(tmp_path: Path):
    """At each of its steps."""
    for turns in range(8):
        store = SqliteStore()
        await store.open(tmp_path)
        reading = asyncio.create_task(store.read("g", ["k"], limit_bytes=100))
        for _ in range(turns):
            await asyncio.sleep(0)
        closing = asyncio.create_task(store.aclose())
        await asyncio.sleep(0)
        reading.cancel()
        await closing
        await asyncio.wait({reading})
        assert not database_threads()


def test_an_app_that_ends_without_aclose_is_not_kept(tmp_path: Path):
    """Its threads do not outlive it, and what was acknowledged is there."""
    done = subprocess.run(
        [sys.executable, "-c", NEVER_CLOSED, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "main has ended\n"
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
        assert connection.execute("SELECT key, value FROM entry").fetchall() == [("k", "v")]


def test_a_loop_that_ends_without_aclose_leaves_no_thread(tmp_path: Path):
    """A loop that is torn down while the store closes still ends its threads."""

    async def main() -> None:
        store = SqliteStore()
        await store.open(tmp_path)
        writing = asyncio.create_task(store.write([change("k")]))
        closing = asyncio.create_task(store.aclose())
        await asyncio.sleep(0)
        assert not writing.done()
        assert not closing.done()

    asyncio.run(main())
    assert not database_threads()


async def test_files_are_private(tmp_path: Path):
    """All files have mode 0600, whatever the umask; a file that was wider is narrowed."""
    former = os.umask(0)
    try:
        async with opened(tmp_path) as store:
            await store.write([change("k")])
            assert modes(tmp_path) == {"store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600}
        (tmp_path / FILE_NAME).chmod(0o666)
        async with opened(tmp_path) as store:
            await store.write([change("k")])
            assert set(modes(tmp_path).values()) == {0o600}
    finally:
        os.umask(former)


async def test_messages_do_not_tell_where_the_app_lives(tmp_path: Path):
    """A plugin may be told of a failed write: the message names the file, not its folder."""
    async with opened(tmp_path) as store:
        with pytest.raises(StoreError) as caught:
            await store.write([change("k", "\ud800")])
        assert "store.db" in str(caught.value)
        assert str(tmp_path) not in str(caught.value)
