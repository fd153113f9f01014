"""What `import coredeno` costs a host app, in a fresh interpreter."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

HEAVY = (
    "aiosqlite",
    "betterproto2",
    "deno",
    "dulwich",
    "grpclib",
    "h2",
    "nacl",
    "sqlite3",
    "urllib3",
    "yaml",
)
"""What is slow to import and not needed before a host is started."""

RATIO = 1.3
"""Of the floor: performance.md says why."""


def run(code: str) -> str:
    # A coverage run that follows into child processes would be measured here instead of the import.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True
    ).stdout


def cpu_s(code: str) -> float:
    """Processor time, which the machine's other work stretches far less than the time on the wall."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(code)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_importing_coredeno_costs_little_more_than_what_every_host_app_imports_anyway():
    """At most 1.3 × `import asyncio, msgspec`: the best of several runs, taken in turns."""
    floor = ours = float("inf")
    for attempt in range(30):
        floor = min(floor, cpu_s("import asyncio, msgspec"))
        ours = min(ours, cpu_s("import coredeno"))
        if attempt >= 4 and ours <= RATIO * floor:
            break
    assert ours <= RATIO * floor


def test_nothing_heavy_is_imported_before_it_is_used():
    """Naming every public name imports none of the libraries that only a running host needs."""
    code = "import sys; from coredeno import *; print(*sys.modules)"
    assert not set(HEAVY) & set(run(code).split())
