"""What must be true of a host whatever the monkey does: of its calls, its loop, its store, and what it holds."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import math
import resource
import sys
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from coredeno import Module, PluginHost
from coredeno.gateway.connection import Connection
from coredeno.gateway.session import Session
from coredeno.sidecar.homes import Home
from coredeno.sidecar.rpc import RpcClient
from coredeno.sidecar.sidecar import Sidecar
from tests.chaos.strikes import Strikes

LEAST_SUCCESS = 0.99
"""The part of an innocent module's calls that succeed, of those whose process nobody struck."""
SLACK_S = 1.0
"""What a call may take beyond its deadline and `Limits.cancel_grace_s`, on a machine that is busy."""
MOST_LAG_S = 0.050
INNOCENT_FACTOR = 3
"""The loop's lateness at the 99th percentile: as a whole it may also be so many times what it is beside plugins that
are only busy, before the chaos or after it, since it has in it that the host must wait for its turn."""
MOST_GROWTH_BYTES = 24 * 1024 * 1024
"""What the host may have grown by when it holds as much as before the chaos: allocators have their holes."""
MOST_GROWTH_BLOCKS = 20_000
"""And by how many of Python's own objects, however long it took: what is counted a minute long is there yet."""
QUARANTINE_S = 30.0
"""Within what a module that goes down at every call is given up."""

_LOOK_EVERY_S = 0.003
_SETTLE_S = 5.0
_KEPT = 20  # violations of one kind: the first say enough
_SHOWN = 300  # characters of one
_KINDS = (Module, Sidecar, RpcClient, Home, Session, Connection)


class Ledger:
    """What came of the calls of innocent modules."""

    def __init__(self, strikes: Strikes, *, grace_s: float) -> None:
        self.good: Counter[str] = Counter()
        self.excused: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.problems: list[str] = []
        self.failures: list[str] = []
        self._strikes = strikes
        self._grace_s = grace_s

    def ended(self, code: str, what: str, *, began: float, limit_s: float) -> None:
        """A call has ended: it must have done so in time, even if its process is gone or frozen."""
        took_s = _now() - began
        most_s = limit_s + self._grace_s + SLACK_S
        if took_s > most_s:
            self.problem(f"{code}.{what} took {took_s:.2f} s, wanted at most {most_s:g}")

    def succeeded(self, code: str) -> None:
        """It gave what it should."""
        self.good[code] += 1

    def did_not(self, code: str, what: str, error: BaseException, *, began: float, is_excused: bool) -> None:
        """It failed: that counts, unless the monkey had struck its process, or took what it needed."""
        if is_excused or self._strikes.excuse(code, began):
            self.excused[code] += 1
            return
        self.failed[code] += 1
        if len(self.failures) < _KEPT:
            when = f"{code}.{what}, {_now() - began:.2f} s after it began"
            self.failures.append(f"{when}: {type(error).__name__}: {error}"[:_SHOWN])

    def problem(self, text: str) -> None:
        """Something that must not be."""
        if len(self.problems) < _KEPT:
            self.problems.append(text)

    def rate(self, codes: Sequence[str]) -> float:
        """The part that succeeded, of the calls that count."""
        good, failed = (sum(counter[code] for code in codes) for counter in (self.good, self.failed))
        return good / (good + failed) if good + failed else 1.0


class Lateness:
    """How late the loop is, looked at every three milliseconds; of each look, what the host itself computed."""

    def __init__(self) -> None:
        # Arrays: a list of as many numbers would be most of what the process holds.
        self._all = array("d")
        self._own = array("d")
        self._task = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            began, computed_s = time.monotonic(), time.process_time()
            await asyncio.sleep(_LOOK_EVERY_S)
            late_s = max(0.0, time.monotonic() - began - _LOOK_EVERY_S)
            self._all.append(late_s)
            self._own.append(min(late_s, time.process_time() - computed_s))

    def take(self) -> tuple[float, float]:
        """As a whole, and by what the host itself did: in seconds, at the 99th percentile, since the last time."""
        taken = _percentile_99(self._all), _percentile_99(self._own)
        self._all, self._own = array("d"), array("d")
        return taken

    async def aclose(self) -> None:
        """Look no more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class Holding(msgspec.Struct, frozen=True):
    """How much a host holds that has nothing to do."""

    counts: dict[str, int]
    resident_bytes: int
    blocks: int

    def over(self, base: Holding) -> list[str]:
        """What there is more of than there was."""
        return [
            f"{name}: {count}, wanted at most {base.counts[name]} as before the chaos"
            for name, count in self.counts.items()
            if count > base.counts[name]
        ]


def holding(host: PluginHost) -> Holding:
    """What this process holds now, with this host in it."""
    # grpclib lets go of connections that have ended with every tenth new one. What it holds till then is bounded, and
    # would here only hide what is not.
    host._parts.listener._admission._make.__self__.__gc_collect__()
    gc.collect()
    _trim()
    kinds = Counter(type(each) for each in gc.get_objects() if isinstance(each, _KINDS))
    counts = {f"objects of {kind.__name__}": kinds[kind] for kind in _KINDS}
    counts["tasks"] = len(asyncio.all_tasks())
    counts["descriptors"] = len(list(Path("/proc/self/fd").iterdir()))
    return Holding(counts, resident_bytes(), sys.getallocatedblocks())


async def settled(host: PluginHost, base: Holding | None = None) -> Holding:
    """What it holds once that is no more than the `base`, or after some seconds; without one, after a second."""
    end = _now() + (_SETTLE_S if base else 1)
    while (held := holding(host)) and _now() < end:
        if base and not held.over(base):
            break
        await asyncio.sleep(0.1)
    return held


class Word(msgspec.Struct):
    """One key of the store: the last number that was acknowledged, and the last that was tried."""

    acknowledged: int = 0
    tried: int = 0

    def fits(self, value: str | None) -> bool:
        """Whether this can be found: nothing older than what was acknowledged, nothing that nobody set."""
        number = int(value.partition(" ")[0]) if value else 0
        return self.acknowledged <= number <= self.tried and value == text_of(number)


def text_of(number: int) -> str | None:
    """What is set as the number so and so: some values fill pages. Nothing was set as number 0."""
    return f"{number} " + "v" * (number * 7919 % 3000) if number else None


async def lost_words(host: PluginHost, words: dict[str, dict[str, Word]], when: str) -> list[str]:
    """What was acknowledged and is not there."""
    lost = []
    for code, keys in words.items():
        found = await host.store.get_all(code)
        for key, word in keys.items():
            if not word.fits(found.get(key)):
                lost.append(f"{when}, {code}/{key} is {(found.get(key) or '')[:12]!r}, wanted {word}")
    return lost


def _trim() -> None:
    """Let the C library give back what was freed and nobody uses, where it can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident_bytes() -> int:
    """The memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _percentile_99(values: Sequence[float]) -> float:
    return sorted(values)[math.ceil(0.99 * len(values)) - 1] if values else 0.0


def _now() -> float:
    return asyncio.get_running_loop().time()
