"""The Session's message, read and written by hand: on the hot path a generated class costs ten times as much.

The encoding is protobuf's (https://protobuf.dev/programming-guides/encoding/): `bytes messages = 1` and
`repeated bytes attachments = 2` of `proto/coredeno.proto`. A test keeps it equal to the generated class.
"""

from __future__ import annotations

from collections.abc import Sequence

from coredeno.errors import ProtocolError

_MESSAGES_TAG = 0x0A  # field 1, length-delimited
_ATTACHMENT_TAG = 0x12  # field 2, length-delimited
_LONGEST_VARINT = 10  # bytes
# A sidecar sends one message of up to 1,024 binary values, or up to 256 Ki characters of smaller ones, of which each
# value that they name takes 32 at least. Without a bound a batch of empty fields would hold up the loop for seconds.
_MOST_FIELDS = 8_192


class Batch:
    """JSON-RPC messages that travel together, and the binary values that they name."""

    __slots__ = ("attachments", "messages")

    def __init__(self, messages: bytes, attachments: Sequence[bytes] = ()) -> None:
        self.messages: bytes = messages
        self.attachments: Sequence[bytes] = attachments

    def SerializeToString(self) -> bytes:  # noqa: N802 - the name that protobuf codecs call
        """Write it."""
        parts = [b"\x0a", _varint(len(self.messages)), self.messages]
        for attachment in self.attachments:
            parts += (b"\x12", _varint(len(attachment)), attachment)
        return b"".join(parts)

    @classmethod
    def FromString(cls, data: bytes) -> Batch:  # noqa: N802 - the name that protobuf codecs call
        """Read it; fields that are not known are passed over, as protobuf wants.

        Raises:
            ProtocolError: the bytes are no such message.
        """
        messages = b""
        attachments: list[bytes] = []
        position, end = 0, len(data)
        fields = 0
        while position < end:
            fields += 1
            if fields > _MOST_FIELDS:
                raise ProtocolError(f"receive: a batch of more than {_MOST_FIELDS} fields")
            tag, position = _read_varint(data, position)
            kind = tag & 7
            if kind == 0:
                _value, position = _read_varint(data, position)
                continue
            if kind == 2:  # noqa: PLR2004 - length-delimited
                size, position = _read_varint(data, position)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
            else:
                raise ProtocolError(f"receive: a batch with wire type {kind}")
            if size > end - position:
                raise ProtocolError("receive: a batch that is cut off")
            value = data[position : position + size]
            position += size
            if tag == _MESSAGES_TAG:
                messages = value
            elif tag == _ATTACHMENT_TAG:
                attachments.append(value)
        return cls(messages, attachments)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits a byte
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    for index in range(position, min(position + _LONGEST_VARINT, len(data))):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the eighth bit says that more follow
            return value, index + 1
        shift += 7
    raise ProtocolError("receive: a batch with a number that does not end")
