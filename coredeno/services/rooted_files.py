"""`RootedFiles`: the files beneath one folder, reached by descriptors so that no path can lead out of it.

Each path is walked one component at a time with `openat` and O_NOFOLLOW, and what is decided is decided on
the descriptor that was opened. Between two steps a component may be swapped for a symlink; the next `openat`
then fails, it never follows. Hard links are left alone: a plugin cannot make one, and a write replaces the
name only, so the other names of the old file keep the old content.

All disk work runs in the loop's default thread pool. POSIX only.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from coredeno.errors import (
    FailedPrecondition,
    InvalidArgument,
    LimitExceeded,
    NotFound,
    RequestError,
    UsageError,
)
from coredeno.interfaces import FileEntry
from coredeno.permissions import normalise_path

_T = TypeVar("_T")

TEMPORARY = ".coredeno-tmp-"
"""How the names of files being written begin. No path may name them, no list shows them."""

_ROOT = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
FOLDER = _ROOT | os.O_NOFOLLOW
# O_NONBLOCK: opening a fifo would wait for its writer for ever. O_NOCTTY: no terminal may become ours.
PLAIN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
CHUNK_BYTES = 1 << 20

# ELOOP is what O_NOFOLLOW says of a symlink (with O_DIRECTORY, Linux says ENOTDIR).
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_EXHAUSTED = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMLINK, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
)


class RootedFiles:
    """The default `Files`: plain files and folders beneath `root`, on the local disk.

    Beyond the interface: every `OSError` becomes a `RequestError` (no room, or out of descriptors:
    `LimitExceeded`; no right, a read-only or broken disk: `FailedPrecondition`), and a path that the gate
    should have refused is refused here again, by the same rules, with `InvalidArgument`.

    Cancellation: work that has not begun is dropped; work that has begun is waited for (so no write lands
    after a later one), then the cancellation goes on. A cancelled `write` has replaced the file or left it.

    Args:
        root: an absolute path. Symlinks on the way to it are followed, it is the app's own; it is opened anew
            by each operation, so it may be made later.
        entries_limit: the most entries that `list` gives; a folder with more is `LimitExceeded`.

    Raises:
        UsageError: `root` is not absolute.
    """

    def __init__(self, root: Path, *, entries_limit: int = 100_000) -> None:
        if not root.is_absolute():
            raise UsageError(f"root of files: {str(root)!r} is relative, wanted an absolute path")
        self._root = root
        self._entries_limit = entries_limit

    async def read(self, path: str, *, limit_bytes: int) -> bytes:
        """The whole plain file; a file that grows while it is read is still held to `limit_bytes`.

        Raises:
            InvalidArgument, NotFound, FailedPrecondition, LimitExceeded: see the class and `Files.read`.
        """
        parts = split_path(path)
        with _as_request_errors("read", path):
            return await in_thread(lambda: _read(self._root, parts, limit_bytes))

    async def write(self, path: str, data: bytes) -> None:
        """Replace or make the file; when it returns, file and name are on the disk (fsync of both).

        A new file has mode 0644 and new folders 0755, minus the umask; a replaced one keeps who may read and
        write it, and is never executable. Folders that were made stay, also if the write then fails. What is
        neither file nor folder (a symlink, fifo, socket, device) is not replaced.

        Raises:
            InvalidArgument, FailedPrecondition, LimitExceeded: see the class and `Files.write`. The file is
                unchanged, unless it was the last fsync that failed: then the new one stands, but a power cut
                may undo it.
        """
        parts = split_path(path)
        with _as_request_errors("write", path, absent=FailedPrecondition):
            await in_thread(lambda: _write(self._root, parts, data))

    async def list(self, path: str) -> list[FileEntry]:
        """The plain files and folders in a folder, by name (code points); never symlinks, fifos and the like.

        Left out are also names that no path can name (not UTF-8, a backslash) and those of writes under way.

        Raises:
            InvalidArgument, NotFound, FailedPrecondition: see the class and `Files.list`.
            LimitExceeded: it has more than `entries_limit` entries.
        """
        parts = split_path(path)
        with _as_request_errors("list", path):
            return await in_thread(lambda: _list(self._root, parts, self._entries_limit))

    async def delete(self, path: str) -> None:
        """Remove a plain file, or an empty folder; when it returns, that is on the disk.

        What crashed writes left in a folder does not keep it from being empty.

        Raises:
            InvalidArgument, NotFound, FailedPrecondition: see the class and `Files.delete`; the root itself,
                a fifo, a socket and a device are `FailedPrecondition`, a symlink is `NotFound`.
        """
        parts = split_path(path)
        with _as_request_errors("delete", path):
            await in_thread(lambda: _delete(self._root, parts))


def split_path(path: str) -> list[str]:
    """The components of a path beneath the root; none for `.`, the root itself. Pure.

    Raises:
        InvalidArgument: `normalise_path` refuses it, or a name begins as those of files being written do.
    """
    normal = normalise_path(path)
    parts = [] if normal == "." else normal.split("/")
    if any(part.startswith(TEMPORARY) for part in parts):
        raise InvalidArgument(f"path {path!r}: names that begin with {TEMPORARY!r} are coredeno's own")
    return parts


def decoded_name(entry: os.DirEntry[str]) -> str | None:
    """The entry's name, whatever the locale; None if no path can name it (not UTF-8, a backslash …)."""
    name = os.fsencode(entry.name).decode(errors="surrogateescape")
    try:
        return name if split_path(name) == [name] else None
    except InvalidArgument:
        return None


async def in_thread(work: Callable[[], _T]) -> _T:
    """Run `work` in the loop's default thread pool.

    Cancellation: work that still waits for a thread never runs; work that has begun is waited for, however
    often the caller is cancelled, and then `CancelledError` is raised. So nothing runs on behind the caller.
    """
    begun = given_up = False

    def run() -> _T:
        nonlocal begun
        begun = True  # before the look at `given_up`: one of the two sides always sees the other
        if given_up:
            raise RuntimeError("given up before it began")
        return work()

    future = asyncio.get_running_loop().run_in_executor(None, run)
    try:
        await asyncio.wait([future])
    except asyncio.CancelledError:
        given_up = True
        if not begun:
            future.cancel()
        while not future.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # so that asyncio does not report it as never looked at
        raise
    return future.result()


@contextmanager
def opened(name: str, flags: int, mode: int = 0, *, above: int) -> Iterator[int]:
    """A descriptor of `name` in the folder `above`, closed at the end. Blocks.

    Raises:
        OSError: as `os.open`.
    """
    descriptor = os.open(name.encode(), flags, mode, dir_fd=above)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def opened_folder(root: Path, parts: Sequence[str] = (), *, make: bool = False) -> Iterator[int]:
    """A descriptor of the folder `parts` beneath `root`, reached without following a symlink. Blocks.

    With `make`, missing folders beneath `root` are made, durably; those that were made stay.

    Raises:
        OSError: ENOENT, or ENOTDIR for a component that is a file or symlink, or as `os.open` and `os.mkdir`.
    """
    current = os.open(root, _ROOT)
    try:
        for part in parts:
            below = _entered(part.encode(), current, make=make)
            above, current = current, below
            os.close(above)
        yield current
    finally:
        os.close(current)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`; the system may take it in pieces. Blocks.

    Raises:
        OSError: as `os.write`; a part may have been written.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _entered(name: bytes, above: int, *, make: bool) -> int:
    try:
        return os.open(name, FOLDER, dir_fd=above)
    except FileNotFoundError:
        if not make:
            raise
    with suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=above)
        os.fsync(above)
    return os.open(name, FOLDER, dir_fd=above)


def _read(root: Path, parts: list[str], limit_bytes: int) -> bytes:
    if not parts:
        raise FailedPrecondition("is a folder, wanted a file")
    with opened_folder(root, parts[:-1]) as above, opened(parts[-1], PLAIN_FILE, above=above) as file:
        status = os.fstat(file)
        _require_plain(status)
        if status.st_size > limit_bytes:
            raise LimitExceeded(f"has {status.st_size} bytes, wanted at most {limit_bytes}")
        data = os.read(file, status.st_size + 1)
        while len(data) <= limit_bytes and (more := os.read(file, CHUNK_BYTES)):
            data += more  # it has grown since, or the file system answers in pieces
    if len(data) > limit_bytes:
        raise LimitExceeded(f"has grown, wanted at most {limit_bytes} bytes")
    return data


def _write(root: Path, parts: list[str], data: bytes) -> None:
    if not parts:
        raise FailedPrecondition("is a folder, wanted a file")
    with opened_folder(root, parts[:-1], make=True) as above:
        name = parts[-1].encode()
        mode: int | None = None
        with suppress(FileNotFoundError):
            status = os.stat(name, dir_fd=above, follow_symlinks=False)
            _require_plain(status)
            mode = stat.S_IMODE(status.st_mode) & 0o666
        _replace(name, data, mode, above)
        os.fsync(above)


def _replace(name: bytes, data: bytes, mode: int | None, above: int) -> None:
    temporary = f"{TEMPORARY}{os.urandom(8).hex()}"
    with opened(temporary, NEW_FILE, 0o644 if mode is None else 0o600, above=above) as file:
        try:
            if mode is not None:
                os.fchmod(file, mode)
            write_all(file, data)
            os.fsync(file)
            os.rename(temporary.encode(), name, src_dir_fd=above, dst_dir_fd=above)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary.encode(), dir_fd=above)
            raise


def _list(root: Path, parts: list[str], limit: int) -> list[FileEntry]:
    try:
        with opened_folder(root, parts) as folder:
            return sorted(_entries(folder, limit), key=lambda entry: entry.name)
    except NotADirectoryError:
        if not parts:
            raise
        with opened_folder(root, parts[:-1]) as above:
            status = os.stat(parts[-1].encode(), dir_fd=above, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            raise
        raise FailedPrecondition("is no folder") from None


def _entries(folder: int, limit: int) -> Iterator[FileEntry]:
    count = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            count += 1
            if count > limit:
                raise LimitExceeded(f"has more than {limit} entries")
            name = decoded_name(entry)
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # removed since
                continue
            is_dir = stat.S_ISDIR(status.st_mode)
            if name is not None and (is_dir or stat.S_ISREG(status.st_mode)):
                yield FileEntry(name=name, is_dir=is_dir, size=0 if is_dir else status.st_size)


def _delete(root: Path, parts: list[str]) -> None:
    if not parts:
        raise FailedPrecondition("is the root itself, wanted something in it")
    with opened_folder(root, parts[:-1]) as above:
        name = parts[-1].encode()
        status = os.stat(name, dir_fd=above, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            _remove_folder(parts[-1], above)
        elif stat.S_ISLNK(status.st_mode):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        else:
            _require_plain(status)
            os.unlink(name, dir_fd=above)
        os.fsync(above)


def _remove_folder(name: str, above: int) -> None:
    with opened(name, FOLDER, above=above) as folder:
        left_over: list[str] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(TEMPORARY):
                    raise FailedPrecondition("is a folder that is not empty")
                left_over.append(entry.name)
        for left in left_over:
            with suppress(FileNotFoundError):
                os.unlink(left, dir_fd=folder)
    os.rmdir(name.encode(), dir_fd=above)


def _require_plain(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise FailedPrecondition("is a folder, wanted a file")
    if not stat.S_ISREG(status.st_mode):
        raise FailedPrecondition("is no plain file")


@contextmanager
def _as_request_errors(action: str, path: str, absent: type[RequestError] = NotFound) -> Iterator[None]:
    """Give our errors the action and the path, and turn an OSError into one of ours."""
    try:
        yield
    except RequestError as error:
        raise type(error)(f"{action} {path!r}: {error}") from None
    except OSError as error:
        kind: type[RequestError] = FailedPrecondition
        if error.errno in _ABSENT:
            kind = absent
        elif error.errno in _EXHAUSTED:
            kind = LimitExceeded
        problem = os.strerror(error.errno) if error.errno else str(error)
        raise kind(f"{action} {path!r}: {problem}") from error
