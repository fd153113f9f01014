"""One Session: batches of a sidecar's requests in, batches of answers out. Knows nothing of gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from coredeno.errors import (
    CoreDenoError,
    InternalError,
    LimitExceeded,
    PluginTimeout,
    ProtocolError,
    UsageError,
)
from coredeno.gateway.gate import Gate
from coredeno.gateway.held import HeldBytes, Share
from coredeno.gateway.log_queue import LogQueue
from coredeno.interfaces import Clock, Timer
from coredeno.services.method import SIDECAR, Caller
from coredeno.tally import Tally
from coredeno.wire import codec, codes
from coredeno.wire.codec import SessionMessage
from coredeno.wire.typed import TypedDecoder
from coredeno.wire.values import BytesEntry, Outgoing, encode

# main may have sent requests before it learnt that earlier ones were answered; it is never further ahead.
_SLACK = 64
# As many answers leave at once, without waiting for the end of the loop's turn.
_ENOUGH = 16
_CANCELLED = codes.ROWS["Cancelled"].code

# Requests whose answers may be as large as a message. More at once would make the host hold as many messages.
BULK_AT_ONCE = 4
# And those whose answers may be as large as a value of the store.
SIZEABLE_AT_ONCE = 64
# Answers of so many bytes leave at once: before there are more it is known whether the peer takes them.
_ENOUGH_BYTES = 256 * 1024


class _Result(msgspec.Struct, omit_defaults=True, tag_field="jsonrpc", tag="2.0"):
    id: int
    result: Any
    bytes: list[BytesEntry] | None = None


class _Failure(msgspec.Struct, tag_field="jsonrpc", tag="2.0"):
    id: int
    error: codes.WireError


class _CancelParams(msgspec.Struct, forbid_unknown_fields=True):
    id: int


class _UnderWay:
    """One request that is being served."""

    __slots__ = ("has_begun", "is_late", "module", "share", "tally", "task")

    def __init__(self, module: str, tally: Tally | None, share: Share) -> None:
        self.module = module
        self.tally = tally
        self.share = share  # of the batch in which it came: a small request keeps all of that in memory
        self.task: asyncio.Task[None] | None = None
        self.has_begun = False
        self.is_late = False


class SessionPeer(Protocol):
    """Whose Session it is: it knows its modules, and who must hear that it broke the rules."""

    name: str
    modules: dict[str, Caller]
    held: HeldBytes

    def on_broken(self, error: ProtocolError) -> None:
        """It broke the rules."""
        ...

    def caller(self, module: str | None, *, is_log: bool = False) -> Caller:
        """Who asks, or writes to the log, given the module that a frame names."""
        ...


class Session:
    """Serves one sidecar's requests: a task a request, and one batch for all answers of a loop turn."""

    def __init__(
        self,
        *,
        gate: Gate,
        peer: SessionPeer,
        send: Callable[[bytes, Sequence[bytes]], None],
        clock: Clock,
        message_bytes: int,
        requests_in_flight: int,
    ) -> None:
        self._gate = gate
        self._peer = peer
        self._send = send
        self._clock = clock
        self._message_bytes = message_bytes
        self._requests_in_flight = requests_in_flight
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[int, _UnderWay] = {}
        self._logs = LogQueue(self._log, clock=clock, incidents=gate.incidents)
        self._answers: list[tuple[bytes, Sequence[bytes]]] = []
        self._answers_bytes = 0
        self._writable = asyncio.Event()
        self._writable.set()
        self._sizeable = asyncio.Semaphore(SIZEABLE_AT_ONCE)
        self._bulk = asyncio.Semaphore(BULK_AT_ONCE)
        self._bulk_untaken = 0  # answers whose slots are given back when the peer takes its answers again
        self._closed = False

    def receive(self, messages: bytes, attachments: Sequence[bytes]) -> None:
        """Take one batch; each request becomes a task. One that breaks the rules ends the Session."""
        if self._closed:
            return
        share = Share(self._peer.held, len(messages) + sum(map(len, attachments)))
        try:
            self._take(codec.decode_batch(messages), attachments, share)
        except ProtocolError as error:
            self._break(error)
        finally:
            share.done()

    def pause(self) -> None:
        """The peer does not take its answers: begin no further requests."""
        self._writable.clear()

    def resume(self) -> None:
        """The peer takes its answers again."""
        self._writable.set()
        for _ in range(self._bulk_untaken):
            self._bulk.release()
        self._bulk_untaken = 0

    def cancel_module(self, code: str) -> None:
        """Cancel all that is under way for a module."""
        for request_id, request in list(self._tasks.items()):
            if request.module == code:
                self._cancel(request_id)

    def close(self) -> None:
        """End the Session: cancel all that is under way, send nothing more. Harmless twice."""
        self._closed = True
        self._answers.clear()
        for request_id in list(self._tasks):
            self._cancel(request_id)
        self._logs.close()

    def _break(self, error: ProtocolError) -> None:
        self.close()
        # Their frames hold the batch, as long as the error is kept.
        error.__traceback__ = error.__context__ = None
        self._peer.on_broken(error)

    def _take(self, messages: list[SessionMessage], attachments: Sequence[bytes], share: Share) -> None:
        taken = 0
        for message in messages:
            own: Sequence[bytes] = ()
            if message.bytes:
                own = attachments[taken : taken + len(message.bytes)]
                taken += len(message.bytes)
                if [len(data) for data in own] != [entry.len for entry in message.bytes]:
                    raise ProtocolError(
                        f"{self._peer.name}: a batch whose attachments are not those it names"
                    )
            self._dispatch(message, own, share)
        if taken != len(attachments):
            raise ProtocolError(f"{self._peer.name}: a batch with attachments that no message names")

    def _dispatch(self, message: SessionMessage, attachments: Sequence[bytes], share: Share) -> None:
        if message.id is None:
            self._notice(message, share)
            return
        if message.id in self._tasks or message.id < 0:
            raise ProtocolError(f"{self._peer.name}: a request with an id that is in use")
        if len(self._tasks) >= (self._requests_in_flight + _SLACK) * max(1, len(self._peer.modules)):
            raise ProtocolError(f"{self._peer.name}: more requests in flight than it may have")
        try:
            caller = self._caller(message)
        except ProtocolError:
            raise
        except CoreDenoError as error:
            self._fail(message.id, error)
            return
        under_way = self._tasks[message.id] = _UnderWay(caller.code, caller.tally, share)
        _count_in(caller.tally, message, attachments)
        share.use()
        under_way.task = self._loop.create_task(self._serve(under_way, caller, message, attachments))

    def _caller(self, message: SessionMessage, *, is_log: bool = False) -> Caller:
        method = self._gate.methods.get(message.method)
        if message.module is None and method is not None and method.for_sidecar:
            return SIDECAR
        caller = self._peer.caller(message.module, is_log=is_log)
        if message.deadline_ms is None and message.trace is None:
            return caller
        deadline_s = None if message.deadline_ms is None else message.deadline_ms / 1000
        return msgspec.structs.replace(caller, deadline_s=deadline_s, trace=message.trace)

    def _notice(self, message: SessionMessage, share: Share) -> None:
        if message.method == "cancel":
            try:
                wanted = msgspec.json.decode(message.params, type=_CancelParams).id
            except msgspec.MsgspecError as error:
                raise ProtocolError(f"{self._peer.name}: cancel: {error}") from None
            self._cancel(wanted)
            return
        if message.method != "log.write" or message.bytes:
            raise ProtocolError(f"{self._peer.name}: {message.method[:80]!r} as a notification")
        try:
            caller = self._caller(message, is_log=True)
        except ProtocolError:
            raise
        except CoreDenoError:
            return  # a last word of a module that has just been unloaded
        _count_in(caller.tally, message, ())
        self._logs.put(caller, message, share)

    async def _log(self, caller: Caller, message: SessionMessage) -> None:
        try:
            await self._gate.run(caller, message.method, _reader(message, ()), is_counted=False)
        except InternalError:
            pass  # logged under its number: a fault of the app's logging, and none of the module
        except CoreDenoError as error:
            self._break(ProtocolError(f"{self._peer.name}: {error}"))

    async def _serve(
        self, under_way: _UnderWay, caller: Caller, message: SessionMessage, attachments: Sequence[bytes]
    ) -> None:
        assert message.id is not None
        under_way.has_begun = True
        timer: Timer | None = None
        try:
            if not self._writable.is_set():
                await self._writable.wait()
            if caller.deadline_s is not None:
                # One timer is a third of what asyncio.timeout costs, on the hottest path of all.
                timer = self._clock.call_later(caller.deadline_s, lambda: self._expire(message.id))
            read = _reader(message, attachments)
            method = self._gate.methods.get(message.method)
            if method is not None and method.is_bulk:
                await self._serve_bulk(message.id, caller, method.name, read)
            elif method is not None and method.is_sizeable:
                async with self._sizeable:
                    await self._answer(message.id, caller, method.name, read)
            else:
                await self._answer(message.id, caller, message.method, read)
        except ProtocolError as error:
            self._break(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, whoever asked must not wait for ever
            self._fail(message.id, self._told(message.method, caller, error))
        except asyncio.CancelledError:
            # Nobody cancels this task but the Session: it is too late, the module no longer waits, or it is gone.
            if under_way.is_late:
                late_s = caller.deadline_s or 0
                self._fail(
                    message.id, PluginTimeout(module=caller.code, what=message.method, timeout_s=late_s)
                )
            else:
                self._tell_cancelled(message.id)
            raise
        finally:
            if timer is not None:
                timer.cancel()
            self._tasks.pop(message.id, None)
            under_way.share.done()

    def _told(self, method: str, caller: Caller, error: Exception) -> CoreDenoError:
        if isinstance(error, CoreDenoError):
            return error
        return self._gate.incidents.error(f"{method[:200]} of module {caller.code!r}", error)

    async def _answer(
        self, request_id: int, caller: Caller, name: str, read: Callable[[TypedDecoder], Any]
    ) -> None:
        result = await self._gate.run(caller, name, read)
        # Not encoded before it can leave: a service of the app may give one large object to a thousand requests.
        while not self._writable.is_set():  # and the answer of another may have filled it up again
            await self._writable.wait()
        self._succeed(request_id, name, result)

    async def _serve_bulk(
        self, request_id: int, caller: Caller, name: str, read: Callable[[TypedDecoder], Any]
    ) -> None:
        """Serve a request whose answer may be large: only so many at once, those included that nobody has taken yet."""
        await self._bulk.acquire()
        try:
            await self._writable.wait()
            self._succeed(request_id, name, await self._gate.run(caller, name, read))
            self._flush()  # so that it is known now whether the peer takes it
        finally:
            if self._writable.is_set():
                self._bulk.release()
            else:
                self._bulk_untaken += 1

    def _expire(self, request_id: int | None) -> None:
        under_way = self._tasks.get(request_id or 0)
        if under_way is not None and under_way.task is not None:
            under_way.is_late = True
            under_way.task.cancel()

    def _cancel(self, request_id: int) -> None:
        under_way = self._tasks.get(request_id)
        if under_way is None or under_way.task is None:
            return
        under_way.task.cancel()
        if not under_way.has_begun:  # then nothing of it will ever run, its answer included
            self._tell_cancelled(request_id)
            del self._tasks[request_id]
            under_way.share.done()

    def _tell_cancelled(self, request_id: int) -> None:
        failure = _Failure(request_id, codes.WireError(_CANCELLED, "cancelled"))
        self._put(request_id, encode(failure, what="answer"), ())

    def _succeed(self, request_id: int, method: str, result: Any) -> None:
        try:
            value = Outgoing(result, ("result",))
            answer = encode(_Result(request_id, value.plain, value.entries or None), what=method)
        except Exception as error:  # the service gave something that no plugin can take
            raise self._gate.incidents.error(f"the result of {method}", error) from error
        size = len(answer) + sum(map(len, value.attachments))
        if size > self._message_bytes:
            raise LimitExceeded(f"{method}: an answer of {size} bytes, wanted at most {self._message_bytes}")
        self._put(request_id, answer, value.attachments)

    def _fail(self, request_id: int, error: CoreDenoError) -> None:
        try:
            answer = encode(_Failure(request_id, codes.to_wire(error)), what="answer")
        except (UsageError, TypeError):  # a service of the app put something odd into its error
            answer = encode(
                _Failure(request_id, codes.WireError(codes.to_wire(error).code, "failed")), what="answer"
            )
        self._put(request_id, answer, ())

    def _put(self, request_id: int, answer: bytes, attachments: Sequence[bytes]) -> None:
        if self._closed:
            return
        size = len(answer) + sum(map(len, attachments)) if attachments else len(answer)
        under_way = self._tasks.get(request_id)
        if under_way is not None and under_way.tally is not None:
            under_way.tally.bytes_out += size
        if not self._answers:
            self._loop.call_soon(self._flush)
        self._answers.append((answer, attachments))
        self._answers_bytes += size
        if len(self._answers) >= _ENOUGH or self._answers_bytes >= _ENOUGH_BYTES:
            self._flush()

    def _flush(self) -> None:
        answers, self._answers, self._answers_bytes = self._answers, [], 0
        batch: list[bytes] = []
        beside: list[bytes] = []
        size = 0
        for answer, attachments in answers:
            more = len(answer) + sum(map(len, attachments)) if attachments else len(answer)
            if batch and size + more > self._message_bytes:
                self._send(codec.encode_batch(batch), beside)
                batch, beside, size = [], [], 0
            batch.append(answer)
            beside.extend(attachments)
            size += more
        if batch:
            self._send(codec.encode_batch(batch), beside)


def _count_in(tally: Tally | None, message: SessionMessage, attachments: Sequence[bytes]) -> None:
    if tally is not None:
        tally.bytes_in += len(memoryview(message.params))
        if attachments:
            tally.bytes_in += sum(map(len, attachments))


def _reader(message: SessionMessage, attachments: Sequence[bytes]) -> Callable[[TypedDecoder], Any]:
    return lambda decoder: decoder.decode(message.params, message.bytes, attachments, "params")
