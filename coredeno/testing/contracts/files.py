"""What every `Files` does: `FilesContract`, to be subclassed in a test module (pytest-asyncio in auto mode).

```python
class TestMyFiles(FilesContract):
    async def make(self, folder: Path) -> Files:
        return MyFiles(folder)
```
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from pathlib import Path

import pytest

from coredeno.errors import FailedPrecondition, InvalidArgument, LimitExceeded, NotFound
from coredeno.interfaces import FileEntry, Files

_MIB = 1 << 20
_LOTS = 64 * _MIB
_HOSTILE_PATHS = ("", "/a", "/", "..", "../a", "a/..", "a/../../b", "a//b", "a\0b", "a\\b", "..\\a", "\ud800")


class FilesContract(ABC):
    """The suite. Each test makes its own `Files` on an empty root."""

    @abstractmethod
    async def make(self, folder: Path) -> Files:
        """A `Files` whose root is empty. `folder` is an empty folder, for those that want one."""

    async def test_read_gives_what_was_written(self, tmp_path: Path) -> None:
        """Every byte comes back, of empty files and of large ones."""
        files = await self.make(tmp_path)
        for data in (b"", b"x", bytes(range(256)) * 16, b"\xff\x00" * _MIB):
            await files.write("a", data)
            assert await files.read("a", limit_bytes=_LOTS) == data

    async def test_write_makes_the_folders_above(self, tmp_path: Path) -> None:
        """A file can be written where there is no folder yet."""
        files = await self.make(tmp_path)
        await files.write("a/b/c.txt", b"deep")
        assert await files.read("a/b/c.txt", limit_bytes=_LOTS) == b"deep"
        assert await files.list("a") == [FileEntry(name="b", is_dir=True, size=0)]

    async def test_write_replaces_all_of_a_file(self, tmp_path: Path) -> None:
        """A shorter content leaves nothing of a longer one."""
        files = await self.make(tmp_path)
        await files.write("a", b"long, long, long")
        await files.write("a", b"short")
        assert await files.read("a", limit_bytes=_LOTS) == b"short"

    async def test_write_over_a_folder_fails(self, tmp_path: Path) -> None:
        """A folder is no file, and keeps what is in it."""
        files = await self.make(tmp_path)
        await files.write("a/b", b"x")
        with pytest.raises(FailedPrecondition):
            await files.write("a", b"y")
        assert await files.read("a/b", limit_bytes=_LOTS) == b"x"

    async def test_write_beneath_a_file_fails(self, tmp_path: Path) -> None:
        """A file is no folder, and keeps its content."""
        files = await self.make(tmp_path)
        await files.write("a", b"x")
        with pytest.raises(FailedPrecondition):
            await files.write("a/b/c", b"y")
        assert await files.read("a", limit_bytes=_LOTS) == b"x"

    async def test_names_are_kept_as_they_are(self, tmp_path: Path) -> None:
        """Spaces, dots, dashes and letters of any script are nothing special in a name."""
        files = await self.make(tmp_path)
        names = sorted(["-rf", " a ", "...", ".hidden", "a:b", "größe", "文件", "🦕", "x" * 255])
        for name in names:
            await files.write(name, name.encode())
        assert [entry.name for entry in await files.list(".")] == names
        for name in names:
            assert await files.read(name, limit_bytes=_LOTS) == name.encode()

    async def test_read_of_what_is_not_there(self, tmp_path: Path) -> None:
        """A missing file, one in a missing folder, and one beneath a file are not found."""
        files = await self.make(tmp_path)
        await files.write("file", b"x")
        for path in ("missing", "missing/a", "file/a"):
            with pytest.raises(NotFound):
                await files.read(path, limit_bytes=_LOTS)

    async def test_read_of_a_folder_fails(self, tmp_path: Path) -> None:
        """A folder has no content, nor has the root."""
        files = await self.make(tmp_path)
        await files.write("a/b", b"x")
        for path in ("a", "."):
            with pytest.raises(FailedPrecondition):
                await files.read(path, limit_bytes=_LOTS)

    async def test_read_holds_its_limit(self, tmp_path: Path) -> None:
        """A file of just the limit is read, one of a byte more is not."""
        files = await self.make(tmp_path)
        await files.write("a", b"12345")
        assert await files.read("a", limit_bytes=5) == b"12345"
        with pytest.raises(LimitExceeded):
            await files.read("a", limit_bytes=4)

    async def test_list_has_each_entry_once_by_name(self, tmp_path: Path) -> None:
        """The entries of that folder only, in the order of code points, with sizes for files."""
        files = await self.make(tmp_path)
        await files.write("b/inner", b"123")
        await files.write("a", b"12")
        await files.write("B", b"")
        await files.write("b-c", b"1")
        assert await files.list(".") == [
            FileEntry(name="B", is_dir=False, size=0),
            FileEntry(name="a", is_dir=False, size=2),
            FileEntry(name="b", is_dir=True, size=0),
            FileEntry(name="b-c", is_dir=False, size=1),
        ]
        assert await files.list("b") == [FileEntry(name="inner", is_dir=False, size=3)]

    async def test_list_of_the_empty_root(self, tmp_path: Path) -> None:
        """The root is there from the beginning."""
        files = await self.make(tmp_path)
        assert await files.list(".") == []

    async def test_list_of_what_is_no_folder(self, tmp_path: Path) -> None:
        """A missing folder is not found, a file is no folder."""
        files = await self.make(tmp_path)
        await files.write("file", b"x")
        for path in ("missing", "missing/a", "file/a"):
            with pytest.raises(NotFound):
                await files.list(path)
        with pytest.raises(FailedPrecondition):
            await files.list("file")

    async def test_delete_removes_a_file(self, tmp_path: Path) -> None:
        """It is gone; its folder stays, empty."""
        files = await self.make(tmp_path)
        await files.write("a/b", b"x")
        await files.delete("a/b")
        with pytest.raises(NotFound):
            await files.read("a/b", limit_bytes=_LOTS)
        assert await files.list("a") == []

    async def test_delete_removes_an_empty_folder_only(self, tmp_path: Path) -> None:
        """A folder goes when nothing is in it, and not before."""
        files = await self.make(tmp_path)
        await files.write("a/b/c", b"x")
        with pytest.raises(FailedPrecondition):
            await files.delete("a/b")
        await files.delete("a/b/c")
        await files.delete("a/b")
        assert await files.list("a") == []

    async def test_delete_of_what_is_not_there(self, tmp_path: Path) -> None:
        """A missing file, one in a missing folder, and one beneath a file are not found."""
        files = await self.make(tmp_path)
        await files.write("file", b"x")
        for path in ("missing", "missing/a", "file/a"):
            with pytest.raises(NotFound):
                await files.delete(path)

    async def test_the_root_is_neither_written_nor_deleted(self, tmp_path: Path) -> None:
        """The root is the app's, also when it is empty."""
        files = await self.make(tmp_path)
        with pytest.raises(FailedPrecondition):
            await files.delete(".")
        with pytest.raises(FailedPrecondition):
            await files.write(".", b"x")
        assert await files.list(".") == []

    @pytest.mark.parametrize("path", _HOSTILE_PATHS)
    async def test_paths_that_the_gate_would_refuse(self, tmp_path: Path, path: str) -> None:
        """Were the gate to fail, the second check holds: such a path is refused by every operation."""
        files = await self.make(tmp_path)
        for operation in (
            lambda: files.read(path, limit_bytes=_LOTS),
            lambda: files.write(path, b"x"),
            lambda: files.list(path),
            lambda: files.delete(path),
        ):
            with pytest.raises(InvalidArgument):
                await operation()
        assert await files.list(".") == []

    async def test_writers_of_one_file_do_not_mix(self, tmp_path: Path) -> None:
        """Whoever reads meanwhile sees all of one content, never a part of it, never none."""
        files = await self.make(tmp_path)
        contents = [bytes([number]) * 100_000 for number in range(8)]
        await files.write("a", contents[0])
        results = await asyncio.gather(
            *(files.write("a", content) for content in contents),
            *(files.read("a", limit_bytes=_LOTS) for _ in range(8)),
        )
        assert all(result in contents for result in results[8:])
        assert await files.read("a", limit_bytes=_LOTS) in contents
        assert await files.list(".") == [FileEntry(name="a", is_dir=False, size=100_000)]

    async def test_a_cancelled_write_is_done_or_not(self, tmp_path: Path) -> None:
        """What is there is the old file or the new one, and the cancelled write does not undo a later one."""
        files = await self.make(tmp_path)
        await files.write("a", b"old")
        for turns in range(4):
            task = asyncio.create_task(files.write("a", b"new" * 100_000))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            assert await files.read("a", limit_bytes=_LOTS) in (b"old", b"new" * 100_000)
            await files.write("a", b"old")
            assert await files.read("a", limit_bytes=_LOTS) == b"old"
        assert [entry.name for entry in await files.list(".")] == ["a"]
