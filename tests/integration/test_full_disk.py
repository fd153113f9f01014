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

    What is asked is in `small_disk.py`.
    """
    assert said_by("small_disk", str(tmp_path), disk) in (disk, "counted")


def test_what_there_is_no_room_to_open(tmp_path: Path):
    """Store and audit log are `StoreFull`, new or old, however much is missing, and open with room again.

    Nor is a damaged store touched if there is no room to set it aside. What is asked is in `no_room.py`.
    """
    assert said_by("no_room", str(tmp_path)) in ("real", "no disk")


def said_by(program: str, *arguments: str) -> str:
    """The last line of what runs in a process of its own, which alone sees the small disk."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.integration.{program}", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]
