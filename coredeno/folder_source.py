"""`FolderSource`: a plugin's files in a folder of the developer's, unsigned, copied as they are by then."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from coredeno.errors import ManifestError, PluginError, RequestError, SidecarError
from coredeno.manifest import LIMIT_BYTES, Manifest, parse_manifest
from coredeno.services.rooted_files import (
    CHUNK_BYTES,
    FOLDER,
    NEW_FILE,
    PLAIN_FILE,
    RootedFiles,
    decoded_name,
    in_thread,
    opened,
    opened_folder,
    write_all,
)

MANIFEST = ".core/view.yml"
"""Where the manifest is, in a plugin's folder."""
COPY_ENTRIES = 10_000
"""The most files and folders of one plugin."""
COPY_BYTES = 256 * 1024 * 1024
"""The most bytes of one plugin, all files together."""
COPY_DEPTH = 32
"""How many folders may lie within one another."""

_SKIPPED = ".git"


class FolderSource:
    """The `PluginSource` of a folder, for development.

    The folder is walked on descriptors, and nothing in it is followed out of it: a symlink, fifo, socket,
    device or a name that no path can name is refused by name. What is named `.git` is skipped, nothing else.

    Args:
        folder: the plugin's folder; an absolute path. The way to it may lead through symlinks.

    Raises:
        UsageError: `folder` is not absolute.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        self._folder = Path(folder)
        self._files = RootedFiles(self._folder)

    @property
    def name(self) -> str:
        """The folder's path."""
        return str(self._folder)

    async def read_manifest(self) -> Manifest:
        """Read and check `.core/view.yml`, a plain file of at most 64 KiB.

        Raises:
            ManifestError: there is none, it is no plain file or too large, or `parse_manifest` refuses it.
        """
        file = str(self._folder / MANIFEST)
        try:
            data = await self._files.read(MANIFEST, limit_bytes=LIMIT_BYTES)
        except RequestError as error:
            raise ManifestError(file=file, field="", problem=str(error)) from error
        return parse_manifest(data, file=file)

    async def copy_to(self, folder: Path) -> None:
        """Copy every file: at most 10,000 files and folders, 256 MiB, 32 folders deep.

        The copies are never executable: files have mode 0444 and folders 0755, minus the umask. If it fails
        or is cancelled, a part may be there; the caller removes it. A cancellation waits for the copying.

        Raises:
            PluginError: an entry is neither a plain file nor a folder, has a name that no path can name,
                cannot be read, or a bound is exceeded. The message names the entry.
            SidecarError: `folder` cannot be written to (disk full, no right, something is in it).
        """
        await in_thread(lambda: _Copy(self._folder).run(folder))


class _Copy:
    """One copying at work: what is left of its bounds. Blocks."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._entries_left = COPY_ENTRIES
        self._bytes_left = COPY_BYTES

    def run(self, target: Path) -> None:
        with _reading(self._source), opened_folder(self._source) as source:
            with _writing():
                copy = os.open(target, FOLDER)
            try:
                self._folder(source, copy, self._source, depth=0)
            finally:
                os.close(copy)

    def _folder(self, source: int, target: int, path: Path, *, depth: int) -> None:
        if depth > COPY_DEPTH:
            raise PluginError(f"{path}: more than {COPY_DEPTH} folders within one another")
        for name in self._names(source, path):
            with _reading(path / name):
                self._entry(name, source, target, path / name, depth=depth)

    def _names(self, folder: int, path: Path) -> list[str]:
        names = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name == _SKIPPED:
                    continue
                self._entries_left -= 1
                if self._entries_left < 0:
                    raise PluginError(f"{self._source}: more than {COPY_ENTRIES:,} files and folders")
                name = decoded_name(entry)
                if name is None:
                    raise PluginError(
                        f"{str(path / entry.name)!r}: its name has characters that no path may have"
                    )
                names.append(name)
        return sorted(names)

    def _entry(self, name: str, source: int, target: int, path: Path, *, depth: int) -> None:
        mode = os.stat(name.encode(), dir_fd=source, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            with opened(name, FOLDER, above=source) as inner, _made_folder(name, target) as copy:
                self._folder(inner, copy, path, depth=depth + 1)
        else:
            _require_plain(mode, path)
            with opened(name, PLAIN_FILE, above=source) as file:
                _require_plain(os.fstat(file).st_mode, path)
                self._file(file, name, target)

    def _file(self, file: int, name: str, target: int) -> None:
        with _writing():
            copy = os.open(name.encode(), NEW_FILE, 0o444, dir_fd=target)
        try:
            self._require_room(os.fstat(file).st_size)
            while piece := os.read(file, CHUNK_BYTES):
                self._require_room(len(piece))  # it may have grown since
                self._bytes_left -= len(piece)
                with _writing():
                    write_all(copy, piece)
        finally:
            os.close(copy)

    def _require_room(self, size_bytes: int) -> None:
        if size_bytes > self._bytes_left:
            raise PluginError(f"{self._source}: more than {COPY_BYTES:,} bytes in all")


def _require_plain(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        kind = "a symlink" if stat.S_ISLNK(mode) else "a fifo, socket or device"
        raise PluginError(f"{path}: is {kind}, wanted plain files and folders only")


@contextmanager
def _made_folder(name: str, above: int) -> Iterator[int]:
    with _writing():
        os.mkdir(name.encode(), 0o755, dir_fd=above)
        descriptor = os.open(name.encode(), FOLDER, dir_fd=above)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PluginError(f"{path}: cannot be read: {error.strerror}") from error


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SidecarError(f"copy of the plugin: cannot be written: {error.strerror}") from error
