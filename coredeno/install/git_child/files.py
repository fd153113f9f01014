"""Writes the files of a plan into an empty folder: plain, read-only, never executable."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from coredeno.install.git_child.tree import ObjectReader, PlannedFile

_FILE_MODE = 0o444
_FOLDER_MODE = 0o755
# O_EXCL and O_NOFOLLOW: what is there already was not put there by us, so nothing is written to it.
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write_files(
    folder: str, files: Sequence[PlannedFile], objects: ObjectReader, on_progress: Callable[[int, int], None]
) -> None:
    """Write each file, one in memory at a time, and make the folders that they are in.

    Args:
        folder: an absolute path.
        files: of a plan, so checked; no two are the same.
        objects: where their contents are.
        on_progress: called with the files done and their number, for each.

    Raises:
        OSError: the disk is full, or something is there already.
    """
    made = {""}
    for done, file in enumerate(files, 1):
        _make_folders(folder, os.path.dirname(file.path), made)  # noqa: PTH120 - pathlib is slow to import here
        fd = os.open(_on_disk(folder, file.path), _NEW, _FILE_MODE)
        try:
            left = memoryview(objects.read(file.name))
            while left:
                left = left[os.write(fd, left) :]
            os.fchmod(fd, _FILE_MODE)  # whatever the umask
        finally:
            os.close(fd)
        on_progress(done, len(files))


def _make_folders(root: str, path: str, made: set[str]) -> None:
    if path in made:
        return
    _make_folders(root, path.rpartition("/")[0], made)
    where = _on_disk(root, path)
    os.mkdir(where, _FOLDER_MODE)  # noqa: PTH102
    fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(fd, _FOLDER_MODE)
    finally:
        os.close(fd)
    made.add(path)


def _on_disk(folder: str, path: str) -> bytes:
    return os.fsencode(folder) + b"/" + path.encode()  # UTF-8, whatever the locale
