"""Who may speak through the gateway: tokens, the peers behind them, and the modules that are theirs."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Protocol

from coredeno import events
from coredeno.errors import CoreDenoError, PermissionDenied, ProtocolError, UsageError
from coredeno.gateway.gate import Gate
from coredeno.gateway.held import HeldBytes
from coredeno.gateway.rate import Rate
from coredeno.gateway.session import BULK_AT_ONCE, SIZEABLE_AT_ONCE, Session
from coredeno.interfaces import Clock
from coredeno.services.method import Caller, Method

# A sidecar connects once. It may do so again if it has to, and one that goes on though it is refused is ended.
_CONNECTIONS_PER_S = 1
_CONNECTIONS_BURST = 8
_REFUSALS_BURST = 64
# What requests of one peer may take while they are served, in messages of the largest size; and what answers to its
# unary calls may take until they are sent. Those of its Session wait in the Session.
_MESSAGES_HELD = 4


class Listener(Protocol):
    """Lets gRPC clients in, over a Unix socket. A host calls its methods once each, in this order."""

    def bind(self, socket: Path) -> None:
        """Make the socket, with mode 0600, so that clients can join it; they wait until `serve`.

        Raises:
            UsageError: it cannot be made.
        """
        ...

    async def prepare(self) -> None:
        """Do what takes long and needs nothing of the host, such as imports."""
        ...

    async def serve(self, gateway: Gateway) -> None:
        """Serve the clients by this gateway."""
        ...

    async def aclose(self) -> None:
        """Drop all connections and remove the socket. Harmless twice, and after a step that failed."""
        ...


class UnknownToken(PermissionDenied):
    """No token, or none that this host has given out (gRPC: UNAUTHENTICATED)."""

    def __init__(self) -> None:
        super().__init__(
            module="", permission="gateway", resource="Session", remedy="send a token that the host gave"
        )


class CallUnderWay(Protocol):
    """A gRPC call that a peer has under way. `module` is whose it is, once that is known; a Session has none."""

    module: str | None

    def end(self, status: str, problem: str) -> None:
        """End it with this gRPC status. Called at most once."""
        ...


class Peer:
    """One holder of a token: a sidecar, or a gRPC client of the app's own."""

    def __init__(
        self, name: str, on_broken: Callable[[ProtocolError], None], *, now: float, held_bytes: int
    ) -> None:
        self.name = name
        self.calls: set[CallUnderWay] = set()
        self._on_broken = on_broken
        self.modules: dict[str, Caller] = {}
        self.former: set[str] = set()
        self.silenced: set[str] = set()  # of its modules
        self.process_id: int | None = None
        self.session: Session | None = None
        self.held: HeldBytes = HeldBytes(held_bytes)
        self.answers: HeldBytes = HeldBytes(held_bytes)  # of its unary calls alone, as the next two
        self._bulk = asyncio.Semaphore(BULK_AT_ONCE)
        self._sizeable = asyncio.Semaphore(SIZEABLE_AT_ONCE)
        self.connections: Rate = Rate(per_s=_CONNECTIONS_PER_S, burst=_CONNECTIONS_BURST, now=now)
        self.refusals: Rate = Rate(per_s=_CONNECTIONS_PER_S, burst=_REFUSALS_BURST, now=now)

    def turn(self, method: Method | None) -> AbstractAsyncContextManager[None]:
        """The turn of a unary call, until its answer is sent: of those with large answers few have theirs at once."""
        if method is None or not (method.is_bulk or method.is_sizeable):
            return nullcontext()
        return self._bulk if method.is_bulk else self._sizeable

    def on_broken(self, error: ProtocolError) -> None:
        """It broke the wire's rules: end its Session, and tell whoever answers for it."""
        if self.session is not None:
            self.session.close()
            self.end_calls(None, "PERMISSION_DENIED", str(error))
        self._on_broken(error)

    def end_calls(self, module: str | None, status: str, problem: str) -> None:
        """End the calls under way of one module, or those of none in particular."""
        for call in list(self.calls):
            if call.module == module:
                self.calls.discard(call)
                call.end(status, problem)

    def end_all_calls(self) -> None:
        """End all calls under way: the token is no longer good."""
        for call in list(self.calls):
            self.calls.discard(call)
            call.end("CANCELLED", "the token is no longer good")

    def caller(self, module: str | None, *, is_log: bool = False) -> Caller:
        """Who asks, or writes to the log, given the module that a frame names (or none: then the only one there is).

        Raises:
            PermissionDenied: the module was this peer's and is down or unloaded by now.
            ProtocolError: it never was: the frame is forged.
        """
        if module is None and len(self.modules) == 1:
            module = next(iter(self.modules))
        caller = self.modules.get(module or "")
        if caller is not None and (is_log or module not in self.silenced):
            return caller
        if module is None or module in self.former or module in self.silenced:
            raise PermissionDenied(
                module=module or "", permission="gateway", resource=self.name, remedy="it is not loaded"
            )
        raise ProtocolError(f"{self.name}: a frame names module {module[:80]!r}, which is not its own")


class Gateway:
    """The sidecars' and clients' way to the services of the host, through the one gate."""

    def __init__(
        self,
        gate: Gate,
        *,
        clock: Clock,
        message_bytes: int,
        requests_in_flight: int,
        emit: Callable[[events.Event], None],
    ) -> None:
        """Make it; nothing listens yet. The bounds are those of `Limits`."""
        self.gate = gate
        self.clock = clock
        self.message_bytes = message_bytes
        self.requests_in_flight = requests_in_flight
        self._emit = emit
        self._peers: dict[bytes, Peer] = {}  # by the token's digest, so that no comparison can be timed

    def admit_sidecar(self, name: str, on_broken: Callable[[ProtocolError], None]) -> str:
        """A new token for a sidecar; `on_broken` is called when what it sends breaks the wire's rules."""
        token = secrets.token_urlsafe(32)
        self._peers[_digest(token)] = Peer(
            name, on_broken, now=self.clock.now(), held_bytes=_MESSAGES_HELD * self.message_bytes
        )
        return token

    def bind_process(self, token: str, process_id: int) -> None:
        """Take this token from no other process than this (where the platform tells who a peer is)."""
        self._peers[_digest(token)].process_id = process_id

    def dismiss_sidecar(self, token: str) -> None:
        """Forget a token: its Session ends, and what was under way for it is cancelled. Harmless twice."""
        self._dismiss(_digest(token))

    def admit_module(self, token: str, caller: Caller) -> None:
        """Let a module be spoken for over the Session of this token."""
        peer = self._peers.get(_digest(token))
        if peer is None:
            return  # its sidecar has ended; whoever loads the module hears why by the next request
        peer.modules[caller.code] = caller
        peer.former.discard(caller.code)
        peer.silenced.discard(caller.code)

    def silence_module(self, token: str, code: str, only: Caller) -> None:
        """As `dismiss_module`, but what it still has to say to the log is heard until it is dismissed."""
        peer = self._peers.get(_digest(token))
        if peer is None or peer.modules.get(code) is not only:
            return
        peer.silenced.add(code)
        self._cancel(peer, code, f"module {code!r} is down")

    def dismiss_module(self, token: str, code: str, only: Caller | None = None) -> None:
        """Refuse whatever else comes for a module, and cancel what is under way for it. Harmless twice.

        With `only`, a module of the same code that was admitted since then stays.
        """
        peer = self._peers.get(_digest(token))
        if peer is None or code not in peer.modules or not (only is None or only is peer.modules[code]):
            return
        del peer.modules[code]
        peer.former.add(code)
        peer.silenced.discard(code)
        self._cancel(peer, code, f"module {code!r} was unloaded")

    def issue_token(self, code: str) -> str:
        """A token for a gRPC client of the app's own, which then speaks as that module, with its grants.

        It is good until the module is unloaded, or `revoke_token`.

        Raises:
            UsageError: no such module is loaded, or it is just coming back.
        """
        for peer in self._peers.values():
            caller = peer.modules.get(code)
            if caller is not None:
                token = self.admit_sidecar(f"client of {code}", self._report)
                self.admit_module(token, caller)
                return token
        raise UsageError(f"issue_token: no module {code!r} is loaded")

    def revoke_token(self, token: str) -> None:
        """Take a token back; what was under way with it is cancelled. Harmless for one that is not known."""
        self.dismiss_sidecar(token)

    def dismiss_clients_of(self, code: str, only: Caller | None = None) -> None:
        """Take back the tokens that `issue_token` gave for a module; `only` as for `dismiss_module`."""
        for digest, peer in list(self._peers.items()):
            if peer.name == f"client of {code}" and (only is None or only is peer.modules.get(code)):
                self._dismiss(digest)

    def peer(self, token: str | None, process_id: int | None = None, user_id: int | None = None) -> Peer:
        """Who holds a token.

        Raises:
            UnknownToken: nobody, or it came from another process or user than it was given to.
        """
        peer = self._peers.get(_digest(token)) if token else None
        if peer is None:
            raise UnknownToken
        if peer.process_id is not None and process_id is not None and peer.process_id != process_id:
            raise UnknownToken
        if user_id is not None and user_id not in (0, os.geteuid()):
            raise UnknownToken
        return peer

    def peer_of_process(self, process_id: int | None) -> Peer | None:
        """The sidecar that is this process, if one is."""
        if process_id is None:
            return None
        return next((peer for peer in self._peers.values() if peer.process_id == process_id), None)

    def open_session(self, holder: Peer | str, send: Callable[[bytes, Sequence[bytes]], None]) -> Session:
        """Open the Session of a peer, or of a token's holder; `send` is given the batches for it.

        Raises:
            UnknownToken: nobody holds this token.
            PermissionDenied: it has a Session already.
        """
        peer = self.peer(holder) if isinstance(holder, str) else holder
        if peer.session is not None:
            raise PermissionDenied(
                module="", permission="gateway", resource="Session", remedy=f"{peer.name} has one already"
            )
        peer.session = Session(
            gate=self.gate,
            peer=peer,
            send=send,
            clock=self.clock,
            message_bytes=self.message_bytes,
            requests_in_flight=self.requests_in_flight,
        )
        return peer.session

    def close_session(self, peer: Peer) -> None:
        """The stream of a peer's Session has ended. Harmless twice."""
        if peer.session is not None:
            peer.session.close()
            peer.session = None

    def broken(self, peer: Peer, error: ProtocolError) -> None:
        """A peer broke the wire's rules outside a Session: tell whoever answers for it."""
        peer.on_broken(error)

    async def aclose(self) -> None:
        """Forget all tokens and end all Sessions."""
        for digest in list(self._peers):
            self._dismiss(digest)

    @staticmethod
    def _cancel(peer: Peer, code: str, problem: str) -> None:
        peer.end_calls(code, "CANCELLED", problem)
        if peer.session is not None:
            peer.session.cancel_module(code)

    def _dismiss(self, digest: bytes) -> None:
        peer = self._peers.pop(digest, None)
        if peer is not None:
            self.close_session(peer)
            peer.end_all_calls()

    def _report(self, error: CoreDenoError) -> None:
        self._emit(events.ProtocolBroken(problem=str(error)))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
