"""What the requests of one client take in the host while they are served: above a bound no further ones are read."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from coredeno.gateway.gate import Gate
from coredeno.gateway.gateway import Gateway
from coredeno.gateway.held import HeldBytes, Share
from coredeno.gateway.listener import GrpcListener
from coredeno.permissions import Grants, OpenAccess
from coredeno.services.builtin import KeyParams, SetParams
from coredeno.services.method import Caller, Method
from coredeno.testing import TurnedClock
from coredeno.wire.typed import TypedDecoder
from tests.integration.sidecars.session import Connection, Session, field

MESSAGE_BYTES = 1024 * 1024
HALF = 600_000
"""Of these six fit into four messages, and a seventh does not."""
EACH = 10


class Slow:
    """A gateway on a socket whose `store.set` takes until it is let."""

    def __init__(self) -> None:
        self.entered = 0
        self.free = asyncio.Event()
        method = Method("store.set", TypedDecoder(SetParams), lambda *_: OpenAccess(), self._run)
        self.gateway = Gateway(
            Gate([method], lambda _event: None),
            clock=TurnedClock(),
            message_bytes=MESSAGE_BYTES,
            requests_in_flight=64,
            emit=lambda _event: None,
        )
        self.token = self.gateway.admit_sidecar("sidecar-1", lambda _error: None)
        self.gateway.admit_module(self.token, Caller("m", "1", Grants()))
        self.held = self.gateway.peer(self.token).held

    async def _run(self, _caller: object, _params: object) -> None:
        self.entered += 1
        await self.free.wait()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nothing tells it
            await asyncio.sleep(0.005)


def by_calls(path: str, token: str) -> list[int]:
    """Many calls at once on one connection, none of which waits for another; their statuses."""
    with Connection(path, timeout_s=10) as client:
        streams = []
        for _ in range(EACH):
            streams.append(client.call("StoreSet", token))
            streams[-1].send(field(2, b"key") + field(3, b"x" * HALF), end=True)
        return [stream.status() for stream in streams]


def by_session(path: str, token: str) -> list[int]:
    """As many requests over the Session; for each answer a 0."""
    session = Session(path, token, timeout_s=10)
    with contextlib.closing(session.connection):
        for number in range(EACH):
            params = {"key": "key", "value": "x" * HALF}
            session.send([{"jsonrpc": "2.0", "id": number, "method": "store.set", "params": params}])
        answered = 0
        while answered < EACH:
            answers = session.receive()
            assert answers is not None
            answered += len([answer for answer in answers if "result" in answer])
        return [0] * answered


@pytest.mark.parametrize("door", [by_calls, by_session])
async def test_what_is_served_is_bounded(short_folder: Path, door: Callable[[str, str], list[int]]):
    """Of large requests only so many are taken as four messages have bytes; the others wait, and all are answered."""
    slow, listener = Slow(), GrpcListener()
    listener.bind(short_folder / "core.sock")
    await listener.prepare()
    try:
        await listener.serve(slow.gateway)
        asking = asyncio.create_task(asyncio.to_thread(door, str(short_folder / "core.sock"), slow.token))
        fits = 4 * MESSAGE_BYTES // HALF
        most = fits + (door is by_session)  # of a batch the size is not known before
        await until(lambda: slow.entered == most)
        await asyncio.sleep(0.2)
        assert slow.entered == most
        assert slow.held.now_bytes < (most + 1) * HALF
        slow.free.set()
        assert await asking == [0] * EACH
        await until(lambda: slow.held.now_bytes == 0)
    finally:
        await listener.aclose()
        await slow.gateway.aclose()


ANSWER = 1_000_000
CALLS = 40


class Generous(Slow):
    """Its `store.get` gives one large text to all who ask, once it is let."""

    def __init__(self, *, is_sizeable: bool) -> None:
        super().__init__()
        self.text = "x" * ANSWER
        method = Method(
            "store.get", TypedDecoder(KeyParams), lambda *_: OpenAccess(), self._give, is_sizeable=is_sizeable
        )
        self.gateway.gate = Gate([method], lambda _event: None)

    async def _give(self, _caller: object, _params: object) -> str:
        self.entered += 1
        await self.free.wait()
        return self.text


async def test_answers_that_nobody_takes_are_bounded(short_folder: Path):
    """Of calls under way as many answers are made as four messages have bytes, and one, until they are taken."""
    generous, listener = Generous(is_sizeable=False), GrpcListener()
    listener.bind(short_folder / "core.sock")
    await listener.prepare()
    answers = generous.gateway.peer(generous.token).answers
    may_read = threading.Event()
    made: list[int] = []
    add = answers.add

    def note(size_bytes: int) -> None:
        add(size_bytes)
        made.append(answers.now_bytes)

    answers.add = note  # type: ignore[method-assign]

    def ask() -> list[int]:
        with Connection(str(short_folder / "core.sock"), timeout_s=10) as client:
            streams = []
            for _ in range(CALLS):
                streams.append(client.call("StoreGet", generous.token))
                streams[-1].send(field(2, b"key"), end=True)
            assert may_read.wait(10)
            return [stream.status() for stream in streams]

    try:
        await listener.serve(generous.gateway)
        asking = asyncio.create_task(asyncio.to_thread(ask))
        await until(lambda: generous.entered == CALLS)
        generous.free.set()
        await until(lambda: answers.now_bytes > 4 * MESSAGE_BYTES)
        await asyncio.sleep(0.2)
        assert len([size for size in made if size]) == 5
        may_read.set()
        assert await asking == [0] * CALLS
        assert 4 * MESSAGE_BYTES < max(made) < 4 * MESSAGE_BYTES + ANSWER + 100
        await until(lambda: answers.now_bytes == 0)
    finally:
        may_read.set()
        await listener.aclose()
        await generous.gateway.aclose()


async def test_of_sizeable_answers_some_dozens_are_made_at_once_for_calls_too(short_folder: Path):
    """By unary calls, of which one connection has a hundred; the others wait for their turn."""
    generous, listener = Generous(is_sizeable=True), GrpcListener()
    generous.text, generous.gateway.requests_in_flight = "x", 90
    listener.bind(short_folder / "core.sock")
    await listener.prepare()

    def ask() -> list[int]:
        with Connection(str(short_folder / "core.sock"), timeout_s=10) as client:
            streams = [client.call("StoreGet", generous.token) for _ in range(90)]
            for stream in streams:
                stream.send(field(2, b"key"), end=True)
            return [stream.status() for stream in streams]

    try:
        await listener.serve(generous.gateway)
        asking = asyncio.create_task(asyncio.to_thread(ask))
        await until(lambda: generous.entered == 64)
        await asyncio.sleep(0.2)
        assert generous.entered == 64
        generous.free.set()
        assert await asking == [0] * 90
    finally:
        await listener.aclose()
        await generous.gateway.aclose()


async def test_a_share_is_given_back_once_all_are_done_with_it():
    """A batch is held until its last request is; whoever waits for room then has it, and one alone always has."""
    held = HeldBytes(100)
    batch = Share(held, 90)
    batch.use()
    other = Share(held)
    taking = asyncio.create_task(other.take(20))
    batch.done()
    await asyncio.sleep(0)
    assert not taking.done()
    batch.done()
    await taking
    assert held.now_bytes == 20
    other.done()
    await held.room(1000)
    assert held.now_bytes == 0


async def test_who_gives_up_while_it_waits_holds_nothing():
    """Cancelled, it has taken none."""
    held = HeldBytes(100)
    Share(held, 90)
    other = Share(held)
    taking = asyncio.create_task(other.take(20))
    await asyncio.sleep(0)
    taking.cancel()
    await asyncio.wait([taking])
    other.done()
    assert held.now_bytes == 90
