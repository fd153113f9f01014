"""What connections of clients may cost the host: how many there are, for how long, and what each leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from coredeno.clock import LoopClock
from coredeno.errors import ProtocolError
from coredeno.gateway import admission as admitting
from coredeno.gateway.gate import Gate
from coredeno.gateway.gateway import Gateway
from coredeno.gateway.listener import GrpcListener
from tests.integration.sidecars.session import Connection
from tests.integration.test_hostile_bytes import HEADERS, PREFACE, SETTINGS, frame, is_dropped

UNAUTHENTICATED = 16


class Served:
    """A gateway on a socket. Its one sidecar may be this very process."""

    def __init__(self, path: Path, *, is_sidecar: bool) -> None:
        self.path = path
        self.broken: list[ProtocolError] = []
        self.listener = GrpcListener()
        self.gateway = Gateway(
            Gate([], lambda _event: None),
            clock=LoopClock(),
            message_bytes=65536,
            requests_in_flight=8,
            emit=lambda _event: None,
        )
        self.token = self.gateway.admit_sidecar("sidecar-1", self.broken.append)
        if is_sidecar:
            self.gateway.bind_process(self.token, os.getpid())

    @property
    def admission(self) -> admitting.Admission:
        assert self.listener._admission is not None
        return self.listener._admission

    def connect(self, beginning: bytes = PREFACE + SETTINGS) -> socket.socket:
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(10)
        peer.connect(str(self.path))
        peer.sendall(beginning)
        return peer

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - nothing tells it
                await asyncio.sleep(0.005)


@asynccontextmanager
async def serving(folder: Path, *, is_sidecar: bool = True) -> AsyncIterator[Served]:
    served = Served(folder / "core.sock", is_sidecar=is_sidecar)
    served.listener.bind(served.path)
    await served.listener.prepare()
    await served.listener.serve(served.gateway)
    try:
        yield served
    finally:
        await served.listener.aclose()
        await served.gateway.aclose()


def begun_and_reset(client: Connection, count: int) -> bytes:
    """Requests that are reset at once."""
    sent = b""
    for _ in range(count):
        number = client.h2.get_next_available_stream_id()
        names = {":method": "POST", ":scheme": "http", ":path": "/coredeno.CoreService/StoreGet"}
        names |= {":authority": "h", "te": "trailers", "content-type": "application/grpc"}
        client.h2.send_headers(number, list(names.items()))
        client.h2.reset_stream(number)
        sent += client.h2.data_to_send()
    return sent


async def test_requests_that_are_reset_at_once_leave_nothing(short_folder: Path):
    """Of 400 no task and no stream is left, and one that goes on is ended."""

    def reset(count: int) -> None:
        client.socket.sendall(begun_and_reset(client, count))

    async with serving(short_folder) as served:
        client = await asyncio.to_thread(Connection, str(served.path), timeout_s=10)
        await served.until(lambda: len(served.admission._connections) == 1)
        (connection,) = served.admission._connections
        await asyncio.to_thread(reset, 400)
        await served.until(lambda: connection.processor.connection.streams_started == 400)
        await served.until(lambda: not connection.processor.streams and not connection._tasks)
        assert not served.broken
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            await asyncio.to_thread(reset, 20_000)
        assert await asyncio.to_thread(is_dropped, client.socket)
        assert len(served.broken) == 1
        client.close()


async def test_a_sidecar_that_connects_again_and_again_is_ended(short_folder: Path):
    """Four connections at once and a few more in time are let in; the others are refused, and then it is ended."""

    def join() -> None:
        kept = [served.connect() for _ in range(4)]
        try:
            for _ in range(66):
                with socket.socket(socket.AF_UNIX) as peer:
                    peer.settimeout(10)
                    peer.connect(str(served.path))
                    assert is_dropped(peer)
        finally:
            for peer in kept:
                peer.close()

    async with serving(short_folder) as served:
        await asyncio.to_thread(join)
        assert {str(error) for error in served.broken} == {"sidecar-1: it connects more often than it may"}


async def test_who_shows_no_token_is_dropped_in_time(short_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A client that joined and says nothing good has seconds; one that showed its token stays."""
    monkeypatch.setattr(admitting, "_PROOF_TIMEOUT_S", 0.5)

    def ask(client: Connection, token: str | None) -> int:
        stream = client.call("StoreGet", token)
        stream.send(b"", end=True)
        return stream.status()

    async with serving(short_folder) as served:
        with served.connect() as silent, Connection(str(served.path), timeout_s=10) as known:
            with Connection(str(served.path), timeout_s=10) as stranger:
                assert await asyncio.to_thread(ask, stranger, None) == UNAUTHENTICATED
                assert await asyncio.to_thread(ask, known, served.token) != UNAUTHENTICATED
                assert await asyncio.to_thread(is_dropped, silent)
                assert await asyncio.to_thread(is_dropped, stranger.socket)
            assert await asyncio.to_thread(ask, known, served.token) != UNAUTHENTICATED


async def test_strangers_make_way_for_one_another(short_folder: Path):
    """Of clients without a token the oldest is dropped for the newest; never are there more than 128."""
    async with serving(short_folder, is_sidecar=False) as served:
        peers: list[socket.socket] = []
        try:
            while len(peers) < 132:
                peers += [await asyncio.to_thread(served.connect)]
            for peer in peers[:4]:
                assert await asyncio.to_thread(is_dropped, peer)
            await served.until(lambda: len(served.admission._connections) == 128)
        finally:
            for peer in peers:
                peer.close()


async def test_windows_have_one_budget(short_folder: Path):
    """What all clients may have on its way unread is bounded, whatever their number."""
    async with serving(short_folder, is_sidecar=False) as served:
        taken = []
        for _ in range(500):
            taken.append(served.admission._window_bytes())
            served.admission._windows_bytes += taken[-1]
        assert taken[0] == 4 * 1024 * 1024
        assert taken[-1] == 64 * 1024
        assert sum(taken) < 256 * 1024 * 1024 + 500 * 64 * 1024
        served.admission._windows_bytes = 0


async def test_headers_that_are_too_large_are_refused(short_folder: Path):
    """A block of headers is bounded before anybody unpacks it."""
    async with serving(short_folder) as served:
        block = frame(HEADERS, 0, 1, bytes(16_000)) + frame(9, 0, 1, bytes(16_000)) * 2
        with served.connect(PREFACE + SETTINGS + block) as peer:
            assert await asyncio.to_thread(is_dropped, peer)
        assert [str(error) for error in served.broken] == ["receive: a block of headers over 32768 bytes"]


@pytest.mark.parametrize("step", ["_admits", "_make", "_await_proof", "connect_accepted_socket"])
async def test_a_client_that_cannot_be_let_in_leaves_nothing(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch, step: str
):
    """Whatever fails, its socket is closed, and of connections and windows it takes none; the next one is let in."""
    async with serving(short_folder, is_sidecar=False) as served:
        admission = served.admission
        place = admission._loop if step == "connect_accepted_socket" else admission

        def fail(*_args: object) -> None:
            monkeypatch.undo()
            raise MemoryError

        monkeypatch.setattr(place, step, fail)
        with served.connect() as peer:
            assert await asyncio.to_thread(is_dropped, peer)
        assert (admission._connections, admission._unproven, admission._windows_bytes) == (set(), {}, 0)
        with served.connect() as peer:
            await served.until(lambda: len(admission._connections) == 1)
            assert admission._windows_bytes == 4 * 1024 * 1024
        await served.until(lambda: not admission._connections)
        assert admission._windows_bytes == 0
