"""Every `Files` keeps the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from coredeno.errors import LimitExceeded
from coredeno.interfaces import Files
from coredeno.services.beneath import open_by_walk
from coredeno.services.rooted_files import RootedFiles
from coredeno.testing.contracts.files import FilesContract
from coredeno.testing.memory_files import FaultyFiles, MemoryFiles


class TestRootedFiles(FilesContract):
    async def make(self, folder: Path) -> Files:
        return RootedFiles(folder)


class TestRootedFilesByWalk(FilesContract):
    async def make(self, folder: Path) -> Files:
        return RootedFiles(folder, opening=open_by_walk)


class TestRootedFilesThatHide(FilesContract):
    async def make(self, folder: Path) -> Files:
        return RootedFiles(folder, hidden=".core")


class TestMemoryFiles(FilesContract):
    async def make(self, folder: Path) -> Files:
        return MemoryFiles()


class TestFaultyFilesWithoutFaults(FilesContract):
    async def make(self, folder: Path) -> Files:
        return FaultyFiles(MemoryFiles())


async def test_memory_files_begin_with_what_they_are_given():
    """Files given at the start are there, with their folders."""
    files = MemoryFiles({"a/b": b"1", "c": b"2"})
    assert [entry.name for entry in await files.list(".")] == ["a", "c"]
    assert files.folders == {"a"}
    assert await files.read("a/b", limit_bytes=10) == b"1"


async def test_faulty_files_fail_as_often_as_told():
    """The next operations fail before anything is done, whichever they are; the one after works."""
    inner = MemoryFiles({"a": b"old"})
    files = FaultyFiles(inner)
    files.fail_next(LimitExceeded("disk full"), operations=4)
    for operation in (
        files.write("a", b"new"),
        files.read("a", limit_bytes=10),
        files.list("."),
        files.delete("a"),
    ):
        with pytest.raises(LimitExceeded, match="disk full"):
            await operation
    assert inner.files == {"a": b"old"}
    await files.write("a", b"new")
    assert inner.files == {"a": b"new"}
