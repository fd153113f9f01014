"""Makes a staged tree one that nobody changes any more: measured, without write bits, and on the disk.

Hashing, changing the mode and waiting for the disk are done on one descriptor a file, so that what is sealed is
what was measured. Everything here blocks.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from coredeno.disk import sync_folder
from coredeno.errors import UnsafePath
from coredeno.install.faults import install_errors
from coredeno.install.folders import writing
from coredeno.install.paths import PathSet, check_path
from coredeno.install.release import ReleaseFile
from coredeno.plugin_files import ENTRIES_LIMIT, PluginFile, walk
from coredeno.services.descriptors import CHUNK_BYTES, NEW_FILE, opened, opened_folder, write_all

FILE_MODE = 0o444
FOLDER_MODE = 0o755
_AT_ONCE = 8  # a disk takes many syncs at once; one after the other they take twice as long
_WAITING = 64  # descriptors that are open meanwhile


def seal(tree: Path, *, entries_limit: int = ENTRIES_LIMIT) -> list[ReleaseFile]:
    """Seal all files and folders of a tree, and say what they are, in the order of their paths.

    Args:
        tree: the folder.
        entries_limit: the most files and folders; who adds some later leaves room for them.

    Raises:
        UnsafePath: something is no plain file or folder, has a second link, or a name that is not allowed.
        FetchLimitExceeded: there are too many, or too many within one another.
        InstallError: one cannot be read, or the disk is full or broken.
    """
    paths = PathSet()
    sealed: list[ReleaseFile | None] = []
    waiting: deque[Future[ReleaseFile | None]] = deque()
    with (
        writing("the staged plugin"),
        install_errors(),
        ThreadPoolExecutor(_AT_ONCE, "coredeno-seal") as threads,
    ):
        with closing(walk(tree, entries_limit=entries_limit)) as entries:
            for entry in entries:
                check_path(entry.path)
                if entry.is_folder:
                    os.fchmod(entry.descriptor, FOLDER_MODE)
                    # The names in it are all there already, so it need not wait for its files.
                    waiting.append(threads.submit(_sync, os.dup(entry.descriptor)))
                else:
                    paths.add(entry.path)
                    _require_single(entry)
                    waiting.append(threads.submit(_seal_file, entry.path, os.dup(entry.descriptor)))
                if len(waiting) == _WAITING:
                    sealed.append(waiting.popleft().result())
        sealed.extend(future.result() for future in waiting)
        sync_folder(tree)
    return sorted(filter(None, sealed), key=lambda file: file.path)


def add_sealed(tree: Path, path: str, data: bytes) -> None:
    """Put one more file into a sealed tree.

    Raises:
        InstallError: it is there already, or cannot be written.
    """
    *folders, name = path.split("/")
    with writing(path), opened_folder(tree, folders) as folder:
        with opened(name, NEW_FILE, FILE_MODE, above=folder) as file:
            write_all(file, data)
            os.fchmod(file, FILE_MODE)
            os.fsync(file)
        os.fsync(folder)


def _seal_file(path: str, descriptor: int) -> ReleaseFile:
    try:
        digest, size = hashlib.sha256(), 0
        while piece := os.read(descriptor, CHUNK_BYTES):
            digest.update(piece)
            size += len(piece)
        os.fchmod(descriptor, FILE_MODE)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return ReleaseFile(path, digest.hexdigest(), size)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_single(entry: PluginFile) -> None:
    if entry.status.st_nlink != 1:
        raise UnsafePath(entry.path, "has another name elsewhere (a hard link)")


def is_sealed(entry: PluginFile) -> bool:
    """Whether it has the mode that `seal` gives."""
    return stat.S_IMODE(entry.status.st_mode) == (FOLDER_MODE if entry.is_folder else FILE_MODE)
