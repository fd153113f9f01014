"""Runs the process that fetches, and takes nothing that it says on trust: it has met what the source sent.

The process is in a session of its own. Its stdin stays open for as long as it is wanted: when the host dies, by
whatever, that pipe closes, and the process ends itself.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, cast

import msgspec

from coredeno.config import FetchLimits
from coredeno.errors import (
    FetchLimitExceeded,
    FetchTimeout,
    InstallError,
    SourceInvalid,
    SourceUnavailable,
    UnsafePath,
)
from coredeno.interfaces import Fetched, FetchProgress
from coredeno.wire.text import printable

LIMIT_LINE_BYTES = 16 * 1024
"""The longest line of an answer; ours are shorter."""

LIMIT_OUTPUT_BYTES = 4 * 1024 * 1024
"""What it may write in all, on stdout and on stderr: ten lines of progress a second are far from it."""

_TAIL_BYTES = 2000  # of stderr, for the error that says how it ended
_PIPES_S = (
    0.2  # what it wrote before its end is in the pipes; a child of its own must not hold them open longer
)
_STDOUT, _STDERR = 1, 2
_Text = Annotated[str, msgspec.Meta(max_length=LIMIT_LINE_BYTES)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Progress(msgspec.Struct, forbid_unknown_fields=True, tag="progress"):
    phase: Literal["connecting", "receiving", "checking", "writing"]
    done: _Count
    total: _Count | None


class _Fetched(msgspec.Struct, forbid_unknown_fields=True, tag="fetched"):
    revision: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{40}\\Z")]


class _Failed(msgspec.Struct, forbid_unknown_fields=True, tag="failed"):
    kind: Literal["SourceUnavailable", "SourceInvalid", "FetchLimitExceeded", "UnsafePath", "InstallError"]
    text: _Text
    path: _Text = ""
    limit: _Text = ""


_ANSWER = msgspec.json.Decoder(_Progress | _Fetched | _Failed)


async def run(
    command: Sequence[str],
    order: bytes,
    *,
    folder: Path,
    environment: Mapping[str, str],
    limits: FetchLimits,
    on_progress: Callable[[FetchProgress], None],
) -> Fetched:
    """Start the process, hand it the order, and wait for its result.

    However it ends, and if it is cancelled too, nothing of the process is left when this returns.

    Args:
        command: the program and its arguments.
        order: one line for its stdin.
        folder: where it runs; a path that exists.
        environment: all that it gets.
        limits: `timeout_s`, and the values for the message of a limit.
        on_progress: called with what it says of its progress. What it raises ends the fetch, and comes out.

    Raises:
        SourceUnavailable, SourceInvalid, FetchLimitExceeded, UnsafePath, InstallError: as the process says.
        SourceInvalid: it answered something else than it should, or died of what it met.
        FetchTimeout: it took longer than `limits.timeout_s`, or as much processor time.
        InstallError: it cannot be started.
    """
    process = _Process(order, limits, on_progress)
    spawning = asyncio.create_task(process.spawn(command, folder, environment))
    try:
        await asyncio.wait([spawning])
        if spawning.exception() is None:
            await asyncio.wait([process.ended], timeout=limits.timeout_s)
            if not process.ended.done():
                raise FetchTimeout("fetch", timeout_s=limits.timeout_s)
    finally:
        process.kill()
        cancelled: asyncio.CancelledError | None = None
        for step in (spawning, process.ended):
            while not step.done():
                try:
                    await asyncio.wait([step])
                except asyncio.CancelledError as error:
                    cancelled = error
        if not spawning.cancelled():
            spawning.exception()  # so that asyncio does not report it as never looked at
        if cancelled is not None:
            raise cancelled
    try:
        spawning.result()
    except OSError as error:
        raise InstallError(f"fetch: its process cannot be started: {error.strerror}") from error
    return process.result()


class _Process(asyncio.SubprocessProtocol):
    """One process, from before it is spawned until its pipes are closed: then `ended` is done."""

    def __init__(
        self, order: bytes, limits: FetchLimits, on_progress: Callable[[FetchProgress], None]
    ) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._order = order
        self._limits = limits
        self._on_progress = on_progress
        self._transport: asyncio.SubprocessTransport | None = None
        self._doomed = self._exited = False
        self._pending = b""
        self._tail = b""
        self._total_bytes = 0
        self._closer: asyncio.TimerHandle | None = None
        self._last: _Fetched | _Failed | None = None
        self._fault: BaseException | None = None

    async def spawn(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        """Start it. Never cancelled half way: asyncio would then kill the leader and not its group."""
        try:
            await asyncio.get_running_loop().subprocess_exec(
                lambda: self,
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd=os.fspath(folder),
                env=environment,
                start_new_session=True,
            )
        except BaseException:
            self.ended.cancel()
            raise

    def kill(self) -> None:
        """SIGKILL the whole group now, or as soon as it is there."""
        self._doomed = True
        if self._transport is not None and not self._exited:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._transport.get_pid(), signal.SIGKILL)

    def result(self) -> Fetched:
        """What it fetched.

        Raises:
            BaseException: what it said instead, or what was wrong with what it said.
        """
        if self._fault is not None:
            raise self._fault
        assert self._transport is not None
        code = self._transport.get_returncode()
        if code in (-signal.SIGXCPU, -signal.SIGALRM):
            raise FetchTimeout("fetch", timeout_s=self._limits.timeout_s)
        if isinstance(self._last, _Failed):
            raise self._error(self._last)
        if code or self._last is None:
            how = f"by {signal.Signals(-code).name}" if code and code < 0 else f"with exit code {code}"
            shown = printable(self._tail.decode(errors="replace").strip(), one_line=True)
            tail = f"; its last words: {shown}" if shown else ""
            raise SourceInvalid(f"fetch: its process ended {how} and gave no result{tail}")
        return Fetched(revision=self._last.revision)

    # --- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand over the order."""
        self._transport = cast("asyncio.SubprocessTransport", transport)
        if self._doomed:
            self.kill()
        cast("asyncio.WriteTransport", self._transport.get_pipe_transport(0)).write(self._order)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Take what it writes: answers on stdout, last words on stderr."""
        self._total_bytes += len(data)
        if self._fault is not None:
            return
        if self._total_bytes > LIMIT_OUTPUT_BYTES:
            self._broken(f"wrote more than {LIMIT_OUTPUT_BYTES:,} bytes")
        elif fd == _STDERR:
            self._tail = (self._tail + data)[-_TAIL_BYTES:]
        else:
            *lines, self._pending = (self._pending + data).split(b"\n")
            for line in lines:
                self._take(line)
            if len(self._pending) > LIMIT_LINE_BYTES:
                self._broken(f"answered with a line of more than {LIMIT_LINE_BYTES:,} bytes")

    def process_exited(self) -> None:
        """What is left of its group goes with it; what is left in the pipes is read, but not for ever."""
        # The group's number stays taken as long as any of it is left, and so soon after its end it is not reused.
        self.kill()
        self._exited = True
        self._closer = asyncio.get_running_loop().call_later(_PIPES_S, self._close)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the name is asyncio's
        """The process has ended, and its pipes are at their end."""
        if self._closer is not None:
            self._closer.cancel()
        if self._pending and self._fault is None:
            self._broken("ended within a line")
        self._close()
        if not self.ended.done():
            self.ended.set_result(None)

    def _take(self, line: bytes) -> None:
        if self._fault is not None:
            return
        try:
            answer = _ANSWER.decode(line)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            shown = printable(line[:200].decode(errors="replace"), one_line=True)
            self._broken(f"answered {shown!r}")
            return
        if self._last is not None:
            self._broken("went on after its result")
        elif isinstance(answer, _Progress):
            self._report(FetchProgress(answer.phase, answer.done, answer.total))
        elif (
            isinstance(answer, _Failed) and answer.limit and answer.limit not in FetchLimits.__struct_fields__
        ):
            self._broken("named a limit that there is not")
        else:
            self._last = answer

    def _report(self, progress: FetchProgress) -> None:
        try:
            self._on_progress(progress)
        except Exception as error:  # noqa: BLE001 - the app's; it comes out of `run`
            self._fault = error
            self.kill()

    def _broken(self, problem: str) -> None:
        self._fault = SourceInvalid(f"fetch: its process {problem}; wanted what coredeno's own says")
        self._pending = b""
        self.kill()

    def _close(self) -> None:
        assert self._transport is not None
        self._transport.close()

    def _error(self, failed: _Failed) -> InstallError:
        text = printable(failed.text, one_line=True)
        match failed.kind:
            case "UnsafePath":
                return UnsafePath(printable(failed.path, one_line=True), text, escaped=True)
            case "FetchLimitExceeded":
                limit = failed.limit or "transfer_bytes"
                return FetchLimitExceeded(text, limit=limit, allowed=getattr(self._limits, limit))
            case "SourceUnavailable":
                return SourceUnavailable(text)
            case "SourceInvalid":
                return SourceInvalid(text)
            case "InstallError":
                return InstallError(text)
