"""What is done to whole folders on the disk. Everything here blocks."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path


def remove(path: Path) -> None:
    """Remove a folder and all in it, folders without the write bit too, or a file or link.

    Harmless if it does not exist. What cannot be removed stays.
    """

    def retry(_function: object, path: str, _error: object) -> None:
        with contextlib.suppress(OSError):
            os.chmod(os.path.dirname(path), 0o700)  # noqa: PTH101, PTH120
            if stat.S_ISDIR(os.lstat(path).st_mode):  # what a link leads to is somebody else's
                os.chmod(path, 0o700)  # noqa: PTH101
                shutil.rmtree(path)
            else:
                os.unlink(path)  # noqa: PTH108

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, onerror=retry)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk.

    Raises:
        OSError: as `os.open` and `os.fsync`.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
