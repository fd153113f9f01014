"""Judges HTTP/2 frames by their heads, before the code that works on them sees any. Pure: no I/O.

h2 and grpclib take whatever comes, as fast as it comes, and what they do for one small frame takes longer than its
sender needed. So frames that cost much and mean little are bounded in their rate, and all are cut into slices of
about the same work, of which a connection gets one a turn of the loop. What each kind is: RFC 9113, section 6.
"""

from __future__ import annotations

from coredeno.errors import ProtocolError
from coredeno.gateway.rate import Rate

_PREFACE_BYTES = 24  # section 3.4
_HEAD_BYTES = 9  # length 3, type 1, flags 1, stream 4 (section 4.1)
_PAYLOAD_BYTES = 16_384  # the largest that is allowed where nobody has said otherwise (section 6.5.2)
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 3, 4, 8, 9
_END_STREAM, _END_HEADERS = 0x1, 0x4
_SETTING_BYTES = 6
# A block of headers, all its frames together. Clients of gRPC hold themselves to 8 KiB.
_BLOCK_BYTES = 32_768

# What one slice may cost: a unit is about 25 µs of h2 and grpclib, so a slice about 1 ms.
_SLICE_UNITS = 32
_HEADERS_UNITS = 8  # a stream and a task are made
_HEADER_UNIT_BYTES = 64  # and each field is decoded and checked
_DATA_UNIT_BYTES = 8_192
_RESET_UNITS = 8  # a request was begun and is ended for each

# Control frames: PING, SETTINGS, RST_STREAM, PRIORITY, CONTINUATION, empty DATA and all that is unknown. An honest
# client sends some a second; the burst lets one cancel all that it has under way, several times over.
_CONTROL_PER_S = 1_000
_CONTROL_BURST = 4_000
# More than another control frame, and so that a client which cancels each of its calls is within the rate: grpcio
# makes some 440 a second. What one takes of a turn is bounded by its units, however many there are.
_RESET_COST = 2
# One for each 16 KiB received is usual, and grpcio sends some with each call.
_WINDOW_UPDATES_PER_S = 15_000
_WINDOW_UPDATES_BURST = 30_000


class FrameGuard:
    """Follows the frames of one connection, however their bytes were cut on the way."""

    def __init__(self, now: float) -> None:
        """Begin with the client's preface; `now` is in seconds."""
        self._ahead = _PREFACE_BYTES  # bytes before the next frame's head
        self._head = b""
        self._block_bytes = 0
        self._units = 0
        self._control = Rate(per_s=_CONTROL_PER_S, burst=_CONTROL_BURST, now=now)
        self._window_updates = Rate(per_s=_WINDOW_UPDATES_PER_S, burst=_WINDOW_UPDATES_BURST, now=now)

    def cut(self, data: bytes, start: int, now: float) -> int:
        """Look at the next bytes, and say where the slice that begins at `start` ends.

        Raises:
            ProtocolError: a frame or block of headers is too long, or there are too many frames of a kind.
        """
        end = len(data)
        position = start
        self._units = 0
        while self._units <= _SLICE_UNITS:
            step = min(self._ahead, end - position)
            self._ahead -= step
            position += step
            if position == end:
                break
            head = self._head + data[position : position + _HEAD_BYTES - len(self._head)]
            position += len(head) - len(self._head)
            if len(head) < _HEAD_BYTES:
                self._head = head
                break
            self._head = b""
            self._ahead = int.from_bytes(head[:3], "big")
            if self._ahead > _PAYLOAD_BYTES:
                raise ProtocolError(
                    f"receive: a frame of {self._ahead} bytes, wanted at most {_PAYLOAD_BYTES}"
                )
            self._judge(head[3], head[4], self._ahead, now)
        return position

    def _judge(self, kind: int, flags: int, size: int, now: float) -> None:
        if kind == _DATA and (size or flags & _END_STREAM):
            self._units += 1 + size // _DATA_UNIT_BYTES
        elif kind == _HEADERS:
            self._units += _HEADERS_UNITS + size // _HEADER_UNIT_BYTES
            self._block_bytes = size
            self._check_block(flags)
        elif kind == _WINDOW_UPDATE:
            self._units += 1
            if not self._window_updates.allows(now):
                raise ProtocolError(
                    f"receive: more than {_WINDOW_UPDATES_PER_S} WINDOW_UPDATE frames a second"
                )
        else:
            cost = units = 1
            if kind == _RST_STREAM:
                cost, units = _RESET_COST, _RESET_UNITS
            elif kind == _SETTINGS:
                cost = units = 1 + size // _SETTING_BYTES
            elif kind == _CONTINUATION:
                self._units += size // _HEADER_UNIT_BYTES
                self._block_bytes += size
                self._check_block(flags)
            self._units += units
            if not self._control.allows(now, cost):
                raise ProtocolError(f"receive: more than {_CONTROL_PER_S} control frames a second")

    def _check_block(self, flags: int) -> None:
        if self._block_bytes > _BLOCK_BYTES:
            raise ProtocolError(f"receive: a block of headers over {_BLOCK_BYTES} bytes")
        if flags & _END_HEADERS:
            self._block_bytes = 0
