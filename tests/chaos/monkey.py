"""The monkey: a program of faults that a seed decides, carried out on a running world."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

import msgspec

from coredeno import PluginHost
from coredeno.errors import UsageError
from coredeno.health import SidecarHealth
from tests.chaos.strikes import Strike
from tests.chaos.world import World
from tests.security.hostile_client import DATA, PREFACE, SETTINGS, frame, request

_EMPTY_MESSAGE = bytes(5)
_END_STREAM = 1
_SHORT_S = 1.0  # what a sidecar without a module is frozen at most: whoever comes to it waits so long

WEIGHTS = {
    "kill": 5,
    "freeze": 3,
    "cut": 2,
    "cut_in_a_frame": 2,
    "garble": 2,
    "hold": 3,
    "fill_disk": 1,
    "stranger": 3,
    "client": 3,
}


class Step(msgspec.Struct, frozen=True):
    """One step of the program: a pause, a fault, at whom (a part of all victims there are), and for how long."""

    pause_s: float
    fault: str
    at: float
    how_long_s: float


def program(seed: int) -> Iterator[Step]:
    """The steps of this seed, for ever. At whom they are in the end depends on the machine's own timing."""
    dice = random.Random(seed)
    names, weights = list(WEIGHTS), list(WEIGHTS.values())
    while True:
        yield Step(
            dice.uniform(0.02, 0.5),
            dice.choices(names, weights)[0],
            dice.random(),
            dice.choice((0.05, 0.3, 1.0, 4.0)) * dice.uniform(0.5, 1.5),
        )


class Disk(Protocol):
    """A disk that can be full."""

    async def fill(self, host: PluginHost) -> None:
        """Leave no room."""

    async def free(self, host: PluginHost) -> None:
        """Give it back."""


class Monkey:
    """Does to a world what a program says.

    Args:
        world: under load.
        disk: the one on which its root lies.
        seed: of the program.
    """

    def __init__(self, world: World, disk: Disk, seed: int) -> None:
        self.done: Counter[str] = Counter()
        self._world = world
        self._disk = disk
        self._seed = seed
        self._lasting: set[asyncio.Task[None]] = set()

    async def run(self, seconds: float) -> None:
        """Go on for so long; whatever lasts is over when this returns."""
        end = asyncio.get_running_loop().time() + seconds
        faults: dict[str, Callable[[Step], Awaitable[bool] | bool]] = {
            name: getattr(self, f"_{name}") for name in WEIGHTS
        }
        try:
            for step in program(self._seed):
                if asyncio.get_running_loop().time() > end:
                    return
                await asyncio.sleep(step.pause_s)
                done = faults[step.fault](step)
                if done if isinstance(done, bool) else await done:
                    self.done[step.fault] += 1
        finally:
            await asyncio.gather(*self._lasting)

    # --- processes

    def _kill(self, step: Step) -> bool:
        victim = self._victim(step)
        if victim is None:
            return False
        self._strike(victim)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGKILL)
        return True

    def _freeze(self, step: Step) -> bool:
        victim = self._victim(step)
        if victim is None:
            return False
        strikes = self._strike(victim)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGSTOP)

        def thaw() -> None:
            # Its number is still its own: the host reaps it only through its transport, and says so.
            if any(each.pid == victim.pid for each in self._sidecars()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim.pid, signal.SIGCONT)
            self._world.strikes.over(strikes)

        self._last(step.how_long_s if victim.modules else min(step.how_long_s, _SHORT_S), thaw)
        return True

    # --- what passes between a sidecar and the host

    def _cut(self, step: Step) -> bool:
        return self._at_link(step, "cut")

    def _cut_in_a_frame(self, step: Step) -> bool:
        return self._at_link(step, "cut_in_a_frame")

    def _garble(self, step: Step) -> bool:
        return self._at_link(step, "garble")

    def _hold(self, step: Step) -> bool:
        victim = self._victim(step, linked=True)
        if victim is None:
            return False
        strikes = self._strike(victim)
        link = self._world.launcher.links[victim.name]
        link.hold()

        def let_go() -> None:
            link.let_go()
            self._world.strikes.over(strikes)

        self._last(step.how_long_s, let_go)
        return True

    def _at_link(self, step: Step, fault: str) -> bool:
        victim = self._victim(step, linked=True)
        if victim is None:
            return False
        self._strike(victim)
        getattr(self._world.launcher.links[victim.name], fault)()
        return True

    # --- the disk

    async def _fill_disk(self, step: Step) -> bool:
        world = self._world
        if world.is_full:
            return False
        world.is_full = True
        await self._disk.fill(world.host)

        async def free() -> None:
            await asyncio.sleep(min(step.how_long_s, 2.0))
            await self._disk.free(world.host)
            world.full_until = asyncio.get_running_loop().time()
            world.is_full = False

        self._keep(free())
        return True

    # --- clients of the socket

    def _stranger(self, step: Step) -> bool:
        """Somebody without a token, who says a part of something."""
        self._keep(self._say(request(1, "/coredeno.CoreService/StoreCount", "none"), step))
        return True

    def _client(self, step: Step) -> bool:
        """A client of the app's, of which the connection is lost in the middle of many calls."""
        codes = list(self._world.cast.innocent)
        try:
            token = self._world.host.gateway.issue_token(codes[int(step.at * len(codes))])
        except UsageError:  # it is being restarted
            return False
        calls = b"".join(
            request(stream, "/coredeno.CoreService/StoreCount", token)
            + frame(DATA, _END_STREAM, stream, _EMPTY_MESSAGE)
            for stream in range(1, 41, 2)
        )
        self._keep(self._say(calls, step, token))
        return True

    async def _say(self, text: bytes, step: Step, token: str = "") -> None:
        said = PREFACE + frame(SETTINGS, 0, 0) + text
        with contextlib.suppress(ConnectionError):
            reader, writer = await asyncio.open_unix_connection(self._world.host.socket)
            try:
                writer.write(said[: int(step.at * len(said))])
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1), min(step.how_long_s, 2.0))
            finally:
                writer.transport.abort()
        self._world.host.gateway.revoke_token(token)

    # --- whom it strikes

    def _sidecars(self) -> tuple[SidecarHealth, ...]:
        parts = self._world.host._parts
        assert parts is not None
        return parts.supervisor.health()

    def _victim(self, step: Step, *, linked: bool = False) -> SidecarHealth | None:
        """A sidecar, or a spare; not one whose modules have had all that they can take for now."""
        world = self._world
        victims = [
            sidecar
            for sidecar in self._sidecars()
            if sidecar.pid
            # What is done to the link of a spare would take effect when a module has come to it, and count as its own.
            and (not linked or (sidecar.modules and sidecar.name in world.launcher.links))
            and all(world.strikes.may_strike(code) for code in sidecar.modules if code in world.cast.innocent)
        ]
        return victims[int(step.at * len(victims))] if victims else None

    def _strike(self, victim: SidecarHealth) -> list[Strike]:
        return self._world.strikes.strike(
            code for code in victim.modules if code in self._world.cast.innocent
        )

    # --- what lasts

    def _last(self, for_s: float, then: Callable[[], None]) -> None:
        async def wait() -> None:
            await asyncio.sleep(for_s)
            then()

        self._keep(wait())

    def _keep(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._lasting.add(task)
        task.add_done_callback(self._lasting.discard)
