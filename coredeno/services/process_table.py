"""`ProcessTable`: the programs that modules start, each in a session of its own, none outliving its owner.

What is signalled is always the whole group: a program that starts others takes them with it. A program that
makes a session of its own (as daemons do) leaves its group and is out of reach here.

Each program is started through `leash.py`, a process of Python that becomes it, since PR_SET_PDEATHSIG would need a
`preexec_fn` otherwise, which is not safe in a process with threads. So on Linux a host that is killed takes its
programs with it; what these have started themselves it does not.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import cast

from coredeno.clock import LoopClock
from coredeno.errors import (
    FailedPrecondition,
    InvalidArgument,
    LimitExceeded,
    NotFound,
    RequestError,
    UsageError,
)
from coredeno.interfaces import Clock, ProcessResult, Timer

ARGUMENTS = 1024
"""The most arguments of one program."""
ARGUMENT_BYTES = 128 * 1024 - 1
"""The longest argument, in bytes of UTF-8: MAX_ARG_STRLEN of Linux, less the NUL that ends it."""
TAIL_BYTES = 64 * 1024
"""How much of the end of each stream is kept."""
KEPT_RESULTS = 64
"""How many ended processes of one owner are remembered."""
GRACE_S = 2.0
"""The time between SIGTERM and SIGKILL."""

# What escaped the group may hold the pipes open after the program has ended; then they are closed from here.
_PIPES_S = 1.0
# A program that floods its output is read at about 20 MiB/s, or the reading would take the loop's whole time.
_WINDOW_S = 0.05
_WINDOW_BYTES = 1 << 20
# HOME is no folder on purpose: one that a plugin can write to would let it configure programs (~/.gitconfig).
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/nonexistent"}
_LEASH = Path(__file__).with_name("leash.py")
_REPORT_BYTES = 16  # an `errno`, in digits
_SHORT_OF = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.E2BIG})
_NO_PROGRAM = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.ELOOP})


class ProcessTable:
    """The default `Processes`: asyncio subprocesses, no shell, stdin empty, the output drained for life.

    On Linux each gets SIGKILL when the host ends, however that does, and never more rights than the host has: set-uid
    programs such as sudo run without theirs. An app that is frozen into one program has no Python for that.

    The environment is PATH=/usr/bin:/bin, LANG=C.UTF-8 and HOME=/nonexistent, and nothing else. Of stdout and
    stderr the last 64 KiB each are kept. When a program has ended, what is left of its group is killed.

    All methods belong to one event loop. There is nothing to close: after `stop_all()` nothing is left.

    Args:
        clock: measures the grace between SIGTERM and SIGKILL.
        running_limit: the most processes of one owner that run at a time.
    """

    def __init__(self, clock: Clock | None = None, *, running_limit: int = 16) -> None:
        self._clock: Clock = clock or LoopClock()
        self._running_limit = running_limit
        self._children: dict[str, _Child] = {}
        self._forgotten: set[_Child] = set()

    async def start(self, program: Path, args: Sequence[str], *, owner: str, cwd: Path) -> str:
        """See `Processes.start`. If cancelled, nothing of it runs on when `CancelledError` comes out.

        Args:
            program: an absolute path.
            args: what follows the program's name: at most 1,024, each at most 131,071 bytes of UTF-8, no NUL.
            owner: the code of the module.
            cwd: an absolute path of a folder.

        Raises:
            UsageError: `program` or `cwd` is not absolute.
            InvalidArgument: an argument has a NUL or is no valid Unicode.
            LimitExceeded: the owner's processes, the arguments, or the machine's processes or descriptors.
            NotFound: the program does not exist or cannot be run.
            FailedPrecondition: `cwd` is no folder that can be entered, or `stop_all` came in between.
        """
        if not (program.is_absolute() and cwd.is_absolute()):
            raise UsageError(f"start {str(program)!r} in {str(cwd)!r}: wanted absolute paths")
        command = [os.fsencode(program), *encoded_arguments(args)]
        running = sum(child.owner == owner and not child.ended.done() for child in self._children.values())
        if running >= self._running_limit:
            raise LimitExceeded(f"start {program.name!r}: {running} processes run already, the most that may")
        process_id = secrets.token_urlsafe(16)
        child = _Child(owner, self._clock)
        self._children[process_id] = child
        child.ended.add_done_callback(partial(self._retire, process_id, child))
        spawning = asyncio.create_task(child.spawn(command, cwd))
        try:
            await asyncio.wait([spawning])
        except asyncio.CancelledError:
            self._forget(process_id)
            for step in (spawning, child.ended):
                while not step.done():
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait([step])
            spawning.exception()  # so that asyncio does not report it as never looked at
            raise
        try:
            spawning.result()
        except OSError as error:
            self._children.pop(process_id, None)
            raise _start_error(error, program, cwd) from error
        if process_id not in self._children:
            raise FailedPrecondition(f"start {program.name!r}: everything of its owner was stopped meanwhile")
        return process_id

    def owner_of(self, process_id: str) -> str | None:
        """See `Processes.owner_of`; an ended process has an owner as long as its result is kept."""
        child = self._children.get(process_id)
        return None if child is None else child.owner

    async def wait(self, process_id: str) -> ProcessResult:
        """See `Processes.wait`. Many may wait; cancelling one of them changes nothing for the process.

        The result comes when the program itself has ended, and with it, or killed by us, its whole group.
        """
        return await asyncio.shield(self._find(process_id).ended)

    async def stop(self, process_id: str) -> None:
        """See `Processes.stop`; returns when it has ended. If cancelled, SIGKILL comes all the same."""
        child = self._find(process_id)
        child.stop()
        await asyncio.wait([child.ended])

    async def stop_all(self, owner: str | None = None) -> None:
        """See `Processes.stop_all`; SIGKILL at once, returns when all have ended and their pipes are closed.

        If cancelled, they are killed and forgotten all the same; a second call waits for them again.
        """
        for process_id, child in list(self._children.items()):
            if owner is None or child.owner == owner:
                self._forget(process_id)
        ending = [child.ended for child in self._forgotten if owner is None or child.owner == owner]
        if ending:
            await asyncio.wait(ending)

    def _find(self, process_id: str) -> _Child:
        child = self._children.get(process_id)
        if child is None:
            raise NotFound("process: there is none with this id")
        return child

    def _forget(self, process_id: str) -> None:
        child = self._children.pop(process_id, None)
        if child is not None and not child.ended.done():
            self._forgotten.add(child)
            child.kill()

    def _retire(self, process_id: str, child: _Child, ended: asyncio.Future[ProcessResult]) -> None:
        self._forgotten.discard(child)
        if self._children.pop(process_id, None) is None or ended.cancelled():
            return
        self._children[process_id] = child  # now behind those that ended before it
        kept = [
            key for key, other in self._children.items() if other.owner == child.owner and other.ended.done()
        ]
        for oldest in kept[:-KEPT_RESULTS]:
            del self._children[oldest]


class _Child(asyncio.SubprocessProtocol):
    """One process, from before it is spawned until its pipes are closed: then `ended` is done."""

    def __init__(self, owner: str, clock: Clock) -> None:
        self.owner = owner
        self.ended: asyncio.Future[ProcessResult] = asyncio.get_running_loop().create_future()
        self._clock = clock
        self._transport: asyncio.SubprocessTransport | None = None
        self._tails = {1: bytearray(), 2: bytearray()}
        self._doomed = False
        self._exec_error: OSError | None = None
        self._exited = False
        self._killer: Timer | None = None
        self._closer: Timer | None = None
        self._resumer: Timer | None = None
        self._window_began = 0.0
        self._window_bytes = 0

    async def spawn(self, command: list[bytes], cwd: Path) -> None:
        """Start it. Never cancelled half way: asyncio would then kill the leader and not its group.

        Raises:
            OSError: it could not be started; nothing of it is left.
        """
        # A frozen app's `sys.executable` is the app itself.
        python = "" if getattr(sys, "frozen", False) else sys.executable
        if not python:
            await self._exec(command, cwd, ())
            return
        try:
            report, theirs = os.pipe()
        except OSError:
            self.ended.cancel()
            raise
        try:
            try:
                leash = [python, "-I", "-S", "-B", os.fspath(_LEASH), str(os.getpid()), str(theirs)]
                await self._exec([*map(os.fsencode, leash), *command], cwd, (theirs,))
            finally:
                os.close(theirs)
            await self._read_report(report)
        finally:
            os.close(report)
        if self._exec_error is not None:
            await asyncio.wait([self.ended])
            raise self._exec_error

    async def _exec(self, command: list[bytes], cwd: Path, descriptors: tuple[int, ...]) -> None:
        try:
            # On the loop's own thread: PR_SET_PDEATHSIG is about the thread that starts a process.
            await asyncio.get_running_loop().subprocess_exec(
                lambda: self,
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd=os.fspath(cwd),
                env=_ENVIRONMENT,
                close_fds=True,
                pass_fds=descriptors,
                start_new_session=True,
            )
        except BaseException:
            self.ended.cancel()
            raise

    async def _read_report(self, report: int) -> None:
        """Wait until the program runs, is known not to be one that can, or is dead before."""
        os.set_blocking(report, False)
        loop = asyncio.get_running_loop()
        is_read: asyncio.Future[None] = loop.create_future()

        def read() -> None:
            # Here and not where it is waited for: it comes before the end of the process, which asks for it.
            loop.remove_reader(report)
            try:
                said = os.read(report, _REPORT_BYTES)
                if said:
                    self._exec_error = OSError(int(said), os.strerror(int(said)))
            finally:
                is_read.set_result(None)

        loop.add_reader(report, read)
        await is_read

    def stop(self) -> None:
        """SIGTERM to the group now, SIGKILL after the grace."""
        if self._killer is None and not self._exited:
            self._signal(signal.SIGTERM)
            self._killer = self._clock.call_later(GRACE_S, self.kill)

    def kill(self) -> None:
        """SIGKILL to the group now, or as soon as it is there."""
        self._doomed = True
        self._signal(signal.SIGKILL)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)
        if self._doomed:
            self._signal(signal.SIGKILL)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        tail = self._tails[fd]
        tail += data
        del tail[:-TAIL_BYTES]
        now = self._clock.now()
        if now - self._window_began >= _WINDOW_S:
            self._window_began, self._window_bytes = now, 0
        self._window_bytes += len(data)
        if self._window_bytes > _WINDOW_BYTES and self._resumer is None:
            self._resumer = self._clock.call_later(_WINDOW_S, self._resume)
            for pipe in self._pipes():
                pipe.pause_reading()

    def process_exited(self) -> None:
        # What is left of the group. The leader is reaped by now, but as long as anything is left its number
        # stays taken; and so soon after the reaping the system does not come round to the number again.
        self._signal(signal.SIGKILL)
        self._exited = True
        self._resume()
        self._closer = self._clock.call_later(_PIPES_S, self._close)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the name is asyncio's
        for timer in (self._killer, self._closer, self._resumer):
            if timer is not None:
                timer.cancel()
        self._close()
        out, err = (tail.decode(errors="replace") for tail in self._tails.values())
        if self._exec_error is not None:
            self.ended.cancel()
        if not self.ended.done():
            self.ended.set_result(ProcessResult(exit_code=self._exit_code(), stdout=out, stderr=err))

    def _pipes(self) -> list[asyncio.ReadTransport]:
        assert self._transport is not None
        found = [self._transport.get_pipe_transport(fd) for fd in self._tails]
        return [cast("asyncio.ReadTransport", pipe) for pipe in found if pipe and not pipe.is_closing()]

    def _exit_code(self) -> int:
        assert self._transport is not None
        return cast("int", self._transport.get_returncode())

    def _resume(self) -> None:
        if self._resumer is not None:
            self._resumer.cancel()
            self._resumer = None
            for pipe in self._pipes():
                pipe.resume_reading()

    def _close(self) -> None:
        assert self._transport is not None
        self._transport.close()

    def _signal(self, number: signal.Signals) -> None:
        if self._transport is not None and not self._exited:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._transport.get_pid(), number)


def encoded_arguments(args: Sequence[str]) -> list[bytes]:
    """The arguments as a program gets them, in UTF-8. Pure.

    Raises:
        InvalidArgument: one has a NUL, or is no valid Unicode.
        LimitExceeded: there are more than 1,024, or one is longer than 131,071 bytes.
    """
    if len(args) > ARGUMENTS:
        raise LimitExceeded(f"arguments: {len(args)}, wanted at most {ARGUMENTS}")
    encoded = []
    for index, text in enumerate(args):
        try:
            arg = text.encode()
        except UnicodeEncodeError:
            raise InvalidArgument(f"args[{index}]: is no valid Unicode") from None
        if b"\0" in arg:
            raise InvalidArgument(f"args[{index}]: has a NUL")
        if len(arg) > ARGUMENT_BYTES:
            raise LimitExceeded(f"args[{index}]: has {len(arg)} bytes, wanted at most {ARGUMENT_BYTES}")
        encoded.append(arg)
    return encoded


def _start_error(error: OSError, program: Path, cwd: Path) -> RequestError:
    # Names only: where the app keeps its files is nothing to tell a plugin.
    problem = os.strerror(error.errno) if error.errno else type(error).__name__
    if error.errno in _SHORT_OF:
        return LimitExceeded(f"start {program.name!r}: {problem}")
    if error.filename == os.fspath(cwd):
        return FailedPrecondition(f"start {program.name!r} in its working folder: {problem}")
    if error.errno in _NO_PROGRAM:
        return NotFound(f"start {program.name!r}: {problem}")
    return FailedPrecondition(f"start {program.name!r}: {problem}")
