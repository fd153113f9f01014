"""Takes one defence out at a time, in a copy of the package, and shows that an attack then succeeds: `scripts/mutants`.

A mutant that no attack notices is a defence that nothing tests, or that is none.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.mutants.mutant import Mutant, Stale
from tests.mutants.table import MUTANTS

PROJECT = Path(__file__).resolve().parents[2]
LIMIT_S = 300
_ATTACK_S = 20  # on a busy machine
_TESTS_FAILED = 1  # pytest's exit codes: https://docs.pytest.org/en/stable/reference/exit-codes.html
_COPIED = ("coredeno", "tests", "examples", "docs", "pyproject.toml")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", ".hypothesis")


class Survived(Exception):
    """The attacks did not notice that the defence was missing."""


def kill(mutant: Mutant, folder: Path, *, limit_s: float = LIMIT_S) -> str:
    """Run the attacks on the mutant, in an empty folder; the line in which pytest names the first that succeeded.

    Raises:
        Survived: all attacks failed as if nothing were missing.
        Stale: the mutant does not fit the source any more.
        RuntimeError: pytest could not run them.
    """
    copy_project(folder)
    mutant.apply(folder / "coredeno")
    noticed = succeeded(folder, mutant.attacks, limit_s=limit_s)
    if noticed is None:
        raise Survived(f"none of {', '.join(mutant.attacks)} noticed")
    return noticed


def sample(mutants: Sequence[Mutant], count: int) -> list[Mutant]:
    """So many of them, spread evenly; all if there are no more."""
    return (
        [mutants[number * len(mutants) // count] for number in range(count)]
        if count < len(mutants)
        else [*mutants]
    )


def copy_project(folder: Path) -> None:
    """Copy what the attacks need into an empty folder."""
    for name in _COPIED:
        origin = PROJECT / name
        if origin.is_dir():
            shutil.copytree(origin, folder / name, ignore=_LEFT_OUT)
        else:
            shutil.copy2(origin, folder / name)


def succeeded(folder: Path, attacks: Iterable[str], *, limit_s: float) -> str | None:
    """Run attacks on the project in a folder: the line in which pytest names the first that succeeded, or None.

    Raises:
        RuntimeError: pytest could not run them.
    """
    wanted = " or ".join(f"test_{attack}" for attack in attacks)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "--no-header",
        "--tb=no",
        "-k",
        wanted,
        "tests/security",
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV_")}
    environment["COLUMNS"] = "200"  # else pytest cuts why an attack succeeded
    run = subprocess.Popen(
        [*command, "-p", "no:cacheprovider"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = run.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, 9)
        run.communicate()
        return f"the attacks did not end within {limit_s:g} s"
    told = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if run.returncode == 0:
        return None
    if run.returncode != _TESTS_FAILED:
        raise RuntimeError(f"pytest ended with {run.returncode}:\n{said[-2000:]}")
    return told[0] if told else said.splitlines()[-1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill the mutants that are named, or all; 1 if one survived."""
    parser = argparse.ArgumentParser(prog="scripts/mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of the names of mutants; all without any")
    parser.add_argument("--sample", type=int, metavar="N", help="so many of them, spread evenly")
    parser.add_argument("--list", action="store_true", help="only list them")
    options = parser.parse_args(arguments)
    chosen = [
        mutant
        for mutant in MUTANTS
        if not options.names or any(part in mutant.name for part in options.names)
    ]
    if options.sample is not None:
        chosen = sample(chosen, options.sample)
    if options.list:
        for mutant in chosen:
            print(f"{mutant.name}  ({mutant.file}; {', '.join(mutant.attacks)})")
        return 0
    began = time.monotonic()
    print(f"{len(chosen)} mutants; first their attacks on what lacks nothing", flush=True)
    with tempfile.TemporaryDirectory(prefix="cdm-") as folder:
        copy_project(Path(folder))
        attacks = dict.fromkeys(attack for mutant in chosen for attack in mutant.attacks)
        noticed = succeeded(Path(folder), attacks, limit_s=LIMIT_S + _ATTACK_S * len(attacks))
    if noticed is not None:
        print(f"nothing can be shown by attacks that succeed already: {noticed}")
        return 1
    alive = 0
    for number, mutant in enumerate(chosen, 1):
        since = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="cdm-") as folder:
            try:
                outcome = f"killed: {kill(mutant, Path(folder))}"
            except (Survived, Stale, RuntimeError) as error:
                outcome = f"SURVIVED: {error}"
                alive += 1
        took_s = time.monotonic() - since
        print(f"[{number}/{len(chosen)}] {mutant.name}: {outcome} ({took_s:.0f} s)", flush=True)
    print(f"{len(chosen) - alive} killed, {alive} survived, in {time.monotonic() - began:.0f} s")
    return 1 if alive or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
