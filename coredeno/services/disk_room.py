"""Whether something failed for want of room on its disk: SQLite does not always say so. Everything here blocks."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

_PIECE = 64 * 1024  # more than SQLite asks for at once: a page, or the 32 KiB of a new `-shm`

_UNCLEAR = {
    "SQLITE_CANTOPEN": 0,  # a file beside the database cannot be made
    "SQLITE_IOERR_DIR_FSYNC": _PIECE,
    "SQLITE_IOERR_FSYNC": _PIECE,  # where room is only sought when it is synced, as by NFS
    "SQLITE_IOERR_SHMSIZE": _PIECE,
    "SQLITE_IOERR_WRITE": _PIECE,
}
"""What SQLite says both where a disk is broken and where it has no room, and how many bytes are tried to tell which.

It calls ENOSPC of a write SQLITE_FULL. A quota that is used up (EDQUOT) is an I/O error to it, and so is either of the
two where it extends the `-shm` or syncs; errno does not come through. https://www.sqlite.org/rescode.html
"""


def was_missing(error: Exception, folder: Path) -> bool:
    """Whether an error of the system or of SQLite came of a disk without room, or of a quota that is used up.

    Where the error does not tell, the disk of `folder` is asked, by writing a little into a file that is gone
    afterwards. So it is to be called at once: if somebody has made room meanwhile, the answer is no.
    """
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    name = getattr(error, "sqlite_errorname", "")
    return name == "SQLITE_FULL" or (name in _UNCLEAR and _refuses(folder, _UNCLEAR[name]))


def is_unclear(error: Exception) -> bool:
    """Whether `was_missing` must ask the disk, and so blocks."""
    return getattr(error, "sqlite_errorname", "") in _UNCLEAR


def _refuses(folder: Path, size: int) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            done = 0
            while done < size:  # what finds room for a part only says so at the next attempt
                done += os.pwrite(file.fileno(), bytes(size - done), done)
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno in _NO_ROOM
    return False
