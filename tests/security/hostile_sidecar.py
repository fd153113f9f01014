"""A sidecar that belongs to the attacker altogether: a program in Python that is started in Deno's place.

It behaves as docs/wire.md has it until its module is called: `call("attack", how, …)` then does what `how` names.
Where an attack leaves it something to say, that is the call's result.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "integration" / "sidecars"))

from playing import Sidecar
from session import Connection, field

PIECE = b"x" * 65536
HUGE = 500 * 1024 * 1024
DEEP = 100_000
NESTS = {
    "arrays": b"[" * DEEP + b"]" * DEEP,
    "objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "open": b"[" * DEEP,
}
"""What is nested so deep, and still no longer than a message may be; the last is never closed."""
LINES = {
    "bare": b"%b",
    "result": b'{"jsonrpc":"2.0","id":ID,"result":%b}',
    "error": b'{"jsonrpc":"2.0","id":ID,"error":{"code":-32000,"message":"m","data":%b}}',
    "params": b'{"jsonrpc":"2.0","method":"ModuleExited","params":%b}',
    "unknown": b'{"jsonrpc":"2.0","id":ID,"result":1,"unknown":%b}',
}
BATCHES = {
    "bare": b"%b",
    "params": b'[{"jsonrpc":"2.0","id":1,"method":"store.get","module":"hostile","params":%b}]',
    "id": b'[{"jsonrpc":"2.0","id":%b,"method":"store.get","module":"hostile","params":{}}]',
    "log": b'[{"jsonrpc":"2.0","method":"log.write","module":"hostile","params":%b}]',
    "unknown": b'[{"jsonrpc":"2.0","id":1,"method":"store.get","module":"hostile","params":{},"unknown":%b}]',
}


class Hostile(Sidecar):
    """Every byte of both wires is the attacker's."""

    def load(self, request: dict[str, Any]) -> None:
        self.code = request["params"]["code"]
        self.answer(request, {"ok": True, "exports": ["attack", "echo"], "load_ms": 0.0})

    def serve(self, request: dict[str, Any]) -> None:
        if request.get("method") != "Call" or request["params"]["function"] != "attack":
            super().serve(request)
            return
        how, *args = request["params"]["args"]
        attack: Callable[..., Any] = getattr(self, how)
        self.under_way = request["id"]
        self.answer(request, attack(*args))

    def request(self, method: str, number: int = 1, /, **params: Any) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": number, "method": method, "params": params, "module": self.code}

    # --- JSON-RPC

    def rpc_huge(self) -> None:
        """An answer of 500 MB."""
        self.wire.sendall(b'{"jsonrpc":"2.0","id":%d,"result":"' % self.under_way)
        for _ in range(HUGE // len(PIECE)):
            self.wire.sendall(PIECE)
        self.wire.sendall(b'"}\n')

    def rpc_huge_attachment(self) -> None:
        """An answer that announces 500 MB of binary, and sends them."""
        self.wire.sendall(
            b'{"jsonrpc":"2.0","id":%d,"result":null,"bytes":[{"at":["result"],"len":%d}]}\n'
            % (self.under_way, HUGE)
        )
        for _ in range(HUGE // len(PIECE)):
            self.wire.sendall(PIECE)

    def rpc_half(self) -> None:
        """Half a line, then silence."""
        self.wire.sendall(b'{"jsonrpc":"2.0","id":')
        signal.pause()

    def rpc_drip(self) -> None:
        """A line that comes a byte at a time, and never ends."""
        self.wire.sendall(b'{"jsonrpc":"2.0","id":%d,"result":"' % self.under_way)
        while True:
            self.wire.sendall(b"x")
            threading.Event().wait(0.01)

    def rpc_deep(self, place: str, nest: str) -> None:
        """A line with a value that is nested beyond measure."""
        line = LINES[place] % NESTS[nest]
        self.wire.sendall(line.replace(b"ID", b"%d" % self.under_way, 1) + b"\n")
        signal.pause()

    def rpc_notify(self, method: str, params: Any, number: int = 1) -> None:
        """Notifications, and then whatever the host lets it do."""
        for _ in range(number):
            self.tell({"jsonrpc": "2.0", "method": method, "params": params})
        signal.pause()

    def rpc_answer(self, message: dict[str, Any]) -> None:
        """An answer of the attacker's making."""
        self.tell({"jsonrpc": "2.0", "id": self.under_way} | message)
        signal.pause()

    def rpc_lines(self, line: str, count: int) -> None:
        """The same line again and again."""
        lines = (line + "\n").encode() * count
        self.wire.sendall(lines)
        signal.pause()

    # --- the Session

    def session_huge(self) -> None:
        """A batch of 500 MB."""
        self.session.stream.send_raw(struct.pack(">BI", 0, HUGE) + PIECE)
        for _ in range(HUGE // len(PIECE) - 1):
            self.session.stream.send_raw(PIECE)

    def session_half(self) -> None:
        """Half a batch, then silence."""
        batch = field(1, b"[" + b" " * 1000)
        self.session.stream.send_raw(struct.pack(">BI", 0, len(batch)) + batch[:500])
        signal.pause()

    def session_deep(self, place: str, nest: str) -> None:
        """A batch with a value that is nested beyond measure."""
        self.session.send(BATCHES[place] % NESTS[nest])
        signal.pause()

    def session_send(self, messages: list[dict[str, Any]]) -> None:
        """Messages of the attacker's making; `module` is what they say."""
        self.session.send(messages)
        signal.pause()

    def session_ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """One request, and what the host answers."""
        self.session.send([{"jsonrpc": "2.0", "id": 1, **message}])
        answers = self.session.receive()
        assert answers is not None
        return answers[0]

    def cancels(self, rounds: int) -> int:
        """Requests that are cancelled in the batch in which they come, and cancels of what never was."""
        answered = 0
        for turn in range(rounds):
            first = turn * 32 + 1
            asked = [self.request("services.echo.echo", first + i, args=[i]) for i in range(32)]
            cancels = [
                {"jsonrpc": "2.0", "method": "cancel", "params": {"id": first + i % 64}} for i in range(500)
            ]
            self.session.send([*asked, *cancels])
            seen = 0
            while seen < 32:
                answers = self.session.receive()
                assert answers is not None
                seen += len(answers)
            answered += seen
        return answered

    # --- gRPC beside the Session

    def unary_as(self, module: str) -> int:
        """A unary call in the name of another module; its gRPC status."""
        with Connection(self.boot["core_socket"], timeout_s=10) as connection:
            stream = connection.call("StoreGet", self.boot["token"])
            stream.send(field(2, b"key") + field(3, module.encode()), end=True)
            return stream.status()

    def session_with(self, token: str) -> int:
        """A Session with a token of somebody else; its gRPC status."""
        with Connection(self.boot["core_socket"], timeout_s=10) as connection:
            return connection.call("Session", token).status()

    def lend(self) -> int:
        """Let a child of its own use the token; the status that it got."""
        read, write = os.pipe()
        if os.fork() == 0:
            with Connection(self.boot["core_socket"], timeout_s=10) as connection:
                os.write(write, bytes([connection.call("StoreCount", self.boot["token"]).status()]))
            os._exit(0)
        os.wait()
        return os.read(read, 1)[0]


if __name__ == "__main__":
    Hostile().run()
