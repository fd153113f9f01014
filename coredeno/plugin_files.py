"""`walk`: the files and folders of a plugin's folder, one after the other, on descriptors.

Nothing is followed out of the folder: each name is looked at, opened without following a link, and looked at
again on the descriptor. Whoever copies, hashes or verifies a plugin's files gets them here. Everything blocks.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final

import msgspec

from coredeno.config import LIMIT_DEPTH, LIMIT_FILES
from coredeno.errors import PluginError
from coredeno.services.beneath import FOLDER
from coredeno.services.descriptors import CHUNK_BYTES, PLAIN_FILE
from coredeno.services.file_names import decoded_name

ENTRIES_LIMIT: Final = LIMIT_FILES
"""The most files and folders of one plugin."""
DEPTH_LIMIT: Final = LIMIT_DEPTH
"""How many folders may lie within one another."""


class FolderFault(PluginError):
    """Something in a plugin's folder cannot be read.

    Attributes:
        path: which one, relative to the folder; empty if it is the folder itself. It may be any text, also
            with lone surrogates for bytes that are not UTF-8.
        problem: what is wrong with it.
    """

    def __init__(self, path: str, problem: str, *, folder: str = "") -> None:
        whole = "/".join(part for part in (folder, path) if part) or "."
        super().__init__(f"{whole if whole.isprintable() else ascii(whole)}: {problem}")
        self.path = path
        self.problem = problem


class OddEntry(FolderFault):
    """A symlink, fifo, socket or device, or a name that no path can name."""


class FolderTooLarge(FolderFault):
    """More files and folders, or more folders within one another, than wanted.

    Attributes:
        bound: `entries` or `depth`.
        allowed: how many may be.
    """

    def __init__(self, path: str, problem: str, *, folder: str, bound: str, allowed: int) -> None:
        super().__init__(path, problem, folder=folder)
        self.bound = bound
        self.allowed = allowed


class PluginFile(msgspec.Struct, frozen=True):
    """A file or folder that is open.

    Attributes:
        path: relative to the plugin's folder.
        descriptor: it is open for reading until the next one is asked for; a folder's until all in it was given.
        status: of the descriptor.
        origin: the plugin's folder, for messages.
    """

    path: str
    descriptor: int
    status: os.stat_result
    origin: str = ""

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder; else it is a plain file."""
        return stat.S_ISDIR(self.status.st_mode)

    def pieces(self) -> Iterator[bytes]:
        """The file's content, at most 1 MiB at a time. It may be longer or shorter than `status` says.

        Raises:
            FolderFault: it cannot be read.
        """
        while True:
            with _reading(self.path, self.origin):
                piece = os.read(self.descriptor, CHUNK_BYTES)
            if not piece:
                return
            yield piece


def walk(
    folder: Path | int,
    *,
    skip: frozenset[str] = frozenset(),
    skip_names: frozenset[str] = frozenset(),
    entries_limit: int = ENTRIES_LIMIT,
    depth_limit: int = DEPTH_LIMIT,
) -> Generator[PluginFile]:
    """Open and give all that lies in a folder: a folder before what is in it, in each folder by name.

    A loop that may end early closes the generator (`contextlib.closing`), and with it what is open.

    Args:
        folder: its path, which may lead through symlinks, or an open descriptor, which stays the caller's.
        skip: paths that are passed over, with all in them, whatever they are.
        skip_names: names that are passed over, in every folder.
        entries_limit: the most files and folders together; what is passed over does not count.
        depth_limit: the most folders within one another.

    Raises:
        OddEntry, FolderTooLarge: see there.
        FolderFault: something cannot be read, or was swapped while it was opened.
    """
    origin = "" if isinstance(folder, int) else str(folder)
    with nullcontext(folder) if isinstance(folder, int) else _root(folder) as descriptor:
        walker = _Walk(origin, skip, skip_names, entries_limit, depth_limit)
        yield from walker.inside(descriptor, "", depth=0)


class _Walk:
    """One walk at work: what is left of its bounds."""

    def __init__(
        self,
        origin: str,
        skip: frozenset[str],
        skip_names: frozenset[str],
        entries_limit: int,
        depth_limit: int,
    ) -> None:
        self._origin = origin
        self._skip = skip
        self._skip_names = skip_names
        self._entries_limit = entries_limit
        self._entries_left = entries_limit
        self._depth_limit = depth_limit

    def inside(self, folder: int, above: str, *, depth: int) -> Generator[PluginFile]:
        for name in self._names(folder, above):
            path = f"{above}{name}"
            with self._entry(name, folder, path) as entry:
                if not entry.is_folder:
                    yield entry
                    continue
                if depth == self._depth_limit:
                    problem = f"more than {self._depth_limit} folders within one another"
                    raise self._too_large(path, problem, "depth", self._depth_limit)
                yield entry
                yield from self.inside(entry.descriptor, f"{path}/", depth=depth + 1)

    def _names(self, folder: int, above: str) -> list[str]:
        names = []
        with _reading(above.removesuffix("/"), self._origin), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name in self._skip_names or above + entry.name in self._skip:
                    continue
                self._entries_left -= 1
                if self._entries_left < 0:
                    problem = f"more than {self._entries_limit:,} files and folders"
                    raise self._too_large("", problem, "entries", self._entries_limit)
                name = decoded_name(os.fsencode(entry.name))
                if name is None:
                    problem = "its name has characters, or a beginning, that no path may have"
                    raise OddEntry(above + entry.name, problem, folder=self._origin)
                names.append(name)
        return sorted(names)

    @contextmanager
    def _entry(self, name: str, folder: int, path: str) -> Iterator[PluginFile]:
        with _reading(path, self._origin):
            # Looked at before it is opened: opening a device may have effects.
            mode = os.stat(name.encode(), dir_fd=folder, follow_symlinks=False).st_mode
            self._require_plain(mode, path)
            descriptor = os.open(name.encode(), FOLDER if stat.S_ISDIR(mode) else PLAIN_FILE, dir_fd=folder)
        try:
            with _reading(path, self._origin):
                status = os.fstat(descriptor)
            self._require_plain(status.st_mode, path)
            yield PluginFile(path, descriptor, status, self._origin)
        finally:
            os.close(descriptor)

    def _require_plain(self, mode: int, path: str) -> None:
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            kind = "a symlink" if stat.S_ISLNK(mode) else "a fifo, socket or device"
            raise OddEntry(path, f"is {kind}, wanted plain files and folders only", folder=self._origin)

    def _too_large(self, path: str, problem: str, bound: str, allowed: int) -> FolderTooLarge:
        return FolderTooLarge(path, problem, folder=self._origin, bound=bound, allowed=allowed)


@contextmanager
def _root(folder: Path) -> Iterator[int]:
    with _reading("", str(folder)):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _reading(path: str, origin: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FolderFault(path, f"cannot be read: {error.strerror}", folder=origin) from error
