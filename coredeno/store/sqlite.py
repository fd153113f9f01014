"""`SqliteStore`: durable text in one file, with group commit and shared reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from coredeno.errors import UsageError
from coredeno.interfaces import StoreChange
from coredeno.store import statements
from coredeno.store.batch import Batch

if TYPE_CHECKING:
    from coredeno.store.connection import SqliteConnection

FILE_NAME = "store.db"
"""The file, in the folder that `open` is given; while it is open, `-wal` and `-shm` files are beside it."""

_Asked = tuple[str, Sequence[str]]
_Page = TypeVar("_Page")


class SqliteStore:
    """A `StoreBackend` in a SQLite file (WAL, synced at each commit; mode 0600).

    Writes asked for while one transaction is under way share the next one, and return when it is on disk.
    Reads asked for in one turn of the event loop share one trip to the reader's thread. Other processes, and
    other `SqliteStore`s, may use the same file.

    Two threads run from `open` to `aclose`; they keep the interpreter from ending, so `aclose` must be
    called, in the same event loop.

    Args:
        busy_timeout_s: how long a write waits, in seconds, while another process holds the database.
    """

    def __init__(self, *, busy_timeout_s: float = 5.0) -> None:
        self._busy_timeout_s = busy_timeout_s
        self._opening: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._writer: SqliteConnection | None = None
        self._reader: SqliteConnection | None = None
        most = statements.MOST_ROWS
        self._writes: Batch[Sequence[StoreChange], None] = Batch(
            self._write_all, weigh=statements.weigh, most=most
        )
        self._reads: Batch[_Asked, dict[str, str]] = Batch(
            self._read_all, weigh=lambda asked: len(asked[1]), most=most
        )

    async def open(self, folder: Path) -> None:
        """Open or make `store.db` in `folder`. If cancelled, it is closed again; `aclose` waits for that.

        Raises:
            UsageError: it was opened before.
            StoreError: the file cannot be opened, is no database, is broken, of another program, or of a
                newer coredeno. A file that is refused is left as it is.
        """
        if self._opening is not None or self._closing is not None:
            raise UsageError("store: open: it was opened or closed before, wanted a new SqliteStore")
        # A task of its own: cancelling aiosqlite half way would leave a thread that nobody can wait for.
        self._opening = asyncio.create_task(self._open(folder / FILE_NAME), name="coredeno store open")
        try:
            await asyncio.shield(self._opening)
        except asyncio.CancelledError:
            self._close_soon()
            raise
        except Exception:
            await self.aclose()
            raise

    async def read(self, group: str, keys: Sequence[str] | None = None) -> dict[str, str]:
        """See `StoreBackend.read`. One read sees one state of its group. Cancelling it disturbs nothing.

        Raises:
            StoreError: the database cannot be read.
            UsageError: the store is not open.
        """
        reader = self._open_one(self._reader, "read")
        if keys is None:
            return await _read_group(reader, group)
        if len(keys) > statements.MOST_ROWS:
            # More than one statement can ask for; several statements could see several states.
            wanted = frozenset(keys)
            everything = await _read_group(reader, group)
            return {key: value for key, value in everything.items() if key in wanted}
        return await self._reads.add((group, tuple(keys))) if keys else {}

    async def count(self, group: str) -> int:
        """See `StoreBackend.count`.

        Raises:
            StoreError: the database cannot be read.
            UsageError: the store is not open.
        """
        reader = self._open_one(self._reader, "count")
        rows = await reader.fetch((statements.COUNT, (group,)), "counting in")
        count: int = rows[0][0]
        return count

    async def write(self, changes: Sequence[StoreChange]) -> None:
        """See `StoreBackend.write`.

        Raises:
            StoreError: nothing of it was written: the disk is full, the database locked or broken, or a
                text is none that SQLite can hold.
            UsageError: the store is not open.
        """
        self._open_one(self._writer, "write")
        if changes:
            await self._writes.add(tuple(changes))

    async def aclose(self) -> None:
        """See `StoreBackend.aclose`. No thread is left when it returns; if cancelled, it goes on alone."""
        await asyncio.shield(self._close_soon())

    async def _open(self, file: Path) -> None:
        # Imported here: it needs SQLite, which importing coredeno must not cost.
        from coredeno.store.connection import SqliteConnection  # noqa: PLC0415

        self._writer = await SqliteConnection.open_writer(file, busy_timeout_s=self._busy_timeout_s)
        self._reader = await SqliteConnection.open_reader(file, busy_timeout_s=self._busy_timeout_s)

    def _close_soon(self) -> asyncio.Task[None]:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="coredeno store close")
        return self._closing

    async def _close(self) -> None:
        try:
            if self._opening is not None:
                await asyncio.wait({self._opening})
            await self._writes.settled()
            await self._reads.settled()
        finally:
            # One after the other: of two connections that close at once each may find the other still there,
            # and then neither writes the `-wal` file back into the database.
            try:
                await _end(self._reader)
            finally:  # also when the loop is being torn down, or the writer's thread would never end
                await _end(self._writer)

    def _open_one(self, connection: SqliteConnection | None, what: str) -> SqliteConnection:
        if self._reader is None or connection is None or self._closing is not None:
            raise UsageError(f"store: {what}: it is not open, wanted between `open` and `aclose`")
        return connection

    async def _write_all(self, writes: Sequence[Sequence[StoreChange]]) -> Sequence[None]:
        assert self._writer is not None
        changes = [change for write in writes for change in write]
        if len(changes) <= statements.MOST_ROWS:
            await self._writer.fetch(statements.write(changes), "writing to")
        else:
            starts = range(0, len(changes), statements.MOST_ROWS)
            chunks = (statements.write(changes[start : start + statements.MOST_ROWS]) for start in starts)
            await self._writer.transact(chunks, "writing to")
        return [None] * len(writes)

    async def _read_all(self, asked: Sequence[_Asked]) -> Sequence[dict[str, str]]:
        assert self._reader is not None
        wanted = list(dict.fromkeys((group, key) for group, keys in asked for key in keys))
        found: dict[tuple[str, str], str] = {}
        for page in await _pages(self._reader, statements.read_pairs(wanted), statements.values_by_place):
            found.update((wanted[place], value) for place, value in page.items())
        return [
            {key: found[group, key] for key in sorted(set(keys)) if (group, key) in found}
            for group, keys in asked
        ]


async def _end(connection: SqliteConnection | None) -> None:
    if connection is not None:
        await connection.stop()
        await connection.ended()


async def _read_group(reader: SqliteConnection, group: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for page in await _pages(reader, (statements.READ_GROUP, (group,)), statements.values_by_key):
        found.update(page)
    # Nearly in order already, but SQL does not promise it; sorting what is in order is quick.
    return {key: found[key] for key in sorted(found)}


async def _pages(
    reader: SqliteConnection, statement: statements.Statement, decode: Callable[[Sequence[Any]], _Page]
) -> list[_Page]:
    pages: list[_Page] = []
    for row in await reader.fetch(statement, "reading from"):
        if pages:
            await asyncio.sleep(0)  # a large answer: let the event loop turn between its pages
        pages.append(decode(row))
    return pages
