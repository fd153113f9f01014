"""Who is let in: takes clients out of the socket's queue, and bounds them. Imports grpclib, so it is imported late."""

from __future__ import annotations

import asyncio
import logging
import socket as sockets
import struct
from collections.abc import Callable

from grpclib.protocol import H2Protocol

from coredeno.errors import ProtocolError
from coredeno.gateway.connection import Client, Connection
from coredeno.gateway.gateway import Gateway
from coredeno.gateway.slice_queue import SliceQueue

_log = logging.getLogger("coredeno.gateway")
# One window for a connection and each of its streams: enough to keep a local socket busy, and what a peer can
# make this host hold before anybody has read it. All have one budget, of which each takes a part of what is left.
_WINDOW_BYTES = 4 * 1024 * 1024
_LEAST_WINDOW_BYTES = 64 * 1024
_WINDOW_BUDGET_BYTES = 256 * 1024 * 1024
_WINDOW_PART = 8
_MOST_CONNECTIONS = 512  # of all: each takes a descriptor, of which a process often has 1,024
_MOST_OF_A_SIDECAR = 4  # it needs one
_MOST_UNPROVEN = 128  # connections over which no token has been shown yet
_PROOF_TIMEOUT_S = 10.0
_ACCEPTS_A_TURN = 16
_ACCEPT_AGAIN_S = 0.5


class Admission:
    """The connections of a socket that listens, from `begin` to `aclose`.

    Attributes:
        slices: what all its connections share.
    """

    def __init__(self, socket: sockets.socket, gateway: Gateway, make: Callable[[], H2Protocol]) -> None:
        """Let nobody in yet.

        Args:
            socket: listens, and does not block. It stays its owner's, who closes it.
            gateway: knows the peers.
            make: makes grpclib's end of a new connection.
        """
        self.slices: SliceQueue = SliceQueue()
        self._socket = socket
        self._gateway = gateway
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._connections: set[Connection] = set()
        self._joining: set[asyncio.Task[None]] = set()
        self._accept_again: asyncio.TimerHandle | None = None
        self._unproven: dict[Connection, asyncio.TimerHandle] = {}
        self._windows_bytes = 0

    def begin(self) -> None:
        """Let clients in, those too that wait already."""
        self._loop.add_reader(self._socket, self._accept)

    async def aclose(self) -> None:
        """Let nobody in any more, drop all connections, and wait until nothing is under way. Harmless twice."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
        if self._accept_again is not None:
            self._accept_again.cancel()
        await asyncio.gather(*self._joining, return_exceptions=True)
        await asyncio.gather(*(connection.aclose() for connection in self._connections))

    # --- taking clients out of the queue

    def _accept(self) -> None:
        """Take clients out of the queue. Those that are refused cost little; of the others one a turn is let in.

        asyncio's own server takes the whole queue in one turn, and so one client that joins again and again would
        hold up the loop.
        """
        for _ in range(_ACCEPTS_A_TURN):
            try:
                accepted, _address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # such as no descriptor left
                _log.warning("no client can be accepted: %s", error.strerror)
                self._pause()
                return
            try:
                if self._lets_in(accepted):
                    return
            except Exception:  # noqa: BLE001 - a bug, or no memory left; the next client may fare better
                _log.exception("a client could not be let in")
            accepted.close()

    def _pause(self) -> None:
        self._loop.remove_reader(self._socket)
        self._accept_again = self._loop.call_later(_ACCEPT_AGAIN_S, self.begin)

    def _lets_in(self, accepted: sockets.socket) -> bool:
        """Whether this client is let in; if not, or if this raises, its socket is the caller's to close."""
        accepted.setblocking(False)  # noqa: FBT003
        client = _client(accepted)
        if not self._admits(client):
            return False
        connection = Connection(self._make(), self, client, window=self._window_bytes())
        self._connections.add(connection)
        self._windows_bytes += connection.window
        try:
            self._await_proof(connection)
            task = self._loop.create_task(self._join(connection, accepted))
        except BaseException:
            self.lost(connection)
            raise
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)
        return True

    def _admits(self, client: Client) -> bool:
        if len(self._connections) >= _MOST_CONNECTIONS:
            _log.warning("a client was refused: there are %d connections", _MOST_CONNECTIONS)
            return False
        sidecar = self._gateway.peer_of_process(client.process_id)
        if sidecar is None:
            return True
        now = self._gateway.clock.now()
        its = sum(other.client.process_id == client.process_id for other in self._connections)
        if its < _MOST_OF_A_SIDECAR and sidecar.connections.allows(now):
            return True
        if not sidecar.refusals.allows(now):
            problem = f"{sidecar.name}: it connects more often than it may"
            self._gateway.broken(sidecar, ProtocolError(problem))
        return False

    def _await_proof(self, connection: Connection) -> None:
        if len(self._unproven) >= _MOST_UNPROVEN:
            oldest = next(iter(self._unproven))
            self.proven(oldest)  # so that the next one drops another
            oldest.drop()
        self._unproven[connection] = self._loop.call_later(_PROOF_TIMEOUT_S, connection.drop)

    async def _join(self, connection: Connection, accepted: sockets.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: connection, accepted)
        except BaseException as error:
            accepted.close()
            self.lost(connection)
            if not isinstance(error, Exception):
                raise
            _log.info("a client was dropped: %s", type(error).__name__)

    def _window_bytes(self) -> int:
        """A part of what is left of the budget for windows."""
        left_bytes = _WINDOW_BUDGET_BYTES - self._windows_bytes
        return min(_WINDOW_BYTES, max(_LEAST_WINDOW_BYTES, left_bytes // _WINDOW_PART))

    # --- what each connection tells

    def proven(self, connection: Connection) -> None:
        """A token was shown over it: it may stay as long as it likes."""
        timer = self._unproven.pop(connection, None)
        if timer is not None:
            timer.cancel()

    def broken(self, connection: Connection, error: ProtocolError) -> None:
        """It was dropped for what it sent: tell whoever answers for it, if it is known."""
        peer = connection.peer or self._gateway.peer_of_process(connection.client.process_id)
        if peer is not None:
            self._gateway.broken(peer, error)

    def lost(self, connection: Connection) -> None:
        """It has ended, or has never begun. Harmless twice."""
        self.proven(connection)
        if connection in self._connections:
            self._connections.discard(connection)
            self._windows_bytes -= connection.window


def _client(accepted: sockets.socket) -> Client:
    """Process and user at the other end, where the platform tells (Linux: SO_PEERCRED, unix(7))."""
    if not hasattr(sockets, "SO_PEERCRED"):
        return Client(None, None)
    data = accepted.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, struct.calcsize("3i"))
    process_id, user_id, _group_id = struct.unpack("3i", data)
    return Client(process_id, user_id)
