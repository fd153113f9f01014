"""Whatever bytes arrive at a host's socket: their sender is refused or dropped, and nobody else notices.

The senders live in this process, in threads; what they send is made by hand or by `sidecars/session.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import h2.exceptions
import psutil
import pytest

from coredeno import Context, HostConfig, Limits, PluginHost, Service, rpc
from coredeno import events as happened
from tests.hosts import compiled_before, nothing_left
from tests.integration.sidecars.session import Connection, Session, field

Eventually = Callable[..., Awaitable[None]]
Running = Callable[..., AbstractAsyncContextManager["App"]]
Write = Callable[..., Path]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MIB = 1024 * 1024
GROWTH_BYTES = 16 * MIB
"""What the host's process may have grown by: the senders' own buffers are in it too."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"", *, length: int | None = None) -> bytes:
    """An HTTP/2 frame (RFC 9113, section 4.1)."""
    size = len(payload) if length is None else length
    return struct.pack(">I", size)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


SETTINGS = frame(4, 0, 0)
HEADERS, CONTINUATION, DATA = 1, 9, 0


class App:
    """A running host with a module whose calls must go on."""

    def __init__(self, host: PluginHost) -> None:
        self.host = host
        self.token = host.gateway.issue_token("good")
        self.heard = host.events()
        self._rss = psutil.Process().memory_info().rss

    async def check(self) -> None:
        """All is as well as ever, and the process has not grown."""
        async with asyncio.timeout(5):
            assert await self.host.modules["good"].call("count") == 0
        grown = psutil.Process().memory_info().rss - self._rss
        assert grown < GROWTH_BYTES, f"grown by {grown / MIB:.0f} MiB"

    def client(self) -> Connection:
        return Connection(str(self.host.socket), timeout_s=10)

    def connect(self) -> socket.socket:
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(10)
        peer.connect(str(self.host.socket))
        return peer

    async def blocking(self, work: Callable[[], object]) -> None:
        """Do it in a thread, while the module is called again and again."""
        doing = asyncio.create_task(asyncio.to_thread(work))
        while not doing.done():
            await self.check()
        await doing


PLUGIN = """
let core;
export function init(c) { core = c; }
export async function count() { return await core.store.count(); }
"""


@asynccontextmanager
async def starting(folder: Path, compiled: Path, write: Write, *services: Service) -> AsyncIterator[App]:
    compiled_before(folder / "app", compiled)
    config = HostConfig(allow_unsigned=True, limits=Limits(message_bytes=MIB, requests_in_flight=64))
    host = PluginHost(folder / "app", config=config, services=services)
    async with nothing_left(folder / "app"), host:
        await host.load_path(write("good", PLUGIN, "services: {blob: []}" if services else ""))
        await host.modules["good"].call("count")
        app = App(host)
        yield app
        await app.check()


@pytest.fixture
def running(tmp_path: Path, compiled: Path, write: Write) -> Running:
    """Starts a host with a module."""
    return partial(starting, tmp_path, compiled, write)


def is_dropped(peer: socket.socket) -> bool:
    """Read what comes, until the host closes."""
    try:
        while peer.recv(65536):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


NOISE = random.Random(7).randbytes(2 * MIB)
DROPPED = {
    "noise": NOISE,
    "http_1": b"GET /coredeno.CoreService/FileRead HTTP/1.1\r\nHost: host\r\n\r\n",
    "tls": bytes.fromhex("16030100c8010000c40303") + NOISE[:200],
    "noise_after_the_preface": PREFACE + NOISE,
    "noise_after_the_settings": PREFACE + SETTINGS + NOISE,
    "frame_of_16_mib": PREFACE + SETTINGS + frame(DATA, 0, 1, length=0xFFFFFF) + NOISE,
    "data_for_no_stream": PREFACE + SETTINGS + frame(DATA, 0, 1, b"data"),
    "headers_without_end": PREFACE
    + SETTINGS
    + frame(HEADERS, 0, 1, b"\x00" * 10)
    + frame(CONTINUATION, 0, 1, b"\x00" * 1000) * 1000,
    "headers_that_do_not_unpack": PREFACE + SETTINGS + frame(HEADERS, 4, 1, b"\xff" * 100),
    "headers_that_unpack_to_much": PREFACE
    + SETTINGS
    + frame(HEADERS, 4, 1, b"\x40\x01a\x7f\x81\x1e" + b"a" * 4000 + b"\xbe" * 10_000),
    "even_stream": PREFACE + SETTINGS + frame(HEADERS, 5, 2, b"\x82"),
    "window_of_nothing": PREFACE + SETTINGS + frame(8, 0, 0, bytes(4)),
    "settings_that_cannot_be": PREFACE + frame(4, 0, 0, struct.pack(">HI", 4, 0xFFFFFFFF)),
    "frame_of_no_known_kind": PREFACE + SETTINGS + frame(0x42, 0, 0, b"what is this"),
    "goodbye": PREFACE + SETTINGS + frame(7, 0, 0, bytes(8)),
}


@pytest.mark.parametrize("name", DROPPED)
async def test_whoever_does_not_speak_http2_is_dropped(running: Running, name: str):
    """The connection is closed, in time, though its other end reads nothing before."""

    def send() -> None:
        with app.connect() as peer:
            try:
                peer.sendall(DROPPED[name])
            except (BrokenPipeError, ConnectionResetError):
                return
            assert is_dropped(peer)

    async with running() as app:
        await app.blocking(send)


@pytest.mark.parametrize(
    "beginning",
    [b"", PREFACE[:10], PREFACE + SETTINGS[:5], PREFACE + SETTINGS + frame(DATA, 0, 1, b"x" * 10)[:12]],
    ids=["nothing", "half_a_preface", "half_a_frame", "half_a_payload"],
)
async def test_whoever_falls_silent_costs_nothing_and_does_not_hold_up_the_stop(
    running: Running, beginning: bytes
):
    """Many connections that end in the middle of something: the host works on, and stops at once."""
    async with running() as app:
        peers = [app.connect() for _ in range(100)]
        try:
            for peer in peers:
                peer.sendall(beginning)
            for _ in range(20):
                await app.check()
            async with asyncio.timeout(5):
                await app.host.stop()
            assert all([await asyncio.to_thread(is_dropped, peer) for peer in peers])
        finally:
            for peer in peers:
                peer.close()
        app.check = nothing  # type: ignore[method-assign]  # the host has stopped


async def nothing() -> None:
    pass


async def test_a_message_of_4_gib_is_refused_by_its_length(running: Running):
    """RESOURCE_EXHAUSTED comes when five bytes have: with the token, without it UNAUTHENTICATED even before."""

    def ask() -> None:
        with app.client() as client:
            for method in ("FileWrite", "StoreSet", "Invoke"):
                stream = client.call(method, app.token)
                stream.send_raw(struct.pack(">BI", 0, 0xFFFFFFFF))
                assert stream.status() == 8
                assert "4294967295 bytes" in stream.headers["grpc-message"]
            assert client.call("FileWrite").status() == 16

    async with running() as app:
        await app.blocking(ask)


async def test_what_is_announced_and_sent_is_held_only_in_part(running: Running):
    """Who is refused may go on sending: it is thrown away, and the connection still serves others."""

    def push() -> None:
        with app.client() as client:
            for _ in range(4):
                stream = client.call("FileWrite", app.token)
                with contextlib.suppress(h2.exceptions.StreamClosedError):  # refused meanwhile
                    stream.send_raw(struct.pack(">BI", 0, 0xFFFFFFFF) + b"x" * 65536)
                assert stream.status() == 8
        for _ in range(4):  # announced, begun, and never ended
            with app.client() as client:
                begun = struct.pack(">BI", 0, MIB) + b"x" * (MIB - 1)
                client.call("FileWrite", app.token).send_raw(begun)

    async with running() as app:
        await app.blocking(push)


async def test_what_is_no_message_is_told_so(running: Running):
    """Cut off, compressed, not protobuf, not there, no such method, no gRPC: each has its status."""

    def ask() -> None:
        def status(method: str, data: bytes, **headers: str) -> int:
            stream = client.call(method, app.token, **headers)
            stream.send_raw(data, end=True)
            return stream.status()

        message = field(2, b"key")
        whole = struct.pack(">BI", 0, len(message)) + message
        with app.client() as client:
            assert status("StoreGet", whole) == 0
            assert status("StoreGet", whole[:-1]) == 3
            assert status("StoreGet", whole[:3]) == 3
            assert status("StoreGet", b"") == 3
            assert status("StoreGet", struct.pack(">BI", 1, len(message)) + message) == 12
            assert status("StoreGet", struct.pack(">BI", 0, 4) + b"\xff" * 4) == 3
            assert status("StoreGet", struct.pack(">BI", 0, 5) + field(2, b"\xff\xfe\xfd")) == 3
            assert status("NoSuchMethod", whole) == 12
            assert status("session", whole) == 12
            # Fields that are not known are passed over, as protobuf wants.
            more = message + field(15, b"unknown")
            assert status("StoreGet", struct.pack(">BI", 0, len(more)) + more) == 0
            assert status("StoreGet", whole, **{"grpc-timeout": "soon"}) == 2

    async with running() as app:
        await app.blocking(ask)


class Blob(Service, name="blob"):
    """Gives much for little, and counts."""

    def __init__(self) -> None:
        self.given = 0
        self._news = asyncio.Event()

    @rpc
    async def give(self, ctx: Context) -> bytes:
        self.given += 1
        self._news.set()
        return bytes(50_000)

    async def reached(self, count: int) -> None:
        while self.given < count:
            self._news.clear()
            await self._news.wait()


async def test_whoever_takes_no_answers_gets_no_more(running: Running):
    """A Session that reads nothing is answered up to a bound, then paused, and dropped if it still asks for more."""
    blob = Blob()
    async with running(blob) as app:
        session = Session(str(app.host.socket), app.token, timeout_s=10)
        asked = 0

        async def ask() -> None:
            nonlocal asked
            asked += 32
            one = {"jsonrpc": "2.0", "method": "services.blob.give", "params": {"args": []}}
            batch = [{**one, "id": number} for number in range(asked - 31, asked + 1)]
            await asyncio.to_thread(session.send, batch)

        try:
            while asked < 20_000 and blob.given == asked:
                await ask()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await blob.reached(asked)
            assert 100 < blob.given < 600  # 8 MiB, what the socket holds, and what was under way
            await app.check()

            for _ in range(5):  # more than may be in flight
                await ask()
            async with asyncio.timeout(5):
                event = await anext(app.heard)
            assert isinstance(event, happened.ProtocolBroken)
            assert "more requests in flight" in event.problem
        finally:
            session.connection.close()


async def test_whoever_takes_no_answers_does_not_hold_up_the_stop(running: Running):
    """What nobody takes is thrown away: when `stop` returns the loop watches as little as before the start."""
    watched = asyncio.get_running_loop()._selector.get_map()  # type: ignore[attr-defined]
    before = len(watched)
    async with running(Blob()) as app:
        session = Session(str(app.host.socket), app.token, timeout_s=10, window_bytes=16 * MIB)
        try:
            one = {"jsonrpc": "2.0", "method": "services.blob.give", "params": {"args": []}}
            await asyncio.to_thread(session.send, [{**one, "id": number} for number in range(1, 65)])
            await app.check()
            async with asyncio.timeout(5):
                await app.host.stop()
            assert len(watched) == before
        finally:
            session.connection.close()
        app.check = nothing  # type: ignore[method-assign]  # the host has stopped
