"""The gateway's gRPC server, by grpclib, which only this, `admission` and `connection` know."""

from __future__ import annotations

import asyncio
import importlib
import os
import socket as sockets
import struct
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from coredeno.errors import CoreDenoError, InvalidArgument, LimitExceeded, ProtocolError, UsageError
from coredeno.gateway.batch import Batch
from coredeno.gateway.gateway import Gateway, Peer, UnknownToken
from coredeno.gateway.held import Share
from coredeno.wire.codes import status_of

if TYPE_CHECKING:
    from grpclib.server import Stream

    from coredeno.gateway.admission import Admission
    from coredeno.gateway.connection import Connection
    from coredeno.gateway.session import Session
    from coredeno.gateway.unary import Unary

_BACKLOG = 128
_HEAD_BYTES = 5  # a flag for compression, and the length (gRPC over HTTP/2, "Length-Prefixed-Message")
_BATCH_HEADROOM_BYTES = 64 * 1024  # docs/wire.md: what a batch may have besides one message of the limit
_PAUSE_ABOVE_BYTES = 8 * 1024 * 1024  # of answers that the peer has not taken
_PROBLEM_CHARACTERS = 800
_CORE = "/coredeno.CoreService/"
_HEALTH = "/grpc.health.v1.Health/"


class GrpcListener:
    """Serves `CoreService`, and the standard health service, over a Unix socket. The default `Listener`."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._socket: sockets.socket | None = None
        self._admission: Admission | None = None

    def bind(self, socket: Path) -> None:
        """Make the socket. Clients can join it from now on; they wait in its queue until `serve`.

        Raises:
            UsageError: it cannot be made.
        """
        self._socket = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
        try:
            self._socket.bind(str(socket))
            self._path = socket
            os.chmod(socket, 0o600)  # noqa: PTH101 - its folder is 0700 already
            self._socket.listen(_BACKLOG)
            self._socket.setblocking(False)  # noqa: FBT003
        except OSError as error:
            problem = error.strerror or error  # a path that is too long has no number, and so no such text
            raise UsageError(f"start: the socket {str(socket)!r} cannot be made: {problem}") from error

    async def prepare(self) -> None:
        """Import grpclib and the generated messages, which take a tenth of a second."""
        for module in ("coredeno.gateway.unary", "grpclib.server", "coredeno.gateway.admission"):
            await asyncio.to_thread(importlib.import_module, module)

    async def serve(self, gateway: Gateway) -> None:
        """Serve the clients."""
        from grpclib.config import Configuration  # noqa: PLC0415
        from grpclib.server import Server  # noqa: PLC0415

        from coredeno.gateway.admission import Admission  # noqa: PLC0415

        assert self._socket is not None
        server = Server([_Services(gateway)], config=Configuration())
        # grpclib offers no way to serve a socket that listens already, nor to drop connections.
        self._admission = Admission(self._socket, gateway, server._protocol_factory)  # noqa: SLF001
        self._admission.begin()

    async def aclose(self) -> None:
        """Drop all connections, wait until nothing is under way, remove the socket. Harmless twice."""
        if self._admission is not None:
            await self._admission.aclose()
        if self._socket is not None:
            self._socket.close()
        if self._path is not None:
            await asyncio.to_thread(self._path.unlink, missing_ok=True)


class _Services:
    """All gRPC methods, as grpclib wants them: a table of paths and handlers."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def __mapping__(self) -> dict[str, Any]:
        from grpclib.const import Cardinality, Handler  # noqa: PLC0415

        from coredeno.gateway.unary import UNARY  # noqa: PLC0415

        table = {
            _CORE + name: Handler(self._told(self._unary(row)), Cardinality.UNARY_UNARY, _Encoded, _Encoded)
            for name, row in UNARY.items()
        }
        table[_CORE + "Session"] = Handler(self._told(self._session), Cardinality.STREAM_STREAM, Batch, Batch)
        check, watch = self._told(self._check), self._told(self._watch)
        table[_HEALTH + "Check"] = Handler(check, Cardinality.UNARY_UNARY, _Encoded, _Encoded)
        table[_HEALTH + "Watch"] = Handler(watch, Cardinality.UNARY_STREAM, _Encoded, _Encoded)
        return table

    def _told(self, handle: _Handle) -> Callable[[Stream[Any, Any]], Any]:
        """A handler that knows its peer, ends when the peer's token does, and tells our errors as gRPC statuses."""
        from grpclib.const import Status  # noqa: PLC0415
        from grpclib.exceptions import GRPCError  # noqa: PLC0415

        async def told(stream: Stream[Any, Any]) -> None:
            try:
                peer = self._peer(stream)
                if len(peer.calls) > self._gateway.requests_in_flight:  # its Session is one
                    raise LimitExceeded(f"{peer.name}: more than {len(peer.calls) - 1} calls under way")
                call = _Call(stream)
                peer.calls.add(call)
                try:
                    await handle(stream, peer, call)
                finally:
                    peer.calls.discard(call)
            except UnknownToken:
                raise GRPCError(
                    Status.UNAUTHENTICATED, "no token that this host gave to this process"
                ) from None
            except CoreDenoError as error:
                status = error.status if isinstance(error, _Unreadable) else _status_of(error)
                raise GRPCError(Status[status], _cut(str(error))) from None

        return told

    def _peer(self, stream: Stream[Any, Any]) -> Peer:
        header = "" if stream.metadata is None else str(stream.metadata.get("authorization", ""))
        scheme, _, token = header.partition(" ")
        connection = cast("Connection", stream.peer._transport.get_protocol())  # noqa: SLF001 - grpclib shows it nowhere else
        peer = self._gateway.peer(
            token if scheme.lower() == "bearer" else None,
            connection.client.process_id,
            connection.client.user_id,
        )
        connection.prove(peer)
        return peer

    # --- unary

    def _unary(self, row: Unary) -> _Handle:
        async def handle(stream: Stream[Any, Any], peer: Peer, call: _Call) -> None:
            share = Share(peer.held)
            try:
                request = await self._request(stream, row.request, share)
                try:
                    caller = peer.caller(request.module_code or None)
                except ProtocolError as error:
                    self._gateway.broken(peer, error)
                    raise
                call.module = caller.code
                if stream.deadline is not None:
                    caller = msgspec.structs.replace(caller, deadline_s=stream.deadline.time_remaining())
                method = self._gateway.gate.methods.get(row.method(request))
                async with peer.turn(method):
                    result = await self._gateway.gate.run(
                        caller, row.method(request), lambda decoder: decoder.convert(row.params(request))
                    )
                    await peer.answers.room(0)  # before it is encoded, as for a Session
                    answer = self._answer(self._written(row, result))
                    peer.answers.add(answer.size_bytes)
                    try:
                        await stream.send_message(answer)
                    finally:
                        peer.answers.add(-answer.size_bytes)
            finally:
                share.done()

        return handle

    def _written(self, row: Unary, result: Any) -> Any:
        try:
            return row.answer(result)
        except UsageError as error:  # the service gave something that no client can take
            raise self._gateway.gate.incidents.error("Invoke: the result", error) from error

    async def _request(self, stream: Stream[Any, Any], kind: type[Any], share: Share) -> Any:
        body = await _receive(stream, self._gateway.message_bytes, share)
        if body is None:
            raise _Unreadable("INVALID_ARGUMENT", "receive: a unary call without a request")
        try:
            return kind.FromString(body)
        except Exception as error:  # noqa: BLE001 - the generated code raises whatever it meets
            raise InvalidArgument(f"{kind.__name__}: not a protobuf message of this kind: {error}") from None

    def _answer(self, message: Any) -> _Encoded:
        data = bytes(message)
        if len(data) > self._gateway.message_bytes:
            limit_bytes = self._gateway.message_bytes
            raise LimitExceeded(f"an answer of {len(data)} bytes, wanted at most {limit_bytes}")
        return _Encoded(data)

    # --- health

    async def _check(self, stream: Stream[Any, Any], peer: Peer, _call: _Call) -> None:
        from grpclib.const import Status  # noqa: PLC0415
        from grpclib.exceptions import GRPCError  # noqa: PLC0415

        answer, is_known = await self._health(stream, peer)
        if not is_known:
            raise GRPCError(Status.NOT_FOUND, "health: there is no such service")
        await stream.send_message(answer)

    async def _watch(self, stream: Stream[Any, Any], peer: Peer, _call: _Call) -> None:
        answer, _is_known = await self._health(stream, peer)
        await stream.send_message(answer)
        await asyncio.Event().wait()  # the status does not change until the host stops, which ends the stream

    async def _health(self, stream: Stream[Any, Any], peer: Peer) -> tuple[_Encoded, bool]:
        from coredeno.gateway._generated.grpc.health import v1  # noqa: PLC0415

        share = Share(peer.held)
        try:
            request = await self._request(stream, v1.HealthCheckRequest, share)
        finally:
            share.done()
        is_known = request.service in ("", "coredeno.CoreService")
        kinds = v1.HealthCheckResponseServingStatus
        return self._answer(
            v1.HealthCheckResponse(status=kinds.SERVING if is_known else kinds.SERVICE_UNKNOWN)
        ), is_known

    # --- the Session

    async def _session(self, stream: Stream[Any, Any], peer: Peer, _call: _Call) -> None:
        outbox = _Outbox(stream)
        session = outbox.session = self._gateway.open_session(peer, outbox.put)
        sender = asyncio.create_task(outbox.send())
        try:
            await stream.send_initial_metadata()
            limit = self._gateway.message_bytes + _BATCH_HEADROOM_BYTES
            while (body := await _receive(stream, limit)) is not None:
                batch = Batch.FromString(body)
                session.receive(batch.messages, batch.attachments)
                # One message more than fits is taken, since of its size nothing is known before. What is not read
                # fills the window, and then waits in the sidecar: in the plugin's own `await`.
                await peer.held.room(0)
                await asyncio.sleep(0)  # what is in the window already would all be taken in this turn
        except ProtocolError as error:
            self._gateway.broken(peer, error)
            raise
        finally:
            self._gateway.close_session(peer)
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)


class _Call:
    """One call under way, as its peer knows it."""

    def __init__(self, stream: Stream[Any, Any]) -> None:
        self.module: str | None = None
        self._stream = stream

    def end(self, status: str, problem: str) -> None:
        """End it, with this status for the peer."""
        from grpclib.const import Status  # noqa: PLC0415
        from grpclib.exceptions import GRPCError  # noqa: PLC0415

        wrapper = self._stream._stream.wrapper  # noqa: SLF001 - how grpclib itself ends a call at its deadline
        if wrapper is not None:
            wrapper.cancel(GRPCError(Status[status], _cut(problem)))


_Handle = Callable[["Stream[Any, Any]", Peer, _Call], Coroutine[Any, Any, None]]


class _Encoded:
    """A message that is encoded already."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size_bytes(self) -> int:
        return len(self._data)

    def SerializeToString(self) -> bytes:  # noqa: N802 - the name that protobuf codecs call
        """Its bytes."""
        return self._data


class _Unreadable(ProtocolError):
    """What came is no message; `status` is what gRPC has for that."""

    def __init__(self, status: str, problem: str) -> None:
        super().__init__(problem)
        self.status = status


class _Outbox:
    """Batches on their way to one peer; asks the Session to pause while the peer does not take them."""

    session: Session

    def __init__(self, stream: Stream[Any, Any]) -> None:
        self._stream = stream
        self._waiting: deque[Batch] = deque()
        self._waiting_bytes = 0
        self._news = asyncio.Event()

    def put(self, messages: bytes, attachments: Sequence[bytes]) -> None:
        """Queue a batch."""
        self._waiting.append(Batch(messages, attachments))
        self._waiting_bytes += _size(self._waiting[-1])
        self._news.set()
        if self._waiting_bytes > _PAUSE_ABOVE_BYTES:
            self.session.pause()

    async def send(self) -> None:
        """Send what is queued, for ever."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                batch = self._waiting.popleft()
                await self._stream.send_message(batch)
                self._waiting_bytes -= _size(batch)
            self.session.resume()


def _size(batch: Batch) -> int:
    return len(batch.messages) + sum(map(len, batch.attachments))


def _status_of(error: CoreDenoError) -> str:
    return "PERMISSION_DENIED" if isinstance(error, ProtocolError) else status_of(error)


def _cut(problem: str) -> str:
    # It travels as a header, of which clients take 8 KiB in all, with up to nine bytes for a character.
    return problem if len(problem) <= _PROBLEM_CHARACTERS else problem[:_PROBLEM_CHARACTERS] + "…"


async def _receive(stream: Stream[Any, Any], limit_bytes: int, share: Share | None = None) -> bytes | None:
    """One message, or None at the end of the stream. grpclib itself has no limit, so its length is read first.

    With a `share` it is read as soon as that could take its bytes.
    """
    raw = stream._stream  # noqa: SLF001 - grpclib shows the bytes of a stream nowhere else
    try:
        head = await raw.recv_data(_HEAD_BYTES)
        if not head:
            return None
        compressed, size = struct.unpack(">BI", head)
        if compressed:
            raise _Unreadable("UNIMPLEMENTED", "receive: a compressed message, wanted a plain one")
        if size > limit_bytes:
            problem = f"receive: a message of {size} bytes, wanted at most {limit_bytes}"
            raise _Unreadable("RESOURCE_EXHAUSTED", problem)
        if share is not None:
            await share.take(size)
        body = await raw.recv_data(size)
    except AssertionError:  # how grpclib says that a stream ended too early
        raise _Unreadable("INVALID_ARGUMENT", "receive: a message that is cut off") from None
    if len(body) != size:
        raise _Unreadable("INVALID_ARGUMENT", "receive: a message that is cut off")
    return bytes(body)
