"""The example that watches a bad plugin, as its user runs it."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import psutil

OBSERVED = Path(__file__).parents[2] / "examples" / "observed"
# In this order, with others between them: events are printed when the app comes to them.
CALLED = r"""
called    shaky\.work: done
called    shaky\.fail: PluginRaised: shaky: RangeError: shaky does not feel like it
called    shaky\.hang: PluginTimeout: shaky: hang: not done after 1 s
called    shaky\.crash: PluginCrashed: shaky: crash: its Worker ended by itself
called    shaky\.hang: PluginTimeout: shaky: hang: not done after 1 s
given up  QUARANTINED: shaky: not started again: it went down after 2 restarts within 300 s .*
health    store ok, \d sidecars, confined by \d of \d layers
stats     steady  RUNNING     \d+ calls, 0 errors, p50 \d+\.\d ms, 0 restarts, .*
stats     shaky   QUARANTINED 5 calls, 4 errors, p50 \d+\.\d ms, 2 restarts, -
released  shaky\.work: done
all along \d+ visits, 0 restarts of steady
host      stopped, nothing left behind
"""
EVENTS = r"""
event     shaky runs, loaded in \d+ ms
event     the host killed sidecar-2: .*module 'shaky' has been busy without a pause, past the deadline of a call, .*
event     shaky went down: .*
event     shaky is started again in \d+ ms \(attempt 1\)
event     shaky runs, loaded in \d+ ms
event     shaky went down: shaky: its Worker ended by itself
event     shaky is started again in \d+ ms \(attempt 2\)
event     shaky runs, loaded in \d+ ms
event     the host killed sidecar-\d+: .*
event     shaky went down: .*
event     shaky is in quarantine
event     shaky runs, loaded in \d+ ms
event     shaky stopped: the host stops
"""


async def test_the_app_runs(tmp_path: Path):
    """The bad plugin is brought back, given up and released; the good one has noticed nothing, and nothing is left."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(OBSERVED / "app.py"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    out, err = await process.communicate()
    text = out.decode()
    assert process.returncode == 0, err.decode()
    assert err == b""
    for part in (CALLED, EVENTS):
        lines = iter(text.splitlines())
        for wanted in part.strip().splitlines():
            assert any(re.fullmatch(wanted, line) for line in lines), f"{wanted}\n\n{text}"
    assert not list(tmp_path.iterdir())
    left = [each for each in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(each.info["cmdline"])]
    assert not left
