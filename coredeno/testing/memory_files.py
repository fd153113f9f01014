"""`MemoryFiles`, a `Files` in a dictionary, and `FaultyFiles`, which makes another one fail on demand."""

from __future__ import annotations

from collections.abc import Mapping

from coredeno.errors import FailedPrecondition, LimitExceeded, NotFound
from coredeno.interfaces import FileEntry, Files
from coredeno.services.file_names import split_path


class MemoryFiles:
    """A `Files` without a disk, with the same errors as `RootedFiles` for the same deeds.

    Each operation is done at once when it is called, so nothing of it can be cancelled half way.

    Args:
        files: what is there to begin with, by normalised paths; their folders are made.

    Attributes:
        files: what is there now, by path.
        folders: the paths of all folders but the root.
    """

    def __init__(self, files: Mapping[str, bytes] | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.folders: set[str] = set()
        for path, data in (files or {}).items():
            self._put(path, data)

    async def read(self, path: str, *, limit_bytes: int) -> bytes:
        """See `Files.read`."""
        path = _normal(path)
        if self._is_folder(path):
            raise FailedPrecondition(f"read {path!r}: is a folder, wanted a file")
        if path not in self.files:
            raise NotFound(f"read {path!r}: there is no such file")
        data = self.files[path]
        if len(data) > limit_bytes:
            raise LimitExceeded(f"read {path!r}: has {len(data)} bytes, wanted at most {limit_bytes}")
        return data

    async def write(self, path: str, data: bytes) -> None:
        """See `Files.write`."""
        self._put(path, data)

    async def list(self, path: str) -> list[FileEntry]:
        """See `Files.list`."""
        path = _normal(path)
        if path in self.files:
            raise FailedPrecondition(f"list {path!r}: is no folder")
        if not self._is_folder(path):
            raise NotFound(f"list {path!r}: there is no such folder")
        prefix = _prefix(path)
        entries = [
            FileEntry(
                name=inner.removeprefix(prefix), is_dir=is_dir, size=0 if is_dir else len(self.files[inner])
            )
            for all_of_kind, is_dir in ((self.files, False), (self.folders, True))
            for inner in all_of_kind
            if inner.startswith(prefix) and "/" not in inner.removeprefix(prefix)
        ]
        return sorted(entries, key=lambda entry: entry.name)

    async def delete(self, path: str) -> None:
        """See `Files.delete`."""
        path = _normal(path)
        if path == ".":
            raise FailedPrecondition(f"delete {path!r}: is the root itself, wanted something in it")
        if path in self.files:
            del self.files[path]
        elif path not in self.folders:
            raise NotFound(f"delete {path!r}: there is no such file or folder")
        elif any(inner.startswith(_prefix(path)) for inner in (*self.files, *self.folders)):
            raise FailedPrecondition(f"delete {path!r}: is a folder that is not empty")
        else:
            self.folders.remove(path)

    def _is_folder(self, path: str) -> bool:
        return path == "." or path in self.folders

    def _put(self, path: str, data: bytes) -> None:
        parts = split_path(path)
        path = _normal(path)
        if self._is_folder(path):
            raise FailedPrecondition(f"write {path!r}: is a folder, wanted a file")
        above = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
        for folder in above:
            if folder in self.files:
                raise FailedPrecondition(f"write {path!r}: {folder!r} is no folder")
            self.folders.add(folder)
        self.files[path] = bytes(data)


class FaultyFiles:
    """Passes everything on to another `Files`, but for those operations that were told to fail.

    Args:
        inner: does what does not fail.
    """

    def __init__(self, inner: Files) -> None:
        self._inner = inner
        self._error: Exception | None = None
        self._left = 0

    def fail_next(self, error: Exception, operations: int = 1) -> None:
        """Let the next `operations` operations raise `error`, before anything of them is done.

        A second call replaces the first; 0 operations ends the faults.
        """
        self._error = error
        self._left = operations

    async def read(self, path: str, *, limit_bytes: int) -> bytes:
        """See `Files.read`; or the fault."""
        self._perhaps_fail()
        return await self._inner.read(path, limit_bytes=limit_bytes)

    async def write(self, path: str, data: bytes) -> None:
        """See `Files.write`; or the fault."""
        self._perhaps_fail()
        await self._inner.write(path, data)

    async def list(self, path: str) -> list[FileEntry]:
        """See `Files.list`; or the fault."""
        self._perhaps_fail()
        return await self._inner.list(path)

    async def delete(self, path: str) -> None:
        """See `Files.delete`; or the fault."""
        self._perhaps_fail()
        await self._inner.delete(path)

    def _perhaps_fail(self) -> None:
        if self._left > 0 and self._error is not None:
            self._left -= 1
            raise self._error


def _normal(path: str) -> str:
    return "/".join(split_path(path)) or "."


def _prefix(path: str) -> str:
    return "" if path == "." else f"{path}/"
