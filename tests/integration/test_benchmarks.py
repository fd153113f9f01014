"""The benchmarks run, so that none rots; what they measure is no test's business."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path


async def test_calls():
    """Each row has figures that can be."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "benchmarks.calls", "--short", "--json"),
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
    )
    out, _err = await process.communicate()
    assert process.returncode == 0
    rows = json.loads(out)
    assert len(rows) == 10
    assert {name.partition("  ")[0] for name in rows} == {"host → module", "module → host"}
    for figures in rows.values():
        assert 1 < figures["alone_us"] < 1_000_000
        assert 10 < figures["per_second"] < 10_000_000


async def test_installs():
    """A clone and an install of each plugin were measured, with the target that the install has."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "benchmarks.installs", "--short", "--json"),
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
    )
    out, _err = await process.communicate()
    assert process.returncode == 0
    tables = json.loads(out)
    assert list(tables) == ["2 MB in 50 files", "20 files"]
    for rows in tables.values():
        assert {"git clone --depth=1", "install", "the server alone", "target"} <= set(rows)
        assert all(0.001 < seconds < 100 for seconds in rows.values())
