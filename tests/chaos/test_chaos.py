"""Whatever happens to its sidecars, its disk and its sockets, a host goes on; and one that is killed leaves nothing.

Short forms, always of the same seed, of what `scripts/chaos` does at length.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from coredeno import ModuleState
from coredeno.errors import UsageError
from tests.chaos.invariants import Holding, Ledger, Word, text_of
from tests.chaos.kills import Kills
from tests.chaos.monkey import WEIGHTS, program
from tests.chaos.soak import Point, growth
from tests.chaos.strikes import MOST_IN_A_ROW, Strikes

PROJECT = Path(__file__).resolve().parents[2]
BOTH = pytest.mark.parametrize("isolation", ["process", "worker"])


def run(module: str, *options: str) -> None:
    """In a process of its own: what it holds, and the disk that it fills, are its alone."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.chaos.{module}", *options],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"python -m tests.chaos.{module} {' '.join(options)}\n{done.stdout[-8000:]}"


@BOTH
def test_a_host_under_a_monkey(isolation: str):
    """Every call ends in time, nothing that was acknowledged is lost, the innocent live on and the guilty do not."""
    run("chaos", "--seconds=8", "--seed=5", f"--isolation={isolation}", "--modules=6")


def test_a_host_that_is_killed(short_folder: Path):
    """At random instants: its processes are gone in a second, its store is whole, and the next start is clean."""
    kills = Kills(short_folder, seed=7)
    kills.live()
    for _ in range(10):
        kills.kill()
    kills.live()
    assert min(kills.killed.values()) == 2
    assert kills.stored > 100


@BOTH
def test_many_calls_leave_nothing(isolation: str):
    """After the warm-up the host's memory, descriptors, tasks and threads are as many as before."""
    run("soak", "--calls=20000", f"--isolation={isolation}")


def test_a_busy_module_keeps_within_its_memory():
    """What its calls leave in its sidecar is garbage, and is collected before that costs the module its process."""
    run("soak", "--calls=22000", "--isolation=process", "--only-sets")


def test_the_program_is_a_function_of_its_seed():
    """What a failing run prints is enough to repeat it; each fault comes in it."""
    first, again, other = (program(seed) for seed in (1, 1, 2))
    steps = [next(first) for _ in range(200)]
    assert steps == [next(again) for _ in range(200)]
    assert steps != [next(other) for _ in range(200)]
    assert {step.fault for step in steps} == set(WEIGHTS)


class Down:
    """Stands for a module that is being restarted."""

    code = "a"
    state = ModuleState.RESTARTING


async def test_what_a_strike_excuses():
    """A call that was under way when its module was struck, until the host has noticed; no later one, nor another's."""
    loop = asyncio.get_running_loop()
    strikes = Strikes(stable_s=5)
    ledger = Ledger(strikes, grace_s=0)

    def fail(code: str, began: float) -> None:
        ledger.did_not(code, "echo", UsageError("no"), began=began, is_excused=False)

    began = loop.time()
    strikes.strike(["a"])
    fail("a", began)
    fail("b", began)
    await strikes.module_crashed(Down(), UsageError("down"))
    fail("a", began)
    assert (ledger.excused, ledger.failed) == ({"a": 2}, {"b": 1})
    fail("a", loop.time() + 1)
    assert ledger.failed == {"a": 1, "b": 1}
    assert ledger.rate(["a", "b"]) == 0
    ledger.ended("a", "echo", began=loop.time() - 9, limit_s=5)
    assert ledger.problems == ["a.echo took 9.00 s, wanted at most 6"]


async def test_nobody_is_struck_too_often():
    """Nor before the host has noticed the last time: or innocent modules would rightly be given up."""
    strikes = Strikes(stable_s=5)
    for _ in range(MOST_IN_A_ROW):
        assert strikes.may_strike("a")
        strikes.strike(["a"])
        assert not strikes.may_strike("a")
        await strikes.module_crashed(Down(), UsageError("down"))
    assert not strikes.may_strike("a")


def test_what_a_host_holds_more_than_before():
    """Each kind of thing of which there is more, and no other."""
    base = Holding({"tasks": 3, "descriptors": 7}, 1000, 100)
    assert Holding({"tasks": 3, "descriptors": 6}, 5000, 100).over(base) == []
    assert Holding({"tasks": 4, "descriptors": 7}, 1000, 100).over(base) == [
        "tasks: 4, wanted at most 3 as before the chaos"
    ]


MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("end", "found"),
    [
        (Point(10_000, 1, 41 * MIB, 150_400, 20, 9, 8), []),
        (Point(10_000, 1, 43 * MIB, 150_000, 20, 9, 8), ["of memory", "bytes a call"]),
        (Point(10_000, 1, 37 * MIB, 150_000, 20, 9, 8), ["of memory"]),
        (Point(10_000, 1, 40 * MIB, 151_000, 20, 9, 8), ["objects a call"]),
        (Point(10_000, 1, 40 * MIB, 150_000, 21, 10, 9), ["descriptors: 21", "tasks: 10", "threads: 9"]),
    ],
)
def test_what_counts_as_growth(end: Point, found: list[str]):
    """Memory that is not flat, and anything of which there is more."""
    told = growth([Point(0, 0, 40 * MIB, 150_000, 20, 9, 8), end])
    assert len(told) == len(found)
    assert all(words in each for words, each in zip(found, told, strict=True)), told


@pytest.mark.parametrize(
    ("acknowledged", "tried", "value", "fits"),
    [
        (0, 0, None, True),
        (0, 2, None, True),
        (0, 2, text_of(2), True),
        (3, 4, text_of(3), True),
        (3, 4, text_of(4), True),
        (3, 4, text_of(2), False),
        (3, 4, text_of(5), False),
        (3, 4, None, False),
        (3, 4, "3 ", False),
    ],
)
def test_what_a_key_may_have(acknowledged: int, tried: int, value: str | None, *, fits: bool):
    """The last that was acknowledged, or what was tried after it, as it was set."""
    assert Word(acknowledged, tried).fits(value) is fits
