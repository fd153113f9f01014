"""One run of the chaos, in a process of its own: `python -m tests.chaos.chaos …` (see `scripts/chaos`).

It is a process of its own so that the small disk, which the monkey fills, is there for it alone, and so that all that
the host may leave behind is its own.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from tests import leaks
from tests.chaos import invariants
from tests.chaos.invariants import Holding, Lateness, lost_words
from tests.chaos.monkey import Disk, Monkey
from tests.chaos.world import World
from tests.hosts import assert_unused
from tests.integration.small_disk import CountedPages, real_if_allowed

_CALM_S = 1.5  # of calls without chaos, beside plugins that are only busy: what the host is judged by
_UP_AGAIN_S = 20.0
_PROGRESS_S = 5.0
_SIDECAR_BYTES = 4 * 1024 * 1024  # of a stage and its caches, on the disk
_DISK_BYTES = 48 * 1024 * 1024


class Run(msgspec.Struct, frozen=True):
    """What is asked for."""

    seconds: float
    seed: int
    isolation: str
    modules: int
    releases: bool


class Chaos:
    """One host from its start to its end, and the next one on the same root."""

    def __init__(self, run: Run, folder: Path, root: Path, disk: Disk) -> None:
        self.problems: list[str] = []
        self.told: list[str] = []
        self._run = run
        self._root = root
        self._world = World(
            folder,
            root,
            isolation=run.isolation,
            many=run.modules,
            seed=run.seed,
            releases=run.releases,
        )
        self._monkey = Monkey(self._world, disk, run.seed)

    async def go(self) -> None:
        """Do it all; what must not be is in `problems` then."""
        before = leaks.belongings(asyncio.get_running_loop())
        world = self._world
        await world.host.start()
        try:
            await self._live()
        finally:
            await world.host.stop()
        await self._judge_leaks(before, "the host")
        world.host = world.new_host()
        async with world.host:
            self.problems += await lost_words(world.host, world.words, "after a restart")
        await self._judge_leaks(before, "the next host")
        self.problems += [*world.ledger.problems]
        try:
            assert_unused(self._root)
        except (AssertionError, OSError) as error:
            self.problems.append(f"the root: {error}")

    async def _live(self) -> None:
        world, run = self._world, self._run
        lateness = Lateness()
        try:
            before, base = await self._be_calm(lateness, None)
            world.call_innocents()
            world.tempt_guilty()
            lateness.take()
            telling = asyncio.create_task(self._tell_progress())
            try:
                await self._monkey.run(run.seconds)
                self.problems += await world.until_bound()
            finally:
                telling.cancel()
            wild = lateness.take()
            self.problems += await world.until_up(_UP_AGAIN_S)
            await world.hush()
            await world.bind()
            self.problems += await lost_words(world.host, world.words, "after the chaos")
            await self._judge_health()
            self._judge_calls()
            await world.unload_all()
            after, held = await self._be_calm(lateness, base)
        finally:
            await lateness.aclose()
        self._judge_lateness(max(before, after), wild)
        self._judge_holding(base, held)

    async def _be_calm(self, lateness: Lateness, base: Holding | None) -> tuple[tuple[float, float], Holding]:
        """Load all, and let them work: how late the loop is beside such, and what the host holds then, at rest."""
        world = self._world
        already = len(world.ledger.failures)
        await world.load_all()
        world.call_innocents()
        lateness.take()
        await world.let_guilty_work(_CALM_S)
        calm = lateness.take()
        await world.hush()
        if world.ledger.failures[already:]:
            self.problems.append(f"without any fault: {world.ledger.failures[already:]}")
        held = await self._at_rest(base)
        lateness.take()
        return calm, held

    async def _at_rest(self, base: Holding | None = None) -> Holding:
        await self._world.rested()
        return await invariants.settled(self._world.host, base)

    # --- judging

    async def _judge_health(self) -> None:
        health = await self._world.host.health()
        self.problems += [f"{part.why}" for part in (health.store, health.audit) if not part.ok]

    def _judge_calls(self) -> None:
        world, ledger = self._world, self._world.ledger
        sheltered = world.cast.sheltered
        rate = ledger.rate(sheltered)
        if rate < invariants.LEAST_SUCCESS:
            self.problems.append(f"of the calls of innocent modules {rate:.2%} succeeded: {ledger.failures}")
        for code in world.strikes.quarantined:
            if code in world.cast.innocent:
                self.problems.append(f"{code} was given up: {world.strikes.quarantined[code]}")
        good, failed, excused = (
            sum(counter.values()) for counter in (ledger.good, ledger.failed, ledger.excused)
        )
        self.told += [
            f"calls of innocent modules: {good:,} succeeded, {failed:,} failed, {excused:,} were struck",
            f"success of those that share no process with guilty ones: {rate:.3%}",
            f"success of all innocent ones: {ledger.rate(list(world.cast.innocent)):.3%}",
            f"faults: {dict(sorted(self._monkey.done.items()))}",
            f"innocent modules were struck {world.strikes.count} times",
            f"given up: {len(world.quarantines)} times, after at most {max(world.quarantines, default=0):.1f} s",
            *(f"failed: {failure}" for failure in ledger.failures),
        ]

    def _judge_lateness(self, calm: tuple[float, float], wild: tuple[float, float]) -> None:
        most_s = max(invariants.MOST_LAG_S, invariants.INNOCENT_FACTOR * calm[0])
        if wild[0] > most_s:
            self.problems.append(f"the loop was {_ms(wild[0])} late, wanted at most {_ms(most_s)}")
        if wild[1] > invariants.MOST_LAG_S:
            self.problems.append(f"the host kept its loop {_ms(wild[1])} busy")
        self.told += [
            f"lateness of the loop, 99th percentile: {_ms(wild[0])}, without chaos {_ms(calm[0])}",
            f"of that by the host itself: {_ms(wild[1])}, without chaos {_ms(calm[1])}",
        ]

    def _judge_holding(self, base: Holding, held: Holding) -> None:
        grown = held.resident_bytes - base.resident_bytes
        self.told.append(
            f"the host had {base.resident_bytes >> 20} MiB and {base.blocks:,} objects before, "
            f"{held.resident_bytes >> 20} MiB and {held.blocks:,} after; {held.counts}"
        )
        self.problems += held.over(base)
        if grown > invariants.MOST_GROWTH_BYTES:
            self.problems.append(f"the host has grown by {grown >> 20} MiB")
        if held.blocks - base.blocks > invariants.MOST_GROWTH_BLOCKS:
            self.problems.append(f"the host has {held.blocks - base.blocks:,} objects more")

    async def _judge_leaks(self, before: leaks.Belongings, whose: str) -> None:
        left = await leaks.settled_in_loop(before, frozenset())
        if left:
            self.problems.append(f"{whose}: {leaks.report(left)}")

    async def _tell_progress(self) -> None:
        began = time.monotonic()
        while True:
            await asyncio.sleep(_PROGRESS_S)
            ledger = self._world.ledger
            print(
                f"{self._run.isolation}: {time.monotonic() - began:.0f} s, {sum(self._monkey.done.values())} faults, "
                f"{sum(ledger.good.values()):,} calls, {sum(ledger.failed.values())} failed, "
                f"{len(self._world.quarantines)} given up, {invariants.resident_bytes() >> 20} MiB",
                flush=True,
            )


def main() -> int:
    """Run it; the exit code is 1 if something was that must not be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--isolation", choices=("process", "worker"), required=True)
    parser.add_argument("--modules", type=int, required=True)
    parser.add_argument("--releases", action="store_true", help="let guilty modules out of quarantine again")
    asked = parser.parse_args()
    run = Run(asked.seconds, asked.seed, asked.isolation, asked.modules, asked.releases)
    logging.getLogger("coredeno").addHandler(logging.NullHandler())
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        tempfile.tempdir = folder  # what a host leaves there is this one's
        small = Path(folder, "small")
        small.mkdir()
        # Before there is any thread: the disk is this process's alone.
        disk = real_if_allowed(small, _DISK_BYTES + 2 * run.modules * _SIDECAR_BYTES)
        chaos = Chaos(run, Path(folder, "plugins"), small / "app", disk)
        try:
            asyncio.run(chaos.go())
        finally:
            if not isinstance(disk, CountedPages):
                disk.unmount()
    print(*chaos.told, sep="\n", flush=True)
    for problem in chaos.problems:
        print(f"VIOLATED: {problem}", flush=True)
    return 1 if chaos.problems else 0


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


if __name__ == "__main__":
    sys.exit(main())
