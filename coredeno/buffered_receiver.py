"""`BufferedReceiver`: a protocol of asyncio's that receives into one buffer, as long as it is connected."""

from __future__ import annotations

import asyncio

_BUFFER_BYTES = 64 * 1024


class BufferedReceiver(asyncio.BufferedProtocol):
    """Gives what comes to `data_received`, of which each piece takes as much memory as it is long.

    Without it asyncio allocates 256 KiB for whatever may come, at each read, and gives back what was not needed. The
    few bytes that are kept for a moment then lie in the way of the next 256 KiB, so that the heap grows without end,
    though nothing is lost: by 5 bytes a request of a plugin (glibc 2.36).
    """

    _buffer: memoryview | None = None

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's name
        """Where the next bytes go."""
        if self._buffer is None:
            self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """So many have come."""
        assert self._buffer is not None
        self.data_received(bytes(self._buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Take a piece of what comes."""
        raise NotImplementedError
