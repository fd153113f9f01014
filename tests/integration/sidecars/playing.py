"""Plays a sidecar as docs/wire.md has it. The misbehaving ones beside it are as good, but for one thing each.

Each module that is loaded exports `echo`, which gives its first argument back, and `misbehave`.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from session import Session


class Sidecar:
    """A sidecar that behaves. `misbehave` is for its subclasses."""

    boot: dict[str, Any]
    wire: socket.socket
    session: Session

    def run(self) -> None:
        self.boot = json.loads(sys.stdin.readline())
        threading.Thread(target=self.watch_stdin, daemon=True).start()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.boot["deno_socket"])
        listener.listen()
        self.say_ready()
        self.wire, _address = listener.accept()
        listener.close()
        Path(self.boot["deno_socket"]).unlink()
        self.session = self.open_session()
        rest = b""
        while data := self.wire.recv(65536):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self.serve(json.loads(line))

    def watch_stdin(self) -> None:
        sys.stdin.read()
        os._exit(0)

    def say_ready(self, **other: Any) -> None:
        self.say({"protocol": 1, "deno": "2.9.8", "pid": os.getpid(), "ready": True} | other)

    def say(self, message: Any) -> None:
        self.write(json.dumps(message).encode() + b"\n")

    def write(self, data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    def open_session(self) -> Session:
        return Session(self.boot["core_socket"], self.boot["token"])

    def serve(self, request: dict[str, Any]) -> None:
        if "id" not in request:
            return
        params = request["params"]
        match request["method"]:
            case "Ping":
                assert self.session.ask("health.check")["result"] == {"ok": True}
                self.answer(request, {"modules": {}, "heap_bytes": 0, "rss_bytes": 0})
            case "LoadModule":
                self.load(request)
            case "UnloadModule":
                self.unload(request)
            case "Call" if params["function"] == "misbehave":
                self.misbehave(request)
            case "Call":
                self.answer(request, params["args"][0])
            case "Shutdown":
                self.shut_down(request)

    def load(self, request: dict[str, Any]) -> None:
        self.answer(request, {"ok": True, "exports": ["echo", "misbehave"], "load_ms": 0.0})

    def unload(self, request: dict[str, Any]) -> None:
        self.answer(request, {"ok": True, "clean": True})

    def shut_down(self, request: dict[str, Any]) -> None:
        self.answer(request, {"ok": True})
        os._exit(0)

    def answer(self, request: dict[str, Any], result: Any) -> None:
        self.tell({"jsonrpc": "2.0", "id": request["id"], "result": result})

    def tell(self, message: Any) -> None:
        self.wire.sendall(json.dumps(message).encode() + b"\n")

    def misbehave(self, request: dict[str, Any]) -> None:
        raise NotImplementedError


if __name__ == "__main__":
    Sidecar().run()
