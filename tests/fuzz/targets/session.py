"""A Session: whatever batches come, each request is answered once or the Session ends; nothing is left behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import msgspec

from coredeno.errors import NotFound, ProtocolError
from coredeno.gateway.batch import Batch
from coredeno.gateway.gate import Gate
from coredeno.gateway.gateway import Gateway
from coredeno.gateway.session import Session
from coredeno.permissions import FileAccess, Grants, OpenAccess
from coredeno.services.builtin import LogParams, NoParams, PathParams, WriteParams
from coredeno.services.method import Caller, Method
from coredeno.testing import TurnedClock
from coredeno.wire.codec import decode_batch
from coredeno.wire.typed import TypedDecoder
from tests.fuzz.shape import require

CUT = b"\n--\n"  # between two batches of one input
LIMIT = 4000
IN_FLIGHT = 2


class Value(msgspec.Struct, forbid_unknown_fields=True):
    """Anything."""

    value: Any = None


def _batch(*messages: dict[str, Any], attachments: Sequence[bytes] = ()) -> bytes:
    return Batch(
        msgspec.json.encode([{"jsonrpc": "2.0", "module": "m", **message} for message in messages]),
        attachments,
    ).SerializeToString()


def _ask(number: int, method: str, params: object, **members: object) -> dict[str, Any]:
    return {"id": number, "method": method, "params": params, **members}


_LOG = {"method": "log.write", "params": {"level": "info", "message": "hello"}}
SEEDS = [
    _batch(_ask(1, "slow", {}), _ask(1, "slow", {})),
    _batch(*(_ask(number, "slow", {}) for number in range(140))),
    _batch(_ask(1, "echo", {"value": [1, "x"]}), _ask(2, "slow", {"value": 1}, deadline_ms=5), _LOG),
    _batch(_ask(1, "slow", {}), _ask(2, "slow", {}))
    + CUT
    + _batch({"method": "cancel", "params": {"id": 1}}),
    _batch(
        _ask(7, "write", {"path": "a/b", "data": None}, bytes=[{"at": ["params", "data"], "len": 3}]),
        _ask(8, "write", {"path": "photos/b", "data": None}, bytes=[{"at": ["params", "data"], "len": 1}]),
        attachments=[b"abc", b"d"],
    ),
    _batch(_ask(1, "path", {"path": "photos/../x"}), _ask(2, "path", {"path": "./photos/"})),
    _batch(_ask(3, "fail", {}), _ask(4, "none", {}), _ask(5, "health.check", {}, module=None, trace="t")),
    _batch(_ask(1, "bug", {}), _ask(2, "odd", {})) + CUT + _batch(_ask(1, "echo", {"value": "again"})),
]


def target(data: bytes) -> None:
    loop = asyncio.new_event_loop()
    odd: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: odd.append(context))
    incidents = logging.getLogger("coredeno.gateway")
    was_disabled, incidents.disabled = (
        incidents.disabled,
        True,
    )  # bugs of services are told there, with tracebacks
    try:
        loop.run_until_complete(_talk(data.split(CUT)[:8]))
    finally:
        incidents.disabled = was_disabled
        loop.close()
    require(not odd, f"nothing is left to the loop: {odd!r}")


async def _talk(batches: list[bytes]) -> None:
    clock = TurnedClock()
    broken: list[ProtocolError] = []
    answers: list[Any] = []
    gateway = Gateway(
        Gate(_methods(), lambda _event: None),
        clock=clock,
        message_bytes=LIMIT,
        requests_in_flight=IN_FLIGHT,
        emit=lambda _event: None,
    )
    token = gateway.admit_sidecar("sidecar", broken.append)
    for code in ("m", "n"):
        gateway.admit_module(token, Caller(code, "1", Grants(read=("photos",), write=("photos",))))
    session = gateway.open_session(
        token, lambda messages, _attachments: answers.extend(msgspec.json.decode(messages))
    )
    asked: list[int] = []
    for number, data in enumerate(batches):
        try:
            batch = Batch.FromString(data)
        except ProtocolError:
            continue  # the listener ends such a connection
        asked += _ids(batch.messages)
        session.receive(batch.messages, batch.attachments)
        if number % 2:
            session.pause()
        await clock.turn(0.001)
        session.resume()
        await clock.turn(0)
    await clock.turn(100_000)
    _check(session, answers, asked, broken)
    session.close()
    await clock.turn(0)
    require(not session._tasks and not session._logs._writing, "nothing is under way after the end")
    require(clock.waiting == 0, "no timer is left")


def _ids(messages: bytes) -> list[int]:
    try:
        return [message.id for message in decode_batch(messages) if message.id is not None]
    except ProtocolError:
        return []


def _check(session: Session, answers: list[Any], asked: list[int], broken: list[ProtocolError]) -> None:
    answered = [answer["id"] for answer in answers]
    for number in set(answered):
        require(answered.count(number) <= asked.count(number), f"request {number} is answered once")
    require(all(("result" in answer) != ("error" in answer) for answer in answers), "a result or an error")
    require(len(broken) <= 1 and bool(broken) == session._closed, "it ends with the first broken rule")
    slow = len(session._tasks)  # without a deadline these wait for ever
    require(broken or len(answered) + slow == len(asked), "each request is answered, or under way")


def _methods() -> list[Method]:
    async def echo(_caller: Caller, params: Value) -> Any:
        return params.value

    async def slow(_caller: Caller, _params: Any) -> None:
        await asyncio.Event().wait()

    async def fail(_caller: Caller, _params: Any) -> None:
        raise NotFound("no such city")

    async def bug(_caller: Caller, _params: Any) -> None:
        raise ZeroDivisionError

    async def odd(_caller: Caller, _params: Any) -> Any:
        return {1, "\ud800"}

    async def path(_caller: Caller, params: PathParams) -> str:
        return params.path

    async def write(_caller: Caller, params: WriteParams) -> bytes:
        require(isinstance(params.data, bytes), "binary values are bytes")
        return params.data

    async def nothing(_caller: Caller, _params: Any) -> None:
        pass

    rows: list[tuple[str, Any, Any]] = [
        ("echo", Value, echo),
        ("slow", Value, slow),
        ("fail", Value, fail),
        ("bug", Value, bug),
        ("odd", Value, odd),
        ("path", PathParams, path),
        ("write", WriteParams, write),
        ("log.write", LogParams, nothing),
        ("health.check", NoParams, nothing),
    ]
    return [
        Method(
            name,
            TypedDecoder(params),
            (lambda _caller, params: FileAccess("write", params.path))
            if name in ("path", "write")
            else (lambda _caller, _params: OpenAccess()),
            run,
            for_sidecar=name == "health.check",
        )
        for name, params, run in rows
    ]
