"""`SqliteAudit`: the audit log in a SQLite file, to which rows can only be added.

It has a connection of its own, not the store's: a few rows a second, one thread, no shared reads, and a file that
is refused where the store's would be brought up to date.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from coredeno.disk import sync_folder
from coredeno.errors import StoreError, StoreFull, UsageError
from coredeno.interfaces import AuditRow
from coredeno.services.disk_room import was_missing
from coredeno.services.threads import in_thread

if TYPE_CHECKING:
    import sqlite3

FILE_NAME = "audit.db"
"""The file, in the folder that `open` is given; while it is open, `-wal` and `-shm` files are beside it."""

APPLICATION_ID = 0x636F7261
"""`cora` in ASCII, kept in the file's header: tells our files from those of other programs."""

VERSION = 1
"""The version of the tables (`PRAGMA user_version`) that this coredeno reads and writes."""

_SCHEMA = (
    """
    CREATE TABLE IF NOT EXISTS entry (
        seq INTEGER PRIMARY KEY,
        at TEXT NOT NULL,
        kind TEXT NOT NULL,
        module TEXT NOT NULL,
        fields TEXT NOT NULL,
        before TEXT NOT NULL,
        digest TEXT NOT NULL
    )
    """,
    "CREATE INDEX IF NOT EXISTS entry_by_module ON entry (module)",
    # Against a slip, not an attacker: whoever can write to the file can drop them. The chain shows that.
    """
    CREATE TRIGGER IF NOT EXISTS entry_update BEFORE UPDATE ON entry BEGIN
        SELECT RAISE(ABORT, 'rows of the audit log are never changed');
    END
    """,
    """
    CREATE TRIGGER IF NOT EXISTS entry_delete BEFORE DELETE ON entry BEGIN
        SELECT RAISE(ABORT, 'rows of the audit log are never deleted');
    END
    """,
    # INSERT OR REPLACE deletes without the trigger above.
    """
    CREATE TRIGGER IF NOT EXISTS entry_insert BEFORE INSERT ON entry
    WHEN NEW.seq IS NOT (SELECT ifnull(max(seq), 0) + 1 FROM entry) BEGIN
        SELECT RAISE(ABORT, 'rows of the audit log are only added at its end');
    END
    """,
)
_COLUMNS = ("at", "kind", "module", "fields", "before", "digest")
# As bytes: text that somebody made invalid shall be found by the chain, not fail in the driver.
_READ = f"SELECT seq, {', '.join(f'CAST({name} AS BLOB)' for name in _COLUMNS)} FROM entry"  # noqa: S608  of constants
_INSERT = "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?)"

_T = TypeVar("_T")


class SqliteAudit:
    """An `AuditLog` in `audit.db` (WAL, synced at each commit; mode 0600).

    Triggers refuse UPDATE and DELETE, and rows elsewhere than at the end. One thread runs from `open` to `aclose`.

    Args:
        busy_timeout_s: how long a write waits, in seconds, while another process holds the database.
    """

    def __init__(self, *, busy_timeout_s: float = 5.0) -> None:
        self._busy_timeout_s = busy_timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="coredeno audit")
        self._file = Path(FILE_NAME)
        self._connection: sqlite3.Connection | None = None
        self._ending: asyncio.Task[None] | None = None
        self._was_used = self._is_closed = False

    async def open(self, folder: Path) -> None:
        """See `AuditLog.open`. What is not ours, newer or broken is left as it is.

        Raises:
            UsageError: it was opened or closed before.
            StoreFull: there is no room for it, or for what SQLite needs beside it.
            StoreError: it cannot be opened.
        """
        if self._was_used:
            raise UsageError("audit: open: it was opened or closed before, wanted a new SqliteAudit")
        self._was_used = True
        self._file = folder / FILE_NAME
        await self._run(self._connect, "opening")

    async def append(self, rows: Sequence[AuditRow]) -> None:
        """See `AuditLog.append`.

        Raises:
            StoreFull: nothing was written: the disk has no room, or a quota of the system is used up.
            StoreError: nothing was written.
            UsageError: it is not open.
        """

        def append() -> None:
            connection = self._opened()
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.executemany(
                    _INSERT, [(row.seq, *(getattr(row, each) for each in _COLUMNS)) for row in rows]
                )
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

        await self._run(append, "writing to")

    async def read(
        self, first: int, limit: int, *, module: str | None = None, kind: str | None = None
    ) -> list[AuditRow]:
        """See `AuditLog.read`.

        Raises:
            StoreError: it cannot be read.
            UsageError: it is not open.
        """
        wanted = [("seq >= ?", first), ("module = ?", module), ("kind = ?", kind)]
        wanted = [(sql, value) for sql, value in wanted if value is not None]
        sql = f"{_READ} WHERE {' AND '.join(sql for sql, _ in wanted)} ORDER BY seq LIMIT ?"
        bound = [*(value for _, value in wanted), limit]

        def read() -> list[AuditRow]:
            return [_row(values) for values in self._opened().execute(sql, bound).fetchall()]

        return await self._run(read, "reading from")

    async def last(self) -> int:
        """See `AuditLog.last`.

        Raises:
            StoreError: it cannot be read.
            UsageError: it is not open.
        """

        def last() -> int:
            found: int = self._opened().execute("SELECT ifnull(max(seq), 0) FROM entry").fetchone()[0]
            return found

        return await self._run(last, "reading from")

    async def aclose(self) -> None:
        """See `AuditLog.aclose`. No thread is left when it returns. If cancelled, it goes on alone."""
        self._was_used = self._is_closed = True
        if self._ending is None:
            self._ending = asyncio.create_task(self._end(), name="coredeno audit file close")
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        def close() -> None:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

        try:
            await self._in_thread(close, "closing")
        finally:
            await in_thread(self._thread.shutdown)

    async def _run(self, work: Callable[[], _T], what: str) -> _T:
        if self._is_closed:
            raise _not_open()
        return await self._in_thread(work, what)

    async def _in_thread(self, work: Callable[[], _T], what: str) -> _T:
        # Imported here: importing coredeno must not cost SQLite.
        import sqlite3  # noqa: PLC0415

        def explained() -> _T:
            try:
                return work()
            except (sqlite3.Error, OSError) as error:
                if was_missing(error, self._file.parent):
                    raise StoreFull(
                        f"audit: {what} {self._file}: {error}, wanted free space on its disk"
                    ) from error
                raise StoreError(
                    f"audit: {what} {self._file}: {error}, wanted a sound audit log on a disk with room; one that is "
                    "broken is never overwritten: put it aside, and a new one is begun"
                ) from error

        try:
            return await in_thread(explained, pool=self._thread)
        except RuntimeError as error:
            raise StoreError(f"audit: {what} {self._file}: {error}, wanted one more thread") from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise _not_open()
        return self._connection

    # --- in the thread

    def _connect(self) -> None:
        import sqlite3  # noqa: PLC0415

        # SQLite would give it the umask's mode; its other files follow the mode of this one.
        with contextlib.suppress(FileExistsError):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(self._file, flags, 0o600))
            sync_folder(self._file.parent)
        connection = sqlite3.connect(self._file, timeout=self._busy_timeout_s, isolation_level=None)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        application, version, tables = (
            connection.execute(sql).fetchone()[0]
            for sql in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
        )
        is_new = (application, version, tables) == (0, 0, 0)
        if not is_new and (application != APPLICATION_ID or version != VERSION):
            raise StoreError(
                f"audit: opening {self._file}: it is no audit log of version {VERSION}, wanted one or none; put it "
                "aside, and a new one is begun"
            )
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise StoreError(
                f"audit: opening {self._file}: its journal is {mode!r}, wanted WAL on a local file system"
            )
        connection.execute("PRAGMA synchronous = FULL")  # a row that was acknowledged outlives a power cut
        connection.execute("PRAGMA fullfsync = ON")  # on macOS a plain fsync leaves data in the drive's cache
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in _SCHEMA:
                connection.execute(statement)
            if is_new:
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {VERSION}")
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def _not_open() -> UsageError:
    return UsageError("audit: it is not open, wanted between `open` and `aclose`")


def _row(values: Sequence[Any]) -> AuditRow:
    seq, *texts = values
    return AuditRow(seq, *((text or b"").decode("utf-8", "surrogateescape") for text in texts))
