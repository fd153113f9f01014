"""Hands each event to everybody who listens, without ever waiting for them."""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections import deque
from collections.abc import AsyncIterator

from coredeno.events import Event, EventsLost

_log = logging.getLogger("coredeno.host")
LIMIT_WAITING = (
    1024  # events that a slow listener may be behind; then it loses the oldest, and is told how many
)


class EventStream:
    """The events of one host. A listener that does not keep up loses the oldest, and has an `EventsLost` for them."""

    def __init__(self) -> None:
        # An iterator that its app has dropped, begun or not, shall not gather events for ever.
        self._listeners: weakref.WeakSet[_Listener] = weakref.WeakSet()
        # One that is waited for is held: its task may be held by nothing else, and collected while it waits.
        self._awaited: set[_Listener] = set()
        self._closed = False

    def emit(self, event: Event) -> None:
        """Give an event to everybody who listens now; nobody does once it is closed."""
        if not self._closed:
            for listener in self._listeners:
                listener.put(event)

    def listen(self) -> AsyncIterator[Event]:
        """The events from now on (not from the first `async for` on), until `close`.

        Cancelling whoever waits for the next one loses none; the iteration can go on.
        """
        listener = _Listener(self._awaited)
        if self._closed:
            listener.close()
        else:
            self._listeners.add(listener)
        return listener

    def close(self) -> None:
        """End all iterations, once the events so far have been taken."""
        self._closed = True
        for listener in self._listeners:
            listener.close()


class _Listener(AsyncIterator[Event]):
    def __init__(self, awaited: set[_Listener]) -> None:
        self._awaited = awaited
        self._waiting: deque[Event] = deque()
        self._news = asyncio.Event()
        self._closed = False
        self._lost = 0

    def put(self, event: Event) -> None:
        if len(self._waiting) == LIMIT_WAITING:
            self._waiting.popleft()
            self._lost += 1
        self._waiting.append(event)
        self._news.set()

    def close(self) -> None:
        self._closed = True
        self._news.set()

    async def __anext__(self) -> Event:
        while not self._waiting:
            if self._closed:
                raise StopAsyncIteration
            self._news.clear()
            self._awaited.add(self)
            try:
                await self._news.wait()
            finally:
                self._awaited.discard(self)
        if self._lost:
            lost, self._lost = self._lost, 0
            _log.warning("a listener to the host's events was too slow and lost %d of them", lost)
            return EventsLost(count=lost)
        return self._waiting.popleft()
