"""Every `Processes` keeps the contract."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from coredeno.interfaces import Processes, ProcessResult
from coredeno.services.process_table import ProcessTable
from coredeno.testing.contracts.processes import ProcessesContract
from coredeno.testing.fake_processes import FakeProcesses, StartedProcess
from coredeno.testing.turned_clock import TurnedClock


class TestProcessTable(ProcessesContract):
    running_limit = 3

    async def make(self) -> Processes:
        return ProcessTable(running_limit=3)


class TestFakeProcesses(ProcessesContract):
    async def make(self) -> Processes:
        return FakeProcesses({self.echo: _echo, self.false: _false, self.sleep: _sleep})


def _echo(args: Sequence[str]) -> ProcessResult:
    return ProcessResult(exit_code=0, stdout=" ".join(args) + "\n", stderr="")


def _false(args: Sequence[str]) -> ProcessResult:
    return ProcessResult(exit_code=1, stdout="", stderr="")


async def _sleep(args: Sequence[str]) -> ProcessResult:
    await asyncio.sleep(float(args[0]))
    return ProcessResult(exit_code=0, stdout="", stderr="")


async def test_fake_processes_tell_what_was_started(tmp_path: Path):
    """A test can see each start, with its arguments, owner and folder."""
    processes = FakeProcesses({"/bin/x": _echo})
    await processes.wait(await processes.start(Path("/bin/x"), ["a"], owner="m", cwd=tmp_path))
    assert processes.started == [StartedProcess(program=Path("/bin/x"), args=("a",), owner="m", cwd=tmp_path)]


async def test_a_fake_program_may_handle_sigterm(tmp_path: Path):
    """A coroutine that catches its cancellation ends as it likes."""

    async def polite(args: Sequence[str]) -> ProcessResult:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            return ProcessResult(exit_code=7, stdout="bye", stderr="")
        return ProcessResult(exit_code=0, stdout="", stderr="")

    processes = FakeProcesses({"/bin/x": polite})
    process_id = await processes.start(Path("/bin/x"), [], owner="m", cwd=tmp_path)
    await asyncio.sleep(0)
    await processes.stop(process_id)
    assert await processes.wait(process_id) == ProcessResult(exit_code=7, stdout="bye", stderr="")


async def test_a_fake_program_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path):
    """After two seconds of the clock it counts as killed."""
    clock = TurnedClock()

    async def stubborn(args: Sequence[str]) -> ProcessResult:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            await asyncio.sleep(1000)
        return ProcessResult(exit_code=0, stdout="", stderr="")

    processes = FakeProcesses({"/bin/x": stubborn}, clock=clock)
    process_id = await processes.start(Path("/bin/x"), [], owner="m", cwd=tmp_path)
    stopping = asyncio.create_task(processes.stop(process_id))
    await clock.turn(1.9)
    assert not stopping.done()
    await clock.turn(0.1)
    await stopping
    assert (await processes.wait(process_id)).exit_code == -9
    assert clock.waiting == 0


async def test_a_fake_program_that_raises_has_failed(tmp_path: Path):
    """Its exception is its stderr."""

    def broken(args: Sequence[str]) -> ProcessResult:
        raise ValueError("no")

    processes = FakeProcesses({"/bin/x": broken})
    process_id = await processes.start(Path("/bin/x"), [], owner="m", cwd=tmp_path)
    assert await processes.wait(process_id) == ProcessResult(exit_code=1, stdout="", stderr="ValueError: no")
