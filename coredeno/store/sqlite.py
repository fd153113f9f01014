"""`SqliteStore`: durable text in one file, with group commit and shared reads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from coredeno.config import CorruptStore
from coredeno.errors import LimitExceeded, StoreCorrupt, StoreError, StoreFull, UsageError
from coredeno.interfaces import StoreChange, StoreQuota
from coredeno.services.disk_room import was_missing
from coredeno.services.threads import in_thread
from coredeno.store import statements
from coredeno.store.batch import Batch, OverQuotaError
from coredeno.store.setting_aside import Identity, identity_of, set_aside

if TYPE_CHECKING:
    from coredeno.store.connection import SqliteConnection

_log = logging.getLogger("coredeno.store")

FILE_NAME = "store.db"
"""The file, in the folder that `open` is given; while it is open, `-wal` and `-shm` files are beside it."""

_Asked = tuple[str, Sequence[str]]
_Write = Sequence[statements.Change]
_Done = TypeVar("_Done")
_Page = TypeVar("_Page")

_OF_ANOTHER_TYPE = "a value of another type than was written"

_MOST_LOOKS = 100
"""At a group that is said to have something and yet gives nothing: writes in between so often are none."""


class SqliteStore:
    """A `StoreBackend` in a SQLite file (WAL, synced at each commit; mode 0600).

    Writes asked for while one transaction is under way share the next one, and return when it is on disk.
    Reads asked for in one turn of the event loop share one trip to the reader's thread. Other processes, and
    other `SqliteStore`s, may use the same file.

    Two threads run from `open` to `aclose`, which is called in the same event loop. They do not keep the interpreter
    from ending: without `aclose`, what was acknowledged is on disk, perhaps in the `-wal` file; other writes may be
    lost.

    Args:
        busy_timeout_s: how long a write waits, in seconds, while another process holds the database.
        check_s: how long `open` may look for damage, in seconds; what it has not reached by then counts as sound, and
            that is logged. `store/soundness.py` says what it sees and how long it takes.
        corrupt: `refuse` leaves a damaged file where it is. `set_aside` renames it, with what lies beside it, to
            `store.db.corrupt-<UTC time>` (never over another file), and begins an empty one.
        on_set_aside: is told where the damaged one lies now, and what was found; within `open`, which may fail all the
            same afterwards.
    """

    def __init__(
        self,
        *,
        busy_timeout_s: float = 5.0,
        check_s: float = 3.0,
        corrupt: CorruptStore = "refuse",
        on_set_aside: Callable[[Path, str], None] | None = None,
    ) -> None:
        self._busy_timeout_s = busy_timeout_s
        self._check_s = check_s
        self._corrupt = corrupt
        self._on_set_aside = on_set_aside
        self._opening: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._writer: SqliteConnection | None = None
        self._reader: SqliteConnection | None = None
        self._reads_under_way = 0
        self._none_read = asyncio.Event()
        self._none_read.set()
        most = statements.MOST_ROWS
        self._writes: Batch[_Write, LimitExceeded | None] = Batch(
            self._write_all,
            weigh=lambda write: sum(statements.weigh(change) for change, _ in write),
            most=most,
        )
        self._reads: Batch[_Asked, dict[str, str]] = Batch(
            self._read_all, weigh=lambda asked: len(asked[1]), most=most
        )

    async def open(self, folder: Path) -> None:
        """Open or make `store.db` in `folder`. If cancelled, it is closed again; `aclose` waits for that.

        Raises:
            UsageError: it was opened before.
            StoreCorrupt: the file is damaged, or no database at all, and is not to be set aside.
            StoreFull: there is no room to make or migrate it.
            StoreError: the file cannot be opened, there is no thread for that, it is of another program, or of a newer
                coredeno. A file that is refused is left as it is, and so is its write-ahead log.
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

    async def read(
        self, group: str, keys: Sequence[str] | None = None, *, limit_bytes: int | None = None
    ) -> dict[str, str]:
        """See `StoreBackend.read`. One read sees one state of its group. Cancelling it disturbs nothing.

        Where the group is changed just while it is read, keys that were asked for may have grown over
        `limit_bytes` between the look at their size and the reading.

        Raises:
            LimitExceeded: it is more than `limit_bytes`.
            StoreCorrupt: what was met is not what was written.
            StoreError: the database cannot be read.
            UsageError: the store is not open.
        """
        with self._reading("read") as reader:
            if keys is None:
                return await _read_group(reader, group, limit_bytes)
            if len(keys) > statements.MOST_ROWS:
                # More than one statement can ask for; several statements could see several states.
                wanted = frozenset(keys)
                everything = await _read_group(reader, group, limit_bytes)
                return {key: value for key, value in everything.items() if key in wanted}
            if not keys:
                return {}
            if limit_bytes is not None:
                rows = await reader.fetch(
                    statements.size_of_pairs([(group, key) for key in keys]), "reading from"
                )
                _check_size(group, rows[0][0], limit_bytes)
            return await self._reads.add((group, tuple(keys)))

    async def count(self, group: str) -> int:
        """See `StoreBackend.count`.

        Raises:
            StoreCorrupt: what was met is not what was written.
            StoreError: the database cannot be read.
            UsageError: the store is not open.
        """
        with self._reading("count") as reader:
            return (await _usage(reader, group))[0]

    async def write(self, changes: Sequence[StoreChange], *, quota: StoreQuota | None = None) -> None:
        """See `StoreBackend.write`.

        Raises:
            LimitExceeded: a group would have more than the quota; nothing of it was written.
            StoreFull: nothing of it was written: the disk has no room, or a quota of the system is used up.
            StoreError: nothing of it was written: the database is locked or broken, or a text is none that SQLite
                can hold.
            UsageError: the store is not open.
        """
        self._open_one(self._writer, "write")
        if changes:
            refusal = await self._writes.add([(change, quota) for change in changes])
            if refusal is not None:
                raise refusal

    async def aclose(self) -> None:
        """See `StoreBackend.aclose`. Reads under way get their answers too; what is called later is a `UsageError`.

        No thread is left when it returns; if cancelled, it goes on alone.
        """
        await asyncio.shield(self._close_soon())

    async def _open(self, file: Path) -> None:
        # Imported here: it needs SQLite, which importing coredeno must not cost.
        from coredeno.store.connection import SqliteConnection  # noqa: PLC0415

        async def open_writer() -> SqliteConnection:
            return await SqliteConnection.open_writer(
                file, busy_timeout_s=self._busy_timeout_s, check_s=self._check_s
            )

        if self._corrupt == "refuse":
            self._writer = await open_writer()
        else:
            judged = await _on_disk(lambda: identity_of(file), f"opening {file}")
            try:
                self._writer = await open_writer()
            except StoreCorrupt as error:
                await self._put_aside(file, judged, error)
                self._writer = await open_writer()
        self._reader = await SqliteConnection.open_reader(file, busy_timeout_s=self._busy_timeout_s)

    async def _put_aside(self, file: Path, judged: Identity | None, error: StoreCorrupt) -> None:
        aside = await _on_disk(
            lambda: set_aside(file, judged), f"setting aside {file}, which is damaged ({error.problem})"
        )
        if aside is not None:
            _log.error(
                "%s is damaged: %s; it is set aside as %s, an empty store begins", file, error.problem, aside
            )
            if self._on_set_aside is not None:
                self._on_set_aside(aside, error.problem)

    def _close_soon(self) -> asyncio.Task[None]:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="coredeno store close")
        return self._closing

    async def _close(self) -> None:
        try:
            if self._opening is not None:
                await asyncio.wait({self._opening})
            await self._writes.settled()
            await self._none_read.wait()
            await self._reads.settled()  # also of readers that were cancelled
        finally:
            # One after the other: of two connections that close at once each may find the other still there,
            # and then neither writes the `-wal` file back into the database.
            try:
                await _end(self._reader)
            finally:  # also when the loop is being torn down, or the writer's thread would never end
                await _end(self._writer)

    @contextlib.contextmanager
    def _reading(self, what: str) -> Iterator[SqliteConnection]:
        # A read may take several trips: `aclose` waits for all of it.
        reader = self._open_one(self._reader, what)
        self._reads_under_way += 1
        self._none_read.clear()
        try:
            yield reader
        finally:
            self._reads_under_way -= 1
            if not self._reads_under_way:
                self._none_read.set()

    def _open_one(self, connection: SqliteConnection | None, what: str) -> SqliteConnection:
        if self._reader is None or connection is None or self._closing is not None:
            raise UsageError(f"store: {what}: it is not open, wanted between `open` and `aclose`")
        return connection

    async def _write_all(self, writes: Sequence[_Write]) -> Sequence[LimitExceeded | None]:
        writer = self._writer
        assert writer is not None
        changes = [change for write in writes for change in write]
        try:
            if len(changes) <= statements.MOST_ROWS:
                await writer.fetch(statements.write(changes), "writing to")
            else:
                async with writer.transaction("writing to"):
                    await _write_chunks(writer, changes)
        except OverQuotaError:
            # Not halved like a fault: who is refused may be refused all the time, and others share the batch.
            async with writer.transaction("writing to"):
                return [await _write_or_refuse(writer, write) for write in writes]
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


async def _on_disk(work: Callable[[], _Done], doing: str) -> _Done:
    try:
        return await in_thread(work)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError):
            raise StoreError(f"store: {doing}: {error}, wanted one more thread") from error
        if was_missing(error, Path()):
            raise StoreFull(f"store: {doing}: {error.strerror}, wanted free space on its disk") from error
        raise StoreError(
            f"store: {doing}: {error.strerror}, wanted a folder that exists and may be written"
        ) from error


async def _end(connection: SqliteConnection | None) -> None:
    if connection is not None:
        await connection.stop()
        await connection.ended()


async def _write_chunks(writer: SqliteConnection, changes: _Write) -> None:
    for start in range(0, len(changes), statements.MOST_ROWS):
        await writer.fetch(statements.write(changes[start : start + statements.MOST_ROWS]), "writing to")


async def _write_or_refuse(writer: SqliteConnection, write: _Write) -> LimitExceeded | None:
    """Within a transaction: all of one write, or nothing and the reason."""
    await writer.fetch(("SAVEPOINT one", ()), "writing to")
    try:
        await _write_chunks(writer, write)
    except OverQuotaError:
        await writer.fetch(("ROLLBACK TO one", ()), "writing to")
        change, quota = next((change, quota) for change, quota in write if change.value is not None)
        assert quota is not None
        keys, size = await _usage(writer, change.group)
        return LimitExceeded(
            f"store: group {change.group!r}: it has {keys:,} keys and {size:,} bytes, and would have more "
            f"than the {quota.keys:,} keys and {quota.bytes:,} bytes that are wanted at most"
        )
    await writer.fetch(("RELEASE one", ()), "writing to")
    return None


async def _usage(connection: SqliteConnection, group: str) -> tuple[int, int]:
    rows = await connection.fetch((statements.USAGE, (group,)), "counting in")
    return _whole(statements.usage, rows[0])


def _check_size(group: str, size: int, limit_bytes: int) -> None:
    if size > limit_bytes:
        raise LimitExceeded(
            f"store: group {group!r}: {size:,} bytes were asked for, wanted at most {limit_bytes:,}"
        )


async def _read_group(reader: SqliteConnection, group: str, limit_bytes: int | None) -> dict[str, str]:
    found: dict[str, str] = {}
    statement: statements.Statement = (statements.READ_GROUP, (group,))
    if limit_bytes is not None:
        statement = (statements.READ_SMALL_GROUP, (group, limit_bytes))
    for _ in range(_MOST_LOOKS):
        for page in await _pages(reader, statement, statements.values_by_key):
            found.update(page)
        if found or limit_bytes is None:
            break
        keys, size = await _usage(reader, group)
        _check_size(group, size, limit_bytes)
        if not keys:
            break
        # Filled, or made smaller, between the two looks: once more.
    else:
        raise StoreCorrupt("reading from", path=FILE_NAME, problem="keys are counted that are not there")
    # Nearly in order already, but SQL does not promise it; sorting what is in order is quick.
    return {key: found[key] for key in sorted(found)}


async def _pages(
    reader: SqliteConnection, statement: statements.Statement, decode: Callable[[Sequence[Any]], _Page]
) -> list[_Page]:
    pages: list[_Page] = []
    for row in await reader.fetch(statement, "reading from"):
        if pages:
            await asyncio.sleep(0)  # a large answer: let the event loop turn between its pages
        pages.append(_whole(decode, row))
    return pages


def _whole(decode: Callable[[Sequence[Any]], _Done], row: Sequence[Any]) -> _Done:
    try:
        return decode(row)
    except msgspec.DecodeError as error:
        raise StoreCorrupt("reading from", path=FILE_NAME, problem=_OF_ANOTHER_TYPE) from error
