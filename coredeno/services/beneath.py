"""Opening a path beneath a folder without ever leaving it, in two ways that are equally safe.

`open_by_walk` opens one component at a time, with `openat` and O_NOFOLLOW, and holds each folder by its
descriptor. `open_by_openat2` lets Linux (5.6) do all of it in one call: RESOLVE_BENEATH, no symlinks, no magic
links (those of /proc). Neither follows a link, whenever it was put there: between two steps a component may
be swapped for a symlink, and then the open fails.

Mount points are crossed: a volume that the app's administrator mounted in the root is as much the app's as the
root itself, and no module can mount anything. What the kernel makes up (/proc, /sys) is no place for files,
wherever it is mounted: see `require_disk`.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, TypeAlias

Opening: TypeAlias = Callable[[int, Sequence[str], int], int]
"""Open `parts` beneath the folder `above` with these flags of `os.open`: `(above, parts, flags)`; gives a
descriptor. No parts is the folder itself. Blocks. Raises OSError: ELOOP or ENOTDIR for a symlink, or as `os.open`."""

ROOT = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
FOLDER = ROOT | os.O_NOFOLLOW

_SYS_OPENAT2 = 437
# Where a system call has this number (alpha and mips count differently), by what `uname -m` says.
_MACHINES = frozenset({"x86_64", "aarch64", "riscv64", "ppc64le", "ppc64", "s390x", "loongarch64"})
_RESOLVE = 0x02 | 0x04 | 0x08  # RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH

# statfs(2): file systems that the kernel makes up: proc, sysfs, debugfs, tracefs, securityfs, cgroup, cgroup2, bpf.
_MADE_UP = frozenset(
    {0x9FA0, 0x62656572, 0x64626720, 0x74726163, 0x73636673, 0x27E0EB, 0x63677270, 0xCAFE4A11}
)
_NO_NAMES = frozenset({"", ".", ".."})
_STATFS_BYTES = 256  # more than any struct statfs; f_type is its first field


def open_by_walk(above: int, parts: Sequence[str], flags: int) -> int:
    """See `Opening`: one component at a time, on any POSIX system."""
    if not parts:
        return os.open(".", flags, dir_fd=above)
    if any(part in _NO_NAMES or "/" in part for part in parts):  # as RESOLVE_BENEATH has it
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    current = above
    try:
        for part in parts[:-1]:
            below = os.open(part.encode(), FOLDER, dir_fd=current)
            if current != above:
                os.close(current)
            current = below
        return os.open(parts[-1].encode(), flags | os.O_NOFOLLOW, dir_fd=current)
    finally:
        if current != above:
            os.close(current)


def open_by_openat2(above: int, parts: Sequence[str], flags: int) -> int:
    """See `Opening`: one system call. Where `best_opening` did not find it, OSError (ENOSYS)."""
    how = struct.pack("=QQQ", flags | os.O_NOFOLLOW, 0, _RESOLVE)  # struct open_how: flags, mode, resolve
    path = "/".join(parts).encode() or b"."
    while True:
        descriptor = _syscall(_SYS_OPENAT2, above, path, how)
        if descriptor >= 0:
            return descriptor
        number = _errno()
        if number == errno.EAGAIN:  # something was renamed meanwhile, and the kernel could not be sure
            return open_by_walk(above, parts, flags)
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def best_opening() -> Opening:
    """`open_by_openat2` if this kernel has it and it is seen to hold, else `open_by_walk`."""
    if not sys.platform.startswith("linux") or os.uname().machine not in _MACHINES:
        return open_by_walk
    folder = os.open("/", ROOT)
    try:
        os.close(open_by_openat2(folder, (), FOLDER))
        os.close(open_by_openat2(folder, ("..",), FOLDER))
    except OSError as error:
        # "/.." would be "/" again: only a kernel that really resolves beneath refuses it like this.
        return open_by_openat2 if error.errno == errno.EXDEV else open_by_walk
    finally:
        os.close(folder)
    return open_by_walk


def require_disk(descriptor: int) -> None:
    """Refuse what the kernel makes up, such as /proc/self/environ. Linux only; elsewhere nothing is checked.

    Raises:
        OSError: ENOENT: it lies on such a file system.
    """
    if not sys.platform.startswith("linux"):
        return
    status = _buffer(_STATFS_BYTES)
    if _libc().fstatfs(descriptor, status) != 0:
        number = _errno()
        raise OSError(number, os.strerror(number))
    kind: int = struct.unpack_from("@I" if os.uname().machine == "s390x" else "@L", status)[0]
    if kind & 0xFFFFFFFF in _MADE_UP:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


# ctypes is imported by the thread that needs it first: that takes milliseconds, and the event loop has none.


def _syscall(number: int, above: int, path: bytes, how: bytes) -> int:
    import ctypes  # noqa: PLC0415

    # `syscall` takes any arguments, so that nothing says their sizes but we.
    result: int = _libc().syscall(
        ctypes.c_long(number), ctypes.c_int(above), path, how, ctypes.c_size_t(len(how))
    )
    return result


def _errno() -> int:
    import ctypes  # noqa: PLC0415

    return ctypes.get_errno()


def _buffer(size: int) -> Any:
    import ctypes  # noqa: PLC0415

    return ctypes.create_string_buffer(size)


@cache
def _libc() -> Any:
    import ctypes  # noqa: PLC0415

    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    return libc
