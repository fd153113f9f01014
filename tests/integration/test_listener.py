"""`GrpcListener` by itself, on a real socket: that it begins and ends as a whole."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from coredeno import UsageError
from coredeno.clock import LoopClock
from coredeno.gateway.gate import Gate
from coredeno.gateway.gateway import Gateway
from coredeno.gateway.listener import GrpcListener
from tests.integration.sidecars.session import Connection

UNAUTHENTICATED = 16


def gateway() -> Gateway:
    events: list[object] = []
    gate = Gate([], events.append)
    return Gateway(gate, clock=LoopClock(), message_bytes=65536, requests_in_flight=8, emit=events.append)


@asynccontextmanager
async def bound(path: Path) -> AsyncIterator[GrpcListener]:
    listener = GrpcListener()
    listener.bind(path)
    await listener.prepare()
    try:
        yield listener
    finally:
        await listener.aclose()


def asked(path: Path) -> int:
    """The status that a call without a token gets."""
    with Connection(str(path), timeout_s=5) as client:
        stream = client.call("StoreGet")
        stream.send(b"", end=True)
        return stream.status()


async def test_clients_may_join_before_it_serves(short_folder: Path):
    """Between `bind` and `serve` they wait, and are served then; the socket is its user's alone."""
    path = short_folder / "core.sock"
    async with bound(path) as listener:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        waiting = asyncio.create_task(asyncio.to_thread(asked, path))
        await asyncio.sleep(0)
        await listener.serve(gateway())
        assert await waiting == UNAUTHENTICATED
    assert not path.exists()


async def test_one_that_is_cancelled_while_it_begins_leaves_the_loop_as_it_was(short_folder: Path):
    """Wherever `serve` is cancelled, the next listener, whose socket may get the same number, is served."""
    for turns in range(5):
        async with bound(short_folder / "first.sock") as first:
            serving = asyncio.create_task(first.serve(gateway()))
            for _ in range(turns):
                await asyncio.sleep(0)
            serving.cancel()
            await asyncio.wait([serving])
        async with bound(short_folder / "second.sock") as second:
            await second.serve(gateway())
            assert await asyncio.to_thread(asked, short_folder / "second.sock") == UNAUTHENTICATED


async def test_it_is_closed_twice_and_before_it_begins(short_folder: Path):
    """`aclose` is harmless in every state."""
    listener = GrpcListener()
    await listener.aclose()
    async with bound(short_folder / "a.sock") as listener:
        pass
    await listener.aclose()
    async with bound(short_folder / "a.sock") as listener:
        await listener.serve(gateway())
        await listener.aclose()


async def test_a_socket_that_cannot_be_made_is_the_apps_mistake(short_folder: Path):
    """A path that is taken or too long is named, and what stands there is left alone."""
    (short_folder / "taken").write_text("mine")
    for path, problem in (
        (short_folder / "taken", "Address already in use"),
        (short_folder / "missing" / "a.sock", "No such file"),
        (short_folder / ("x" * 120), "too long"),
    ):
        listener = GrpcListener()
        with pytest.raises(UsageError, match=problem):
            listener.bind(path)
        await listener.aclose()
    assert (short_folder / "taken").read_text() == "mine"
    assert [entry.name for entry in short_folder.iterdir()] == ["taken"]
