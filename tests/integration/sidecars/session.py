"""A client of `CoreService` by hand, on h2: it sends what the test says, well formed or not. Blocking."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any, Self

import h2.config
import h2.connection
import h2.events
import h2.settings

JSON = list[dict[str, Any]]


class Connection:
    """One HTTP/2 connection to the socket of a host."""

    def __init__(self, path: str, *, timeout_s: float | None = None, window_bytes: int = 65_535) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout_s)
        self.socket.connect(path)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        if window_bytes > 65_535:
            self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window_bytes})
            self.h2.increment_flow_control_window(window_bytes - 65_535)
        self.streams: dict[int, Stream] = {}
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def call(self, method: str, token: str | None = None, **headers: str) -> Stream:
        """Open a call; nothing but its headers is sent."""
        stream = Stream(self, self.h2.get_next_available_stream_id())
        self.streams[stream.number] = stream
        authorization = [("authorization", f"Bearer {token}")] if token is not None else []
        self.h2.send_headers(
            stream.number,
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", f"/coredeno.CoreService/{method}"),
                (":authority", "host"),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                *authorization,
                *headers.items(),
            ],
        )
        self.flush()
        return stream

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def read(self) -> None:
        """Take what has come, or wait for something.

        Raises:
            ConnectionError: the host has closed the connection.
        """
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionResetError
        for event in self.h2.receive_data(data):
            stream = self.streams.get(getattr(event, "stream_id", 0) or 0)
            if isinstance(event, h2.events.ConnectionTerminated):
                raise ConnectionResetError
            if stream is None:
                continue
            if isinstance(event, h2.events.DataReceived):
                stream.received += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, stream.number)
            elif isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                stream.headers.update(event.headers)
            elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                stream.ended = True
        self.flush()

    def close(self) -> None:
        self.socket.close()


class Stream:
    """One call."""

    def __init__(self, connection: Connection, number: int) -> None:
        self.connection = connection
        self.number = number
        self.received = b""
        self.headers: dict[str, str] = {}
        self.ended = False

    def send_raw(self, data: bytes, *, end: bool = False) -> None:
        """Bytes as they are, as far as the host's window goes; more as soon as it has moved."""
        h2 = self.connection.h2
        while True:
            while data and (room := h2.local_flow_control_window(self.number)) == 0:
                self.connection.read()
            piece = data[: min(room, h2.max_outbound_frame_size)] if data else b""
            data = data[len(piece) :]
            h2.send_data(self.number, piece, end_stream=end and not data)
            self.connection.flush()
            if not data:
                return

    def send(self, message: bytes, *, end: bool = False) -> None:
        """One gRPC message."""
        self.send_raw(struct.pack(">BI", 0, len(message)) + message, end=end)

    def receive(self) -> bytes | None:
        """One gRPC message, or None at the end of the call."""
        while True:
            if len(self.received) >= 5:
                (size,) = struct.unpack(">I", self.received[1:5])
                if len(self.received) >= 5 + size:
                    message, self.received = self.received[5 : 5 + size], self.received[5 + size :]
                    return message
            if self.ended:
                return None
            self.connection.read()

    def status(self) -> int:
        """The gRPC status, at the end of the call."""
        while self.receive() is not None:
            pass
        return int(self.headers.get("grpc-status", "-1"))


class Session:
    """The Session: batches of JSON-RPC messages."""

    def __init__(
        self, path: str, token: str, *, timeout_s: float | None = None, window_bytes: int = 65_535
    ) -> None:
        self.connection = Connection(path, timeout_s=timeout_s, window_bytes=window_bytes)
        self.stream = self.connection.call("Session", token)

    def send(self, messages: JSON | bytes, *attachments: bytes) -> None:
        """One batch; `messages` that are bytes go as they are."""
        text = messages if isinstance(messages, bytes) else json.dumps(messages).encode()
        parts = [field(1, text), *(field(2, attachment) for attachment in attachments)]
        self.stream.send(b"".join(parts))

    def receive(self) -> JSON | None:
        """The messages of one batch (its attachments are dropped), or None at the end."""
        batch = self.stream.receive()
        if batch is None:
            return None
        assert batch[0] == 0x0A
        size, position = read_varint(batch, 1)
        messages: JSON = json.loads(batch[position : position + size])
        return messages

    def ask(self, method: str, params: Any = None, **more: Any) -> dict[str, Any]:
        """One request, and its answer."""
        self.send([{"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}, **more}])
        answers = self.receive()
        assert answers is not None, f"the host ended the Session: {self.stream.headers}"
        return answers[0]


def field(number: int, value: bytes) -> bytes:
    """A length-delimited field of a protobuf message."""
    size, length = len(value), b""
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + value


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
