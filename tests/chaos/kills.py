"""Kills a host at random instants, and looks at what it left after each: `scripts/chaos --kills`.

Within a second none of its processes is left; the store is whole, with all in it that was acknowledged; and the next
host starts on what is there and sweeps the rest. The next victim is that host.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import psutil

from coredeno.store.sqlite import SqliteStore
from tests.chaos.doomed import CODES, PHASES
from tests.chaos.invariants import Word
from tests.hosts import assert_unused

PROJECT = Path(__file__).resolve().parents[2]
ALL_GONE_S = 1.0
"""Within what all processes of a host that was killed are gone."""


class Kills:
    """One root, and a row of victims.

    Args:
        folder: an empty folder with a short path.
        seed: what happens is a function of it, but for the machine's own timing.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.killed: Counter[str] = Counter()
        self.stored = 0
        self.slowest_end_s = 0.0
        self._dice = random.Random(seed)
        self._folder = folder
        self._root = folder / "app"
        self._sockets = folder / "s"
        self._sockets.mkdir()
        self._words: dict[str, dict[str, Word]] = {code: defaultdict(Word) for code in CODES}
        self._next = 1
        self._took_s = dict.fromkeys(PHASES, 0.3)
        self._isolations = itertools.cycle(("process", "worker"))

    def live(self) -> None:
        """Let one victim live to its end: it leaves nothing at all."""
        with self._victim() as victim:
            assert victim.stdout is not None
            began, phase = time.monotonic(), ""
            for line in victim.stdout:
                self._hear(line)
                word, _, rest = line.strip().partition(" ")
                if word in ("begins", "ends"):
                    if phase:
                        self._took_s[phase] = time.monotonic() - began
                    began, phase = time.monotonic(), rest
            assert victim.stderr is not None
            err = victim.stderr.read()
            assert victim.wait() == 0, err
        self._require_no_process("a host that ended")
        self._look("a host that ended")
        assert_unused(self._root)
        assert not list(self._sockets.iterdir()), f"{list(self._sockets.iterdir())} are left"

    def kill(self) -> None:
        """Kill one victim in the phase in which the fewest were, and check what it left."""
        fewest = min(self.killed[phase] for phase in PHASES)
        phase = self._dice.choice([each for each in PHASES if self.killed[each] == fewest])
        after_s = self._dice.uniform(0, 1.1) * self._took_s[phase]
        what = f"killed {after_s:.3f} s after it began {phase}"
        with self._victim() as victim:
            assert victim.stdout is not None
            assert victim.stderr is not None
            try:
                for line in victim.stdout:
                    self._hear(line)
                    if line == f"begins {phase}\n":
                        break
                else:
                    raise AssertionError(f"it ended before it began {phase}: {victim.stderr.read()}")
                time.sleep(after_s)
            finally:
                victim.kill()
            began = time.monotonic()
            self._require_no_process(what)
            self.slowest_end_s = max(self.slowest_end_s, time.monotonic() - began)
            for line in victim.stdout:
                self._hear(line)
            err = victim.stderr.read()
            assert victim.wait() in (0, -signal.SIGKILL), err
        self.killed[phase] += 1
        self._look(what)

    # --- a victim's life

    def _victim(self) -> subprocess.Popen[str]:
        arguments = [self._root, self._folder / "plugins", next(self._isolations), self._next]
        return subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.doomed", *map(str, arguments)],
            cwd=PROJECT,
            env={**os.environ, "TMPDIR": str(self._sockets)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _hear(self, line: str) -> None:
        if not line.endswith("\n"):
            return  # it was killed while it said this
        match line.split():
            case ["tries", code, key, number]:
                self._words[code][key].tried = int(number)
                self._next = max(self._next, int(number) + 1)
            case ["stored", code, key, number]:
                self._words[code][key].acknowledged = int(number)
                self.stored += 1
            case ["found", runs, sockets]:
                assert (runs, sockets) == ("1", "1"), f"the next host found {runs} runs and {sockets} sockets"

    # --- what it left

    def _require_no_process(self, what: str) -> None:
        end = time.monotonic() + ALL_GONE_S
        while left := [process for process in psutil.process_iter() if self._belongs_here(process)]:
            assert time.monotonic() < end, f"{what}: {left} live on"
            time.sleep(0.01)

    def _belongs_here(self, process: psutil.Process) -> bool:
        folder = str(self._folder)
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            is_ours = process.cwd().startswith(folder) or any(folder in word for word in process.cmdline())
            return is_ours and process.pid != os.getpid()
        except psutil.Error:
            return False

    def _look(self, what: str) -> None:
        asyncio.run(self._look_at_store(what))

    async def _look_at_store(self, what: str) -> None:
        """In a copy, so that the next host has what was left."""
        image = self._folder / "image"
        image.mkdir()
        for file in (self._root / ".core").glob("store.db*"):
            if not file.name.endswith("-shm"):
                shutil.copy(file, image)
        store = SqliteStore()
        try:
            await store.open(image)  # which looks whether it is whole
            for code, keys in self._words.items():
                found = await store.read(code)
                for key, word in keys.items():
                    assert word.fits(found.get(key)), (
                        f"{what}: {code}/{key} is {found.get(key)!r:.20}, {word}"
                    )
        finally:
            await store.aclose()
        shutil.rmtree(image)
