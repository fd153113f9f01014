"""The folders of a sidecar on a real disk: what cannot be made is an error of the tree."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coredeno.errors import SidecarError
from coredeno.sidecar.stage import Stage


async def test_a_stage_that_cannot_be_made(tmp_path: Path):
    """Whatever the system says becomes a `SidecarError` with its words."""
    with pytest.raises(
        SidecarError, match="stage of a sidecar: cannot be written: No such file or directory"
    ):
        await Stage(tmp_path / "missing" / "sidecar-1").make(tmp_path / "cache")


async def test_a_cache_that_cannot_be_copied(tmp_path: Path):
    """The same for what is copied into it, of which Python tells in a list; the whole of it can be removed."""
    cache = tmp_path / "cache"
    cache.mkdir()
    os.mkfifo(cache / "fifo")
    stage = Stage(tmp_path / "sidecar-1")
    with pytest.raises(SidecarError, match=r"cannot be written: .*fifo. is a named pipe"):
        await stage.make(cache)
    await stage.remove()
    assert [entry.name for entry in tmp_path.iterdir()] == ["cache"]


async def test_a_place_that_cannot_be_made(tmp_path: Path):
    """A further place, too."""
    stage = Stage(tmp_path / "sidecar-1")
    await stage.make(tmp_path / "cache")
    await stage.remove()
    with pytest.raises(SidecarError, match="cannot be written"):
        await stage.place()
