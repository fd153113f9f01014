"""Databases that are not what was written: what is found, what is refused, and what is left of them."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path

import pytest

from coredeno.errors import StoreCorrupt, StoreError, StoreFull
from coredeno.interfaces import StoreChange
from coredeno.store import schema
from coredeno.store import setting_aside as setting_aside_module
from coredeno.store.setting_aside import set_aside
from coredeno.store.soundness import require_whole
from coredeno.store.sqlite import FILE_NAME, SqliteStore

PAGE = 4096
LOG_NAME = f"{FILE_NAME}-wal"
ROWS = 300

# Ends without closing, so that the write-ahead log stays.
IS_KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from coredeno.interfaces import StoreChange
from coredeno.store.sqlite import SqliteStore

async def main():
    store = SqliteStore()
    await store.open(Path(sys.argv[1]))
    await store.write([StoreChange(group="g", key=f"{n:04}", value="w" * 900) for n in range(int(sys.argv[2]))])
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def left_by_a_killed_process(folder: Path, rows: int = ROWS) -> None:
    subprocess.run([sys.executable, "-c", IS_KILLED, str(folder), str(rows)], check=False)
    assert (folder / LOG_NAME).stat().st_size > 0


async def filled(folder: Path) -> None:
    """A database with pages of every kind, and no log beside it."""
    store = SqliteStore()
    await store.open(folder)
    await store.write([StoreChange(group="g", key=f"{n:04}", value="v" * 900) for n in range(ROWS)])
    await store.write([StoreChange(group="g", key="large", value="v" * 100_000)])
    await store.aclose()
    assert [file.name for file in folder.iterdir()] == [FILE_NAME]


def content(folder: Path) -> dict[str, bytes]:
    # The index of the log is made anew by whoever opens the database.
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.endswith("-shm")}


def overwrite(file: Path, at: int, data: bytes) -> None:
    with file.open("r+b") as stream:
        stream.seek(at)
        stream.write(data)


def pages(file: Path, kind: int) -> list[int]:
    """Where pages of a kind are: 0x0D and 0x05 of tables, 0x0A and 0x02 of indexes."""
    data = file.read_bytes()
    return [at for at in range(PAGE, len(data), PAGE) if data[at] == kind]


def garbage(file: Path) -> None:
    file.write_bytes(b"dear diary, " * 2_000)


def zeros(file: Path) -> None:
    file.write_bytes(bytes(8 * PAGE))


def header_alone(file: Path) -> None:
    file.write_bytes(b"SQLite format 3\0" + bytes(10_000))


def magic_is_gone(file: Path) -> None:
    overwrite(file, 0, b"X")


def leaf_of_a_table(file: Path) -> None:
    overwrite(file, pages(file, 0x0D)[-3], b"\xa5" * PAGE)


def flipped_kind_of_a_page(file: Path) -> None:
    overwrite(file, pages(file, 0x0D)[5], b"\x0a")


def flipped_pointer_to_a_cell(file: Path) -> None:
    overwrite(file, pages(file, 0x0D)[5] + 8, b"\xff\xff")


def inner_page_of_a_table(file: Path) -> None:
    overwrite(file, pages(file, 0x05)[0] + 8, b"\xff" * 8)  # its right-most child


def leaf_of_an_index(file: Path) -> None:
    overwrite(file, pages(file, 0x0A)[1] + 3, b"\xff\xff")  # how many cells it has


def page_of_the_schema(file: Path) -> None:
    overwrite(file, 100, b"\xa5" * 500)


def cut_by_a_page(file: Path) -> None:
    overwrite(file, 0, b"")
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - PAGE)


def cut_within_a_page(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size // 2 + 77)


def cut_to_one_page(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.truncate(PAGE)


def cut_within_the_header(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.truncate(50)


def cut_to_one_byte(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.truncate(1)


DAMAGES: list[Callable[[Path], None]] = [
    garbage,
    zeros,
    header_alone,
    magic_is_gone,
    leaf_of_a_table,
    flipped_kind_of_a_page,
    flipped_pointer_to_a_cell,
    inner_page_of_a_table,
    leaf_of_an_index,
    page_of_the_schema,
    cut_by_a_page,
    cut_within_a_page,
    cut_to_one_page,
    cut_within_the_header,
    cut_to_one_byte,
]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_damage_is_found_when_the_store_is_opened(damage: Callable[[Path], None], tmp_path: Path):
    """A typed error with path and problem, before anything is read of it; the folder is byte for byte as it was."""
    file = tmp_path / FILE_NAME
    await filled(tmp_path)
    await asyncio.to_thread(damage, file)
    before = content(tmp_path)
    with pytest.raises(StoreCorrupt) as caught:
        await SqliteStore().open(tmp_path)
    assert caught.value.path == str(file)
    assert caught.value.problem
    assert caught.value.problem.isprintable()
    assert f"store: opening {file}: {caught.value.problem}, wanted an undamaged database" in str(caught.value)
    assert content(tmp_path) == before
    assert not list(tmp_path.glob("*-shm"))


async def test_a_damaged_database_keeps_its_log(tmp_path: Path):
    """What a killed process left in the write-ahead log is neither written into the damaged file nor deleted."""
    file = tmp_path / FILE_NAME
    await filled(tmp_path)
    left_by_a_killed_process(tmp_path)
    overwrite(file, pages(file, 0x0A)[1] + 3, b"\xff\xff")
    before = content(tmp_path)
    assert set(before) == {FILE_NAME, LOG_NAME}
    for _ in range(2):
        with pytest.raises(StoreCorrupt):
            await SqliteStore().open(tmp_path)
        assert content(tmp_path) == before


async def test_a_whole_database_with_a_log_is_opened(tmp_path: Path):
    """What a killed process left is checked, read and in the end written back, as if it had been closed."""
    left_by_a_killed_process(tmp_path)
    store = SqliteStore()
    await store.open(tmp_path)
    assert await store.count("g") == ROWS
    await store.aclose()
    assert [file.name for file in tmp_path.iterdir()] == [FILE_NAME]


def its_database_is_missing(folder: Path) -> None:
    (folder / FILE_NAME).unlink()


def its_database_is_empty(folder: Path) -> None:
    (folder / FILE_NAME).write_bytes(b"")


@pytest.mark.parametrize("lose", [its_database_is_missing, its_database_is_empty])
async def test_a_log_without_its_database_is_not_thrown_away(lose: Callable[[Path], None], tmp_path: Path):
    """SQLite would delete it, and begin an empty database: instead it is a `StoreCorrupt`, and all stays."""
    left_by_a_killed_process(tmp_path)
    lose(tmp_path)
    before = content(tmp_path)
    with pytest.raises(StoreCorrupt, match=r"store\.db: it is (missing|empty), though its write-ahead log"):
        await SqliteStore().open(tmp_path)
    assert content(tmp_path) == before


async def test_an_empty_file_is_a_new_database(tmp_path: Path):
    """As for SQLite: nothing was ever in it."""
    (tmp_path / FILE_NAME).write_bytes(b"")
    store = SqliteStore()
    await store.open(tmp_path)
    assert await store.count("g") == 0
    await store.aclose()


def without_our_mark(file: Path) -> None:
    overwrite(file, 68, bytes(4))
    overwrite(file, 100, b"\xa5" * 500)


def without_mark_and_version(file: Path) -> None:
    without_our_mark(file)
    overwrite(file, 60, bytes(4))


def anothers(file: Path) -> None:
    overwrite(file, 68, b"theirs"[:4])
    overwrite(file, pages(file, 0x0D)[5], b"\xa5" * PAGE)


def newer(file: Path) -> None:
    overwrite(file, 60, (999).to_bytes(4, "big"))


@pytest.mark.parametrize("spoil", [without_our_mark, without_mark_and_version, anothers])
async def test_what_may_be_anothers_is_not_judged(spoil: Callable[[Path], None], tmp_path: Path):
    """A database without our mark is another program's, damaged or not: no `StoreCorrupt`, which may be set aside."""
    await filled(tmp_path)
    spoil(tmp_path / FILE_NAME)
    before = content(tmp_path)
    with pytest.raises(StoreError, match="another program's database") as caught:
        await SqliteStore().open(tmp_path)
    assert not isinstance(caught.value, StoreCorrupt)
    assert content(tmp_path) == before


async def test_folders_of_any_name(tmp_path: Path):
    """What means something in a URI, or is no UTF-8, is a name like others, with a log beside the file too."""
    for name in ("a?mode=memory#b%41", "d\udcff"):
        folder = tmp_path / name
        folder.mkdir()
        left_by_a_killed_process(folder)
        store = SqliteStore()
        await store.open(folder)
        assert await store.count("g") == ROWS
        await store.aclose()
        shutil.rmtree(folder)


@asynccontextmanager
async def setting_aside(
    folder: Path, **options: object
) -> AsyncIterator[tuple[SqliteStore, list[tuple[Path, str]]]]:
    told: list[tuple[Path, str]] = []
    store = SqliteStore(corrupt="set_aside", on_set_aside=lambda *what: told.append(what), **options)
    try:
        await store.open(folder)
        yield store, told
    finally:
        await store.aclose()


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_database_is_set_aside_where_that_is_wanted(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Renamed byte for byte, told with its new place, logged as an error; the store is empty, and works."""
    file = tmp_path / FILE_NAME
    await filled(tmp_path)
    await asyncio.to_thread(damage, file)
    before = file.read_bytes()
    async with setting_aside(tmp_path) as (store, told):
        [(aside, problem)] = told
        assert re.fullmatch(r"store\.db\.corrupt-\d{8}T\d{6}Z", aside.name)
        assert aside.read_bytes() == before
        assert problem
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert str(aside) in caplog.text
        assert problem in caplog.text
        assert await store.count("g") == 0
        await store.write([StoreChange(group="g", key="k", value="v")])
    async with setting_aside(tmp_path) as (store, told):
        assert await store.read("g") == {"k": "v"}
        assert told == []
    assert sorted(content(tmp_path)) == [FILE_NAME, aside.name]


async def test_a_log_is_set_aside_with_its_database(tmp_path: Path):
    """Under a name by which SQLite still takes the two as one, so that somebody can rescue what there is."""
    file = tmp_path / FILE_NAME
    await filled(tmp_path)
    left_by_a_killed_process(tmp_path)
    overwrite(file, pages(file, 0x0A)[1] + 3, b"\xff\xff")
    before = content(tmp_path)
    async with setting_aside(tmp_path) as (store, [(aside, _problem)]):
        assert await store.count("g") == 0
        assert aside.read_bytes() == before[FILE_NAME]
        assert aside.with_name(f"{aside.name}-wal").read_bytes() == before[LOG_NAME]
    connection = sqlite3.connect(aside)
    values = connection.execute(
        "SELECT DISTINCT substr(value, 1, 1) FROM entry NOT INDEXED WHERE key < 'a'"
    ).fetchall()
    connection.close()
    assert values == [("w",)]  # of the log; in the file itself they begin with another letter


@pytest.mark.parametrize("lose", [its_database_is_missing, its_database_is_empty])
async def test_a_log_without_its_database_is_set_aside(lose: Callable[[Path], None], tmp_path: Path):
    """Also what a machine that stopped between two renames has left."""
    left_by_a_killed_process(tmp_path)
    lose(tmp_path)
    log = (tmp_path / LOG_NAME).read_bytes()
    async with setting_aside(tmp_path) as (store, [(aside, problem)]):
        assert "write-ahead log" in problem
        assert await store.count("g") == 0
        assert log in content(tmp_path).values()
        assert aside.exists()


async def test_what_was_set_aside_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A second one in the same second, or a file that happens to have the name, gets another name beside."""
    monkeypatch.setattr(setting_aside_module, "datetime", Noon)
    stamp = f"{FILE_NAME}.corrupt-20300102T120000Z"
    (tmp_path / f"{stamp}-2-wal").write_bytes(b"somebody's")
    for text in (b"first " * 100, b"second " * 100):
        (tmp_path / FILE_NAME).write_bytes(text)
        async with setting_aside(tmp_path):
            pass
    kept = content(tmp_path)
    del kept[FILE_NAME]
    assert kept == {
        stamp: b"first " * 100,
        f"{stamp}-2-wal": b"somebody's",
        f"{stamp}-3": b"second " * 100,
    }


class Noon(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2030, 1, 2, 12, tzinfo=tz)


@pytest.mark.parametrize("spoil", [without_our_mark, without_mark_and_version, anothers, newer])
async def test_what_is_not_ours_or_newer_is_never_set_aside(spoil: Callable[[Path], None], tmp_path: Path):
    """It is refused as ever, and stays in its place."""
    await filled(tmp_path)
    spoil(tmp_path / FILE_NAME)
    before = content(tmp_path)
    with pytest.raises(StoreError, match=r"another program's database|a newer coredeno wrote it"):
        async with setting_aside(tmp_path):
            pass
    assert content(tmp_path) == before


async def test_a_whole_database_is_not_set_aside(tmp_path: Path):
    """With or without a log; nor is a new one."""
    for prepare in (lambda _folder: None, left_by_a_killed_process, lambda _folder: None):
        await asyncio.to_thread(prepare, tmp_path)
        async with setting_aside(tmp_path) as (_store, told):
            assert told == []
    assert [file.name for file in tmp_path.iterdir()] == [FILE_NAME]


async def test_stores_that_find_the_damage_at_once_set_it_aside_once(tmp_path: Path):
    """Whoever is second does not take away the new database of the first, which has data by then."""
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        (folder / FILE_NAME).write_bytes(b"garbage " * 1000)
        async with AsyncExitStack() as stack:
            opening = [stack.enter_async_context(setting_aside(folder)) for _ in range(4)]
            opened = await asyncio.gather(*opening)
            assert sum(len(told) for _, told in opened) == 1
            await opened[0][0].write([StoreChange(group="g", key="k", value="v")])
            assert [await store.read("g") for store, _ in opened] == [{"k": "v"}] * 4
        assert len(content(folder)) == 2


def test_another_file_than_was_judged_is_left(tmp_path: Path):
    """Nor is nothing renamed if nothing is there any more."""
    file = tmp_path / FILE_NAME
    file.write_bytes(b"x")
    assert set_aside(file, None) is None
    assert set_aside(file, (0, 0)) is None
    assert content(tmp_path) == {FILE_NAME: b"x"}
    file.unlink()
    assert set_aside(file, None) is None
    assert content(tmp_path) == {}


async def test_what_cannot_be_renamed_is_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The start fails with a `StoreError` that says both; no name that was taken for it is left."""
    (tmp_path / FILE_NAME).write_bytes(b"garbage " * 1000)

    def refused(*_names: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refused)
        with pytest.raises(
            StoreError, match=r"setting aside .*, which is damaged \(file is .*\): Permission denied, wanted"
        ):
            async with setting_aside(tmp_path):
                pass
    assert content(tmp_path) == {FILE_NAME: b"garbage " * 1000}


async def test_a_part_is_never_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where the disk has room for the first new name alone, no file is renamed; that is `StoreFull`."""
    (tmp_path / FILE_NAME).write_bytes(b"garbage " * 1000)
    (tmp_path / LOG_NAME).write_bytes(b"log " * 1000)
    before = content(tmp_path)
    real = os.open

    def no_room(path: str, *options: int) -> int:
        if ".corrupt-" in str(path) and str(path).endswith("-wal"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, *options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", no_room)
        with pytest.raises(
            StoreFull, match=r"setting aside .*: No space left on device, wanted free space on its disk"
        ):
            async with setting_aside(tmp_path):
                pass
    assert content(tmp_path) == before


class Interruptible(sqlite3.Connection):
    """Says when it was interrupted."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self.interrupted = threading.Event()

    def interrupt(self) -> None:
        super().interrupt()
        self.interrupted.set()


def test_the_check_ends_when_its_time_is_over(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A check that would take longer is broken off, which is logged, and what was not seen counts as sound."""
    file = tmp_path / FILE_NAME
    connection = sqlite3.connect(file, isolation_level=None, factory=Interruptible)
    # The check evaluates constraints: this one takes until the time is over.
    connection.create_function("slow", 1, lambda _x: connection.interrupted.wait(60), deterministic=True)
    connection.execute("CREATE TABLE t (x CHECK (slow(x)))")
    connection.interrupted.set()
    connection.execute("INSERT INTO t VALUES (1), (2)")
    connection.interrupted.clear()
    with caplog.at_level(logging.WARNING, "coredeno.store"):
        require_whole(connection, file, 0.01)
    assert connection.interrupted.is_set()
    assert caplog.messages == ["store.db: its 0 MiB were not all checked within 0.01 s"]
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (2,)
    connection.close()


def test_a_check_that_fails_otherwise_is_no_damage(tmp_path: Path):
    """A lock is reported as it is: whoever asks decides whether to wait."""
    file = tmp_path / FILE_NAME
    holder = sqlite3.connect(file, isolation_level=None)
    schema.prepare(holder, file)
    holder.execute("PRAGMA journal_mode = DELETE")
    holder.execute("BEGIN EXCLUSIVE")
    connection = sqlite3.connect(file, timeout=0, isolation_level=None)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        require_whole(connection, file, 3)
    connection.close()
    holder.close()
