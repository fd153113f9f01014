"""One SQLite connection on a thread of its own: the only place that imports sqlite3 and aiosqlite.

`SqliteStore` imports this module when it opens: importing coredeno does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import aiosqlite

from coredeno.errors import StoreCorrupt, StoreError, StoreFull
from coredeno.services.disk_room import is_unclear, was_missing
from coredeno.services.threads import in_thread
from coredeno.store import soundness
from coredeno.store.batch import OverQuotaError, StoreLockedError
from coredeno.store.schema import OVER_QUOTA, prepare, require_ours
from coredeno.store.statements import Statement

_WANTED = {
    sqlite3.SQLITE_READONLY: "a file and a folder that may be written",
    sqlite3.SQLITE_CANTOPEN: "a file and a folder that may be written",
    sqlite3.SQLITE_IOERR: "a disk that works, and room on it",
}

_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_NO_TEXT = ("Could not decode to UTF-8", "JSON cannot hold BLOB values")
"""How sqlite3 and SQLite begin when they complain about what they have read as text. None such is ever written."""

_REFUSED_TEXT = (UnicodeEncodeError, OverflowError)
"""What sqlite3 raises for text that it cannot bind: with lone surrogates, or over 2 GiB."""

_OLDEST_SQLITE = (3, 25)
"""The first with window functions, by which answers are paged."""

_PAUSE_S = 0.005
"""Between two attempts to open a file that another one holds."""


class SqliteConnection:
    """A connection in autocommit mode: a statement is a transaction, and durable when it has run.

    Statements run in the order in which they were asked for. Cancelling an asker does not stop its statement.
    """

    def __init__(self, connection: aiosqlite.Connection, thread: threading.Thread, file: Path) -> None:
        self._connection = connection
        self._thread = thread
        self._file = file

    @classmethod
    async def open_writer(cls, file: Path, *, busy_timeout_s: float, check_s: float) -> SqliteConnection:
        """Make or open the file (mode 0600), check it for at most `check_s` seconds, migrate it.

        Raises:
            StoreCorrupt: it is damaged.
            StoreFull: there is no room for it, or for what SQLite needs beside it.
            StoreError: it cannot be opened. What is not ours, newer or damaged is left as it is.
        """

        def connect() -> sqlite3.Connection:
            if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
                wanted = ".".join(str(number) for number in _OLDEST_SQLITE)
                raise StoreError(f"store: SQLite is {sqlite3.sqlite_version}, wanted at least {wanted}")
            if problem := soundness.lost_before(file):
                raise StoreCorrupt("opening", path=str(file), problem=problem)
            has_log = soundness.has_log(file)
            if has_log:
                with soundness.read_only(file, busy_timeout_s) as connection:
                    _patiently(require_ours, connection, file, busy_timeout_s)
                    soundness.require_whole(connection, file, check_s)
            # SQLite would give it the umask's mode; its other files follow the mode of this one. A file that
            # exists is not opened here: closing it would drop the locks of this process's other connections.
            with contextlib.suppress(FileExistsError):
                os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            connection = _connect(file, busy_timeout_s)
            try:
                if not has_log:
                    _patiently(require_ours, connection, file, busy_timeout_s)
                    soundness.require_whole(connection, file, check_s)
                _patiently(prepare, connection, file, busy_timeout_s)
                _keep_private(file)
            except BaseException:
                connection.close()
                raise
            return connection

        return await cls._open(connect, file)

    @classmethod
    async def open_reader(cls, file: Path, *, busy_timeout_s: float) -> SqliteConnection:
        """Open a file that a writer has prepared.

        Raises:
            StoreFull: there is no room for what SQLite needs beside it.
            StoreError: it cannot be opened.
        """

        def connect() -> sqlite3.Connection:
            connection = _connect(file, busy_timeout_s)
            connection.execute("PRAGMA query_only = ON")
            connection.execute("PRAGMA temp_store = MEMORY")  # answers are grouped there; no file beside ours
            return connection

        return await cls._open(connect, file)

    @classmethod
    async def _open(cls, connect: Callable[[], sqlite3.Connection], file: Path) -> SqliteConnection:
        threads: list[threading.Thread] = []

        def on_thread() -> sqlite3.Connection:
            threads.append(threading.current_thread())
            try:
                return connect()
            except (sqlite3.Error, OSError, RuntimeError) as error:
                raise _explained(
                    error, "opening", str(file), room_was_missing=was_missing(error, file.parent)
                ) from error

        opening = aiosqlite.Connection(on_thread, 1)
        # aiosqlite offers no such setting. An app that never stops its host shall be able to end all the same; what was
        # acknowledged is on the disk by then.
        opening._thread.daemon = True  # noqa: SLF001
        try:
            connection = await opening
        except StoreError:
            await _ended(threads[0])
            raise
        except RuntimeError as error:  # of its own thread: what fails on that is explained there
            raise _explained(error, "opening", str(file)) from error
        return cls(connection, threads[0], file)

    async def fetch(self, statement: Statement, what: str) -> list[Sequence[Any]]:
        """Run one statement, in one trip to the thread, and give its rows.

        Raises:
            StoreError: it failed and changed nothing; `what` says in the message what was being done.
        """
        try:
            return list(await self._connection.execute_fetchall(*statement))
        except (sqlite3.Error, *_REFUSED_TEXT) as error:
            # By its bare name: a plugin may be told of it, and need not know where the app lives.
            raise _explained(
                error, what, self._file.name, room_was_missing=await self._room_was_missing(error)
            ) from error

    @contextlib.asynccontextmanager
    async def transaction(self, what: str) -> AsyncIterator[None]:
        """Make what is fetched in the block one transaction. Nothing else may be under way on this connection.

        Raises:
            StoreError: something failed and came out of the block, and nothing changed.
        """
        await self.fetch(("BEGIN IMMEDIATE", ()), what)
        try:
            yield
            await self.fetch(("COMMIT", ()), what)
        except BaseException:  # or what comes next would be written into this transaction
            # A full disk may have ended the transaction already.
            if self._connection.in_transaction:
                await self.fetch(("ROLLBACK", ()), what)
            raise

    async def _room_was_missing(self, error: Exception) -> bool:
        if not is_unclear(error):
            return was_missing(error, self._file.parent)
        try:
            return await in_thread(lambda: was_missing(error, self._file.parent))
        except RuntimeError:  # no thread to ask in: it stays what SQLite calls it
            return False

    def stop(self) -> asyncio.Future[Any]:
        """Let statements under way finish, then close and end the thread. Called once; see `ended`."""
        stopped = self._connection.stop()
        assert stopped is not None  # it is only where no event loop runs
        return stopped

    async def ended(self) -> None:
        """Wait until the thread, told to stop before, is gone."""
        await _ended(self._thread)


async def _ended(thread: threading.Thread) -> None:
    # aiosqlite answers `stop` a moment before its thread ends, and has no public way to wait for that.
    while thread.is_alive():  # noqa: ASYNC110  no event tells of it
        await asyncio.sleep(0)


def _connect(file: Path, busy_timeout_s: float) -> sqlite3.Connection:
    return sqlite3.connect(file, timeout=busy_timeout_s, isolation_level=None)


def _patiently(
    step: Callable[[sqlite3.Connection, Path], None],
    connection: sqlite3.Connection,
    file: Path,
    busy_timeout_s: float,
) -> None:
    # Another store that opens the same new file may hold it at a step for which SQLite does not wait by
    # itself. Each step can be done again.
    end = time.monotonic() + busy_timeout_s
    while True:
        try:
            return step(connection, file)
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() >= end:
                raise
            time.sleep(_PAUSE_S)


def _keep_private(file: Path) -> None:
    for path in (file, file.with_name(f"{file.name}-wal"), file.with_name(f"{file.name}-shm")):
        if path.exists() and path.stat().st_mode & 0o077:
            path.chmod(0o600)


def _explained(error: Exception, doing: str, path: str, *, room_was_missing: bool = False) -> StoreError:
    code = _code(error)
    what = f"{doing} {path}"
    if code == sqlite3.SQLITE_BUSY:
        return StoreLockedError(f"store: {what}: {error}, wanted no other process to hold it for so long")
    if code in _CORRUPT or (isinstance(error, sqlite3.Error) and str(error).startswith(_NO_TEXT)):
        return StoreCorrupt(doing, path=path, problem=str(error))
    if str(error) == OVER_QUOTA:
        return OverQuotaError(f"store: {what}: a group would have more than its quota, wanted no more")
    said, wanted = str(error), _WANTED.get(code, "it to be done")
    if isinstance(error, OSError):
        said, wanted = str(error.strerror), "a folder that exists and may be written"
    elif isinstance(error, RuntimeError):
        wanted = "one more thread"
    elif isinstance(error, _REFUSED_TEXT):
        wanted = "text that SQLite can hold"
    if room_was_missing:
        return StoreFull(f"store: {what}: {said}, wanted free space on its disk")
    return StoreError(f"store: {what}: {said}, wanted {wanted}")


def _code(error: Exception) -> int:
    # Without the extended part. sqlite3's own complaints have none.
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF
