"""The bare floors: the same way there and back, without a line of coredeno."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import deno
import msgspec
from grpclib.const import Cardinality, Handler
from grpclib.server import Server, Stream

FOLDER = Path(__file__).parent / "floor"


class Figures(msgspec.Struct):
    """What one run gave: microseconds one at a time, and how many a second with many in flight."""

    alone_us: float
    per_second: float


async def measured(
    call: Callable[[int], Awaitable[object]], *, alone: int, together: int, in_flight: int
) -> Figures:
    """Time a call, one at a time and `in_flight` at once."""
    for i in range(alone // 4):
        await call(i)
    start = time.perf_counter()
    for i in range(alone):
        await call(i)
    alone_us = (time.perf_counter() - start) * 1e6 / alone
    left = together

    async def run() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call(left)

    start = time.perf_counter()
    await asyncio.gather(*(run() for _ in range(in_flight)))
    return Figures(alone_us, together / (time.perf_counter() - start))


class _Lines(asyncio.Protocol):
    def __init__(self) -> None:
        self._pending: dict[int, asyncio.Future[object]] = {}
        self._rest = b""
        self._next = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            answer = msgspec.json.decode(line)
            self._pending.pop(answer["id"]).set_result(answer["args"])

    async def call(self, value: int) -> object:
        self._next += 1
        future = self._pending[self._next] = asyncio.get_running_loop().create_future()
        self.transport.write(msgspec.json.encode({"id": self._next, "args": [value]}) + b"\n")
        return await future


async def calls(folder: Path, *, alone: int, together: int, in_flight: int) -> Figures:
    """Host → module: JSON lines over a Unix socket, main, one Worker that echoes."""
    path = folder / "floor.sock"
    process = await _deno("calls_main.ts", str(path))
    assert process.stdout is not None
    await process.stdout.readline()
    transport, lines = await asyncio.get_running_loop().create_unix_connection(_Lines, str(path))
    try:
        return await measured(lines.call, alone=alone, together=together, in_flight=in_flight)
    finally:
        transport.close()
        await process.wait()


class _Raw:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def SerializeToString(self) -> bytes:  # noqa: N802 - the name that protobuf codecs call
        return self.data

    @classmethod
    def FromString(cls, data: bytes) -> _Raw:  # noqa: N802
        return cls(data)


class _Floor:
    """Decodes each batch, gives each request to a task of its own, and encodes the answers: no less is a server."""

    async def serve(self, stream: Stream[_Raw, _Raw]) -> None:
        await stream.send_initial_metadata()
        async for batch in stream:
            requests = msgspec.json.decode(batch.data)
            answers = await asyncio.gather(*(self.echo(request) for request in requests))
            await stream.send_message(_Raw(msgspec.json.encode(answers)))

    async def echo(self, request: dict[str, object]) -> dict[str, object]:
        return request

    def __mapping__(self) -> dict[str, Handler]:
        return {"/floor.Floor/Echo": Handler(self.serve, Cardinality.STREAM_STREAM, _Raw, _Raw)}


async def requests(folder: Path, *, alone: int, together: int, in_flight: int) -> Figures:
    """Module → host: a Worker, main, a bare `node:http2` stream, a grpclib handler that echoes."""
    path = folder / "floor.sock"
    server = Server([_Floor()])
    await server.start(path=str(path))
    plan = json.dumps({"alone": alone, "together": together, "inFlight": in_flight})
    try:
        process = await _deno("requests_main.ts", str(path), plan)
        out, _err = await process.communicate()
        return msgspec.json.decode(out, type=Figures)
    finally:
        server.close()
        await server.wait_closed()
        path.unlink(missing_ok=True)


async def _deno(script: str, *args: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        deno.find_deno_bin(),
        "run",
        "--no-config",
        "--no-prompt",
        "--allow-net",
        "--allow-read",
        "--allow-write",
        str(FOLDER / script),
        *args,
        stdout=asyncio.subprocess.PIPE,
    )
