"""Kills an installing process at random instants, and looks at what it left after each: `scripts/crashtest`.

The invariant: the plugin is as it was before or as it was to be, never in between. What the records name is on the
disk byte for byte, nothing else is, and no process lives on. The next victim works on what the last one left, so
each of them also shows that one can go on from there.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import msgspec
import psutil

from coredeno import ModuleState
from coredeno.install.signing import SigningKey
from tests.crash.victim import KEPT, host_on
from tests.git.repositories import commit, make_repository
from tests.shops import Files, plugin_files, read_files, signed

PROJECT = Path(__file__).resolve().parents[2]
CHILD_END_S = 1.0
"""What a fetching child may take to end after its host was killed."""


class State(msgspec.Struct, frozen=True):
    """What is installed: the active version, and all on the disk, in their order."""

    active: str | None = None
    versions: tuple[str, ...] = ()


class Operation(msgspec.Struct, frozen=True):
    """What a victim does, and the states that may be found afterwards."""

    name: str
    argument: str | None
    before: State
    after: State


class Crashes:
    """One root, one author, and a row of victims.

    Args:
        folder: an empty folder.
        seed: what happens is a function of it, but for the machine's own timing.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.killed: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._root = folder / "app"
        self._repository = folder / "tagger.git"
        self._key = SigningKey.generate()
        self._published: dict[str, Files] = {}
        self._state = State()
        self._took_s = {"install": 0.5, "update": 0.5, "rollback": 0.05, "remove": 0.05}

    def prepare(self) -> None:
        """Publish a few versions, and see how long each operation takes when it is let live."""
        for number in range(1, 4):
            self._publish(number)
        for name, argument in (("install", "1"), ("update", "2"), ("rollback", None), ("remove", None)):
            operation = self._operation(name, argument)
            took_s = self._run(operation, kill_after_s=None)
            assert took_s is not None
            self._took_s[name] = took_s
            self._look(operation)
            assert self._state == operation.after, f"{name}: {self._state}, wanted {operation.after}"

    def crash(self) -> None:
        """Kill one victim, and check what it left."""
        operation = self._next()
        # Half of them at the end, where it is put into its place and begins to count.
        earliest = self._random.choice((0, 0.75))
        after_s = self._random.uniform(earliest, 1.1) * self._took_s[operation.name]
        took_s = self._run(operation, kill_after_s=after_s)
        survived = took_s is not None
        # The machine's other work comes and goes: the instants shall go on to cover all of the operation.
        self._took_s[operation.name] = took_s or 1.03 * self._took_s[operation.name]
        self.killed[operation.name] += 1
        self._look(operation)
        if survived:
            assert self._state == operation.after, f"{operation}: it ended, and left {self._state}"
        self.outcomes["after" if self._state == operation.after else "before"] += 1

    # --- what to do next

    def _publish(self, number: int) -> None:
        data = {f"data/{i}.bin": self._random.randbytes(self._random.randint(0, 20_000)) for i in range(30)}
        files = signed(plugin_files(version=str(number), **data), self._key, seq=number)
        publish = commit if self._published else make_repository
        publish(self._repository, files, tag=f"v{number}")
        self._published[str(number)] = files

    def _next(self) -> Operation:
        newest = max(map(int, self._published))
        if self._state.active is None:
            return self._operation("install", str(newest))
        names = ["update", "remove"]
        if self._state.versions.index(self._state.active) > 0:
            names.append("rollback")
        # What was killed least; a removal half as often, since it leaves little to do.
        name = min(
            names, key=lambda name: (self.killed[name] * (1 + (name == "remove")), self._random.random())
        )
        if name == "update" and self._state.active == str(newest):
            self._publish(newest := newest + 1)
        return self._operation(name, str(newest) if name == "update" else None)

    def _operation(self, name: str, argument: str | None) -> Operation:
        now = self._state
        if name in ("install", "update"):
            assert argument is not None
            others = [version for version in now.versions if version != argument]
            after = State(argument, (*others[-KEPT:], argument))
            return Operation(name, f"v{argument}", now, after)
        if name == "rollback":
            assert now.active is not None
            former = now.versions[now.versions.index(now.active) - 1]
            return Operation(name, None, now, State(former, now.versions))
        return Operation(name, None, now, State())

    # --- a victim's life

    def _run(self, operation: Operation, *, kill_after_s: float | None) -> float | None:
        """Let it work, and kill it; gives how long it took, or None if it was killed first."""
        arguments = [self._root, self._repository, self._key.public_hex, operation.name]
        command = [sys.executable, "-m", "tests.crash.victim", *map(str, arguments)]
        if operation.argument is not None:
            command.append(operation.argument)
        with subprocess.Popen(
            command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as victim:
            assert victim.stdin is not None
            assert victim.stdout is not None
            try:
                assert victim.stdout.readline() == b"ready\n", victim.communicate()[1].decode()
                started = time.monotonic()
                victim.stdin.write(b"go\n")
                victim.stdin.flush()
                if kill_after_s is not None:
                    time.sleep(kill_after_s)
                    victim.kill()
                done = victim.stdout.readline() == b"done\n"
                took_s = time.monotonic() - started
                out, err = victim.communicate()
                assert done or victim.returncode == -signal.SIGKILL, (out + err).decode()
                return took_s if done else None
            finally:
                victim.kill()

    # --- what it left

    def _look(self, operation: Operation) -> None:
        self._require_no_process(operation)
        self._state = asyncio.run(self._seen(operation))
        allowed = (operation.before, operation.after)
        assert self._state in allowed, f"{operation}: left {self._state}"

    def _require_no_process(self, operation: Operation) -> None:
        end = time.monotonic() + CHILD_END_S
        while left := [process for process in psutil.process_iter() if self._belongs_here(process)]:
            assert time.monotonic() < end, f"{operation}: {left} live on"
            time.sleep(0.01)

    def _belongs_here(self, process: psutil.Process) -> bool:
        try:
            return process.cwd().startswith(str(self._root.parent)) and process.status() != "zombie"
        except psutil.Error:
            return False

    async def _seen(self, operation: Operation) -> State:
        """What the next host finds. It sweeps and verifies everything when it starts."""
        async with host_on(self._root, self._key.public_hex) as host:
            installed = await host.installed()
            for plugin in installed:
                assert plugin.problem is None, f"{operation}: {plugin.problem}"
                assert host.modules[plugin.code].state is ModuleState.RUNNING
            return await asyncio.to_thread(self._state_of, installed, operation)

    def _state_of(self, installed: list, operation: Operation) -> State:
        plugins = self._root / ".core" / "plugins"
        assert not list((plugins / ".staging").iterdir()), f"{operation}: staging is not empty"
        folders = {folder.name: folder for folder in plugins.glob("tagger/*")}
        found = {}
        for digest, folder in folders.items():
            files = read_files(folder)
            [found[digest]] = [version for version, wanted in self._published.items() if wanted == files]
        if not installed:
            assert not list(plugins.glob("[!.]*")), f"{operation}: folders without a record"
            return State()
        [plugin] = installed
        assert set(found.values()) == {plugin.version, *plugin.kept}, f"{operation}: {found} on the disk"
        assert found[plugin.digest] == plugin.version
        order = sorted([plugin.version, *plugin.kept], key=int)
        return State(plugin.version, tuple(order))


def main() -> None:
    """Run as many as wanted, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300, help="how many victims (default: 300)")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="to repeat a run")
    options = parser.parse_args()
    print(f"crashtest: {options.kills} kills, seed {options.seed}", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="crash-") as folder:
        crashes = Crashes(Path(folder), options.seed)
        crashes.prepare()
        for number in range(1, options.kills + 1):
            crashes.crash()
            if number % 10 == 0:
                print(f"\r{number} kills, {time.monotonic() - started:.0f} s", end="", flush=True)
    print(f"\nno violation: {dict(crashes.killed)}; found in the state {dict(crashes.outcomes)}")


if __name__ == "__main__":
    main()
