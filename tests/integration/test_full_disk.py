"""What a full disk does to a running host: nothing but to the writes that need room."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("disk", ["real", "counted"])
def test_a_disk_that_becomes_full_and_has_room_again(disk: str, tmp_path: Path):
    """Writes are `StoreFull`, for plugins too; what was acknowledged is there, and with room all goes on.

    What is asked is in `small_disk.py`: it runs in a process of its own, which alone sees the small disk.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.small_disk", str(tmp_path), disk],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in (disk, "counted")
