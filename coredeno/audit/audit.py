"""`Audit`: the host's events become rows, without the host ever waiting for the disk; and the log is checked."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path

from coredeno.audit.chain import EMPTY, ChainCheck, linked
from coredeno.audit.records import Record, record_of
from coredeno.audit.throttle import Throttle
from coredeno.errors import AuditBroken, CoreDenoError, StoreError, UsageError
from coredeno.events import AuditFailed, Event
from coredeno.interfaces import AuditHead, AuditLog, AuditRow, Clock, Timer
from coredeno.services.threads import in_thread

_log = logging.getLogger("coredeno.audit")

LIMIT_WAITING = 4096
"""Rows that wait for the disk; what comes while there are so many is counted, and a row `AuditGap` tells of it."""

_BATCH = 256  # rows in one transaction
_PAGE = 1000  # rows in memory at once while the log is read
_CHECKED_AT_OPEN = 64  # rows: cheap, and enough to see that the end is whole
RETRY_S = 5.0
"""How long after a write that failed the next attempt comes, in seconds; `flush` does not wait for it."""


class Audit:
    """The audit log of a host, in `PluginHost.audit`. The host opens, fills and closes it.

    Each event is queued at once, and written with those beside it in one transaction. Kinds that a plugin can cause
    at any rate are bounded: the same denial is one row and, a minute later, another with how often it was
    `repeated`; above 60 different ones a minute and module, one row says how many `further` there were. A host that
    is killed loses the counts of the running minute, and what the disk did not have yet; an install, update, rollback,
    removal or revocation is on the disk when its call returns, and a permission that a module asked for before it is
    told that it has it.

    Where the log cannot be written (a full disk) the host goes on: that is logged at ERROR, told as an
    `AuditFailed` event, and tried again every few seconds. Up to 4,096 rows wait meanwhile; what is above is
    counted and told in a row `AuditGap`.
    """

    def __init__(self, log: AuditLog, *, clock: Clock, emit: Callable[[Event], None]) -> None:
        """Take where the rows go, whose time counts, and who is told that it failed."""
        self._backend = log
        self._clock = clock
        self._emit = emit
        self._head = EMPTY
        self._throttle = Throttle()
        self._queue: deque[AuditRow] = deque()
        self._lost = 0
        # Rows that were given to the log, and have not been acknowledged; a count of lost rows is in the last of them.
        self._tried: list[AuditRow] = []
        self._tried_lost = 0
        self._problem: CoreDenoError | None = None
        self._writing: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._window: Timer | None = None
        self._retry: Timer | None = None
        self._is_open = self._is_closed = False

    # --- for the host

    async def open(self, folder: Path) -> None:
        """Open the log in `folder`, and check its last rows.

        Raises:
            StoreError: it cannot be opened or read. It is left as it is.
            AuditBroken: its last rows do not verify. It is left as it is.
        """
        await self._backend.open(folder)
        self._head = await self._tail()
        self._is_open = True
        self._write_soon()

    def record(self, event: Event) -> None:
        """Take an event. Never waits; after `aclose` it is not taken any more."""
        if self._is_closed:
            return
        record = record_of(event)
        if self._throttle.admits(record, self._clock.now()):
            self._put(record)
        self._watch_window()

    async def settle(self) -> None:
        """As `flush`, where a failure, which is logged and told, is no reason to fail."""
        if self._is_open and self._closing is None:
            await self._written()

    async def aclose(self) -> None:
        """Write what is counted and queued, and close the log. Harmless twice. If cancelled, it goes on alone."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="coredeno audit close")
        await asyncio.shield(self._closing)

    # --- for the app

    @property
    def problem(self) -> str:
        """Why the log cannot be written at present; empty if it can."""
        return "" if self._problem is None else str(self._problem)

    async def flush(self) -> None:
        """Wait until all that happened so far is on the disk. Cancelling it disturbs nothing.

        Raises:
            StoreError: it cannot be written; it stays queued, and is tried again.
            AuditBroken: a write failed, and the end of the log is not what was written: it was cut off or changed,
                or somebody else has written to it. Nothing is written any more until it is as it was.
            UsageError: the host does not run.
        """
        self._require_open("flush")
        await self._written()
        if self._problem is not None:
            raise self._problem

    async def head(self) -> AuditHead:
        """The last row's number and digest, of all that happened so far. Keep it elsewhere, for `verify`.

        Raises:
            StoreError, AuditBroken: as `flush`.
            UsageError: the host does not run.
        """
        await self.flush()
        return self._head

    async def verify(self, head: AuditHead | None = None) -> AuditHead:
        """Check the whole chain, and give its head. The host works on meanwhile; a thousand rows are read at once.

        What was cut off at the end, and a chain that somebody who can write to the file made anew as a whole, can
        only be seen with a head that was kept where they cannot write.

        Args:
            head: what `head` gave before, kept elsewhere: the log must still hold that row.

        Raises:
            AuditBroken: a row is changed, missing, or not where it was; its `seq` says which is the first.
            StoreError: the log cannot be read.
            UsageError: the host does not run.
        """
        self._require_open("verify")
        await self.settle()
        check = ChainCheck(kept=head)
        while rows := await self._backend.read(check.head.seq + 1, _PAGE):
            await in_thread(partial(check.take, rows))
        check.finish()
        return check.head

    async def entries(
        self, *, since: int = 1, limit: int | None = None, module: str | None = None, kind: str | None = None
    ) -> AsyncIterator[AuditRow]:
        """The rows, in the order of their numbers, up to what has happened when the first is asked for or later.

        Args:
            since: the first number that is wanted.
            limit: how many at most; None is all.
            module: only those about this module.
            kind: only those of this kind, such as `PermissionDenied`.

        Raises:
            StoreError: the log cannot be read.
            UsageError: the host does not run.
        """
        self._require_open("entries")
        await self.settle()
        left = limit
        while left is None or left > 0:
            size = _PAGE if left is None else min(left, _PAGE)
            rows = await self._backend.read(since, size, module=module, kind=kind)
            for row in rows:
                yield row
            if len(rows) < size:
                return
            since = rows[-1].seq + 1
            left = None if left is None else left - len(rows)

    # --- what is told

    def _put(self, record: Record) -> None:
        if len(self._queue) >= LIMIT_WAITING:
            self._lost += 1
            return
        self._queue.append(record.row(_now()))
        if self._problem is None:  # else the next attempt has its time
            self._write_soon()

    def _watch_window(self) -> None:
        end = self._throttle.next_end
        if self._window is None and end is not None:
            self._window = self._clock.call_later(max(0.0, end - self._clock.now()), self._window_ended)

    def _window_ended(self) -> None:
        self._window = None
        self._tell_counts(self._clock.now())
        self._watch_window()

    def _tell_counts(self, now: float | None) -> None:
        for record in self._throttle.ended(now):
            self._put(record)

    # --- writing

    def _write_soon(self) -> None:
        if self._is_open and (self._queue or self._lost) and (self._writing is None or self._writing.done()):
            self._writing = asyncio.create_task(self._write(), name="coredeno audit write")

    async def _written(self) -> None:
        self._write_soon()
        if self._writing is not None:
            await asyncio.wait([self._writing])

    async def _write(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        try:
            if self._tried:
                await self._look_what_came_through()
            while self._queue or self._lost:
                await self._write_some()
            if self._problem is not None:
                _log.warning("the audit log is written again")
                self._problem = None
        except (StoreError, AuditBroken) as error:
            self._failed(error)
        except Exception as error:  # noqa: BLE001 - an AuditLog of the app's own may raise anything
            self._failed(StoreError(f"audit: {type(error).__name__}: {error}"))

    async def _write_some(self) -> None:
        taken, lost = list(islice(self._queue, _BATCH)), 0
        if len(taken) == len(self._queue) and self._lost:
            lost = self._lost
            taken.append(Record("AuditGap", "", {"lost": lost}).row(_now()))
        self._tried, self._tried_lost = linked(self._head, taken), lost
        await self._backend.append(self._tried)
        self._acknowledge(len(self._tried))

    async def _look_what_came_through(self) -> None:
        """Take what the log holds of a write that failed, so that no row is there twice.

        Raises:
            AuditBroken: the end that was acknowledged is not there any more, or something else follows it.
            StoreError: the log cannot be read.
        """
        head, tried = self._head, self._tried
        last = await self._backend.last()
        check = ChainCheck(first=max(1, head.seq), kept=head)
        rows = await self._backend.read(check.head.seq + 1, len(tried) + 2)
        check.take(rows)
        check.finish()
        found = [row.digest for row in rows if row.seq > head.seq]
        wanted = [row.digest for row in tried]
        for place, digest in enumerate(found):
            if place == len(wanted) or digest != wanted[place]:
                raise AuditBroken(head.seq + 1 + place, "it is none that this host has written")
        if check.head.seq != last:
            raise _missing(check.head.seq + 1, last)
        self._acknowledge(len(found))

    def _acknowledge(self, count: int) -> None:
        """So many of the rows that were tried are in the log; the others are queued still, and are tried anew."""
        rows, lost = self._tried[:count], self._tried_lost
        has_gap = bool(lost) and count == len(self._tried)
        self._tried, self._tried_lost = [], 0
        if rows:
            self._head = AuditHead(seq=rows[-1].seq, digest=rows[-1].digest)
        for _ in range(count - has_gap):
            self._queue.popleft()
        if has_gap:
            self._lost -= lost

    def _failed(self, error: CoreDenoError) -> None:
        is_new = type(error) is not type(self._problem)
        self._problem = error
        if self._closing is None:
            self._retry = self._clock.call_later(RETRY_S, self._write_soon)
        if is_new:
            _log.error("the audit log cannot be written: %s", error)
            self._emit(AuditFailed(problem=str(error)))

    async def _tail(self) -> AuditHead:
        last = await self._backend.last()
        if last == 0:
            return EMPTY
        check = ChainCheck(first=max(1, last - _CHECKED_AT_OPEN + 1))
        check.take(await self._backend.read(check.head.seq + 1, _CHECKED_AT_OPEN))
        if check.head.seq != last:
            raise _missing(check.head.seq + 1, last)
        return check.head

    async def _close(self) -> None:
        self._is_closed = True
        try:
            if self._window is not None:
                self._window.cancel()
            self._tell_counts(None)
            if self._is_open:
                await self._written()  # what was under way
                await self._written()  # and, if that has failed, once more
                if self._queue or self._lost:
                    _log.error("the audit log lost %d rows: %s", len(self._queue) + self._lost, self._problem)
        finally:
            if self._retry is not None:
                self._retry.cancel()
            await self._backend.aclose()

    def _require_open(self, what: str) -> None:
        if not self._is_open or self._closing is not None:
            raise UsageError(f"audit: {what}: the host does not run, wanted after start() and before stop()")


def _missing(seq: int, last: int) -> AuditBroken:
    return AuditBroken(seq, f"it is missing, though the log says that it has {last}")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
