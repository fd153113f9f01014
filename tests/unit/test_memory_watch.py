"""What memory sidecars use, in a `/proc` that the test makes: who is asked, and what follows if it cannot be read."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from coredeno.errors import SidecarExited
from coredeno.sidecar.process_memory import ProcessMemory
from coredeno.sidecar.process_time import ProcessTime
from tests.unit.test_supervisor import PLAIN, World

PID = 1 << 30  # above the highest number that Linux gives to one
MIB = 1024 * 1024


class Proc(ProcessMemory):
    """A `/proc` in which the test says what memory a process uses, and whether that can be read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder
        self.reads = 0
        self.uses("self", 1)

    def read(self, pids: Any) -> Any:
        try:
            return super().read(pids)
        finally:
            self.reads += 1

    def says(self, name: object, status: str) -> None:
        self.is_gone(name)
        (self.folder / str(name)).mkdir(parents=True)
        (self.folder / str(name) / "status.new").write_text(status)
        (self.folder / str(name) / "status.new").rename(self.folder / str(name) / "status")

    def uses(self, name: object, mib: int) -> None:
        self.says(name, f"Name:\tdeno\nRssAnon:\t{mib * 1024} kB\n")

    def cannot_be_read(self, name: object) -> None:
        """As where no descriptor is left: an error that does not say that it is not there."""
        self.is_gone(name)
        (self.folder / str(name) / "status").mkdir(parents=True)

    def is_gone(self, name: object) -> None:
        shutil.rmtree(self.folder / str(name), ignore_errors=True)


class Watched(World):
    """Sidecars with a process id, whose heartbeat says what the test wants."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.proc = Proc(folder / "proc")
        self.proc.uses(PID, 50)
        self.rss_bytes = 0
        self.supervisor._watch._memory = self.proc
        self.launcher.adapt = self.adapt

    def adapt(self, sidecar: Any) -> None:
        sidecar.pid = PID
        ping = sidecar._METHODS["Ping"]

        async def answer(itself: Any, params: Any) -> Any:
            return {**await ping(itself, params), "rss_bytes": self.rss_bytes}

        sidecar._METHODS = {**sidecar._METHODS, "Ping": answer}

    async def until(self, condition: Callable[[], object]) -> None:
        """Let time pass, and the threads work that read."""
        async with asyncio.timeout(10):
            while not condition():
                await self.clock.turn(0.5)
                await asyncio.sleep(0.001)

    async def readings(self, count: int) -> None:
        """So many more are taken and judged."""
        wanted = self.proc.reads + count + 1  # the next one begins when the one before is judged
        await self.until(lambda: self.proc.reads >= wanted)

    @property
    def causes(self) -> list[str]:
        return [event.cause for event in self.events]


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    world = Watched(tmp_path)
    yield world
    await world.supervisor.aclose()
    assert world.clock.waiting == 0


async def test_what_the_system_tells_counts_and_not_what_the_sidecar_says(watched: Watched):
    """From the first reading on, before a plugin runs, it may grow by so much; its own word is not heard."""
    await watched.start()
    await watched.supervisor.take_place(PLAIN)
    watched.rss_bytes = 1 << 40
    watched.proc.uses(PID, 50 + 64)
    await watched.readings(20)
    assert watched.alive
    watched.proc.uses(PID, 50 + 65)
    await watched.until(lambda: not watched.alive)
    assert watched.causes == ["memory"]


@pytest.mark.parametrize("has_old_status", [False, True])
async def test_where_the_system_does_not_tell_the_sidecar_is_asked(watched: Watched, has_old_status: bool):  # noqa: FBT001
    """Without `/proc`, or with one that does not tell: what main reports counts, from before a plugin runs."""
    if has_old_status:
        watched.proc.says("self", "Name:\tpython\nVmRSS:\t5 kB\n")
    else:
        watched.proc.is_gone("self")
    await watched.start()
    await watched.supervisor.take_place(PLAIN)
    watched.rss_bytes = 64 * MIB
    await watched.clock.turn(20)
    assert watched.alive
    watched.rss_bytes = 65 * MIB
    await watched.clock.turn(10)
    assert not watched.alive
    assert watched.causes == ["memory"]
    assert watched.proc.reads == 0


@pytest.mark.parametrize("name", ["self", PID])
async def test_a_first_reading_that_fails_is_taken_again(
    watched: Watched, name: object, caplog: pytest.LogCaptureFixture
):
    """No plugin runs before it succeeded; that it failed does not mean that the system does not tell."""
    watched.proc.cannot_be_read(name)
    starting = asyncio.create_task(watched.start())
    await watched.until(lambda: caplog.text.count("the memory of sidecar-1 could not be read") >= 3)
    assert not starting.done()
    watched.proc.uses(name, 50)
    await watched.until(starting.done)
    await starting
    await watched.supervisor.take_place(PLAIN)
    watched.rss_bytes = 1 << 40
    await watched.readings(20)
    assert watched.alive
    watched.proc.uses(PID, 115)
    await watched.until(lambda: not watched.alive)
    assert watched.causes == ["memory"]


@pytest.mark.parametrize("name", ["self", PID])
async def test_a_sidecar_whose_memory_cannot_be_read_is_not_used(
    watched: Watched, name: object, caplog: pytest.LogCaptureFixture
):
    """After some seconds it is an error of ours, and nothing of it is left."""
    watched.proc.cannot_be_read(name)
    starting = asyncio.create_task(watched.start())
    await watched.until(starting.done)
    with pytest.raises(SidecarExited, match=r"sidecar-1: its memory cannot be read .*Is a directory"):
        await starting
    assert watched.clock.now() >= 4
    assert caplog.text.count("could not be read, and is tried again") == 9
    assert not watched.alive
    await watched.clean()
    assert list(watched.run.iterdir()) == []


async def test_one_that_dies_before_its_memory_could_be_read(watched: Watched):
    """It is tried no longer; why it died is told."""
    await watched.start()
    await watched.supervisor.take_place(PLAIN)
    watched.proc.cannot_be_read(PID)
    watched.supervisor.replenish()
    await watched.until(lambda: len(watched.launched) == 2)
    watched.launcher.sidecars[1].kill(-5)
    watched.proc.uses(PID, 50)
    place = asyncio.create_task(watched.supervisor.take_place(PLAIN))
    await watched.until(place.done)
    assert (await place).sidecar.order.name == "sidecar-3"


async def test_a_thread_that_cannot_be_had_is_no_answer_either(watched: Watched):
    """Of which asyncio says RuntimeError."""
    answer, asked = watched.proc.is_told, 0

    def is_told() -> bool:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise RuntimeError("can't start new thread")
        return answer()

    watched.proc.is_told = is_told  # type: ignore[method-assign]
    starting = asyncio.create_task(watched.start())
    await watched.until(starting.done)
    await starting
    assert asked == 2


async def test_a_process_that_is_gone_is_left_to_who_waits_for_it(
    watched: Watched, caplog: pytest.LogCaptureFixture
):
    """It ended between two looks, and says nothing more of the others: no error, and nothing to judge."""
    await watched.start()
    await watched.supervisor.take_place(PLAIN)
    watched.proc.is_gone(PID)
    await watched.readings(3)
    watched.proc.says(PID, "Name:\tdeno\nState:\tZ (zombie)\n")
    await watched.readings(3)
    assert watched.alive
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_memory_that_cannot_be_read_for_a_while_is_watched_on(
    watched: Watched, caplog: pytest.LogCaptureFixture
):
    """It is logged once each time; what it used meanwhile counts as soon as it can be read."""
    await watched.start()
    await watched.supervisor.take_place(PLAIN)
    for _ in range(2):
        watched.proc.cannot_be_read(PID)
        await watched.readings(5)
        watched.proc.uses(PID, 60)
        await watched.readings(2)
    assert watched.alive
    assert caplog.text.count("the memory of sidecars cannot be read, and is tried again") == 2
    watched.proc.cannot_be_read(PID)
    await watched.readings(2)
    watched.proc.uses(PID, 1000)
    await watched.until(lambda: not watched.alive)
    assert watched.causes == ["memory"]


async def test_a_reading_that_fails_by_a_bug_ends_no_watch(
    watched: Watched, caplog: pytest.LogCaptureFixture
):
    """The next ones are taken."""
    await watched.start()
    await watched.supervisor.take_place(PLAIN)
    read = watched.proc.read

    def fail(_pids: Any) -> Any:
        watched.proc.read = read  # type: ignore[method-assign]
        raise ZeroDivisionError

    watched.proc.read = fail  # type: ignore[method-assign]
    await watched.until(lambda: "cannot be read" in caplog.text)
    watched.proc.uses(PID, 1000)
    await watched.until(lambda: not watched.alive)


# --- processor time


def test_processor_time_is_read_of_those_that_can_be_read(tmp_path: Path):
    """One that is gone, one that ends just then and one that tells nothing are left out; the others have seconds."""
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    fields = f"S {' 0' * 10} {3 * ticks_per_s} {ticks_per_s // 2} 0 0"
    for name, stat in {"1": f"1 (deno) {fields}", "2": "2 (deno"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "stat").write_text(stat)
    (tmp_path / "3" / "stat").mkdir(parents=True)  # opens, and fails to be read
    times_s = ProcessTime(str(tmp_path)).read({"runs": 1, "odd": 2, "ends": 3, "gone": 4})
    assert times_s == {"runs": 3.5}


async def test_processor_time_is_read_with_the_memory(watched: Watched):
    """From the first reading on; where it cannot be read, what was read last stays, and nobody is judged by it."""
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    watched.supervisor._watch._time = ProcessTime(str(watched.proc.folder))

    def has_taken(seconds: int) -> None:
        stat = watched.proc.folder / str(PID) / "stat"
        stat.with_suffix(".new").write_text(f"1 (deno) S {' 0' * 10} {seconds * ticks_per_s} 0 0")
        stat.with_suffix(".new").rename(stat)

    has_taken(1)
    await watched.start()
    vitals = (await watched.supervisor.take_place(PLAIN)).home.vitals
    assert vitals.cpu_s == 1
    has_taken(5)
    await watched.until(lambda: vitals.cpu_s == 5)
    watched.proc.uses(PID, 51)  # and no processor time is told any more
    await watched.until(lambda: vitals.used_bytes == 51 * MIB)
    await watched.readings(5)
    assert vitals.cpu_s == 5
    assert watched.alive
