"""A server that speaks git's smart HTTP as badly as a script says: raw bytes, pauses, without end."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.git.objects import Object
from tests.git.server import LoopbackServer, Seen

Script = Callable[[], Iterable[bytes | float]]
"""What is sent, piece by piece; a number is a pause in seconds, for as long as the client is there."""

STALL = float("inf")
"""A pause that ends when the client goes away."""

CAPABILITIES = b"multi_ack thin-pack side-band-64k ofs-delta shallow no-progress agent=evil"
_PIECE = 65515  # bytes of a pack in one packet of the side band


class HostileServer(LoopbackServer):
    """Answers the request for refs, and the one for a pack, as its scripts say; all that is asked is in `requests`.

    Args:
        refs: the answer to a GET.
        pack: the answer to a POST.
        certificate: as of `GitServer`.
    """

    def __init__(self, *, refs: Script, pack: Script = tuple, certificate: Path | None = None) -> None:
        super().__init__(_ScriptedHandler, certificate)
        self.scripts = {"GET": refs, "POST": pack}
        self.closing = False
        self.sent_bytes = 0

    @classmethod
    def of(cls, top: Object, pack: bytes) -> HostileServer:
        """Give this pack, in good form, with `HEAD` and `main` at its commit or tag."""
        return cls(refs=advertised(top.digits), pack=answered(top.digits, pack))

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/evil.git"

    def __exit__(self, *error: object) -> None:
        self.closing = True
        super().__exit__(*error)


def one_after_another(*scripts: Script) -> Script:
    """Each of these for one request, in turn; the last for all that follow."""
    left = list(scripts)

    def script() -> Iterable[bytes | float]:
        return (left.pop(0) if len(left) > 1 else left[0])()

    return script


def packet(data: bytes) -> bytes:
    return b"%04x" % (len(data) + 4) + data


def response(kind: str, *, status: str = "200 OK", headers: str = "") -> bytes:
    """The head of an HTTP response whose body goes on until the connection is closed."""
    return f"HTTP/1.0 {status}\r\nContent-Type: {kind}\r\n{headers}\r\n".encode()


REFS_HEAD = response("application/x-git-upload-pack-advertisement")
PACK_HEAD = response("application/x-git-upload-pack-result")


def advertised(digits: bytes, *, capabilities: bytes = CAPABILITIES) -> Script:
    """Refs in protocol v0, with two names of one object."""

    def script() -> Iterator[bytes]:
        yield REFS_HEAD + packet(b"# service=git-upload-pack\n") + b"0000"
        yield packet(digits + b" HEAD\0" + capabilities + b"\n")
        yield packet(digits + b" refs/heads/main\n") + b"0000"

    return script


def answered(digits: bytes, pack: bytes, *, before: bytes = b"") -> Script:
    """A pack in the side band, after what is `before` it."""

    def script() -> Iterator[bytes]:
        yield PACK_HEAD + packet(b"shallow " + digits) + b"0000" + packet(b"NAK\n") + before
        for start in range(0, len(pack), _PIECE):
            yield packet(b"\1" + pack[start : start + _PIECE])
        yield b"0000"

    return script


class _ScriptedHandler(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base's
        pass

    def do_GET(self) -> None:
        self._play()

    def do_POST(self) -> None:
        self._play()

    def _play(self) -> None:
        server: Any = self.server
        owner: HostileServer = server.owner
        self.close_connection = True
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        headers = {name.lower(): value for name, value in self.headers.items()}
        owner.requests.append(Seen(self.command, self.path, headers, body))
        for piece in owner.scripts[self.command]():
            if isinstance(piece, bytes):
                self.wfile.write(piece)
                owner.sent_bytes += len(piece)
            elif not self._pause(owner, piece):
                return

    def _pause(self, owner: HostileServer, seconds: float) -> bool:
        """Whether the client is still there after it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            left = min(0.02, end - time.monotonic())
            if owner.closing or select.select([self.connection], [], [], max(0, left))[0]:
                return False  # it sends nothing more, so that is its end
        return True
