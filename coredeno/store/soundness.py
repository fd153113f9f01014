"""Whether a database is whole, found out before it is used. Everything here blocks: it runs on the store's threads."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from coredeno.errors import StoreCorrupt

_log = logging.getLogger("coredeno.store")

_LEAST_BYTES = 512
"""The smallest page, of which every database has one: https://www.sqlite.org/fileformat2.html#pages"""


def require_whole(connection: sqlite3.Connection, file: Path, limit_s: float) -> None:
    """Look at the structure of the database (`PRAGMA quick_check`), for a bounded time.

    Each page that is in use is read: that tables and their indexes are sound trees, that each row can be decoded,
    that no page is missing or used twice. Not seen are changes of what a value says, since SQLite keeps no checksums
    of pages, text that became a BLOB, and an index that does not fit its table. What was not reached when the time was
    over counts as sound.

    How long it takes: for 64 MiB some 30 ms (values of 20 KB) to 150 ms (of 200 bytes) where the system has the file
    in memory, else what the disk takes to read it in pieces.

    Args:
        connection: in autocommit mode.
        file: for the message.
        limit_s: what it may take, in seconds.

    Raises:
        StoreCorrupt: damage was found.
        sqlite3.Error: it cannot be read.
    """
    started = time.monotonic()
    try:
        with _interrupted_after(connection, limit_s):
            found: str = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_INTERRUPT:
            raise
        size_mb = file.stat().st_size / 2**20
        _log.warning("%s: its %.0f MiB were not all checked within %g s", file.name, size_mb, limit_s)
        return
    if found != "ok":
        raise StoreCorrupt("opening", path=str(file), problem=_on_one_line(found))
    _log.debug("%s was checked in %.0f ms", file.name, (time.monotonic() - started) * 1000)


def lost_before(file: Path) -> str:
    """What is wrong with the files alone, of which SQLite would make an empty database without a word; else empty.

    That is a stump of a file, and a write-ahead log with something in it but without the database that it belongs to:
    SQLite deletes such a log, and with it what was acknowledged and not yet in the database.
    """
    # The log first: a store that is just making the file writes to that before it writes to a log.
    log = has_log(file)
    try:
        size = file.stat().st_size
    except FileNotFoundError:
        return "it is missing, though its write-ahead log is there" if log else ""
    if size == 0:
        return "it is empty, though its write-ahead log is not" if log else ""
    return f"it has {size} bytes, fewer than any database" if size < _LEAST_BYTES else ""


def has_log(file: Path) -> bool:
    """Whether there is a write-ahead log with something in it: who used the database last was killed, or still does."""
    log = file.with_name(f"{file.name}-wal")
    return log.exists() and log.stat().st_size > 0


@contextlib.contextmanager
def read_only(file: Path, busy_timeout_s: float) -> Iterator[sqlite3.Connection]:
    """A connection that leaves database and write-ahead log as they are, byte for byte, also when it is closed.

    Any other one that is the last to be closed writes the log into the database, and deletes it.
    """
    connection = sqlite3.connect(
        f"file:{quote(os.fsencode(file))}?mode=ro", timeout=busy_timeout_s, isolation_level=None, uri=True
    )
    try:
        yield connection
    finally:
        connection.close()


@contextlib.contextmanager
def _interrupted_after(connection: sqlite3.Connection, limit_s: float) -> Iterator[None]:
    timer = threading.Timer(limit_s, connection.interrupt)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _on_one_line(found: str) -> str:
    return "; ".join(line for line in found.splitlines() if line and not line.startswith("***"))
