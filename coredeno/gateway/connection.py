"""One connection of a gRPC client: grpclib's, with what it lacks. Imports grpclib, so it is imported late."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Callable
from typing import Protocol, cast

import msgspec
from grpclib.protocol import H2Protocol
from h2.events import RequestReceived

from coredeno.buffered_receiver import BufferedReceiver
from coredeno.errors import ProtocolError
from coredeno.gateway.frame_guard import FrameGuard
from coredeno.gateway.gateway import Peer
from coredeno.gateway.slice_queue import SliceQueue

_log = logging.getLogger("coredeno.gateway")
# Requests of one connection that are worked on, those included that were reset and have not ended yet: h2 allows
# 100 streams, of which it forgets the reset ones.
_MOST_TASKS = 200
# DATA frames that nobody has read. The window bounds their bytes, but a frame of one byte takes 300 to hold.
# Whoever waits for them takes all at once, in one turn of the loop.
_MOST_UNREAD_FRAMES = 512
_LOOK_AGAIN_S = 0.005


class Client(msgspec.Struct, frozen=True):
    """Process and user of a client, where the platform tells."""

    process_id: int | None
    user_id: int | None


class ConnectionOwner(Protocol):
    """Who lets connections in, and hears of them.

    Attributes:
        slices: what all its connections share.
    """

    slices: SliceQueue

    def proven(self, connection: Connection) -> None:
        """A good token was shown over it."""
        ...

    def broken(self, connection: Connection, error: ProtocolError) -> None:
        """It broke the rules, and was dropped."""
        ...

    def lost(self, connection: Connection) -> None:
        """It has ended. Called once, if it has begun."""
        ...


class Connection(BufferedReceiver, H2Protocol):
    """A connection that can be dropped, and that takes whatever comes over it, a slice a turn of the loop.

    Attributes:
        client: who is at the other end.
        window: bytes that the client may send before they are read.
        peer: whose token was shown over it, or None.
    """

    def __init__(self, made: H2Protocol, owner: ConnectionOwner, client: Client, *, window: int) -> None:
        """Take the place of a connection that grpclib has just made."""
        config = dataclasses.replace(
            made.config, http2_connection_window_size=window, http2_stream_window_size=window
        )
        super().__init__(made.handler, config, made.h2_config)
        self.client = client
        self.window = window
        self.peer: Peer | None = None
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._guard = FrameGuard(self._loop.time())
        self._data = b""  # what was received; before `_position` it is done
        self._position = 0
        self._is_waiting = False  # for its turn
        self._look_again: asyncio.TimerHandle | None = None
        self._tasks = 0
        self._is_dropped = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        super().connection_made(transport)
        accept = cast("Callable[[RequestReceived], None]", self.processor.processors[RequestReceived])

        def accept_and_count(event: RequestReceived) -> None:
            accept(event)
            self._watch(event.stream_id)

        self.processor.processors[RequestReceived] = accept_and_count

    def data_received(self, data: bytes) -> None:
        """Take bytes; a client that sends what cannot be taken is dropped."""
        if self._is_dropped:
            return
        self._data = self._data[self._position :] + data if self._data else data
        self._position = 0
        if not self._is_waiting:
            self._feed_next()
        if self._data:
            assert self._transport is not None
            self._transport.pause_reading()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End what is under way."""
        self._is_dropped = True
        self._forget()
        super().connection_lost(exc)
        self._owner.lost(self)

    def drop(self) -> None:
        """Close it at once, whatever is still to be sent. Harmless twice."""
        self._is_dropped = True
        self._forget()
        if self._transport is not None:
            self.processor.close("the host dropped it")
            self._transport.abort()

    def prove(self, peer: Peer) -> None:
        """A token of this peer was shown over it."""
        if self.peer is None:
            self._owner.proven(self)
        self.peer = peer

    async def aclose(self) -> None:
        """Drop it, and wait until nothing is under way for it."""
        self.drop()
        await self.handler.wait_closed()  # type: ignore[attr-defined]  # the server's handler has it

    def _feed_next(self) -> None:
        """Feed one slice; what is left waits for its turn."""
        self._is_waiting = False
        if self._is_dropped:
            return
        assert self._transport is not None
        if not self._is_free():
            self._is_waiting = True
            self._look_again = self._loop.call_later(_LOOK_AGAIN_S, self._feed_next)
            return
        data, start = self._data, self._position
        try:
            self._position = self._guard.cut(data, start, self._loop.time())
        except ProtocolError as error:
            self._break(error)
            return
        is_all = self._position == len(data)
        if is_all:
            self._data = b""
        self._feed(data if is_all and start == 0 else data[start : self._position])
        if self._is_dropped:
            return
        if is_all:
            self._transport.resume_reading()
        else:
            self._is_waiting = True
            self._owner.slices.add(self._feed_next)

    def _feed(self, data: bytes) -> None:
        try:
            H2Protocol.data_received(self, data)
        except Exception as error:  # noqa: BLE001 - whatever h2 and grpclib meet in hostile bytes
            _log.info("a client was dropped: %s", type(error).__name__)
            self.drop()
        else:
            if self.connection.is_closing():
                self.drop()  # or it would stay as long as the client does not read what is left for it

    def _is_free(self) -> bool:
        unread = sum(stream.buffer._unacked.qsize() for stream in self.processor.streams.values())  # noqa: SLF001
        return self._tasks < _MOST_TASKS and unread < _MOST_UNREAD_FRAMES

    def _watch(self, stream_id: int) -> None:
        """Count a request until its task has ended, and then forget its stream.

        grpclib itself forgets it at the end of the task's work. A task that is cancelled before its first turn does
        no work, so each request that is reset at once would be kept as long as the connection.
        """
        processor = self.processor
        stream = processor.streams.get(stream_id)
        task = self.handler._tasks.get(stream)  # type: ignore[attr-defined]  # noqa: SLF001
        if task is None:
            return
        self._tasks += 1

        def ended(_task: object) -> None:
            self._tasks -= 1
            if processor.streams.get(stream_id) is stream:
                processor.streams.pop(stream_id)
                if stream is not None and not self.connection.is_closing():
                    self.connection.ack(stream_id, stream.buffer.unacked_size())

        task.add_done_callback(ended)

    def _break(self, error: ProtocolError) -> None:
        _log.info("a client was dropped: %s", error)
        self.drop()
        self._owner.broken(self, error)

    def _forget(self) -> None:
        self._data = b""
        if self._look_again is not None:
            self._look_again.cancel()
