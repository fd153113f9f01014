"""What every fuzz target is made of.

A target is a file in `targets/` with `SEEDS`, valid inputs made by code, and `target(data)`, which takes any bytes
and raises if the product breaks its promise: any bytes give a value or the declared error, in bounded time and memory.
"""

from __future__ import annotations

import importlib
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from coredeno.errors import CoreDenoError

LIMIT_INPUT_BYTES = 4096
"""The longest input that a driver makes; so bounds of time and memory can be generous and still mean something."""

LIMIT_S = 5.0
"""Seconds of processor time for one input: some hundred times what the slowest takes, since machines differ."""

LIMIT_MEMORY_BYTES = 64 * 1024 * 1024
"""What one input may make Python allocate at once: 16,000 times the input's length."""

_SINGLE_BYTES = 512

T = TypeVar("T")


class Violation(AssertionError):
    """The product broke its promise."""


class Target(NamedTuple):
    """One target, by the name of its file."""

    name: str
    run: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


def names() -> list[str]:
    """All targets."""
    folder = Path(__file__).with_name("targets")
    return sorted(file.stem for file in folder.glob("*.py"))


def load(name: str) -> Target:
    """One target; the modules of the product that it tests are imported by this."""
    module = importlib.import_module(f"tests.fuzz.targets.{name}")
    return Target(name, module.target, tuple(module.SEEDS))


def run_bounded(target: Target, data: bytes) -> None:
    """Run a target on one input, and hold it to the bound of time."""
    begin = time.process_time()
    target.run(data)
    took_s = time.process_time() - begin
    require(took_s <= LIMIT_S, f"took {took_s:.1f} s for {len(data):,} bytes, wanted at most {LIMIT_S:g} s")


def run_measured(target: Target, data: bytes) -> None:
    """Run a target on one input, and hold it to the bounds of time and memory."""
    tracemalloc.start()
    try:
        run_bounded(target, data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    require(
        peak <= LIMIT_MEMORY_BYTES,
        f"took {peak:,} bytes of memory for {len(data):,}, wanted at most {LIMIT_MEMORY_BYTES:,}",
    )


def require(condition: object, rule: str) -> None:
    """Raise unless the rule holds."""
    if not condition:
        raise Violation(rule)


def require_equal(found: object, wanted: object, rule: str) -> None:
    """Raise unless both are the same."""
    require(found == wanted, f"{rule}: {found!r} and {wanted!r}"[:2000])


def value_of(call: Callable[[], T], *declared: type[CoreDenoError]) -> T | None:
    """What a call gives, or None if it raised a declared error; all other errors come out."""
    try:
        return call()
    except declared as error:
        require(len(str(error)) < 64 * 1024, "an error's message is bounded")
        return None


def cuts(data: bytes, pattern: bytes) -> Iterator[bytes]:
    """The data in pieces, as long as the pattern's bytes say, over and over; one byte where they say 0."""
    position = turn = 0
    while position < len(data):
        step = pattern[turn % len(pattern)] + 1 if pattern else len(data)
        yield data[position : position + step]
        position += step
        turn += 1


def single_bytes(data: bytes) -> list[bytes]:
    """The data byte by byte; what is beyond the first 512 in one piece, or most of the time would go by in that."""
    pieces = [data[place : place + 1] for place in range(min(len(data), _SINGLE_BYTES))]
    return [*pieces, data[_SINGLE_BYTES:]]
