"""The client of the JSON-RPC wire: many requests in flight, all that is ready in one write."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, cast

import msgspec

from coredeno.buffered_receiver import BufferedReceiver
from coredeno.clock import deadline
from coredeno.errors import CoreDenoError, MessageTooLarge, ProtocolError
from coredeno.interfaces import Clock, Timer
from coredeno.tally import Tally
from coredeno.wire.codec import Frame, FrameReader, Request
from coredeno.wire.typed import TypedDecoder
from coredeno.wire.values import BytesEntry, encode

# As many pieces leave at once, without waiting for the end of the loop's turn: the sidecar then works on the first
# while we still encode the others. Fewer would cost more system calls than the overlap saves.
_ENOUGH_PIECES = 32
# Messages of a sidecar that are taken in one turn of the loop. A read brings up to some 3,500, of 10 µs and more each.
_TAKEN_A_TURN = 256


class Reply:
    """What a sidecar answered to one request."""

    __slots__ = ("frame",)

    def __init__(self, frame: Frame) -> None:
        self.frame: Frame = frame

    @property
    def error(self) -> Any:
        """The error object, or None."""
        return self.frame.answer.error

    @property
    def result_bytes(self) -> int:
        """How many bytes of JSON the result has."""
        return len(bytes(self.frame.answer.result))

    def result(self, decoder: TypedDecoder) -> Any:
        """The result as the decoder's type.

        Raises:
            msgspec.ValidationError: it is of another type.
            ProtocolError: it is no JSON, or its binary values have no place.
        """
        answer = self.frame.answer
        return decoder.decode(answer.result, answer.bytes, self.frame.attachments, "result")


class RpcClient(BufferedReceiver, asyncio.Protocol):
    """One connection to a sidecar. Requests are never serialised: answers come in any order.

    A request whose caller gave up (`abandon`) still counts as under way until it is answered.
    """

    def __init__(
        self,
        *,
        limit_bytes: int,
        clock: Clock,
        on_notification: Callable[[str, msgspec.Raw], None],
        on_broken: Callable[[ProtocolError], None],
        on_lost: Callable[[], None],
    ) -> None:
        """Make it, not connected yet.

        Args:
            limit_bytes: the largest message, both ways.
            clock: measures the timeouts.
            on_notification: is given the method and params of each notification of the sidecar.
            on_broken: called once if the sidecar breaks the wire's rules; the connection is closed then.
            on_lost: called once if the connection ends by itself. Requests under way stay so until `fail` is
                called, so that they can be told why the sidecar ended.
        """
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._on_notification = on_notification
        self._on_broken = on_broken
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._reader = FrameReader(limit_bytes=limit_bytes)
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._pending: dict[int, asyncio.Future[Reply]] = {}
        self._abandoned: dict[int, Callable[[], None]] = {}
        self._next_id = 1
        self._out: list[bytes] = []
        self._ended: CoreDenoError | None = None
        self._is_broken = False
        self._is_paused = False
        self._received: deque[bytes] = deque()
        self._frames: Iterator[Frame] | None = None  # of what was received, those that wait for their turn

    # --- what callers use

    async def request(
        self,
        method: str,
        params: Any,
        *,
        entries: list[BytesEntry] | None = None,
        attachments: Sequence[bytes] = (),
        timeout_s: float | None = None,
        on_settled: Callable[[], None] | None = None,
        tally: Tally | None = None,
    ) -> Reply:
        """Send a request and wait for its answer.

        Args:
            method: the method.
            params: its params, checked already (`wire.values.Outgoing`).
            entries: where the binary values belong.
            attachments: the binary values.
            timeout_s: seconds to wait; None for ever.
            on_settled: called once the sidecar owes no answer any more: when this returns or raises, or, if the
                caller gave up before (cancelled, or too late), when the sidecar has answered all the same.
            tally: where the bytes of the request and of its answer are counted.

        Raises:
            UsageError: the params cannot be sent.
            MessageTooLarge: they are too large.
            TimeoutError: there was no answer in time; the sidecar was told to cancel.
            CoreDenoError: the connection has ended, or ends before the answer: the reason that `fail` gave.
        """
        settle = on_settled
        request_id = 0
        timer: Timer | None = None
        try:
            if not self._writable.is_set():
                started = self._clock.now()
                async with deadline(self._clock, timeout_s):
                    await self._writable.wait()
                timeout_s = None if timeout_s is None else timeout_s - (self._clock.now() - started)
            line = encode(Request(method, params, self._next_id, entries), what=method)
            size = len(line) + sum(map(len, attachments)) if attachments else len(line)
            if size > self._limit_bytes:
                raise MessageTooLarge(method, size_bytes=size, limit_bytes=self._limit_bytes)
            if self._ended is not None:
                raise self._ended
            request_id, self._next_id = self._next_id, self._next_id + 1
            future: asyncio.Future[Reply] = self._loop.create_future()
            self._pending[request_id] = future
            if timeout_s is not None:
                timer = self._clock.call_later(timeout_s, lambda: self._expire(future))
            self._put(line, attachments)
            if tally is not None:
                tally.bytes_out += size
            reply = await future
        except (asyncio.CancelledError, TimeoutError):
            if self._pending.pop(request_id, None) is not None and self._ended is None:
                self.notify("Cancel", {"id": request_id})
                self._abandoned[request_id] = settle or _nothing
                settle = None
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if settle is not None:
                settle()
        if tally is not None:
            frame = reply.frame
            tally.bytes_in += len(frame.text)
            if frame.attachments:
                tally.bytes_in += sum(map(len, frame.attachments))
        return reply

    def notify(self, method: str, params: Any) -> None:
        """Send a notification; nothing is sent once the connection has ended."""
        if self._ended is None:
            self._put(encode(Request(method, params), what=method), ())

    def fail(self, error: CoreDenoError) -> None:
        """End it: every request under way, and every later one, raises `error`. Harmless twice."""
        self._take_some(None)  # what was answered before is answered
        if self._ended is not None:
            return
        self._ended = error
        self._writable.set()
        for future in self._pending.values():
            if not future.done():
                future.set_exception(error)
                future.exception()  # a caller that was cancelled in this very turn will not look
        self._pending.clear()
        for settle in self._abandoned.values():
            settle()
        self._abandoned.clear()
        if self._transport is not None:
            self._transport.abort()

    # --- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to write."""
        # By what it is for: the transports of other loops (uvloop's) are not subclasses of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Settle the requests that are answered in what came; if that is much, over some turns of the loop."""
        if self._ended is not None or self._is_broken:
            return
        self._received.append(data)
        if self._frames is None:
            self._frames = self._cut()
            self._take_some()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Tell the owner, who knows (or will know at once) why the sidecar ended."""
        self._take_some(None)
        if self._ended is None and not self._is_broken:
            self._on_lost()

    def pause_writing(self) -> None:
        """Let further requests wait."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let them go on."""
        self._writable.set()

    # --- inner

    def _cut(self) -> Iterator[Frame]:
        while self._received:
            yield from self._reader.feed(self._received.popleft())

    def _take_some(self, most: int | None = _TAKEN_A_TURN) -> None:
        """Take so many of the messages that wait, or all; the others have their turn next."""
        frames, taken = self._frames, 0
        if frames is None:
            return
        try:
            for frame in islice(frames, most):
                self._take(frame)
                if self._frames is not frames:  # it was ended by what this one said
                    return
                taken += 1
        except ProtocolError as error:
            self._frames = None
            self._break(error)
            return
        if taken == most:
            self._pause_reading()
            self._loop.call_soon(self._take_some)
        else:
            self._frames = None
            self._resume_reading()

    def _pause_reading(self) -> None:
        if self._transport is not None and not self._is_paused and not self._transport.is_closing():
            self._is_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._transport is not None and self._is_paused and not self._transport.is_closing():
            self._is_paused = False
            self._transport.resume_reading()

    def _take(self, frame: Frame) -> None:
        answer = frame.answer
        if answer.method is not None:
            self._on_notification(answer.method, answer.params)
            return
        if answer.id is None:
            raise ProtocolError("receive: an answer without an id")
        future = self._pending.pop(answer.id, None)
        if future is None:
            settle = self._abandoned.pop(answer.id, None)
            if settle is None:
                raise ProtocolError(f"receive: an answer to a request that is not under way ({answer.id})")
            settle()
            return
        if answer.error is None and not bytes(answer.result):
            self._pending[answer.id] = future
            raise ProtocolError("receive: an answer with neither result nor error")
        if not future.done():
            future.set_result(Reply(frame))

    def _break(self, error: ProtocolError) -> None:
        if self._ended is None and not self._is_broken:
            self._is_broken = True
            # Their frames hold the message, which may be large, as long as the error is kept.
            error.__traceback__ = error.__context__ = None
            self._on_broken(
                error
            )  # first: who is under way shall find that the owner has drawn its conclusions
            self.fail(error)

    @staticmethod
    def _expire(future: asyncio.Future[Reply]) -> None:
        if not future.done():
            future.set_exception(TimeoutError())

    def _put(self, line: bytes, attachments: Sequence[bytes]) -> None:
        out = self._out
        if not out:
            self._loop.call_soon(self._flush)
        out.append(line)
        out.append(b"\n")
        if attachments:
            out.extend(attachments)
        if len(out) >= _ENOUGH_PIECES:
            self._flush()

    def _flush(self) -> None:
        out, self._out = self._out, []
        # Between the end of the connection and `fail` there may be half a second, in which others go on to ask.
        if out and self._transport is not None and self._ended is None and not self._transport.is_closing():
            self._transport.write(b"".join(out))


def _nothing() -> None:
    pass
