"""A real git server for tests: smart HTTP on loopback, by the git binary itself.

```python
make_repository(tmp_path / "repositories" / "tagger.git", {"main.ts": b"..."}, tag="v1")
with GitServer(tmp_path / "repositories") as server:
    await fetcher.fetch(FetchOrder(server.url("tagger.git"), "v1", folder, FetchLimits()), on_progress)
```
"""

from __future__ import annotations

import base64
import ssl
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from tests.git.repositories import ENVIRONMENT


class Seen(msgspec.Struct, frozen=True):
    """A request that a server got. Header names are in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""


class LoopbackServer:
    """A thread with an HTTP server on 127.0.0.1; subclasses give its `_Handler`. Use it as a context manager."""

    def __init__(self, handler: type[BaseHTTPRequestHandler], certificate: Path | None = None) -> None:
        self.requests: list[Seen] = []
        self._server = _Server(("127.0.0.1", 0), handler)
        self.scheme = "http"
        if certificate is not None:
            self.scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            # The handshake comes with the first read, in the thread of the request: a bad one ends only that.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), name="git server")

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()  # waits for the threads of its requests


class GitServer(LoopbackServer):
    """Serves the repositories beneath a folder, read-only, in protocol v0, and v2 where it is asked for.

    Args:
        folder: `server.url("a/b.git")` is the repository `folder / "a/b.git"`.
        users: names and passwords (basic auth); None lets everybody in.
        versions: the protocol versions that it speaks.
        before_pack: called before a pack is made, to change what has been advertised already.
        certificate: a file with a certificate and its key (`make_certificate`); with it, it speaks TLS.
    """

    def __init__(
        self,
        folder: Path,
        *,
        users: dict[str, str] | None = None,
        versions: tuple[int, ...] = (0, 2),
        before_pack: Callable[[], None] = lambda: None,
        certificate: Path | None = None,
    ) -> None:
        super().__init__(_GitHandler, certificate)
        self.folder = folder
        self.versions = versions
        self.before_pack = before_pack
        self.tokens = None
        if users is not None:
            self.tokens = {
                "Basic " + base64.b64encode(f"{user}:{word}".encode()).decode()
                for user, word in users.items()
            }

    def url(self, name: str) -> str:
        """The URL of a repository."""
        return f"{self.scheme}://127.0.0.1:{self.port}/{name}"


def make_certificate(file: Path) -> None:
    """Write a certificate for 127.0.0.1, signed by itself, and its key, to one file."""
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-subj", "/CN=coredeno test", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    key = file.with_suffix(".key")
    subprocess.run([*command, "-keyout", str(key), "-out", str(file)], check=True, capture_output=True)
    file.write_bytes(file.read_bytes() + key.read_bytes())


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing it waits for them
    owner: Any

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is nothing to report."""


class _GitHandler(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base's
        pass

    def do_GET(self) -> None:
        server = self._server()
        self._see(b"")
        parts = urlsplit(self.path)
        repository = self._repository(parts.path, "/info/refs")
        if parse_qs(parts.query).get("service") != ["git-upload-pack"] or repository is None:
            self._refuse(404)
        elif self._let_in(server):
            head = b"" if self._version() else b"001e# service=git-upload-pack\n0000"
            self._answer("advertisement", head + self._upload_pack(repository, "--advertise-refs"))

    def do_POST(self) -> None:
        server = self._server()
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        self._see(body)
        repository = self._repository(self.path, "/git-upload-pack")
        if repository is None:
            self._refuse(404)
        elif self._let_in(server):
            if b"want " in body:
                server.before_pack()
            self._answer("result", self._upload_pack(repository, data=body))

    def _server(self) -> GitServer:
        return self.server.owner

    def _see(self, body: bytes) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._server().requests.append(Seen(self.command, self.path, headers, body))

    def _repository(self, path: str, ending: str) -> Path | None:
        folder = self._server().folder / unquote(path).removesuffix(ending).lstrip("/")
        return folder if path.endswith(ending) and (folder / "HEAD").exists() else None

    def _version(self) -> int:
        asked = self.headers.get("git-protocol", "")
        return 2 if asked == "version=2" and 2 in self._server().versions else 0

    def _let_in(self, server: GitServer) -> bool:
        if server.tokens is None or self.headers.get("authorization") in server.tokens:
            return True
        self._refuse(401)
        return False

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
        self.end_headers()

    def _upload_pack(self, repository: Path, *args: str, data: bytes = b"") -> bytes:
        environment = ENVIRONMENT | {"GIT_PROTOCOL": f"version={self._version()}"}
        command = ["git", "upload-pack", "--stateless-rpc", *args, str(repository)]
        return subprocess.run(command, input=data, capture_output=True, env=environment, check=False).stdout

    def _answer(self, what: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", f"application/x-git-upload-pack-{what}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
