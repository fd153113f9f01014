"""Where modules live: a sidecar, its stage, the places in it, and how modules come to share one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from coredeno.sidecar.sidecar import Sidecar
from coredeno.sidecar.stage import Stage
from coredeno.sidecar.vitals import Vitals


class Need(msgspec.Struct, frozen=True):
    """What a module's sidecar must be like. Modules of one group and one need may share one, if sharing is on.

    Attributes:
        group: the trust group.
        net: the hosts that its Worker may reach.
        heap_mb: what the module may use of memory, in MiB; so much for the heap of its sidecar too.
        alone: code of a module that shares its sidecar with no other; empty for one that may.
    """

    group: str
    net: tuple[str, ...]
    heap_mb: int
    alone: str = ""


class Place:
    """Where one module lives: a sidecar, and the folder that its Worker may read.

    Attributes:
        home: the sidecar and all around it.
        root: the folder.
        code: the module's code, for messages; empty until whoever took the place says so.
        is_watched: whether the module is held to `Limits.hang_s`; while it loads or ends, it has other deadlines.
    """

    def __init__(self, home: Home, root: Path) -> None:
        self.home = home
        self.root = root
        self.code = ""
        self.is_watched = False

    @property
    def sidecar(self) -> Sidecar:
        """The sidecar."""
        return self.home.sidecar

    @property
    def token(self) -> str:
        """The token of the sidecar."""
        return self.home.sidecar.order.token


class Home:
    """One sidecar, its stage, and the places taken in it. `number` counts up over the life of the host."""

    def __init__(self, sidecar: Sidecar, stage: Stage, first: Path, vitals: Vitals, number: int) -> None:
        self.sidecar = sidecar
        self.stage = stage
        self.first: Path | None = first  # the place of the Worker made ahead, until it is taken
        self.places: set[Place] = set()
        self.need: Need | None = None
        self.left: set[str] = set()  # the codes of modules that were in it
        self.joining = 0
        self.vitals = vitals
        self.number = number

    @property
    def codes(self) -> set[str]:
        """The codes of all modules that are or were in it: what one of them left behind may run there yet."""
        return ({place.code for place in self.places} | self.left) - {""}

    @property
    def lone_code(self) -> str:
        """Code of the one module in it, or, when all have left, of the one that was; else empty."""
        codes = {place.code for place in self.places} or self.left
        return next(iter(codes)) if len(codes) == 1 else ""


class SharedHome:
    """A sidecar of a trust group, and how many wait for it to come up."""

    def __init__(self, task: asyncio.Task[Home]) -> None:
        self.task = task
        self.waiting = 0
        task.add_done_callback(look_at)

    @property
    def is_good(self) -> bool:
        """Whether it can be used, or may soon be."""
        home = home_of(self.task)
        return home.sidecar.alive if home is not None else not self.task.done()


def home_of(task: asyncio.Task[Home]) -> Home | None:
    """What a task has made, if it has."""
    return task.result() if task.done() and not task.cancelled() and task.exception() is None else None


def look_at(task: asyncio.Task[Home]) -> None:
    """Look at a task's error, so that asyncio does not complain that nobody did."""
    if not task.cancelled():
        task.exception()
