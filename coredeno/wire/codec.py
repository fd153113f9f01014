"""JSON-RPC text and raw bytes: messages to frames, and frames to messages. Pure: no I/O.

The frames are those of `docs/wire.md`: on the socket one JSON text a line, then the raw bytes that its
`bytes` member names; on the Session a JSON array a batch, with the bytes as attachments.
The rules of the messages are JSON-RPC 2.0's: https://www.jsonrpc.org/specification.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

from coredeno.errors import ProtocolError
from coredeno.wire.codes import WireError
from coredeno.wire.values import MAX_BYTES_ENTRIES, MAX_DEPTH, BytesEntry, check_depth

MAX_ENVELOPE_DEPTH = 4  # message > params > args > the value's own levels; a batch is one more
# docs/wire.md: what a batch of several messages has at most. A batch is taken in one turn of the loop, so a large one
# of the smallest messages would hold it up for a third of a second.
MAX_BATCH_MESSAGES = 1024
MAX_BATCH_BYTES = 800 * 1024


class Request(msgspec.Struct, omit_defaults=True, tag_field="jsonrpc", tag="2.0"):
    """A request (with an id) or a notification (without) of the host."""

    method: str
    params: Any
    id: int | None = None
    bytes: list[BytesEntry] | None = None


class Answer(msgspec.Struct):
    """What a sidecar sends to the host on the JSON-RPC wire: an answer, or a notification of its own."""

    jsonrpc: Literal["2.0"]
    id: int | None = None
    method: str | None = None
    params: msgspec.Raw = msgspec.Raw()
    result: msgspec.Raw = msgspec.Raw()
    error: WireError | None = None
    bytes: list[BytesEntry] | None = None


class SessionMessage(msgspec.Struct):
    """A request or notification that came over a Session."""

    jsonrpc: Literal["2.0"]
    method: str
    params: msgspec.Raw = msgspec.Raw(b"{}")
    id: int | None = None
    module: str | None = None
    deadline_ms: float | None = None
    trace: str | None = None
    bytes: list[BytesEntry] | None = None


class Frame(msgspec.Struct):
    """One message from the socket, with the raw bytes that came after it and its own text."""

    answer: Answer
    attachments: list[bytes]
    text: bytes


_ANSWERS = msgspec.json.Decoder(Answer)
_SESSION_MESSAGES = msgspec.json.Decoder(list[SessionMessage])
_LONE_SESSION_MESSAGE = msgspec.json.Decoder(tuple[SessionMessage])  # ends at a second one
_PLAIN = msgspec.json.Decoder()


def decode_plain(text: bytes | msgspec.Raw) -> Any:
    """Decode JSON to plain values.

    Raises:
        ProtocolError: it is no JSON, or too deep.
    """
    check_depth(text, allowance=MAX_ENVELOPE_DEPTH)
    return _decode(_PLAIN, text)


def decode_batch(text: bytes) -> list[SessionMessage]:
    """Decode the `messages` of one batch.

    Raises:
        ProtocolError: it is not an array of well-formed messages, or has more of them than it may.
    """
    messages: list[SessionMessage]
    if len(text) > MAX_BATCH_BYTES:
        messages = [*_decode(_LONE_SESSION_MESSAGE, text)]  # first: what it refuses is looked at no further
        _check_text(text)
    else:
        _check_text(text)
        messages = _decode(_SESSION_MESSAGES, text)
        if len(messages) > MAX_BATCH_MESSAGES:
            raise ProtocolError(
                f"receive: {len(messages)} messages in a batch, wanted at most {MAX_BATCH_MESSAGES}"
            )
    for message in messages:
        if message.bytes:
            check_entries(message.bytes)
    return messages


def check_entries(entries: Sequence[BytesEntry]) -> int:
    """Check a message's `bytes` and give the sum of their lengths.

    Raises:
        ProtocolError: too many, or a length that cannot be.
    """
    if len(entries) > MAX_BYTES_ENTRIES:
        raise ProtocolError(
            f"receive: {len(entries)} binary values in a message, wanted at most {MAX_BYTES_ENTRIES}"
        )
    total = 0
    for entry in entries:
        if entry.len < 0 or len(entry.at) > MAX_DEPTH + MAX_ENVELOPE_DEPTH:
            raise ProtocolError("receive: a bytes entry that cannot be")
        total += entry.len
    return total


def _check_text(text: bytes) -> None:
    """Refuse what is too deep or no UTF-8: msgspec does not look into the members that it leaves raw."""
    check_depth(text, allowance=MAX_ENVELOPE_DEPTH)
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError as error:
            raise ProtocolError(f"receive: {error.reason} at {error.start}, wanted UTF-8") from None


def _decode(decoder: msgspec.json.Decoder[Any], text: bytes | msgspec.Raw) -> Any:
    try:
        return decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"receive: {error}") from None


class FrameReader:
    """Cuts what comes from a sidecar's socket into frames, however it was cut on the way.

    Never holds more than one message of `limit_bytes` and what one read brought.
    """

    def __init__(self, *, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._data = bytearray()
        self._searched = 0  # no newline before here: a slow line is not searched again and again
        self._waiting: tuple[Answer, bytes, int] | None = None  # the line is whole, its bytes are not

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take what was read and give the frames that are whole.

        Raises:
            ProtocolError: what came is no frame, or larger than the limit. The reader is of no use after it.
        """
        self._data += data
        position = 0
        try:
            while True:
                if self._waiting is None:
                    end = self._data.find(b"\n", max(position, self._searched))
                    if end < 0:
                        self._searched = len(self._data)
                        self._check_size(self._searched - position)
                        return
                    self._check_size(end - position)
                    text = bytes(self._data[position:end])
                    position = end + 1
                    answer = self._answer(text)
                    if not answer.bytes:
                        yield Frame(answer, [], text)
                        continue
                    size = check_entries(answer.bytes)
                    self._check_size(len(text) + size)
                    self._waiting = (answer, text, size)
                answer, text, size = self._waiting
                if len(self._data) - position < size:
                    return
                self._waiting = None
                yield Frame(answer, self._cut(position, answer), text)
                position += size
        finally:
            del self._data[:position]
            self._searched = max(0, self._searched - position)

    @staticmethod
    def _answer(text: bytes) -> Answer:
        _check_text(text)
        answer: Answer = _decode(_ANSWERS, text)
        return answer

    def _cut(self, position: int, answer: Answer) -> list[bytes]:
        attachments = []
        view = memoryview(self._data)
        try:
            for entry in answer.bytes or ():
                attachments.append(bytes(view[position : position + entry.len]))
                position += entry.len
        finally:
            view.release()
        return attachments

    def _check_size(self, size: int) -> None:
        if size > self._limit_bytes:
            raise ProtocolError(f"receive: message over {self._limit_bytes} bytes")


def encode_batch(messages: Sequence[bytes]) -> bytes:
    """Join encoded messages to the `messages` of one batch."""
    return b"[" + b",".join(messages) + b"]"
