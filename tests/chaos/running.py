"""Tries to bring a host down: what `scripts/chaos` calls.

Chaos: a host with many modules under calls, while a seeded program kills, freezes, fills and garbles. `--kills`: a
host that is killed itself. `--soak`: very many calls. What must be true all the while is in `invariants.py`.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.kills import PROJECT, Kills

MODULES = 20
_SLACK_S = 180.0  # to start, to settle, to stop and to start again
ISOLATIONS = ("process", "worker")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked for; the exit code is 1 if something was that must not be."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, help="of chaos, for each isolation (1)")
    parser.add_argument("--seed", type=int, help="to repeat a run (a new one each time)")
    parser.add_argument("--isolation", choices=ISOLATIONS, help="only this one")
    parser.add_argument("--modules", type=int, default=MODULES, help=f"in each isolation ({MODULES})")
    parser.add_argument("--kills", type=int, help="how often a host is killed itself")
    parser.add_argument("--soak", type=int, metavar="CALLS", help="how many calls, in each isolation")
    asked = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(1, 2**31) if asked.seed is None else asked.seed
    isolations = [asked.isolation] if asked.isolation else ISOLATIONS
    held = True
    if asked.kills is not None:
        held &= kill(asked.kills, seed)
    if asked.soak is not None:
        for each in isolations:
            held &= _run("soak", [f"--calls={asked.soak}", f"--isolation={each}"], None)
    minutes = asked.minutes
    if minutes is None and asked.kills is None and asked.soak is None:
        minutes = 1.0
    if minutes is not None:
        for each in isolations:
            held &= chaos(minutes * 60, seed, each, asked.modules)
    print("all held" if held else "something did NOT hold", flush=True)
    return 0 if held else 1


def chaos(seconds: float, seed: int, isolation: str, modules: int) -> bool:
    """One run of the chaos; whether all held."""
    options = [f"--seconds={seconds:g}", f"--seed={seed}", f"--isolation={isolation}", f"--modules={modules}"]
    print(f"chaos: {isolation}, {modules} modules, {seconds:g} s, seed {seed}", flush=True)
    held = _run("chaos", [*options, "--releases"], seconds + _SLACK_S)
    if not held:
        again = f"--minutes {seconds / 60:g} --seed {seed} --isolation {isolation} --modules {modules}"
        print(f"repeat it: scripts/chaos {again}", flush=True)
    return held


def kill(many: int, seed: int) -> bool:
    """Kill so many hosts; whether all held."""
    print(f"kills: {many}, seed {seed}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        kills = Kills(Path(folder), seed)
        try:
            kills.live()
            for number in range(1, many + 1):
                kills.kill()
                print(f"\r{number} kills, {time.monotonic() - began:.0f} s", end="", flush=True)
            kills.live()
        except AssertionError as error:
            print(f"\nVIOLATED: {error}\nrepeat it: scripts/chaos --kills {many} --seed {seed}", flush=True)
            return False
    print(
        f"\nno violation: {dict(kills.killed)}; {kills.stored:,} sets were acknowledged; the last process was "
        f"gone after at most {kills.slowest_end_s:.2f} s",
        flush=True,
    )
    return True


def _run(what: str, options: list[str], within_s: float | None) -> bool:
    command = [sys.executable, "-m", f"tests.chaos.{what}", *options]
    try:
        return subprocess.run(command, cwd=PROJECT, timeout=within_s, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        print(f"VIOLATED: not done after {within_s:g} s", flush=True)
        return False


if __name__ == "__main__":
    sys.exit(main())
