"""One connection of a gRPC client: grpclib's, with what it lacks. Imports grpclib, so it is imported late."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

from grpclib.protocol import H2Protocol

_log = logging.getLogger("coredeno.gateway")


class Connection(H2Protocol):
    """A connection that can be dropped, and that takes whatever comes over it."""

    def __init__(self, made: H2Protocol, on_lost: Callable[[Connection], None]) -> None:
        """Take the place of a connection that grpclib has just made."""
        super().__init__(made.handler, made.config, made.h2_config)
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Take bytes; a client that sends what cannot be taken is dropped."""
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
