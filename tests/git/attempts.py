"""Fetches that are watched: what they raise, what they leave, how much memory their process takes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from pathlib import Path
from typing import Self

import msgspec
import psutil

from coredeno.config import FetchLimits
from coredeno.errors import InstallError
from coredeno.install.git import GitFetcher
from coredeno.interfaces import Fetched, Fetcher, FetchOrder, FetchProgress

CHILD_LIMIT_BYTES = 200_000_000
"""What the fetching process may take, whatever it is sent."""

LAG_S = 0.5
"""The longest that the loop may stand still: the server of the test has its part in it, and so has the machine."""


class Outcome(msgspec.Struct):
    """How a fetch went.

    Attributes:
        fetched: its result, or None.
        error: what it raised, or None.
        files: what is in the folder, by path; folders end with a slash.
        beside: what it left beside the folder.
        seconds: how long it took.
        peak_bytes: the most memory of its process, shared libraries included; 0 if none was seen.
        lag_s: the longest that the loop stood still meanwhile.
        progress: what it said.
    """

    fetched: Fetched | None = None
    error: InstallError | None = None
    files: dict[str, bytes] = {}
    beside: list[str] = []
    seconds: float = 0
    peak_bytes: int = 0
    lag_s: float = 0
    progress: list[FetchProgress] = []


async def attempt(
    room: Path, source: str, ref: str | None = None, *, fetcher: Fetcher | None = None, **limits: float
) -> Outcome:
    """Fetch into a new folder of the room, and say how it went; what is left of memory, loop and disk is proven.

    Args:
        room: an empty folder, or None that exists yet.
        source: where from.
        ref: what.
        fetcher: None for the default.
        limits: what is not as usual in `FetchLimits`.
    """
    folder = room / "plugin"
    folder.mkdir(parents=True)
    outcome = Outcome()
    order = FetchOrder(source, ref, folder, FetchLimits(**limits))
    began = time.monotonic()
    with _Sampler() as sampler:
        watching = asyncio.create_task(_watch_loop(outcome))
        try:
            outcome.fetched = await (fetcher or GitFetcher()).fetch(order, outcome.progress.append)
        except InstallError as error:
            outcome.error = error
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
    outcome.seconds = time.monotonic() - began
    outcome.peak_bytes = sampler.peak_bytes
    outcome.files = read(folder)
    outcome.beside = [path.name for path in room.iterdir() if path != folder]
    assert outcome.beside == []
    assert outcome.peak_bytes < CHILD_LIMIT_BYTES
    assert outcome.lag_s < LAG_S
    return outcome


async def refusal(room: Path, source: str, ref: str | None = None, **limits: float) -> InstallError:
    """The error of a fetch that must fail, and leave nothing, with a message that can be shown."""
    outcome = await attempt(room, source, ref, **limits)
    assert outcome.error is not None, f"it was fetched: {outcome.files}"
    assert outcome.files == {}
    assert str(outcome.error).isprintable()
    return outcome.error


def read(folder: Path) -> dict[str, bytes]:
    """All that is in a folder."""
    return {
        path.relative_to(folder).as_posix() + ("/" if path.is_dir() else ""): b""
        if path.is_dir()
        else path.read_bytes()
        for path in folder.rglob("*")
    }


def fetching_processes() -> list[psutil.Process]:
    """The fetching processes that this one has, or its children have."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(each.endswith("git_child/entry.py") for each in process.cmdline()):
                found.append(process)
    return found


async def _watch_loop(outcome: Outcome) -> None:
    while True:
        before = time.monotonic()
        await asyncio.sleep(0.001)
        outcome.lag_s = max(outcome.lag_s, time.monotonic() - before)


class _Sampler:
    """A thread that looks for the fetching process, and reads how much memory it had at most."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="memory sampler")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        found: list[psutil.Process] = []
        while not self._ended.wait(0.005 if found else 0.02):
            found = found or fetching_processes()
            for process in found:
                self.peak_bytes = max(self.peak_bytes, _peak_bytes(process))


def _peak_bytes(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status")
    try:
        if status.exists():
            return next(
                (
                    int(line.split()[1]) * 1024
                    for line in status.read_text().splitlines()
                    if line[:6] == "VmHWM:"
                ),
                0,
            )
        return process.memory_info().rss  # no high-water mark elsewhere; often enough looked at, it will do
    except (OSError, psutil.Error):
        return 0
