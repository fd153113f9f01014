"""A host that is killed while it installs leaves the old version or the new: `scripts/crashtest` in short."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.crashes import Crashes

KILLS = 24


@pytest.mark.timeout(300)
def test_killed_at_random_instants(tmp_path: Path):
    """Whatever the instant, `crashes.py` finds one of the two states, complete, and nothing else."""
    crashes = Crashes(tmp_path, seed=20)
    crashes.prepare()
    for _ in range(KILLS):
        crashes.crash()
    assert set(crashes.killed) == {"install", "update", "rollback", "remove"}
    assert set(crashes.outcomes) == {"before", "after"}
