"""`FolderSource`: a plugin's files in a folder of the developer's, unsigned, copied as they are by then."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from os import PathLike
from pathlib import Path
from typing import Self

from coredeno.errors import ManifestError, PluginError, RequestError, SidecarError
from coredeno.manifest import LIMIT_BYTES, Manifest, parse_manifest
from coredeno.plugin_files import DEPTH_LIMIT, ENTRIES_LIMIT, PluginFile, walk
from coredeno.services.beneath import FOLDER
from coredeno.services.descriptors import NEW_FILE, write_all
from coredeno.services.rooted_files import RootedFiles
from coredeno.services.threads import in_thread

MANIFEST = ".core/view.yml"
"""Where the manifest is, in a plugin's folder."""
COPY_ENTRIES = ENTRIES_LIMIT
"""The most files and folders of one plugin."""
COPY_BYTES = 256 * 1024 * 1024
"""The most bytes of one plugin, all files together."""
COPY_DEPTH = DEPTH_LIMIT
"""How many folders may lie within one another."""

_SKIPPED = frozenset({".git"})


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
        await in_thread(lambda: _copy(self._folder, folder))


def _copy(source: Path, target: Path) -> None:
    files = walk(source, skip_names=_SKIPPED, entries_limit=COPY_ENTRIES, depth_limit=COPY_DEPTH)
    with closing(files), _Copies(source, target) as copies:
        for file in files:
            if file.is_folder:
                copies.add_folder(file)
            else:
                copies.add_file(file)


class _Copies:
    """The folders of the copy that are open: the target, and those that lead to the last one made in it."""

    def __init__(self, source: Path, target: Path) -> None:
        self._source = source
        self._bytes_left = COPY_BYTES
        with _writing():
            self._open = [("", os.open(target, FOLDER))]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for _path, descriptor in self._open:
            os.close(descriptor)

    def add_folder(self, folder: PluginFile) -> None:
        above, _, name = folder.path.rpartition("/")
        target = self._back_to(above)
        with _writing():
            os.mkdir(name.encode(), 0o755, dir_fd=target)
            self._open.append((folder.path, os.open(name.encode(), FOLDER, dir_fd=target)))

    def add_file(self, file: PluginFile) -> None:
        above, _, name = file.path.rpartition("/")
        target = self._back_to(above)
        with _writing():
            copy = os.open(name.encode(), NEW_FILE, 0o444, dir_fd=target)
        try:
            self._require_room(file.status.st_size)
            for piece in file.pieces():
                self._require_room(len(piece))  # it may have grown since
                self._bytes_left -= len(piece)
                with _writing():
                    write_all(copy, piece)
        finally:
            os.close(copy)

    def _back_to(self, folder: str) -> int:
        """Close the folders that the walk has left since; it comes to none of them again."""
        while self._open[-1][0] != folder:
            os.close(self._open.pop()[1])
        return self._open[-1][1]

    def _require_room(self, size_bytes: int) -> None:
        if size_bytes > self._bytes_left:
            raise PluginError(f"{self._source}: more than {COPY_BYTES:,} bytes in all")


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SidecarError(f"copy of the plugin: cannot be written: {error.strerror}") from error
