"""Git's smart HTTP with bounds: one host, two kinds of request, so many bytes, and nothing else followed.

It stands below dulwich's client, which would follow redirects and the addresses of packs elsewhere, take a page of
HTML for an old server, and read for as long as bytes come. Bytes are counted as the connection gives them, for
there is no end to what HTTP may have around a body: 1xx responses, headers, extensions of chunks, trailers. What TLS
adds (its handshake, padding) is not: it is not kept, and ends with the time of the fetch.
"""

from __future__ import annotations

import base64
import http.client
import io
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dulwich.client import AbstractHttpGitClient

from coredeno.errors import FetchLimitExceeded, SourceInvalid, SourceUnavailable

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

REFS_BYTES = 4 * 1024 * 1024
"""What all answers up to the begin of the pack may have: 50,000 refs and more. They are kept in memory."""

SILENCE_S = 30.0
"""How long a connection may be silent. What drips is ended by the time limit of the whole fetch."""

_READ = 64 * 1024
_REFS = "info/refs?service=git-upload-pack"
_PACK = "git-upload-pack"
_REFS_TYPE = "application/x-git-upload-pack-advertisement"


class BoundedHttpGitClient(AbstractHttpGitClient):
    """A client of one repository.

    Args:
        url: the repository's.
        transfer_bytes: the most bytes of all answers, with all that is around them.
        login: name and password, sent with each request, which only ever goes to the URL's host.
        on_bytes: called with the bytes received so far.
        silence_s: how long a connection may be silent, in seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        transfer_bytes: int,
        login: tuple[str, str] | None,
        on_bytes: Callable[[int], None],
        silence_s: float = SILENCE_S,
    ) -> None:
        super().__init__(url, thin_packs=False, quiet=True)
        self._left_refs = min(REFS_BYTES, transfer_bytes)
        self._transfer_bytes = transfer_bytes
        self._received = 0
        self._on_bytes = on_bytes
        self._headers = {"User-Agent": "git/coredeno", "Accept-Encoding": "identity"}
        if login is not None:
            token = base64.b64encode(":".join(login).encode()).decode()
            self._headers["Authorization"] = f"Basic {token}"
        self._with_login = login is not None
        parts = urlsplit(url)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port, timeout=silence_s)
        self._connection.response_class = self._counted  # type: ignore[assignment] # it is only called
        self._last: http.client.HTTPResponse | None = None
        self.pack_began = False

    def close(self) -> None:
        """Close the connection, and the last response, which may have it for itself by then."""
        self._connection.close()
        if self._last is not None:
            self._last.close()

    def _http_request(
        self,
        url: str,
        headers: dict[str, str] | None = None,
        data: bytes | Iterator[bytes] | None = None,
        raise_for_status: bool = True,  # noqa: ARG002, FBT001, FBT002 - the name is dulwich's
    ) -> tuple[Any, Callable[[int], bytes]]:
        wanted = self._base_url + (_REFS if data is None else _PACK)
        if url != wanted:
            raise SourceInvalid(f"source: sends elsewhere, to {_host(url)}; that is not followed")
        self._finish_last()
        method = "GET" if data is None else "POST"
        path = url.removeprefix(self._origin)
        self._connection.request(method, path, data, self._headers | (headers or {}))
        response = self._last = self._connection.getresponse()
        self._check_status(response, url)
        self._check_form(response, is_refs=data is None)
        answer = _Answer(response)
        return answer, answer.read

    def _counted(self, connected: socket.socket, **options: Any) -> http.client.HTTPResponse:
        return http.client.HTTPResponse(_CountedSocket(connected, self._took), **options)  # type: ignore[arg-type]

    def _finish_last(self) -> None:
        """Use the connection again if the last answer is at its end; what comes after that is not waited for."""
        if self._last is not None and not self._last.isclosed():
            self._last.read(1)
            if not self._last.isclosed():
                self._connection.close()

    def _check_status(self, response: http.client.HTTPResponse, url: str) -> None:
        status = response.status
        if 300 <= status < 400:  # noqa: PLR2004 - RFC 9110, section 15.4
            target = response.headers.get("Location", "")
            raise SourceInvalid(
                f"source: answers with a redirect to {_host(target) or _host(url)}, which is not followed; "
                "if that is where the repository is, wanted its own URL"
            )
        if status == http.client.UNAUTHORIZED:
            problem = "refuses these credentials" if self._with_login else "wants credentials"
            raise SourceUnavailable(f"source: {_host(url)} {problem}, or has no such repository")
        if status in (http.client.NOT_FOUND, http.client.GONE, http.client.FORBIDDEN):
            raise SourceUnavailable(
                f"source: {_host(url)} has no such repository, or does not show it (status {status})"
            )
        if status != http.client.OK:
            raise SourceUnavailable(f"source: {_host(url)} answers with status {status}")

    def _check_form(self, response: http.client.HTTPResponse, *, is_refs: bool) -> None:
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            raise SourceInvalid(f"source: answers in the encoding {encoding[:40]!a}, which was not asked for")
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip()
        if is_refs and kind != _REFS_TYPE:
            raise SourceInvalid(
                f"source: answers with {kind[:80]!a}, wanted {_REFS_TYPE}: this is no git repository over smart HTTP"
            )

    def _took(self, count: int) -> None:
        self._received += count
        if not self.pack_began and self._received > self._left_refs:
            raise FetchLimitExceeded(
                f"source: sends more than {self._left_refs:,} bytes before its pack",
                limit="transfer_bytes",
                allowed=self._transfer_bytes,
            )
        if self._received > self._transfer_bytes:
            raise FetchLimitExceeded(
                "source: sends more bytes", limit="transfer_bytes", allowed=self._transfer_bytes
            )
        self._on_bytes(self._received)


class _CountedSocket:
    """What a response needs of a socket, plain or of TLS: a file to read from. Each byte that it gives is counted."""

    def __init__(self, connected: socket.socket, took: Callable[[int], None]) -> None:
        self._connected = connected
        self._took = took

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_CountedReader(self._connected.makefile("rb", buffering=0), self._took))


class _CountedReader(io.RawIOBase):
    def __init__(self, received: socket.SocketIO, took: Callable[[int], None]) -> None:
        self._received = received
        self._took = took

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        count = self._received.readinto(buffer) or 0  # it blocks, so that None does not happen
        self._took(count)
        return count

    def close(self) -> None:
        self._received.close()
        super().close()


class _Answer:
    """A response, as dulwich reads it."""

    redirect_location = ""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response
        self.headers = response.headers
        self.status = response.status
        self.content_type = response.headers.get("Content-Type")

    def read(self, size: int = _READ) -> bytes:
        return self._response.read(size)

    def close(self) -> None:
        """Nothing: the connection is used again, or closed with its client."""


def _host(url: str) -> str:
    """Whom a URL leads to, fit to be shown; a relative one is where we are."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "what is no URL"
    named = parts.netloc.rpartition("@")[2] or (f"{parts.scheme}:" if parts.scheme else "")
    return ascii(named[:200])[1:-1]
