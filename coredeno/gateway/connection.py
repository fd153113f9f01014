"""One connection of a gRPC client: grpclib's, with what it lacks. Imports grpclib, so it is imported late."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

from grpclib.protocol import H2Protocol

_log = logging.getLogger("coredeno.gateway")
_PREFACE_BYTES = 24  # RFC 9113, section 3.4
_HEAD_BYTES = 9  # of a frame; the first three are the length of its payload (section 4.1)
_PAYLOAD_BYTES = 16_384  # the largest that is allowed where nobody has said otherwise (section 6.5.2)


class FrameLengths:
    """Follows HTTP/2 frames through the bytes of a connection, to find one that is too long by its head.

    h2 itself looks at a length when the whole frame is there, and so holds up to 16 MiB for anybody.
    """

    def __init__(self) -> None:
        self._ahead = _PREFACE_BYTES  # bytes before the next frame's head
        self._head = b""

    def are_allowed(self, data: bytes) -> bool:
        """Take the next bytes; False as soon as a frame is too long."""
        position = 0
        while True:
            step = min(self._ahead, len(data) - position)
            self._ahead -= step
            position += step
            if position == len(data):
                return True
            piece = data[position : position + _HEAD_BYTES - len(self._head)]
            self._head += piece
            position += len(piece)
            if len(self._head) < _HEAD_BYTES:
                return True
            self._ahead = int.from_bytes(self._head[:3], "big")
            self._head = b""
            if self._ahead > _PAYLOAD_BYTES:
                return False


class Connection(H2Protocol):
    """A connection that can be dropped, and that takes whatever comes over it."""

    def __init__(self, made: H2Protocol, on_lost: Callable[[Connection], None]) -> None:
        """Take the place of a connection that grpclib has just made."""
        super().__init__(made.handler, made.config, made.h2_config)
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._lengths = FrameLengths()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Take bytes; a client that sends what cannot be taken is dropped."""
        if not self._lengths.are_allowed(data):
            _log.info("a client was dropped: its frame is too long")
            self.drop()
            return
        try:
            super().data_received(data)
        except Exception as error:  # noqa: BLE001 - whatever h2 and grpclib meet in hostile bytes
            _log.info("a client was dropped: %s", type(error).__name__)
            self.drop()
        else:
            if self.connection.is_closing():
                self.drop()  # or it would stay as long as the client does not read what is left for it

    def connection_lost(self, exc: BaseException | None) -> None:
        """End what is under way."""
        super().connection_lost(exc)
        self._on_lost(self)

    def drop(self) -> None:
        """Close it at once, whatever is still to be sent. Harmless twice."""
        if self._transport is not None:
            self.processor.close("the host dropped it")
            self._transport.abort()

    async def aclose(self) -> None:
        """Drop it, and wait until nothing is under way for it."""
        self.drop()
        await self.handler.wait_closed()  # type: ignore[attr-defined]  # the server's handler has it
