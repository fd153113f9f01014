"""The client of the JSON-RPC wire: whatever a sidecar says, each request ends once, with a reply or the reason."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from coredeno.errors import CoreDenoError, ProtocolError, SidecarExited
from coredeno.sidecar.rpc import Reply, RpcClient
from coredeno.testing import TurnedClock
from coredeno.wire.codec import decode_plain
from coredeno.wire.codes import from_wire
from coredeno.wire.typed import decoder_for
from tests.fuzz.shape import cuts, require

LIMIT = 1000
GONE = SidecarExited(reason="it was killed", exit_code=-9)


def _line(**members: object) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", **members}) + b"\n"


_RAISED = {"code": -32000, "message": "m", "data": {"name": "TypeError", "message": "x", "stack": 3}}
SEEDS = [
    b"\xff" + _line(id=1, result={"a": [1]}) + _line(id=2, error=_RAISED) + _line(id=3, result=None),
    b"\x04"
    + _line(id=3, result=[None], bytes=[{"at": ["result", 0], "len": 2}])
    + b"ab"
    + _line(id=1, result="x"),
    b"\x00" + _line(method="moduleExited", params={"code": "m", "reason": "x"}) + _line(id=2, result=1),
    b"\x09" + _line(id=4, result=1) + _line(id=1, result=2) + _line(id=1, result=2),
    *(
        b"\x50" + _line(id=1, error={"code": code, "message": "m", "data": {}})
        for code in range(-32_010, -31_990, 4)
    ),
]


class _Transport(asyncio.Transport):
    aborted = False

    def is_closing(self) -> bool:
        return self.aborted

    def write(self, data: Any) -> None:
        require(not self.aborted, "nothing is written after the end")

    def abort(self) -> None:
        self.aborted = True


def target(data: bytes) -> None:
    loop = asyncio.new_event_loop()
    odd: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _loop, context: odd.append(context))
    try:
        loop.run_until_complete(_talk(data[:1], data[1:]))
    finally:
        loop.close()
    require(not odd, f"nothing is left to the loop: {odd!r}")


async def _talk(pattern: bytes, stream: bytes) -> None:
    broken: list[ProtocolError] = []
    settled: list[int] = []
    client = RpcClient(
        limit_bytes=LIMIT,
        clock=TurnedClock(),
        on_notification=_notified,
        on_broken=broken.append,
        on_lost=lambda: None,
    )
    transport = _Transport()
    client.connection_made(transport)
    asked = [
        asyncio.ensure_future(
            client.request("call", None, on_settled=lambda number=number: settled.append(number))
        )
        for number in range(3)
    ]
    await asyncio.sleep(0)
    asked[2].cancel()  # a request that is given up is still owed its answer
    await asyncio.sleep(0)
    for piece in cuts(stream, pattern):
        if transport.aborted:
            break
        client.data_received(piece)
        await asyncio.sleep(0)
    require(len(broken) <= 1 and bool(broken) == transport.aborted, "broken once, and dropped for it")
    client.fail(GONE)
    for outcome in await asyncio.gather(*asked, return_exceptions=True):
        if isinstance(outcome, Reply):
            _look(outcome)
        else:
            require(outcome in (GONE, *broken) or isinstance(outcome, asyncio.CancelledError), f"{outcome!r}")
    require(sorted(settled) == [0, 1, 2], f"each is settled once: {settled}")
    require(not client._pending and not client._abandoned, "nothing is left")


def _notified(method: str, params: msgspec.Raw) -> None:
    try:
        decode_plain(params)
    except ProtocolError:
        return
    require(isinstance(method, str), "a method")


def _look(reply: Reply) -> None:
    if reply.error is not None:
        error = from_wire(reply.error, module="m", timeout_s=1)
        require(isinstance(error, CoreDenoError) and len(str(error)) < 64 * 1024, "an error of ours, bounded")
        return
    for wanted in (Any, list[bytes], dict[str, int]):
        try:
            reply.result(decoder_for(wanted))
        except (msgspec.ValidationError, ProtocolError):
            continue
