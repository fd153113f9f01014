"""Where attacks happen: a real host, a bystander whose calls must go on working, and eyes on what the host suffers.

An attack is one test. It takes the fixture `arena`, lets its attacker do its worst, and states what must come of it.
What must be true of every attack is judged here, when the test is over: the bystander's calls were all answered, the
host's memory stayed bounded, its loop kept turning, and nothing is left behind.

How well the loop turns is looked at every three milliseconds, by how late a timer is. Of that two things are judged.

- What the host itself did meanwhile: as much of the lateness as its process computed. Whatever else the machine has to
  do adds nothing to that, so nothing excuses it: neither the looks as a whole (the 99th percentile) nor a single one
  (the worst) may be over its bound.
- The lateness as a whole, which has in it what the host waited for: a call that blocks, and its turn among all who want
  to compute, the attacker's processes before all. The single worst looks are left out here, since a machine that others
  use has such by itself. Where it is over the bound, it may be no more than a few times what it is beside a plugin that
  is only busy. That is measured at once, on the same host, so that both have the same machine; and afterwards, since
  beside nearly no attack it is needed. It is believed only where the host itself did little then: else it would be the
  attack that excuses itself by what it has left behind.
"""

from __future__ import annotations

import asyncio
import math
import os
import resource
import shlex
import shutil
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

from coredeno import Context, Hooks, HostConfig, Limits, Module, PluginHost, Service, rpc
from coredeno.interfaces import HostDoor, Launcher, LaunchOrder, SidecarProcess
from coredeno.sidecar.launcher import DenoLauncher
from tests.hosts import is_gone, nothing_left

MOST_LAG_S = 0.050
"""What it may be late at the 99th percentile, by what the host does and as a whole (measured: 28 ms at the worst)."""
MOST_TURN_S = 0.250
"""What it may be late once, by what the host does (measured: 54 ms at the worst)."""
INNOCENT_FACTOR = 3
"""On a machine that is slow or shared: or as a whole so many times what it is beside a plugin that is only busy."""
MOST_GROWTH_BYTES = 96 * 1024 * 1024
"""What an attack may make the host grow, at its peak."""
FEWEST_LOOKS = 100
HOSTILE_SIDECAR = Path(__file__).with_name("hostile_sidecar.py")
HOSTILE_MB = 33
_LOOK_EVERY_S = 0.003
_SLOWEST_ANSWER_S = 5.0

SMALL: Mapping[str, Any] = {
    "memory_mb": 64,
    "call_timeout_s": 2.0,
    "load_timeout_s": 5.0,
    "unload_grace_s": 0.3,
    "calls_in_flight": 64,
    "requests_in_flight": 64,
    "message_bytes": 1024 * 1024,
    "log_lines_per_s": 100,  # each goes through pytest's own handlers, under coverage too
}
"""Limits that an attack runs into within moments."""

BYSTANDER = """
    let core;
    export function init(c) { core = c; }
    export const echo = async (value) => await core.services.echo.echo(value);
"""


class Echo(Service, name="echo"):
    """A service of the app: what plugins of the arena may call."""

    @rpc
    async def echo(self, ctx: Context, value: Any) -> Any:
        """Give back what came."""
        return value


class HostileLauncher:
    """Launches Deno; and in its place, for the module that has this odd limit, a program of the attacker's."""

    def __init__(self, program: Path) -> None:
        self._deno = DenoLauncher()
        # What the attacker does on the wires must be stopped by the wires.
        self._hostile = DenoLauncher(program, landlock=False)

    async def launch(self, order: LaunchOrder, door: HostDoor) -> SidecarProcess:
        """See `Launcher`."""
        launcher = self._hostile if order.heap_mb == HOSTILE_MB else self._deno
        return await launcher.launch(order, door)


class Arena:
    """One host under attack. Made by the fixture `arena`."""

    def __init__(self, folder: Path, isolation: Any, compiled: Path) -> None:
        self.folder = folder
        self.isolation = isolation
        self.root = folder / "app"
        self.limits: dict[str, Any] = dict(SMALL)
        self.config: dict[str, Any] = {"allow_unsigned": True}
        self.hooks: Sequence[Hooks] = ()
        self.services: list[Service] = [Echo()]
        self.parts: dict[str, Any] = {}  # of the app's own: what else `PluginHost` is to be given
        self.launcher: Launcher | None = None
        self._compiled = compiled
        self._host: PluginHost | None = None

    @property
    def host(self) -> PluginHost:
        """The running host."""
        assert self._host is not None
        return self._host

    def write(
        self, code: str, source: str, manifest: str = "", files: Mapping[str, str | bytes] | None = None
    ) -> Path:
        """Write a plugin: its `main.ts`, what its manifest says besides code and version, and other files."""
        folder = self.folder / "plugins" / code
        view = f"code: {code}\nversion: 1.0.0\n{dedent(manifest)}"
        for name, content in {".core/view.yml": view, "main.ts": dedent(source), **(files or {})}.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder

    async def attacker(
        self,
        source: str,
        manifest: str = "",
        *,
        code: str = "attacker",
        group: str = "attackers",
        files: Mapping[str, str | bytes] | None = None,
    ) -> Module:
        """Load a hostile plugin; with worker isolation never into the bystander's process."""
        return await self.host.load_path(self.write(code, source, manifest, files), group=group)

    def take_over(self) -> None:
        """From the start of the host on, `hostile()` is no plugin: `hostile_sidecar.py` runs in its Deno's place."""
        program = self.folder / "hostile"
        # Its environment is built from nothing, without what may lead this Python to its packages.
        packages = shlex.quote(os.environ.get("PYTHONPATH", ""))
        command = f"PYTHONPATH={packages} exec '{sys.executable}' '{HOSTILE_SIDECAR}' \"$@\""
        program.write_text(f"#!/bin/sh\n{command}\n")
        program.chmod(0o755)
        self.launcher = HostileLauncher(program)

    async def hostile(self) -> Module:
        """The module whose whole sidecar is the attacker's: its `attack(how, …)` does what `how` names there."""
        return await self.attacker(
            "", f"limits: {{memory_mb: {HOSTILE_MB}}}\nservices: {{echo: []}}", code="hostile"
        )

    def pid_of(self, module: Module) -> int:
        """The process in which a module lives."""
        return self.host._parts.loader._placement.place_of(module).sidecar.pid  # type: ignore[union-attr]

    async def until_down(self, module: Module, within_s: float = 10) -> None:
        """Wait until a module does not run any more."""
        end = time.monotonic() + within_s
        while module.state.value in {"LOADING", "RUNNING"}:
            assert time.monotonic() < end, f"{module.code} is {module.state.value} after {within_s:g} s"
            await asyncio.sleep(0.005)

    async def until_gone(self, pid: int, within_s: float = 5) -> None:
        """Wait until a process runs no more."""
        end = time.monotonic() + within_s
        while not is_gone(pid):
            assert time.monotonic() < end, f"process {pid} runs after {within_s:g} s"
            await asyncio.sleep(0.005)

    @asynccontextmanager
    async def open(self, **more: Any) -> AsyncIterator[Arena]:
        """Start the host with the arena's settings, and watch it until the end of the block."""
        limits = Limits(**{**self.limits, **more})
        # Attacks look at what they have brought down, unless they say otherwise.
        config = HostConfig(isolation=self.isolation, limits=limits, **{"restart": None, **self.config})
        core = self.root / ".core"
        if self._compiled.exists():
            shutil.copytree(self._compiled, core / "deno-cache", dirs_exist_ok=True)
        host = PluginHost(
            self.root,
            services=self.services,
            hooks=self.hooks,
            config=config,
            launcher=self.launcher,
            **self.parts,
        )
        async with nothing_left(self.root), host:
            if not self._compiled.exists():
                shutil.copytree(core / "deno-cache", self._compiled)
            self._host = host
            folder = self.write("bystander", BYSTANDER, "services: {echo: []}")
            bystander = await host.load_path(folder, group="bystanders")
            watch = Watch(bystander)
            try:
                yield self
                await watch.has_seen_enough()
            finally:
                await watch.end()
            await self._judge(watch)

    async def _judge(self, watch: Watch) -> None:
        assert not watch.problems, f"the bystander suffered: {watch.problems[:3]}"
        assert watch.slowest_answer_s < _SLOWEST_ANSWER_S
        assert watch.growth_bytes < MOST_GROWTH_BYTES, f"the host grew by {watch.growth_bytes >> 20} MiB"
        watch.judge_the_host()
        if watch.lag_s > MOST_LAG_S:
            innocent = await self._watch_beside_an_innocent()
            innocent.judge_the_host()
            assert watch.lag_s < INNOCENT_FACTOR * innocent.lag_s, (
                f"the loop was {_ms(watch.lag_s)} late, {_ms(innocent.lag_s)} beside an innocent"
            )

    async def _watch_beside_an_innocent(self) -> Watch:
        busy = "export async function work() { const end = Date.now() + 1000; while (Date.now() < end); }"
        module = await self.host.load_path(self.write("innocent", busy), group="innocents")
        watch = Watch(self.host.modules["bystander"])
        await module.call("work", timeout_s=10)
        await watch.has_seen_enough()
        await watch.end()
        await module.unload()
        return watch


class Watch:
    """Calls the bystander all the time, and looks how late the loop is and how large the process."""

    def __init__(self, bystander: Module) -> None:
        self._bystander = bystander
        self._lags: list[float] = []
        self._own_lags: list[float] = []
        self._before = _resident_bytes()
        self._peak = self._before
        self.problems: list[str] = []
        self.slowest_answer_s = 0.0
        self._enough = asyncio.Event()
        self._tasks = [asyncio.create_task(self._look()), asyncio.create_task(self._call())]

    @property
    def lag_s(self) -> float:
        """How late the loop was, in seconds, at the 99th percentile."""
        return _percentile_99(self._lags)

    def judge_the_host(self) -> None:
        """Fail if the host itself kept its loop from turning."""
        lag_s, turn_s = _percentile_99(self._own_lags), max(self._own_lags)
        assert lag_s <= MOST_LAG_S, f"the host kept its loop {_ms(lag_s)} busy, at the 99th percentile"
        assert turn_s <= MOST_TURN_S, f"the host kept its loop {_ms(turn_s)} busy, once"

    @property
    def growth_bytes(self) -> int:
        """By how much the process had grown at its largest."""
        return self._peak - self._before

    async def has_seen_enough(self) -> None:
        """Wait until there are enough looks for a percentile."""
        enough = asyncio.create_task(self._enough.wait())
        await asyncio.wait([enough, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        enough.cancel()

    async def end(self) -> None:
        """Look no more."""
        for task in self._tasks:
            task.cancel()
        for outcome in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
                self.problems.append(repr(outcome))

    async def _look(self) -> None:
        while True:
            began, computed_s = time.monotonic(), time.process_time()
            await asyncio.sleep(_LOOK_EVERY_S)
            lag_s = max(0.0, time.monotonic() - began - _LOOK_EVERY_S)
            self._lags.append(lag_s)
            self._own_lags.append(min(lag_s, time.process_time() - computed_s))
            self._peak = max(self._peak, _resident_bytes())
            if len(self._lags) == FEWEST_LOOKS:
                self._enough.set()

    async def _call(self) -> None:
        number = 0
        while True:
            number += 1
            began = time.monotonic()
            answer = await self._bystander.call("echo", number, timeout_s=30)
            self.slowest_answer_s = max(self.slowest_answer_s, time.monotonic() - began)
            if answer != number:
                self.problems.append(f"echo({number}) gave {answer!r}")
            await asyncio.sleep(_LOOK_EVERY_S)


async def gone(pid: int, within_s: float = 5) -> None:
    """Wait until a process runs no more."""
    end = time.monotonic() + within_s
    while not is_gone(pid):
        assert time.monotonic() < end, f"process {pid} is there after {within_s:g} s"
        await asyncio.sleep(0.005)


def _percentile_99(values: Sequence[float]) -> float:
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _resident_bytes() -> int:
    descriptor = os.open("/proc/self/statm", os.O_RDONLY)
    try:
        return int(os.read(descriptor, 200).split()[1]) * resource.getpagesize()
    finally:
        os.close(descriptor)
