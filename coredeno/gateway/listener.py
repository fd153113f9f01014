"""The gateway's gRPC server: grpclib on a Unix socket. The only module that knows grpclib."""

from __future__ import annotations

import asyncio
import importlib
import os
import socket as sockets
import struct
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coredeno.errors import CoreDenoError, InvalidArgument, ProtocolError, UsageError
from coredeno.gateway.batch import Batch
from coredeno.gateway.gateway import Gateway, Peer, UnknownToken
from coredeno.wire.codes import status_of

if TYPE_CHECKING:
    from grpclib.protocol import H2Protocol
    from grpclib.server import Server, Stream

    from coredeno.gateway.session import Session
    from coredeno.gateway.unary import Unary

_BACKLOG = 128
_HEAD_BYTES = 5  # a flag for compression, and the length (gRPC over HTTP/2, "Length-Prefixed-Message")
_BATCH_HEADROOM_BYTES = 64 * 1024  # docs/wire.md: what a batch may have besides one message of the limit
# One window for a connection and each of its streams: enough to keep a local socket busy, and what a peer can
# make this host hold before anybody has read it.
_WINDOW_BYTES = 4 * 1024 * 1024
_PAUSE_ABOVE_BYTES = 8 * 1024 * 1024  # of answers that the peer has not taken
_CORE = "/coredeno.CoreService/"
_HEALTH = "/grpc.health.v1.Health/"


class GrpcListener:
    """Serves `CoreService`, and the standard health service, over a Unix socket. The default `Listener`."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._socket: sockets.socket | None = None
        self._asyncio_server: asyncio.AbstractServer | None = None
        self._server: Server | None = None
        self._protocols: weakref.WeakSet[H2Protocol] = weakref.WeakSet()

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
            raise UsageError(f"start: the socket {str(socket)!r} cannot be made: {error.strerror}") from error

    async def prepare(self) -> None:
        """Import grpclib and the generated messages, which take a tenth of a second."""
        await asyncio.to_thread(importlib.import_module, "coredeno.gateway.unary")
        await asyncio.to_thread(importlib.import_module, "grpclib.server")

    async def serve(self, gateway: Gateway) -> None:
        """Serve the clients."""
        from grpclib.config import Configuration  # noqa: PLC0415
        from grpclib.server import Server  # noqa: PLC0415

        assert self._socket is not None
        self._server = Server(
            [_Services(gateway)],
            config=Configuration(
                http2_connection_window_size=_WINDOW_BYTES, http2_stream_window_size=_WINDOW_BYTES
            ),
        )
        # In two steps: asyncio begins to serve and then waits for a loop turn. Cancelled there in the first call,
        # nobody would have the server, and the loop would go on watching a number that the next socket may get.
        self._asyncio_server = await asyncio.get_running_loop().create_unix_server(
            self._protocol, sock=self._socket, start_serving=False
        )
        await self._asyncio_server.start_serving()

    async def aclose(self) -> None:
        """Drop all connections, wait until nothing is under way, remove the socket. Harmless twice."""
        if self._asyncio_server is not None:
            self._asyncio_server.close()
        for protocol in list(self._protocols):
            if hasattr(protocol, "processor"):
                protocol.processor.close("the host stops")
                await protocol.handler.wait_closed()  # type: ignore[attr-defined]
        if self._socket is not None:
            self._socket.close()
        if self._path is not None:
            await asyncio.to_thread(self._path.unlink, missing_ok=True)

    def _protocol(self) -> H2Protocol:
        assert self._server is not None
        # grpclib offers no way to serve a socket that listens already, nor to drop connections.
        protocol = self._server._protocol_factory()  # noqa: SLF001
        self._protocols.add(protocol)
        return protocol


class _Services:
    """All gRPC methods, as grpclib wants them: a table of paths and handlers."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def __mapping__(self) -> dict[str, Any]:
        from grpclib.const import Cardinality, Handler  # noqa: PLC0415

        from coredeno.gateway._generated.grpc.health.v1 import HealthCheckRequest, HealthCheckResponse  # noqa: PLC0415
        from coredeno.gateway.unary import UNARY  # noqa: PLC0415

        table = {
            _CORE + name: Handler(self._unary(row), Cardinality.UNARY_UNARY, row.request, row.response)
            for name, row in UNARY.items()
        }
        table[_CORE + "Session"] = Handler(self._told(self._session), Cardinality.STREAM_STREAM, Batch, Batch)
        for name, cardinality in (("Check", Cardinality.UNARY_UNARY), ("Watch", Cardinality.UNARY_STREAM)):
            handle = self._told(self._check if name == "Check" else self._watch)
            table[_HEALTH + name] = Handler(handle, cardinality, HealthCheckRequest, HealthCheckResponse)
        return table

    # --- unary

    def _unary(self, row: Unary) -> Callable[[Stream[Any, Any]], Any]:
        async def handle(stream: Stream[Any, Any]) -> None:
            peer = self._peer(stream)
            request = await self._request(stream, row.request)
            try:
                caller = peer.caller(request.module_code or None)
            except ProtocolError as error:
                self._gateway.broken(peer, error)
                raise
            result = await self._gateway.gate.run(
                caller, row.method(request), lambda decoder: decoder.convert(row.params(request))
            )
            await stream.send_message(row.answer(result))

        return self._told(handle)

    async def _request(self, stream: Stream[Any, Any], kind: type[Any]) -> Any:
        body = await _receive(stream, self._gateway.message_bytes)
        if body is None:
            raise InvalidArgument("a unary call without a request")
        try:
            return kind.FromString(body)
        except Exception as error:  # noqa: BLE001 - the generated code raises whatever it meets
            raise InvalidArgument(f"{kind.__name__}: not a protobuf message of this kind: {error}") from None

    @staticmethod
    def _told(handle: Callable[[Stream[Any, Any]], Any]) -> Callable[[Stream[Any, Any]], Any]:
        """The same handler, with our errors told as gRPC statuses."""
        from grpclib.const import Status  # noqa: PLC0415
        from grpclib.exceptions import GRPCError  # noqa: PLC0415

        async def told(stream: Stream[Any, Any]) -> None:
            try:
                await handle(stream)
            except UnknownToken:
                raise GRPCError(
                    Status.UNAUTHENTICATED, "no token that this host gave to this process"
                ) from None
            except CoreDenoError as error:
                status = "PERMISSION_DENIED" if isinstance(error, ProtocolError) else status_of(error)
                raise GRPCError(Status[status], str(error)) from None

        return told

    # --- health

    async def _check(self, stream: Stream[Any, Any]) -> None:
        await stream.send_message(await self._health(stream))

    async def _watch(self, stream: Stream[Any, Any]) -> None:
        await stream.send_message(await self._health(stream))
        await asyncio.Event().wait()  # the status does not change until the host stops, which ends the stream

    async def _health(self, stream: Stream[Any, Any]) -> Any:
        from grpclib.const import Status  # noqa: PLC0415
        from grpclib.exceptions import GRPCError  # noqa: PLC0415

        from coredeno.gateway._generated.grpc.health import v1  # noqa: PLC0415

        self._peer(stream)
        request = await self._request(stream, v1.HealthCheckRequest)
        if request.service not in ("", "coredeno.CoreService"):
            raise GRPCError(Status.NOT_FOUND, "no such service")
        return v1.HealthCheckResponse(status=v1.HealthCheckResponseServingStatus.SERVING)

    # --- the Session

    async def _session(self, stream: Stream[Any, Any]) -> None:
        peer = self._peer(stream)
        outbox = _Outbox(stream)
        session = self._gateway.open_session(peer, outbox.put)
        sender = asyncio.create_task(outbox.send(session))
        try:
            await stream.send_initial_metadata()
            limit = self._gateway.message_bytes + _BATCH_HEADROOM_BYTES
            while (body := await _receive(stream, limit)) is not None:
                batch = Batch.FromString(body)
                session.receive(batch.messages, batch.attachments)
        except ProtocolError as error:
            self._gateway.broken(peer, error)
            raise
        finally:
            self._gateway.close_session(peer)
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)

    def _peer(self, stream: Stream[Any, Any]) -> Peer:
        header = "" if stream.metadata is None else str(stream.metadata.get("authorization", ""))
        scheme, _, token = header.partition(" ")
        process_id, user_id = _credentials(stream)
        return self._gateway.peer(token if scheme.lower() == "bearer" else None, process_id, user_id)


class _Outbox:
    """Batches on their way to one peer; asks the Session to pause while the peer does not take them."""

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

    async def send(self, session: Session) -> None:
        """Send what is queued, for ever."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                if self._waiting_bytes > _PAUSE_ABOVE_BYTES:
                    session.pause()
                batch = self._waiting.popleft()
                await self._stream.send_message(batch)
                self._waiting_bytes -= _size(batch)
            session.resume()


def _size(batch: Batch) -> int:
    return len(batch.messages) + sum(map(len, batch.attachments))


async def _receive(stream: Stream[Any, Any], limit_bytes: int) -> bytes | None:
    """One message, or None at the end of the stream. grpclib itself has no limit, so its length is read first."""
    raw = stream._stream  # noqa: SLF001 - grpclib shows the bytes of a stream nowhere else
    try:
        head = await raw.recv_data(_HEAD_BYTES)
        if not head:
            return None
        compressed, size = struct.unpack(">BI", head)
        if compressed:
            raise ProtocolError("receive: a compressed message, wanted a plain one")
        if size > limit_bytes:
            raise ProtocolError(f"receive: a message of {size} bytes, wanted at most {limit_bytes}")
        body = await raw.recv_data(size)
    except AssertionError:  # how grpclib says that a stream ended too early
        raise ProtocolError("receive: a message that is cut off") from None
    if len(body) != size:
        raise ProtocolError("receive: a message that is cut off")
    return bytes(body)


def _credentials(stream: Stream[Any, Any]) -> tuple[int | None, int | None]:
    """Process and user of the peer, where the platform tells (Linux: SO_PEERCRED, unix(7))."""
    if not hasattr(sockets, "SO_PEERCRED"):
        return None, None
    transport = stream.peer._transport  # noqa: SLF001 - grpclib shows the socket nowhere else
    peer = transport.get_extra_info("socket")
    data = peer.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, struct.calcsize("3i"))
    process_id, user_id, _group_id = struct.unpack("3i", data)
    return process_id, user_id
