"""What is done to files and folders by their descriptors. Everything here blocks."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from coredeno.errors import FailedPrecondition
from coredeno.services.beneath import FOLDER, ROOT, Opening, open_by_walk
from coredeno.services.file_names import TEMPORARY

# O_NONBLOCK: opening a fifo would wait for its writer for ever. O_NOCTTY: no terminal may become ours.
PLAIN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
CHUNK_BYTES = 1 << 20


@contextmanager
def opened(name: str, flags: int, mode: int = 0, *, above: int) -> Iterator[int]:
    """A descriptor of `name` in the folder `above`, closed at the end.

    Raises:
        OSError: as `os.open`.
    """
    descriptor = os.open(name.encode(), flags, mode, dir_fd=above)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def opened_folder(root: Path, parts: Sequence[str] = (), *, opening: Opening = open_by_walk) -> Iterator[int]:
    """A descriptor of the folder `parts` beneath `root`, reached without following a symlink.

    Raises:
        OSError: ENOENT, or ENOTDIR or ELOOP for a component that is a file or symlink, or as `os.open`.
    """
    above = os.open(root, ROOT)
    try:
        folder = opening(above, parts, FOLDER) if parts else os.dup(above)
    finally:
        os.close(above)
    try:
        yield folder
    finally:
        os.close(folder)


def make_folders(above: int, parts: Sequence[str]) -> int:
    """Open the folder `parts` beneath `above`, and make durably what is missing of it; gives a descriptor.

    Folders that were made stay, also if it then fails.

    Raises:
        OSError: ENOTDIR for a component that is a file or symlink, or as `os.open` and `os.mkdir`.
    """
    current = os.dup(above)
    try:
        for part in parts:
            below = _entered(part.encode(), current)
            current, left = below, current
            os.close(left)
    except BaseException:
        os.close(current)
        raise
    return current


def _entered(name: bytes, above: int) -> int:
    with suppress(FileNotFoundError):
        return os.open(name, FOLDER, dir_fd=above)
    with suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=above)
        os.fsync(above)
    return os.open(name, FOLDER, dir_fd=above)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`; the system may take it in pieces.

    Raises:
        OSError: as `os.write`; a part may have been written.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def replace_durably(root: Path, parts: Sequence[str], data: bytes) -> None:
    """Replace or make the file `parts` beneath `root`, with the folders above it; see `replace_in`.

    Raises:
        FailedPrecondition: what is there, or is to be written, is no plain file.
        OSError: as for `make_folders`, or the disk is full.
    """
    if not parts:
        raise FailedPrecondition("is a folder, wanted a file")
    with opened_folder(root) as top:
        above = make_folders(top, parts[:-1])
        try:
            replace_in(above, parts[-1], data)
        finally:
            os.close(above)


def replace_in(above: int, name: str, data: bytes) -> None:
    """Replace or make the file `name` in the folder `above`: all of it or nothing, also after a crash.

    A temporary file is written, synced and renamed. So it is the name that is replaced: a hard link elsewhere to
    the former file keeps the former content. The new file has mode 0644 minus the umask, or what the former
    one had of it: it never has the bits for executing, set-uid or set-gid.

    Raises:
        FailedPrecondition: what is there is no plain file.
        OSError: as `os.open`, `os.write`, `os.fsync`, `os.rename`; the former file is there.
    """
    mode: int | None = None
    with suppress(FileNotFoundError):
        status = os.stat(name.encode(), dir_fd=above, follow_symlinks=False)
        require_plain(status)
        mode = stat.S_IMODE(status.st_mode) & 0o666
    temporary = f"{TEMPORARY}{os.urandom(8).hex()}"
    with opened(temporary, NEW_FILE, 0o644 if mode is None else 0o600, above=above) as file:
        try:
            if mode is not None:
                os.fchmod(file, mode)
            write_all(file, data)
            os.fsync(file)
            os.rename(temporary.encode(), name.encode(), src_dir_fd=above, dst_dir_fd=above)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary.encode(), dir_fd=above)
            raise
    os.fsync(above)


def require_plain(status: os.stat_result) -> None:
    """Refuse what is no plain file.

    Raises:
        FailedPrecondition: it is a folder, fifo, socket, device or link.
    """
    if stat.S_ISDIR(status.st_mode):
        raise FailedPrecondition("is a folder, wanted a file")
    if not stat.S_ISREG(status.st_mode):
        raise FailedPrecondition("is no plain file")
