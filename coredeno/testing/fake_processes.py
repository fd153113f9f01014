"""`FakeProcesses`: a `Processes` whose programs are Python functions."""

from __future__ import annotations

import asyncio
import inspect
import secrets
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from coredeno.clock import LoopClock
from coredeno.errors import LimitExceeded, NotFound
from coredeno.interfaces import Clock, ProcessResult, Timer
from coredeno.services.process_table import GRACE_S, KEPT_RESULTS, encoded_arguments

FakeProgram = Callable[[Sequence[str]], ProcessResult | Awaitable[ProcessResult]]
"""A program: given its arguments it returns how it ended; at once or, as a coroutine function, later."""


class StartedProcess(msgspec.Struct, frozen=True):
    """What one `start` asked for."""

    program: Path
    args: tuple[str, ...]
    owner: str
    cwd: Path


class FakeProcesses:
    """A `Processes` without processes, with the same bounds and errors as `ProcessTable`.

    SIGTERM and SIGKILL are both the cancellation of the program's coroutine. One that catches it and returns
    has handled SIGTERM; one that goes on is declared killed after the grace, and cancelled again. A program
    that raises has ended with exit code 1 and the exception as its stderr.

    Args:
        programs: the functions, by the paths under which they are started.
        clock: measures the grace between SIGTERM and SIGKILL.
        running_limit: the most processes of one owner that run at a time.

    Attributes:
        started: what was started, in order; refused starts are not in it.
    """

    def __init__(
        self,
        programs: Mapping[str | Path, FakeProgram],
        *,
        clock: Clock | None = None,
        running_limit: int = 16,
    ) -> None:
        self.started: list[StartedProcess] = []
        self._programs = {Path(path): program for path, program in programs.items()}
        self._clock: Clock = clock or LoopClock()
        self._running_limit = running_limit
        self._running: dict[str, _FakeProcess] = {}
        self._ended: dict[str, _FakeProcess] = {}

    async def start(self, program: Path, args: Sequence[str], *, owner: str, cwd: Path) -> str:
        """See `Processes.start`."""
        encoded_arguments(args)
        running = sum(
            process.owner == owner and not process.ended.done() for process in self._running.values()
        )
        if running >= self._running_limit:
            raise LimitExceeded(f"start {program.name!r}: {running} processes run already, the most that may")
        if program not in self._programs:
            raise NotFound(f"start {program.name!r}: there is no such program")
        process_id = secrets.token_urlsafe(16)
        self.started.append(StartedProcess(program=program, args=tuple(args), owner=owner, cwd=cwd))
        process = _FakeProcess(owner, self._programs[program], args)
        self._running[process_id] = process
        process.ended.add_done_callback(lambda _: self._retire(process_id, process))
        return process_id

    def owner_of(self, process_id: str) -> str | None:
        """See `Processes.owner_of`."""
        process = self._running.get(process_id) or self._ended.get(process_id)
        return None if process is None else process.owner

    async def wait(self, process_id: str) -> ProcessResult:
        """See `Processes.wait`."""
        return await asyncio.shield(self._find(process_id).ended)

    async def stop(self, process_id: str) -> None:
        """See `Processes.stop`."""
        process = self._find(process_id)
        process.stop(self._clock)
        await asyncio.wait([process.ended])

    async def stop_all(self, owner: str | None = None) -> None:
        """See `Processes.stop_all`; returns when the coroutines have ended too."""
        tasks = []
        for table in (self._ended, self._running):
            for process_id, process in list(table.items()):
                if owner is None or process.owner == owner:
                    del table[process_id]
                    process.kill()
                    tasks.append(process.task)
        if tasks:
            await asyncio.wait(tasks)

    def _find(self, process_id: str) -> _FakeProcess:
        process = self._running.get(process_id) or self._ended.get(process_id)
        if process is None:
            raise NotFound("process: there is none with this id")
        return process

    def _retire(self, process_id: str, process: _FakeProcess) -> None:
        if self._running.pop(process_id, None) is None:
            return
        self._ended[process_id] = process
        kept = [key for key, other in self._ended.items() if other.owner == process.owner]
        for oldest in kept[:-KEPT_RESULTS]:
            del self._ended[oldest]


class _FakeProcess:
    """One program at work, and how it ended."""

    def __init__(self, owner: str, program: FakeProgram, args: Sequence[str]) -> None:
        self.owner = owner
        self.ended: asyncio.Future[ProcessResult] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(_run(program, args))
        self.task.add_done_callback(self._done)
        self._signal = signal.SIGTERM
        self._killer: Timer | None = None

    def stop(self, clock: Clock) -> None:
        if self._killer is None and not self.ended.done():
            self._killer = clock.call_later(GRACE_S, self.kill)
            self.task.cancel()

    def kill(self) -> None:
        self._signal = signal.SIGKILL
        self.task.cancel()
        self._end(ProcessResult(exit_code=-signal.SIGKILL, stdout="", stderr=""))

    def _done(self, task: asyncio.Task[ProcessResult]) -> None:
        if task.cancelled():
            self._end(ProcessResult(exit_code=-self._signal, stdout="", stderr=""))
        elif error := task.exception():
            self._end(ProcessResult(exit_code=1, stdout="", stderr=f"{type(error).__name__}: {error}"))
        else:
            self._end(task.result())

    def _end(self, result: ProcessResult) -> None:
        if self._killer is not None:
            self._killer.cancel()
        if not self.ended.done():
            self.ended.set_result(result)


async def _run(program: FakeProgram, args: Sequence[str]) -> ProcessResult:
    outcome = program(args)
    return await outcome if inspect.isawaitable(outcome) else outcome
