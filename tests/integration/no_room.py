"""What is opened, made or set aside on a disk that has no room for it: `python -m tests.integration.no_room FOLDER`.

The disk is that of `small_disk.py`. The last line says whether there was one.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest

from coredeno.audit.sqlite import SqliteAudit
from coredeno.errors import StoreFull
from coredeno.interfaces import StoreChange
from coredeno.store.sqlite import FILE_NAME, SqliteStore
from tests.integration.small_disk import TmpfsDisk

BLOCK = 4096
SIZE = 1 << 20
FILES = 60
# Not even the file, the file alone, and all but the last block of its `-shm`.
LEFT = (0, BLOCK, 2 * BLOCK, 8 * BLOCK)


async def refuses_to_open(backend: SqliteStore | SqliteAudit, folder: Path, case: str) -> None:
    """It is `StoreFull`, and says so; the backend leaves nothing that runs."""
    print(case)  # which it was, should it fail
    with pytest.raises(StoreFull, match="wanted free space on its disk"):
        await backend.open(folder)
    await backend.aclose()


async def filled(folder: Path) -> None:
    """What a host has made there."""
    folder.mkdir()
    for backend in (SqliteStore(), SqliteAudit()):
        await backend.open(folder)
        if isinstance(backend, SqliteStore):
            await backend.write([StoreChange(group="g", key="k", value="v")])
        await backend.aclose()


async def no_room_for_bytes(disk: Path) -> None:
    """New files and old ones, with less room than SQLite needs beside them; and with room again."""
    ballast = disk / "ballast"
    for left in LEFT:
        for is_old in (False, True):
            if is_old and left == LEFT[-1]:
                continue  # that is all it needs
            for make in (SqliteStore, SqliteAudit):
                case = f"{make.__name__}, {'old' if is_old else 'new'}, {left} bytes left"
                folder = disk / "core"
                await (filled(folder) if is_old else asyncio.to_thread(folder.mkdir))
                fill(ballast, left)
                await refuses_to_open(make(), folder, case)
                ballast.unlink()
                backend = make()
                await backend.open(folder)
                if is_old and isinstance(backend, SqliteStore):
                    assert await backend.read("g") == {"k": "v"}, case
                await backend.aclose()
                shutil.rmtree(folder)


async def no_room_for_files(disk: Path) -> None:
    """The same where no file can be made, and where one can."""
    for is_old in (False, True):
        for left in (0, 1):
            for make in (SqliteStore, SqliteAudit):
                case = f"{make.__name__}, {'old' if is_old else 'new'}, {left} files left"
                folder = disk / "core"
                await (filled(folder) if is_old else asyncio.to_thread(folder.mkdir))
                fill_with_files(disk / "many", left)
                await refuses_to_open(make(), folder, case)
                shutil.rmtree(disk / "many")
                shutil.rmtree(folder)


async def no_room_to_set_aside(disk: Path) -> None:
    """A damaged store for whose new name there is no room stays where it is; and with room again it is set aside."""
    folder = disk / "core"
    folder.mkdir()
    (folder / FILE_NAME).write_bytes(b"garbage " * 100)
    fill_with_files(disk / "many", 0)
    await refuses_to_open(SqliteStore(corrupt="set_aside"), folder, "setting aside")
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == {FILE_NAME: b"garbage " * 100}
    shutil.rmtree(disk / "many")
    store = SqliteStore(corrupt="set_aside")
    await store.open(folder)
    await store.aclose()
    assert len(list(folder.iterdir())) == 2


def fill(ballast: Path, left: int) -> None:
    with ballast.open("wb", buffering=0) as stream:
        try:
            while stream.write(bytes(BLOCK)) == BLOCK:
                pass
        except OSError:
            os.truncate(stream.fileno(), stream.tell() - left)


def fill_with_files(folder: Path, left: int) -> None:
    folder.mkdir()
    made = []
    try:
        for number in range(FILES):
            file = folder / str(number)
            file.touch()
            made.append(file)
    except OSError:
        for file in made[:left]:
            file.unlink()
    else:
        raise AssertionError("there is always one more")


def main(folder: Path) -> None:
    """All of that."""
    folder.mkdir(exist_ok=True)
    try:
        TmpfsDisk(folder, SIZE, FILES)
    except OSError:
        print("no disk")
        return
    asyncio.run(no_room_for_bytes(folder))
    asyncio.run(no_room_for_files(folder))
    asyncio.run(no_room_to_set_aside(folder))
    print("real")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
