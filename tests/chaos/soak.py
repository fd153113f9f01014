"""Very many calls through one real host, whose memory stays as it is: `python -m tests.chaos.soak …`."""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from coredeno import HostConfig, Limits, Module, PluginHost
from tests.chaos.invariants import resident_bytes
from tests.chaos.plugins import INNOCENT, INNOCENT_MANIFEST, write_plugin
from tests.chaos.world import Echo

IN_FLIGHT = 64
MEMORY_MB = 32
"""What the module may use of memory; it is killed if its sidecar lets garbage lie until it is over that."""
POINTS = 10
FLAT = 0.05
"""By which part the memory may differ from what it was after the warm-up, which has a tenth of the calls."""
BYTES_PER_CALL = 40
ARENA_BYTES = 1024 * 1024
"""What a call may leave behind; what one more arena of the allocator takes is no growth."""
BLOCKS_PER_CALL = 0.005
BLOCKS_ANYWAY = 500
"""The same for Python's own objects, of which some come and go by themselves."""
_KEYS = 100


class Point(msgspec.Struct, frozen=True):
    """What the host holds after so many calls since the warm-up. `blocks` are Python's own, allocated and not freed."""

    calls: int
    seconds: float
    rss_bytes: int
    blocks: int
    descriptors: int
    tasks: int
    threads: int


async def soak(folder: Path, isolation: Any, calls: int, *, only_sets: bool) -> list[Point]:
    """Make the calls, 64 at a time: most are echoes, some ask a service of the app, a few (or all) store something."""
    config = HostConfig(
        allow_unsigned=True, isolation=isolation, restart=None, limits=Limits(memory_mb=MEMORY_MB)
    )
    async with PluginHost(folder / "app", services=[Echo()], config=config) as host:
        module = await host.load_path(write_plugin(folder, "innocent", INNOCENT, INNOCENT_MANIFEST))
        await asyncio.wait([host._parts.supervisor._spare])  # all that the host begins by itself has begun
        await _make(module, range(calls // POINTS), only_sets=only_sets)
        began = time.monotonic()
        points = [_point(0, 0)]
        for point in range(1, POINTS + 1):
            done = calls * point // POINTS
            await _make(module, range(points[-1].calls, done), only_sets=only_sets)
            points.append(_point(done, time.monotonic() - began))
    return points


async def _make(module: Module, numbers: range, *, only_sets: bool) -> None:
    left = iter(numbers)
    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(_call(module, left, only_sets=only_sets))


def _point(calls: int, seconds: float) -> Point:
    gc.collect()
    return Point(
        calls,
        seconds,
        resident_bytes(),
        sys.getallocatedblocks(),
        len(list(Path("/proc/self/fd").iterdir())),
        len(asyncio.all_tasks()),
        threading.active_count(),
    )


async def _call(module: Module, numbers: Any, *, only_sets: bool) -> None:
    for number in numbers:
        if only_sets or number % 50 == 0:
            await module.call("set", f"key-{number // 50 % _KEYS}", "v" * (number % 2000))
        elif number % 10 == 0:
            assert await module.call("serve", number) == number
        else:
            assert await module.call("echo", number) == number


def growth(points: list[Point]) -> list[str]:
    """What has grown since the first point, which was taken after the warm-up."""
    first, last = points[0], points[-1]
    calls = last.calls - first.calls
    found = [
        f"after {point.calls:,} calls it has {point.rss_bytes / first.rss_bytes - 1:+.1%} of memory, "
        f"wanted at most ±{FLAT:.0%}"
        for point in points
        if abs(point.rss_bytes - first.rss_bytes) > FLAT * first.rss_bytes
    ]
    grown = last.rss_bytes - first.rss_bytes - ARENA_BYTES
    if grown > BYTES_PER_CALL * calls:
        found.append(f"{grown / calls:.1f} bytes a call are left behind, wanted at most {BYTES_PER_CALL}")
    blocks = last.blocks - first.blocks
    if blocks > BLOCKS_ANYWAY + BLOCKS_PER_CALL * calls:
        found.append(f"{blocks / calls:.4f} objects a call are left behind, wanted at most {BLOCKS_PER_CALL}")
    return found + [
        f"{name}: {getattr(last, name)}, after the warm-up {getattr(first, name)}"
        for name in ("descriptors", "tasks", "threads")
        if getattr(last, name) > getattr(first, name)
    ]


def main() -> int:
    """Print a table; the exit code is 1 if something has grown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, required=True)
    parser.add_argument("--isolation", choices=("process", "worker"), required=True)
    parser.add_argument(
        "--only-sets", action="store_true", help="which leave the most garbage in the sidecar"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        points = asyncio.run(soak(Path(folder), asked.isolation, asked.calls, only_sets=asked.only_sets))
    print(f"{asked.isolation}: {asked.calls:,} calls, {asked.calls / points[-1].seconds:,.0f} a second")
    print(
        f"{'calls':>12} {'seconds':>8} {'MiB':>8} {'blocks':>9} {'descriptors':>12} {'tasks':>6} {'threads':>8}"
    )
    for point in points:
        print(
            f"{point.calls:12,} {point.seconds:8.1f} {point.rss_bytes / 2**20:8.1f} {point.blocks:9,} "
            f"{point.descriptors:12} {point.tasks:6} {point.threads:8}"
        )
    found = growth(points)
    for each in found:
        print(f"VIOLATED: {each}", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
