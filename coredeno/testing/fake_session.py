"""A sidecar's end of the Session, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from coredeno.errors import CoreDenoError, InternalError, LimitExceeded
from coredeno.interfaces import SessionReceiver
from coredeno.wire.codec import encode_batch
from coredeno.wire.codes import ROWS, WireError, from_wire
from coredeno.wire.typed import decoder_for
from coredeno.wire.values import BytesEntry, Outgoing, encode


class _Answer(msgspec.Struct, tag_field="jsonrpc", tag="2.0"):
    id: int
    result: msgspec.Raw = msgspec.Raw()
    error: WireError | None = None
    bytes: list[BytesEntry] | None = None


class _Request(msgspec.Struct, omit_defaults=True, tag_field="jsonrpc", tag="2.0"):
    method: str
    params: Any
    id: int | None = None
    module: str | None = None
    bytes: list[BytesEntry] | None = None
    deadline_ms: float | None = None
    trace: str | None = None


class FakeSession:
    """Sends requests of fake plugins to the host, and settles them by its answers.

    Args:
        limit_bytes: the largest request.
    """

    def __init__(self, *, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._host: SessionReceiver | None = None
        self._pending: dict[int, tuple[asyncio.Future[Any], str]] = {}
        self._next_id = 1

    def join(self, host: SessionReceiver) -> None:
        """Send to this end of the host."""
        self._host = host

    def receive(self, messages: bytes, attachments: Sequence[bytes]) -> None:
        """Take a batch of answers."""
        taken = 0
        for answer in msgspec.json.decode(messages, type=list[_Answer]):
            count = len(answer.bytes or ())
            own, taken = attachments[taken : taken + count], taken + count
            future, module = self._pending.pop(answer.id, (None, ""))
            if future is None or future.done():
                continue
            if answer.error is not None:
                future.set_exception(_error(answer.error, module))
            else:
                future.set_result(decoder_for(Any).decode(answer.result, answer.bytes, own, "result"))

    async def request(
        self,
        method: str,
        params: Any,
        *,
        module: str | None,
        deadline_ms: float | None = None,
        trace: str | None = None,
    ) -> Any:
        """Ask the host. If cancelled, the host is told.

        Raises:
            RequestError: the host refused, as its class says.
            LimitExceeded: the request is too large; nothing was sent.
            UsageError: a value cannot cross.
        """
        value = Outgoing(params, ("params",), depth=-2)
        request_id, self._next_id = self._next_id, self._next_id + 1
        request = _Request(method, value.plain, request_id, module, value.entries or None, deadline_ms, trace)
        message = encode(request, what=method)
        if len(message) + sum(map(len, value.attachments)) > self._limit_bytes:
            raise LimitExceeded(f"{method}: its arguments are over {self._limit_bytes} bytes")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[request_id] = (future, module or "")
        self._send(message, value.attachments)
        try:
            return await future
        except asyncio.CancelledError:
            self._pending.pop(request_id, None)
            self.notify("cancel", {"id": request_id}, module=module)
            raise

    def notify(self, method: str, params: Any, *, module: str | None, trace: str | None = None) -> None:
        """Tell the host something."""
        self._send(encode(_Request(method, params, None, module, trace=trace), what=method), ())

    def close(self) -> None:
        """End the stream."""
        if self._host is not None:
            self._host.close()
            self._host = None
        for future, _module in self._pending.values():
            future.cancel()

    def _send(self, message: bytes, attachments: Sequence[bytes]) -> None:
        if self._host is not None:
            self._host.receive(encode_batch([message]), attachments)


def _error(error: WireError, module: str) -> CoreDenoError:
    if error.code == ROWS["InternalError"].code:
        return InternalError(error.message)
    return from_wire(error, module=module)
