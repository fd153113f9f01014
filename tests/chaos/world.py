"""A real host with many modules under constant calls: innocent ones, of which everything is noted, and guilty ones."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from coredeno import Context, HostConfig, Limits, Module, ModuleState, PluginHost, RestartPolicy, Service, rpc
from coredeno.errors import CoreDenoError, PluginCrashed, PluginRaised, UsageError
from tests.chaos.faulty_links import FaultyLauncher
from tests.chaos.invariants import QUARANTINE_S, Ledger, Word, text_of
from tests.chaos.plugins import GUILTY, HABITS, INNOCENT, INNOCENT_MANIFEST, Habit, write_plugin
from tests.chaos.strikes import Strikes

STABLE_S = 5.0
RESTART = RestartPolicy(
    first_delay_s=0.05, longest_delay_s=0.2, jitter=0.2, budget=4, window_s=120, stable_s=STABLE_S
)
LIMITS = Limits(
    memory_mb=64,
    hang_s=3,
    call_timeout_s=5,
    load_timeout_s=10,
    cancel_grace_s=0.4,
    unload_grace_s=0.5,
    log_lines_per_s=100,
)
LIMIT_S = 5.0
"""The deadline of an innocent module's call."""
_CALLS_PER_S = 300  # of all innocent modules
_KEYS = 8
_FULL = frozenset({"StoreFull", "LimitExceeded"})
_DEED_S = 0.4  # the deadline of a guilty module's call: too short for a loop
_REST_S = (3.0, 10.0)  # how long a module stays in quarantine, in a run that lets it out again


class Echo(Service, name="echo"):
    """A service of the app."""

    @rpc
    async def echo(self, ctx: Context, value: Any) -> Any:
        """Give back what came."""
        return value


class Cast(msgspec.Struct, frozen=True):
    """Who is in a world: by their codes, the trust group of each innocent module, and the habit of each guilty one.

    With worker isolation the guilty ones have a group of their own, and two innocent ones share it with them.
    """

    innocent: dict[str, str]
    guilty: dict[str, Habit]

    @classmethod
    def of(cls, many: int, isolation: str) -> Cast:
        """Three of five are innocent."""
        guilty = {f"guilty-{n}": HABITS[n % len(HABITS)] for n in range(many * 2 // 5)}
        names = [f"innocent-{n:02}" for n in range(many - len(guilty))]
        shared = names[:2] if isolation == "worker" and len(names) > 3 else []
        return cls({name: "guilty" if name in shared else "innocent" for name in names}, guilty)

    @property
    def sheltered(self) -> list[str]:
        """The innocent ones that no guilty one shares a process with."""
        return [code for code, group in self.innocent.items() if group != "guilty"]


class World:
    """One host, its modules, and their callers. `words` is what innocent modules have in the store.

    Args:
        folder: where the plugins are written.
        root: the app root; it may lie on a small disk.
        isolation: of the modules.
        many: how many modules.
        seed: of what is random in the calls.
        releases: whether guilty modules are let out of quarantine after a while.
    """

    def __init__(
        self, folder: Path, root: Path, *, isolation: Any, many: int, seed: int, releases: bool
    ) -> None:
        self.cast = Cast.of(many, isolation)
        self.strikes = Strikes(STABLE_S)
        self.ledger = Ledger(self.strikes, grace_s=LIMITS.cancel_grace_s)
        self.words: dict[str, dict[str, Word]] = defaultdict(lambda: defaultdict(Word))
        self.is_full = False
        self.full_until = 0.0
        self.quarantines: list[float] = []
        self.launcher = FaultyLauncher()
        self._folder = folder
        self._root = root
        self._isolation = isolation
        self._seed = seed
        self._releases = releases
        self._numbers: dict[tuple[str, str], itertools.count[int]] = defaultdict(lambda: itertools.count(1))
        self._callers: list[asyncio.Task[None]] = []
        self._evildoers: list[asyncio.Task[None]] = []
        self._spells: dict[str, float] = {}  # since when each guilty module has gone down again and again
        self.host = self.new_host()

    def new_host(self) -> PluginHost:
        """A host on this root that has not started."""
        return PluginHost(
            self._root,
            hooks=[self.strikes],
            services=[Echo()],
            config=HostConfig(
                isolation=self._isolation,
                allow_unsigned=True,
                limits=LIMITS,
                restart=RESTART,
                heartbeat_s=0.5,
            ),
            launcher=self.launcher,
        )

    # --- modules

    async def load_all(self) -> None:
        """Load every module."""
        todo = [*self.cast.innocent, *self.cast.guilty]
        await asyncio.gather(*(self.load(code) for code in todo))

    async def load(self, code: str) -> Module:
        """Load one module, from a folder that is written if it is not there."""
        group = self.cast.innocent.get(code)
        if group is None:
            plugin = write_plugin(self._folder, code, GUILTY)
        else:
            plugin = write_plugin(self._folder, code, INNOCENT, INNOCENT_MANIFEST)
        return await self.host.load_path(plugin, group=group or "guilty")

    async def unload_all(self) -> None:
        """Unload every module, and wait until the host has its spare again."""
        await asyncio.gather(*(module.unload() for module in list(self.host.modules.values())))

    async def rested(self) -> None:
        """Wait until the host has begun all that it begins by itself."""
        spare = self.host._parts.supervisor._spare
        if spare is not None:
            await asyncio.wait([spare])

    async def until_up(self, within_s: float) -> list[str]:
        """Wait until every innocent module runs; gives those that do not."""
        end = _now() + within_s
        while down := [code for code in self.cast.innocent if not self._runs(code)]:
            if _now() > end:
                return [f"{code} is {self._state_of(code)} {within_s:g} s after the chaos" for code in down]
            await asyncio.sleep(0.02)
        return []

    def _runs(self, code: str) -> bool:
        module = self.host.modules.get(code)
        return module is not None and module.state is ModuleState.RUNNING

    def _state_of(self, code: str) -> str:
        module = self.host.modules.get(code)
        return "not there" if module is None else f"{module.state.value} ({module.error})"

    # --- calls of innocent modules

    def call_innocents(self) -> None:
        """Call all innocent modules, in all ways, until `hush`."""
        ways = (self._echo, self._store, self._serve, self._keep)
        pause_s = len(ways) * len(self.cast.innocent) / _CALLS_PER_S
        for code in self.cast.innocent:
            for way in ways:
                dice = random.Random(f"{self._seed} {code} {way.__name__}")
                self._callers.append(asyncio.create_task(self._go_on(way, code, dice, pause_s)))

    async def hush(self) -> None:
        """Wait for the calls that are under way, and make no more."""
        callers, self._callers = self._callers, []
        for caller in callers:
            caller.cancel()
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                self.ledger.problem(f"a caller ended: {outcome!r}")

    async def _go_on(
        self, way: Callable[[str, int], Awaitable[None]], code: str, dice: random.Random, pause_s: float
    ) -> None:
        for number in self._numbers[code, way.__name__]:
            await asyncio.sleep(dice.uniform(0, 2 * pause_s))
            await way(code, number)

    async def _echo(self, code: str, number: int) -> None:
        await self._call(code, "echo", number, wanted=number)

    async def _serve(self, code: str, number: int) -> None:
        await self._call(code, "serve", number, wanted=number)

    async def _keep(self, code: str, number: int) -> None:
        text = f"{code} {number}" * (number % 50)
        await self._call(code, "keep", text, wanted=text, needs_room=True)

    async def _store(self, code: str, number: int) -> None:
        key = f"key-{number % _KEYS}"
        word = self.words[code][key]
        word.tried = number
        text = text_of(number)
        if await self._call(code, "set", key, text, wanted=text, needs_room=True):
            word.acknowledged = number
        found: list[Any] = []
        if await self._call(code, "get", key, into=found) and not word.fits(found[0]):
            self.ledger.problem(f"{code}/{key} is {found[0]!r:.60}, wanted {word}")

    async def _call(
        self,
        code: str,
        function: str,
        *args: Any,
        wanted: Any = None,
        into: list[Any] | None = None,
        needs_room: bool = False,
    ) -> bool:
        """Whether it succeeded; what it gave is `wanted`, or is put `into` this."""
        began = _now()
        try:
            gave = await self.host.modules[code].call(function, *args, timeout_s=LIMIT_S)
        except CoreDenoError as error:
            is_full = needs_room and self._was_full(error, began)
            self.ledger.did_not(code, function, error, began=began, is_excused=is_full)
            return False
        except Exception as error:  # noqa: BLE001 - anything else is a fault of the host
            self.ledger.problem(f"{code}.{function} raised {error!r}, wanted a CoreDenoError")
            return False
        finally:
            self.ledger.ended(code, function, began=began, limit_s=LIMIT_S)
        if into is not None:
            into.append(gave)
        elif gave != wanted:
            self.ledger.problem(f"{code}.{function} gave {gave!r:.60}, wanted {wanted!r:.60}")
        self.ledger.succeeded(code)
        return True

    def _was_full(self, error: CoreDenoError, began: float) -> bool:
        is_told = isinstance(error, PluginRaised) and error.name in _FULL
        return is_told and (self.is_full or self.full_until >= began)

    # --- what guilty modules do

    async def let_guilty_work(self, seconds: float) -> None:
        """Let all of them compute for so long, which is no sin; as many visitors come and go meanwhile."""
        modules = [self.host.modules[code] for code in self.cast.guilty]
        working = asyncio.gather(*(module.call("work", seconds * 1000) for module in modules))
        await asyncio.gather(working, *(self._visit(f"visitor-{n}", working) for n in range(len(modules))))

    async def _visit(self, code: str, meanwhile: asyncio.Future[Any]) -> None:
        """Each time in a new process: to start one is what a restart costs the machine."""
        plugin = write_plugin(self._folder, code, INNOCENT, INNOCENT_MANIFEST)
        while not meanwhile.done():
            await (await self.host.load_path(plugin, group=code)).unload()

    def tempt_guilty(self) -> None:
        """Let all guilty modules do their worst, again and again, until `bind`."""
        for code, habit in self.cast.guilty.items():
            dice = random.Random(f"{self._seed} {code}")
            self._evildoers.append(asyncio.create_task(self._misbehave(code, habit, dice)))

    async def until_bound(self) -> list[str]:
        """Wait until those that are to be given up are so; gives those that are not in time. Nothing is let out."""
        self._releases = False
        deadly = [code for code, habit in self.cast.guilty.items() if habit.is_deadly]
        end = _now() + QUARANTINE_S
        while free := [code for code in deadly if self._state_of_guilty(code) is not ModuleState.QUARANTINED]:
            if _now() > end:
                return [f"{code} is {self._state_of(code)}, wanted QUARANTINED" for code in free]
            await asyncio.sleep(0.05)
        return []

    async def bind(self) -> None:
        """Let nobody do anything more."""
        evildoers, self._evildoers = self._evildoers, []
        for each in evildoers:
            each.cancel()
        for outcome in await asyncio.gather(*evildoers, return_exceptions=True):
            if isinstance(outcome, Exception):
                self.ledger.problem(f"a guilty module's caller ended: {outcome!r}")

    def _state_of_guilty(self, code: str) -> ModuleState | None:
        module = self.host.modules.get(code)
        return None if module is None else module.state

    async def _misbehave(self, code: str, habit: Habit, dice: random.Random) -> None:
        while True:
            module = self.host.modules.get(code)
            if module is None or module.has_failed:
                await self._in_quarantine(code, module, dice)
                continue
            if habit.is_deadly:
                self._spells.setdefault(code, _now())
            began = _now()
            try:
                await module.call(habit.function, timeout_s=LIMIT_S if habit.function == "heap" else _DEED_S)
            except CoreDenoError as error:
                if isinstance(error, UsageError | PluginCrashed) and _now() - began < 0.01:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(dice.uniform(0, 0.1))

    async def _in_quarantine(self, code: str, module: Module | None, dice: random.Random) -> None:
        began = self._spells.pop(code, None)
        if began is not None and module is not None and module.state is ModuleState.QUARANTINED:
            took_s = _now() - began
            self.quarantines.append(took_s)
            if took_s > QUARANTINE_S:
                self.ledger.problem(f"{code} was given up after {took_s:.1f} s, wanted {QUARANTINE_S:g}")
        await asyncio.sleep(dice.uniform(*_REST_S) if self._releases else 0.1)
        if not self._releases and module is not None and module.state is ModuleState.QUARANTINED:
            return
        with contextlib.suppress(CoreDenoError):  # it is tried again, such as when there is room on the disk
            if module is not None and module.state is ModuleState.QUARANTINED:
                await self.host.release(code)
            else:
                await self.load(code)


def _now() -> float:
    return asyncio.get_running_loop().time()
