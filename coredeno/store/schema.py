"""What `store.db` holds, and how an older file is brought up to date."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from coredeno.errors import StoreError

if TYPE_CHECKING:
    import sqlite3

APPLICATION_ID = 0x636F7265
"""`core` in ASCII, kept in the file's header: tells our files from those of other programs."""

OVER_QUOTA = "coredeno: over quota"
"""What the database says when a change was bound by a quota, and its group would have more."""


def size_of(column: str) -> str:
    """SQL for the bytes that a text has as UTF-8: `length` of text stops at a NUL, that of a blob does not."""
    return f"length(CAST({column} AS BLOB))"


MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # With rowids: values may be large, and WITHOUT ROWID would put them into the nodes of the key's tree.
        """
        CREATE TABLE entry (
            "group" TEXT NOT NULL,
            key TEXT NOT NULL,
            value TEXT NOT NULL,
            PRIMARY KEY ("group", key)
        )
        """,
        # Rows put into this view are StoreChanges, carried out in their order. So a whole group commit,
        # whatever it mixes, is one INSERT of many rows: one trip to the thread, a transaction by itself.
        """CREATE VIEW change AS SELECT "group", key, value FROM entry""",
        """
        CREATE TRIGGER change_set INSTEAD OF INSERT ON change WHEN NEW.value IS NOT NULL BEGIN
            INSERT INTO entry VALUES (NEW."group", NEW.key, NEW.value)
            ON CONFLICT ("group", key) DO UPDATE SET value = excluded.value;
        END
        """,
        """
        CREATE TRIGGER change_delete INSTEAD OF INSERT ON change
        WHEN NEW.value IS NULL AND NEW.key IS NOT NULL BEGIN
            DELETE FROM entry WHERE "group" = NEW."group" AND key = NEW.key;
        END
        """,
        """
        CREATE TRIGGER change_delete_group INSTEAD OF INSERT ON change
        WHEN NEW.value IS NULL AND NEW.key IS NULL BEGIN
            DELETE FROM entry WHERE "group" = NEW."group";
        END
        """,
    ),
    (
        # What each group has, kept up to date by what changes it: a quota is looked up, never counted.
        """
        CREATE TABLE usage (
            "group" TEXT PRIMARY KEY NOT NULL,
            keys INTEGER NOT NULL,
            bytes INTEGER NOT NULL
        ) WITHOUT ROWID
        """,
        f"""
        INSERT INTO usage
        SELECT "group", count(*), sum({size_of("key")} + {size_of("value")}) FROM entry GROUP BY "group"
        """,  # noqa: S608  of constants
        # Its triggers go with it.
        "DROP VIEW change",
        """
        CREATE VIEW change AS SELECT "group", key, value, NULL AS most_keys, NULL AS most_bytes FROM entry
        """,
        f"""
        CREATE TRIGGER change_set INSTEAD OF INSERT ON change WHEN NEW.value IS NOT NULL BEGIN
            INSERT INTO usage
            SELECT NEW."group", count(*) = 0,
                {size_of("NEW.value")} - ifnull(sum({size_of("value")}), 0) + (count(*) = 0) * {size_of("NEW.key")}
            FROM entry WHERE "group" = NEW."group" AND key = NEW.key
            ON CONFLICT ("group") DO UPDATE SET keys = keys + excluded.keys, bytes = bytes + excluded.bytes;
            SELECT RAISE (ABORT, '{OVER_QUOTA}') FROM usage
            WHERE "group" = NEW."group" AND (keys > NEW.most_keys OR bytes > NEW.most_bytes);
            INSERT INTO entry VALUES (NEW."group", NEW.key, NEW.value)
            ON CONFLICT ("group", key) DO UPDATE SET value = excluded.value;
        END
        """,  # noqa: S608  of constants
        f"""
        CREATE TRIGGER change_delete INSTEAD OF INSERT ON change
        WHEN NEW.value IS NULL AND NEW.key IS NOT NULL BEGIN
            UPDATE usage SET (keys, bytes) = (
                SELECT keys - count(*), bytes - ifnull(sum({size_of("key")} + {size_of("value")}), 0)
                FROM entry WHERE "group" = NEW."group" AND key = NEW.key
            ) WHERE "group" = NEW."group";
            DELETE FROM usage WHERE "group" = NEW."group" AND keys = 0;
            DELETE FROM entry WHERE "group" = NEW."group" AND key = NEW.key;
        END
        """,  # noqa: S608  of constants
        """
        CREATE TRIGGER change_delete_group INSTEAD OF INSERT ON change
        WHEN NEW.value IS NULL AND NEW.key IS NULL BEGIN
            DELETE FROM usage WHERE "group" = NEW."group";
            DELETE FROM entry WHERE "group" = NEW."group";
        END
        """,
    ),
)
"""Entry n brings a file from version n to n + 1. What was released is never edited, only added to."""

VERSION = len(MIGRATIONS)
"""The version (`PRAGMA user_version`) that this coredeno reads and writes."""


def prepare(connection: sqlite3.Connection, file: Path) -> None:
    """Check whose file it is before anything in it is touched; then set up durability and migrate it.

    Runs on the connection's thread, in autocommit mode. A crash leaves the old version or the new.

    Raises:
        StoreError: the file is of another program, of a newer coredeno, or where WAL does not work.
        sqlite3.Error: it is no database, it is broken, locked, or the disk is full.
    """
    require_ours(connection, file)
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StoreError(f"store: opening {file}: its journal is {mode!r}, wanted WAL on a local file system")
    # NORMAL does not sync at a commit: a write that had returned could be lost in a power cut.
    connection.execute("PRAGMA synchronous = FULL")
    # On macOS a plain fsync leaves data in the drive's cache; elsewhere this changes nothing.
    connection.execute("PRAGMA fullfsync = ON")
    _migrate(connection)


def require_ours(connection: sqlite3.Connection, file: Path) -> None:
    """Refuse what is no store of ours, or of a newer coredeno. Changes nothing; in autocommit mode.

    Raises:
        StoreError: it is another program's, or newer.
        sqlite3.Error: it is no database, broken or locked.
    """
    # One transaction, one snapshot: another process may be migrating right now.
    connection.execute("BEGIN")
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        is_ours = application == APPLICATION_ID or (
            (application, version) == (0, 0) and _is_empty(connection)
        )
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    if not is_ours:
        raise StoreError(
            f"store: opening {file}: it is another program's database, wanted coredeno's or none"
        )
    if version > VERSION:
        raise StoreError(
            f"store: opening {file}: its schema has version {version}, wanted at most {VERSION}: "
            "a newer coredeno wrote it, and this one cannot read it"
        )


def _is_empty(connection: sqlite3.Connection) -> bool:
    import sqlite3  # noqa: PLC0415 - statements need this module, and not SQLite

    try:
        tables: int = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT:
            return False  # damaged, and without our mark: no reason to take it for ours
        raise
    return tables == 0


def _migrate(connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA user_version").fetchone()[0] == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Asked again under the lock: another process may have been faster.
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        for statement in (statement for migration in MIGRATIONS[version:] for statement in migration):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
