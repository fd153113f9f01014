"""The leak guard: a test leaves nothing behind. tests/conftest.py puts it round every test.

Compared are the process's belongings before and after: after all fixtures of the test itself are gone, while
fixtures of a wider scope (which may own processes and sockets) still stand. What has just been told to end
gets a short grace.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import psutil

KINDS = ("processes", "threads", "tasks", "descriptors", "files")

GRACE_S = 2.0
"""For what is on its way out when the test ends, such as the thread in which asyncio waits for a child."""

LOOP_TURNS = 5
"""Closed transports say so to their protocols in the next turns of the loop: no garbage to look for yet."""

Belongings = dict[str, dict[Any, str]]
"""By kind: each thing that the process holds, and how to name it to a human."""


def belongings(loop: asyncio.AbstractEventLoop | None = None) -> Belongings:
    """What this process holds now; its tasks are those of `loop`, the one that asks left out."""
    return {
        "processes": dict(_children()),
        "threads": dict(_threads()),
        "tasks": dict(_tasks(loop)) if loop else {},
        "descriptors": dict(_descriptors()),
        "files": dict(_files()),
    }


def newer(before: Belongings, now: Belongings, allowed: frozenset[str]) -> Belongings:
    """What `now` has and `before` had not, without the kinds that may be left."""
    return {
        kind: new
        for kind in KINDS
        if kind not in allowed and (new := {k: v for k, v in now[kind].items() if k not in before[kind]})
    }


def settled(before: Belongings, allowed: frozenset[str]) -> Belongings:
    """What is still left after the grace; returns at once if nothing is."""
    steps = _settling(lambda: newer(before, belongings(), allowed))
    while True:
        try:
            time.sleep(next(steps))
        except StopIteration as end:
            left: Belongings = end.value
            return left


async def settled_in_loop(before: Belongings, allowed: frozenset[str]) -> Belongings:
    """As `settled`, for the running loop's tasks too; the loop turns meanwhile."""
    loop = asyncio.get_running_loop()
    steps = _settling(lambda: newer(before, belongings(loop), allowed))
    while True:
        try:
            pause_s = next(steps)
        except StopIteration as end:
            left: Belongings = end.value
            return left
        await asyncio.sleep(pause_s)


def report(left: Belongings) -> str:
    """Name what was left, a line each."""
    lines = [f"  {kind}: {name}" for kind, things in left.items() for name in things.values()]
    return "\n".join(["the test left behind:", *lines])


def _settling(look: Callable[[], Belongings]) -> Generator[float, None, Belongings]:
    """Yield pauses, in seconds, until nothing is left or the grace is over; the value is what is left."""
    # `left` holds the tasks, so that the garbage collector cannot hide one that nobody waits for.
    left = look()
    for _ in range(LOOP_TURNS):
        if not left:
            return left
        yield 0
        left = look()
    end = time.monotonic() + GRACE_S
    while left and time.monotonic() < end:
        gc.collect()
        yield 0.01
        left = look()
    return left


def _children() -> Iterator[tuple[int, str]]:
    if hasattr(os, "waitid"):  # psutil looks at every process of the machine: first ask if there is any child
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            command = " ".join(child.cmdline()) if child.status() != psutil.STATUS_ZOMBIE else child.name()
            yield child.pid, f"{child.pid} ({child.status()}): {command}"


def _threads() -> Iterator[tuple[threading.Thread, str]]:
    for thread in threading.enumerate():
        # Threads of a loop's default executor: they wait for work, and end with their loop.
        if not re.fullmatch(r"asyncio_\d+", thread.name):
            yield thread, f"{thread.name}{' (daemon)' if thread.daemon else ''}"


def _tasks(loop: asyncio.AbstractEventLoop) -> Iterator[tuple[asyncio.Task[Any], str]]:
    current = asyncio.current_task(loop)
    for task in asyncio.all_tasks(loop):
        if task is not current:
            yield task, repr(task)


def _descriptors() -> Iterator[tuple[tuple[str, str], str]]:
    for entry in list(Path("/dev/fd").iterdir()):  # on Linux a link to /proc/self/fd, in which all are links
        if entry.is_symlink():
            target = str(entry.readlink())
            yield (entry.name, target), f"{entry.name} -> {target}"
        elif entry.exists():  # else it is the one by which the folder was read
            yield (entry.name, ""), entry.name


def _files() -> Iterator[tuple[str, str]]:
    for entry in Path(tempfile.gettempdir()).iterdir():
        if entry.name.startswith("coredeno-") or entry.is_socket():
            yield entry.name, str(entry)
