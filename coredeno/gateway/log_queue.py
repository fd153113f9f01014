"""`LogQueue`: the log records of one Session, of which some are written in a turn of the loop, and others counted."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from typing import Any

from coredeno.gateway.held import Share
from coredeno.gateway.incidents import Incidents
from coredeno.interfaces import Clock, Timer
from coredeno.services.method import Caller
from coredeno.services.plugin_log import log_of_plugin
from coredeno.wire.codec import SessionMessage

# Log records that are written in one turn of the loop, and those that may wait for theirs; of others only how many
# there were is kept.
_LOGS_AT_ONCE = 32
_MOST_RECORDS = 4096
_TELL_DROPPED_S = 1.0


class LogQueue:
    """Log records on their way to the log, in their order, whatever a batch brought.

    Where more wait than may, the oldest are dropped; a second later one record says how many those of a module were.
    """

    def __init__(
        self,
        write: Callable[[Caller, SessionMessage], Coroutine[Any, Any, None]],
        *,
        clock: Clock,
        incidents: Incidents,
    ) -> None:
        """Take what writes one record; it never raises."""
        self._incidents = incidents
        self._write = write
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[Caller, SessionMessage, Share]] = deque()
        self._writing: set[asyncio.Task[None]] = set()
        self._dropped: Counter[tuple[str, str]] = Counter()  # by code and version, since that was told last
        self._telling: Timer | None = None

    def put(self, caller: Caller, message: SessionMessage, share: Share) -> None:
        """Take a record; it uses its share of what is held until it is written or dropped."""
        if len(self._waiting) >= _MOST_RECORDS:  # more than modules have on their way that keep to the wire
            oldest, _message, its_share = self._waiting.popleft()
            its_share.done()
            self._drop(oldest)
        share.use()
        self._waiting.append((caller, message, share))
        if len(self._writing) < _LOGS_AT_ONCE:
            self._write_next()

    def close(self) -> None:
        """Write nothing more, and tell now of what was dropped. Harmless twice."""
        for _caller, _message, share in self._waiting:
            share.done()
        self._waiting.clear()
        for task in list(self._writing):
            task.cancel()
        self._tell_dropped()

    def _write_next(self) -> None:
        if not self._waiting:
            return
        caller, message, share = self._waiting.popleft()
        task = self._loop.create_task(self._write(caller, message))
        self._writing.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._writing.discard(task)
            share.done()
            self._write_next()

        task.add_done_callback(ended)

    def _drop(self, caller: Caller) -> None:
        self._dropped[caller.code, caller.version] += 1
        if self._telling is None:
            self._telling = self._clock.call_later(_TELL_DROPPED_S, self._tell_dropped)

    def _tell_dropped(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        dropped, self._dropped = self._dropped, Counter()
        for (code, version), count in dropped.items():
            text = f"{count:,} log records were dropped: more than {_MOST_RECORDS:,} waited"
            try:
                log_of_plugin(code, version, logging.WARNING, text)
            except Exception as error:  # noqa: BLE001 - a handler of the app's; the Session goes on, and ends
                self._incidents.error(f"a log record about module {code!r}", error)
