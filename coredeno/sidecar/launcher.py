"""Starts real Deno processes: the default `Launcher`."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import sys
from collections import deque
from pathlib import Path
from typing import cast

import msgspec

from coredeno.errors import DenoNotFound, ProtocolError, SidecarExited
from coredeno.health import Layer
from coredeno.interfaces import HostDoor, LaunchOrder, SidecarExit, SidecarReady
from coredeno.line_rate import LineRate
from coredeno.sidecar.command import boot_line, command_line, deno_socket, environment
from coredeno.sidecar.confinement import confined, read_exec_failure, read_report, unconfined
from coredeno.sidecar.deno import find_deno
from coredeno.sidecar.lines import LineCutter
from coredeno.sidecar.programs import Program, read_program
from coredeno.wire.text import printable

_STDOUT, _STDERR = 1, 2
_SHORT_OF = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})
_FIRST_LINES_BYTES = 4096  # of our own lines, however short lines of logs are to be
_PIECE_BYTES = 2048  # of output that are looked at together
_TAIL_LINES = 8  # of stderr, for the error that says how a sidecar ended
_TAIL_LINE_CHARACTERS = 300
_SUMMARY_S = 1.0  # how often it is told that lines were dropped
_LAST_WORDS_S = (
    0.2  # what it wrote before its end is in the pipes; a child that holds them open must not keep us
)


class _ReadyLine(msgspec.Struct):
    protocol: int
    ready: bool
    deno: str = ""
    pid: int = 0
    error: str = ""


class DenoLauncher:
    """Launches `deno run` with the flags and the environment of `coredeno.sidecar.command`, and nothing else.

    `confine.py` runs in between, as its own process, and becomes Deno: it takes from it what the operating system lets
    it take. An app that is frozen into one program has no Python to run that with, and `host.health()` says so.
    """

    def __init__(self, deno: str | Path | None = None, *, landlock: bool = True) -> None:
        """Use this Deno.

        Args:
            deno: its path; None takes the one that came with coredeno.
            landlock: whether the kernel (Linux 5.13 or newer) allows it only the files, ports and processes that a
                Deno needs. A program in Deno's place that needs others must do without.
        """
        self._wanted = deno
        self._landlock = landlock
        self._found: Program | None = None

    async def launch(self, order: LaunchOrder, door: HostDoor) -> DenoProcess:
        """Start a sidecar in a process group of its own. If cancelled, nothing runs on.

        Raises:
            DenoNotFound: there is no Deno, or it cannot be run.
            SidecarExited: the machine has no process, memory or descriptor left for it.
            UsageError: a path cannot be put on the command line.
        """
        if self._found is None:
            self._found = await asyncio.to_thread(lambda: read_program(find_deno(self._wanted)))
        deno = self._found.path
        command = command_line(deno, order)
        # A frozen app's `sys.executable` is the app itself.
        python = "" if getattr(sys, "frozen", False) else sys.executable
        if python:
            command = confined(
                command,
                order,
                program=self._found,
                python=python,
                parent=os.getpid(),
                landlock=self._landlock,
            )
        try:
            # On the loop's own thread: PR_SET_PDEATHSIG is about the thread that starts a process.
            _transport, process = await asyncio.get_running_loop().subprocess_exec(
                lambda: DenoProcess(order, door, deno=deno, is_confined=bool(python)),
                *command,
                env=environment(order),
                cwd=order.stage,
                start_new_session=True,
            )
        except OSError as error:
            if error.errno in _SHORT_OF:
                reason = f"{order.name}: cannot be started: {error.strerror}"
                raise SidecarExited(reason=reason, exit_code=None) from error
            raise _cannot_run(python or deno, error.errno or 0) from error
        return process


class DenoProcess(asyncio.SubprocessProtocol):
    """One running Deno. Its output is drained for life; its stdin stays open, so that it notices our end."""

    def __init__(self, order: LaunchOrder, door: HostDoor, *, deno: Path, is_confined: bool) -> None:
        self.pid: int = 0
        self._deno = deno
        self._layers: tuple[Layer, ...] | None = None if is_confined else unconfined()
        self._order = order
        self._door = door
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.SubprocessTransport | None = None
        self._first_line: asyncio.Future[str] = self._loop.create_future()
        self._exit: asyncio.Future[SidecarExit] = self._loop.create_future()
        self._lines = {
            _STDOUT: LineCutter(max(order.log_line_bytes, _FIRST_LINES_BYTES)),
            _STDERR: LineCutter(order.log_line_bytes),
        }
        self._rate = LineRate(order.log_lines_per_s)
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._summary: asyncio.TimerHandle | None = None
        self._open_pipes = {_STDOUT, _STDERR}

    # --- SidecarProcess

    async def ready(self) -> SidecarReady:
        """Wait for its first line.

        Raises:
            ProtocolError: the line is not the one of the wire, or refuses our protocol.
            DenoNotFound: Deno cannot be run.
            SidecarExited: it ended before.
        """
        line = await asyncio.shield(self._first_line)
        number = read_exec_failure(line)
        if number is not None:
            raise _cannot_run(self._deno, number)
        try:
            said = msgspec.json.decode(line, type=_ReadyLine)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            shown = printable(line[:200], one_line=True)
            raise ProtocolError(
                f"{self._order.name}: its first line is {shown!r}, wanted the ready line"
            ) from None
        if not said.ready:
            problem = printable(said.error[:500], one_line=True)
            raise ProtocolError(
                f"{self._order.name}: refuses to start (it speaks protocol {said.protocol}): {problem}"
            )
        return SidecarReady(said.protocol, said.deno, said.pid, self._layers or ())

    async def connect(self, protocol: asyncio.Protocol) -> None:
        """Join `protocol` to its socket.

        Raises:
            SidecarExited: nobody listens there.
        """
        try:
            await self._loop.create_unix_connection(lambda: protocol, str(deno_socket(self._order)))
        except OSError as error:
            reason = f"{self._order.name}: its socket cannot be joined: {error.strerror}"
            raise SidecarExited(reason=reason, exit_code=None) from error

    async def wait(self) -> SidecarExit:
        """Wait until the process has ended and its last words are read."""
        return await asyncio.shield(self._exit)

    def kill(self) -> None:
        """SIGKILL its whole process group. Harmless if it has ended."""
        if self._transport is not None and self._transport.get_returncode() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    # --- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand over the boot line."""
        # By what they are for: the transports of other loops (uvloop's) are not subclasses of asyncio's.
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self.pid = self._transport.get_pid() or 0
        stdin = cast("asyncio.WriteTransport", self._transport.get_pipe_transport(0))
        stdin.write(boot_line(self._order))

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Take output: the first line of stdout is protocol, all else is log text."""
        cutter = self._lines[fd]
        for start in range(0, len(data), _PIECE_BYTES):
            piece = data[start : start + _PIECE_BYTES]
            # What is over the rate is not even cut: thousands of empty lines would hold up the loop. The last piece
            # always is, for the last words.
            is_last = start + _PIECE_BYTES >= len(data)
            if not is_last and self._first_line.done() and self._rate.is_spent(self._loop.time()):
                self._rate.drop(cutter.skip(piece))
                self._tell_dropped_soon()
                continue
            for line in cutter.feed(piece):
                self._line(fd, line)

    def pipe_connection_lost(self, fd: int, _exc: Exception | None) -> None:
        """The end of one stream; after the exit of the process the last of them settles `wait`."""
        if fd in self._open_pipes:
            self._open_pipes.discard(fd)
            for line in self._lines[fd].end():
                self._line(fd, line)
        if not self._open_pipes and self._returncode() is not None:
            self._settle()

    def process_exited(self) -> None:
        """The process has ended; wait for what is left in the pipes, but not for ever."""
        # It may not start others; if it did all the same they are in its group, and go with it. As long as any
        # is left the group's number stays taken, and so soon after its end the system does not reuse it.
        if self.pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        if self._open_pipes:
            self._loop.call_later(_LAST_WORDS_S, self._settle)
        else:
            self._settle()

    def _line(self, fd: int, line: str) -> None:
        if fd == _STDOUT and not self._first_line.done():
            self._take_first(line)
            return
        if fd == _STDERR:
            self._tail.append(line[:_TAIL_LINE_CHARACTERS])
        if not self._rate.passes(self._loop.time()):
            self._tell_dropped_soon()
            return
        self._door.output(printable(line[: self._order.log_line_bytes], one_line=True))

    def _tell_dropped_soon(self) -> None:
        if self._summary is None:
            self._summary = self._loop.call_later(_SUMMARY_S, self._say_dropped)

    def _say_dropped(self) -> None:
        if self._summary is not None:
            self._summary.cancel()
            self._summary = None
        dropped = self._rate.take_dropped()
        if dropped:
            self._door.output(dropped)

    def _take_first(self, line: str) -> None:
        if self._layers is not None:
            self._first_line.set_result(line)
            return
        try:
            self._layers = read_report(line)
        except ProtocolError as error:
            self._first_line.set_exception(error)
            self._first_line.exception()  # nobody may ever ask

    def _returncode(self) -> int | None:
        return None if self._transport is None else self._transport.get_returncode()

    def _settle(self) -> None:
        if self._exit.done():
            return
        code = self._returncode()
        tail = (printable(line, one_line=True)[:_TAIL_LINE_CHARACTERS] for line in self._tail)
        end = SidecarExit(-signal.SIGKILL if code is None else code, " | ".join(tail))
        if not self._first_line.done():
            reason = f"{self._order.name}: ended before it was ready"
            error = SidecarExited(reason=reason, exit_code=end.exit_code, stderr_tail=end.stderr_tail)
            self._first_line.set_exception(error)
            self._first_line.exception()  # nobody may ever ask
        self._exit.set_result(end)
        if self._transport is not None:
            self._transport.close()
        self._say_dropped()  # the last: a handler of the app's log may raise


def _cannot_run(program: str | Path, number: int) -> DenoNotFound:
    return DenoNotFound(f"launch: {program} cannot be run: {os.strerror(number)}")
