"""What comes over a socket takes as much memory as it is long, and what was taken stays as it was."""

from __future__ import annotations

import asyncio
import os
import socket
import tracemalloc

import pytest

from coredeno.buffered_receiver import BufferedReceiver
from coredeno.gateway.connection import Connection
from coredeno.sidecar.rpc import RpcClient


class Keeper(BufferedReceiver):
    """Keeps the pieces as they came."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.came = asyncio.Event()
        self.ended = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)
        self.came.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()


@pytest.mark.parametrize("door", [Connection, RpcClient])
def test_both_doors_receive_so(door: type) -> None:
    assert issubclass(door, BufferedReceiver)
    assert issubclass(door, asyncio.BufferedProtocol)  # which is what asyncio looks at


async def test_pieces_that_are_kept_are_not_written_over():
    """Each is its own, whatever comes into the buffer after it."""
    sent = os.urandom(1_000_000)
    near, far = socket.socketpair()
    transport, keeper = await asyncio.get_running_loop().create_connection(Keeper, sock=near)
    await asyncio.to_thread(far.sendall, sent)
    far.close()
    await keeper.ended.wait()
    transport.close()
    assert b"".join(keeper.pieces) == sent
    assert max(map(len, keeper.pieces)) <= 64 * 1024


async def test_a_few_bytes_ask_the_allocator_for_a_few_bytes():
    """What asyncio does by itself asks for 256 KiB at each read."""
    near, far = socket.socketpair()
    transport, keeper = await asyncio.get_running_loop().create_connection(Keeper, sock=near)
    tracemalloc.start()
    try:
        for number in range(100):
            keeper.came.clear()
            far.sendall(b"%03d" % number)
            await keeper.came.wait()
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        far.close()
        transport.close()
        await keeper.ended.wait()
    assert keeper.pieces[-1] == b"099"
    assert peak_bytes < 128 * 1024
