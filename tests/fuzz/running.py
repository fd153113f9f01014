"""Runs fuzz targets long, led by coverage: what `scripts/fuzz` calls.

Each target runs in a process of its own. Where atheris is installed, libFuzzer leads it; elsewhere a loop of our own
does, which keeps an input if it reached a step from one line to another that none before had reached.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NoReturn, Self

from tests.fuzz import mutating, shape
from tests.fuzz.shape import LIMIT_INPUT_BYTES, Target

PROJECT = Path(__file__).resolve().parents[2]
PACKAGE = str(PROJECT / "coredeno") + os.sep
FINDS = PROJECT / ".fuzz"
"""Where inputs that broke a promise are written. Git ignores it."""

_LIMIT_RSS_MB = 1024
_HANG_S = (
    20  # of one input, in libFuzzer: our own bound has been passed long before, if the input ends at all
)
_SLACK_S = 60  # to start, to stop, and for an input that hangs
_STATISTICS = re.compile(r"^#(\d+)\s.*?\bcov: (\d+)", re.MULTILINE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the targets one after the other; the exit code is 1 if one of them found something."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="target", help="which; all, if none is named")
    parser.add_argument("--seconds", type=float, default=60, help="for each target (60)")
    parser.add_argument("--seed", type=int, help="of what is random (a new one each time)")
    parser.add_argument("--input", type=Path, metavar="FILE", help="run one target once, on this file")
    parser.add_argument("--list", action="store_true", help="only name the targets")
    parser.add_argument(
        "--engine", choices=("atheris", "own"), help="what leads (atheris, where it is installed)"
    )
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # in this process
    asked = parser.parse_args(arguments)
    known = shape.names()
    if asked.list:
        print("\n".join(known))
        return 0
    if unknown := [name for name in asked.targets if name not in known]:
        parser.error(f"no target {', '.join(unknown)}; there are {', '.join(known)}")
    if asked.input is not None:
        if len(asked.targets) != 1:
            parser.error("--input wants one target")
        return _once(shape.load(asked.targets[0]), asked.input.read_bytes())
    engine = asked.engine or ("atheris" if importlib.util.find_spec("atheris") else "own")
    seed = random.SystemRandom().randrange(1, 2**31) if asked.seed is None else asked.seed
    if asked.here:
        (name,) = asked.targets
        FINDS.mkdir(exist_ok=True)
        if engine == "atheris":
            _explore_by_atheris(name, asked.seconds, seed)
        return 1 if explore(shape.load(name), seconds=asked.seconds, seed=seed, finds=FINDS) else 0
    print(f"{engine}, seed {seed}, {asked.seconds:g} s a target", flush=True)
    found = [name for name in asked.targets or known if not _run(name, asked.seconds, seed, engine)]
    print(f"found something: {', '.join(found)}" if found else "found nothing", flush=True)
    return 1 if found else 0


def _run(name: str, seconds: float, seed: int, engine: str) -> bool:
    """Run one target in a process of its own; whether it held."""
    command = [sys.executable, "-m", __spec__.name if __spec__ else "tests.fuzz.running", "--here"]
    command += ["--engine", engine, f"--seconds={seconds:g}", f"--seed={seed}", name]
    begin = time.monotonic()
    with tempfile.TemporaryFile() as output:
        try:
            code = subprocess.run(
                command, cwd=PROJECT, stdout=output, stderr=output, timeout=seconds + _SLACK_S, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
        output.seek(0)
        text = output.read().decode(errors="replace")
    took_s = time.monotonic() - begin
    seen = [(int(count), int(covered)) for count, covered in _STATISTICS.findall(text)]
    if seen:
        executions, covered, first = seen[-1][0], seen[-1][1], seen[0][1]
        rate = executions / took_s
        print(
            f"{name}: {executions:,} executions, {rate:,.0f} a second, coverage {first:,} → {covered:,}",
            flush=True,
        )
    if code != 0:
        print(f"{name}: FOUND something (its process ended with {code})\n{text[-4000:]}", flush=True)
        for file in re.findall(r"written to (\S+)", text):
            print(f"reproduce it: scripts/fuzz {name} --input {file}", flush=True)
    elif not seen:
        print(f"{name}: FAILED, it told no statistics\n{text[-4000:]}", flush=True)
    return code == 0 and bool(seen)


def _once(target: Target, data: bytes) -> int:
    """Run a target on one input."""
    try:
        shape.run_measured(target, data)
    except Exception:  # noqa: BLE001 - whatever it is, it is the find
        traceback.print_exc()
        return 1
    print(f"{target.name}: holds on these {len(data):,} bytes")
    return 0


def _explore_by_atheris(name: str, seconds: float, seed: int) -> NoReturn:
    import atheris  # noqa: PLC0415 - it is not installed everywhere

    with atheris.instrument_imports(include=["coredeno"]):
        target = shape.load(name)

    def mutated(data: bytes, limit_bytes: int, chosen: int) -> bytes:
        """By turns as libFuzzer does it, and by pieces that mean something to parsers."""
        chance = random.Random(chosen)
        if chance.random() < 0.5:
            return bytes(atheris.Mutate(data, limit_bytes))
        return mutating.changed(data, mutating.random_changes(chance), target.seeds)[:limit_bytes]

    with tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate(target.seeds):
            Path(corpus, str(number)).write_bytes(data)
        options = {
            "max_total_time": int(seconds),
            "seed": seed,
            "max_len": LIMIT_INPUT_BYTES,
            "timeout": _HANG_S,
            "rss_limit_mb": _LIMIT_RSS_MB,
            "artifact_prefix": f"{FINDS}/{name}-",
            "print_final_stats": 1,
        }
        atheris.Setup(
            [name, *(f"-{option}={value}" for option, value in options.items()), corpus],
            lambda data: shape.run_bounded(target, data),
            custom_mutator=mutated,
        )
        atheris.Fuzz()
    sys.exit(0)


class _Steps:
    """Notes the steps from one line of the product to the next, in this thread."""

    def __init__(self) -> None:
        self.known: set[tuple[CodeType, int, int]] = set()
        self.new = 0
        self._former: Any = None

    def __enter__(self) -> Self:
        self.new = 0
        self._former = sys.gettrace()
        sys.settrace(self._called)
        return self

    def __exit__(self, *_error: object) -> None:
        sys.settrace(self._former)

    def _called(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE):
            return None
        last = 0

        def step(frame: FrameType, event: str, _argument: Any) -> Any:
            nonlocal last
            if event == "line":
                edge = (code, last, frame.f_lineno)
                last = frame.f_lineno
                if edge not in self.known:
                    self.known.add(edge)
                    self.new += 1
            return step

        return step


def explore(target: Target, *, seconds: float, seed: int, finds: Path) -> Path | None:
    """Try the seeds, and then changes of whatever reached something new.

    Args:
        target: what to run.
        seconds: for how long; the seeds are all tried, however long that takes.
        seed: of what is random.
        finds: the folder, which exists, for the input that broke a promise.

    Returns:
        The file with that input, or None if there was none.
    """
    chance = random.Random(seed)
    steps = _Steps()
    corpus: list[bytes] = []
    executions = 0
    end = time.monotonic() + seconds
    waiting = list(target.seeds)
    while waiting or time.monotonic() < end:
        is_seed = bool(waiting)
        data = (
            waiting.pop()
            if is_seed
            else mutating.changed(chance.choice(corpus), mutating.random_changes(chance), corpus)
        )
        executions += 1
        try:
            with _hang_is_an_error(), steps:
                shape.run_bounded(target, data)
        except Exception:  # noqa: BLE001 - whatever it is, it is the find
            traceback.print_exc()
            file = finds / f"{target.name}-find-{hashlib.sha256(data).hexdigest()[:16]}"
            file.write_bytes(data)
            print(f"Test unit written to {file}", flush=True)
            return file
        if steps.new or is_seed:
            corpus.append(data)
            print(f"#{executions} NEW cov: {len(steps.known)}", flush=True)
    print(f"#{executions} DONE cov: {len(steps.known)}", flush=True)
    return None


@contextlib.contextmanager
def _hang_is_an_error() -> Iterator[None]:
    """An input that takes too much processor time raises. Inside C it is noticed only when that returns."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise shape.Violation(f"took more than {_HANG_S} s")

    former = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, _HANG_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, former)


if __name__ == "__main__":
    sys.exit(main())
