"""Smart HTTP for one benchmark: git itself writes into the connection, so that nothing of ours is on the way."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from tests.git.repositories import ENVIRONMENT

_REFS, _PACK = "/info/refs?service=git-upload-pack", "/git-upload-pack"


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve the repositories beneath a folder; gives the URL beneath which they are."""
    handler = type("Handler", (_Handler,), {"folder": folder})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    folder: ClassVar[Path]

    def log_message(self, *_args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        head = b"" if self._version() == "version=2" else b"001e# service=git-upload-pack\n0000"
        self._begin("advertisement", head)
        self._upload_pack(_REFS, b"", "--advertise-refs")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self._begin("result")
        self._upload_pack(_PACK, body)

    def _version(self) -> str:
        return self.headers.get("git-protocol", "")

    def _begin(self, what: str, head: bytes = b"") -> None:
        self.send_response(200)  # HTTP/1.0: the answer ends with the connection
        self.send_header("Content-Type", f"application/x-git-upload-pack-{what}")
        self.end_headers()
        self.wfile.write(head)

    def _upload_pack(self, ending: str, body: bytes, *options: str) -> None:
        repository = self.folder / self.path.removesuffix(ending).lstrip("/")
        subprocess.run(
            ["git", "upload-pack", "--stateless-rpc", *options, str(repository)],
            input=body,
            stdout=self.connection.fileno(),
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT | {"GIT_PROTOCOL": self._version()},
            check=False,
        )
