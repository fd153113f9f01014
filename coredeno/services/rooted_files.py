"""`RootedFiles`: the files beneath one folder, reached by descriptors so that no path can lead out of it.

What is decided is decided on the descriptor that was opened; how one is opened is in `beneath.py`. POSIX only.

Hard links: a file in the root that has another name outside is the app's own doing (a plugin cannot make one), so it
is read like any other. A write replaces the name only, so what the other name leads to keeps its content.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePath

from coredeno.errors import FailedPrecondition, LimitExceeded, NotFound, RequestError, UsageError
from coredeno.interfaces import FileEntry
from coredeno.services.beneath import FOLDER, Opening, best_opening, require_disk
from coredeno.services.descriptors import (
    CHUNK_BYTES,
    PLAIN_FILE,
    make_folders,
    opened,
    opened_folder,
    replace_in,
    require_plain,
)
from coredeno.services.file_names import TEMPORARY, decoded_name, split_path
from coredeno.services.threads import RunInThread, in_thread

# ELOOP is what is said of a symlink (with O_DIRECTORY, `openat` of Linux says ENOTDIR).
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_EXHAUSTED = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMLINK, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
)


class RootedFiles:
    """The default `Files`: plain files and folders beneath `root`, on the local disk.

    Beyond the interface: every `OSError` becomes a `RequestError` (no room, or out of descriptors:
    `LimitExceeded`; no right, a read-only or broken disk: `FailedPrecondition`), and a path that the gate
    should have refused is refused here again, by the same rules, with `InvalidArgument`.

    Volumes that are mounted beneath the root are part of it. What the kernel makes up (/proc, /sys and the like,
    wherever they are mounted) counts as not found.

    Cancellation: work that has not begun is dropped; work that has begun is waited for (so no write lands
    after a later one), then the cancellation goes on. A cancelled `write` has replaced the file or left it.

    Args:
        root: an absolute path, not `/`. Symlinks on the way to it are followed, it is the app's own; it is opened
            anew by each operation, so it may be made later.
        entries_limit: the most entries that `list` gives; a folder with more is `LimitExceeded`.
        hidden: the name of a folder in the root that nobody reaches, whatever else it may be called on a file
            system that holds several spellings to be the same; None hides nothing.
        opening: how paths are resolved; None is the best way that this kernel is seen to have, at the first use.
        run: where the disk work is done; `in_thread` is the loop's default pool.

    Raises:
        UsageError: `root` is not absolute, or is `/`.
    """

    def __init__(
        self,
        root: Path,
        *,
        entries_limit: int = 10_000,
        hidden: str | None = None,
        opening: Opening | None = None,
        run: RunInThread = in_thread,
    ) -> None:
        if not root.is_absolute():
            raise UsageError(f"root of files: {str(root)!r} is relative, wanted an absolute path")
        if len(PurePath(os.path.normpath(root)).parts) == 1:
            raise UsageError(
                f"root of files: {str(root)!r} is the whole machine, wanted a folder of the app's"
            )
        self._root = root
        self._entries_limit = entries_limit
        self._hidden = hidden
        self._chosen = opening
        self._run = run

    async def read(self, path: str, *, limit_bytes: int) -> bytes:
        """The whole plain file; a file that grows while it is read is still held to `limit_bytes`.

        Raises:
            InvalidArgument, NotFound, FailedPrecondition, LimitExceeded: see the class and `Files.read`.
        """
        parts = split_path(path)
        with _as_request_errors("read", path):
            return await self._run(lambda: self._read(parts, limit_bytes))

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
            await self._run(lambda: self._write(parts, data))

    async def list(self, path: str) -> list[FileEntry]:
        """The plain files and folders in a folder, by name (code points); never symlinks, fifos and the like.

        Left out are also names that no path can name (not UTF-8, a backslash) and those of writes under way.

        Raises:
            InvalidArgument, NotFound, FailedPrecondition: see the class and `Files.list`.
            LimitExceeded: it has more than `entries_limit` entries; so many are looked at, and no more.
        """
        parts = split_path(path)
        with _as_request_errors("list", path):
            return [*await self._run(lambda: self._list(parts))]

    async def delete(self, path: str) -> None:
        """Remove a plain file, or an empty folder; when it returns, that is on the disk.

        What crashed writes left in a folder does not keep it from being empty.

        Raises:
            InvalidArgument, NotFound, FailedPrecondition: see the class and `Files.delete`; the root itself,
                a fifo, a socket and a device are `FailedPrecondition`, a symlink is `NotFound`.
        """
        parts = split_path(path)
        with _as_request_errors("delete", path):
            await self._run(lambda: self._delete(parts))

    @property
    def _opening(self) -> Opening:
        if self._chosen is None:  # only now: asking the kernel is for a thread to do
            self._chosen = best_opening()
        return self._chosen

    @contextmanager
    def _folder(self, parts: Sequence[str], *, make: bool = False) -> Iterator[int]:
        with ExitStack() as stack:
            folder = stack.enter_context(opened_folder(self._root))
            # What is hidden is known by the descriptor of the first folder on the way, so that has to be had.
            steps = [parts] if self._hidden is None else [parts[:1], parts[1:]]
            for step in filter(None, steps):
                above, folder = folder, self._entered(folder, step, make=make)
                stack.callback(os.close, folder)
                if step is steps[0] and self._is_hidden(folder, above):
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            require_disk(folder)
            yield folder

    def _entered(self, above: int, parts: Sequence[str], *, make: bool) -> int:
        try:
            return self._opening(above, parts, FOLDER)
        except FileNotFoundError:
            if not make:
                raise
            return make_folders(above, parts)

    def _is_hidden(self, folder: int, root: int) -> bool:
        if self._hidden is None:
            return False
        try:
            hidden = os.stat(self._hidden.encode(), dir_fd=root, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(hidden, os.fstat(folder))

    def _read(self, parts: Sequence[str], limit_bytes: int) -> bytes:
        if not parts:
            raise FailedPrecondition("is a folder, wanted a file")
        with self._folder(parts[:-1]) as above:
            file = self._opening(above, parts[-1:], PLAIN_FILE)
        try:
            return _all_of(file, limit_bytes)
        finally:
            os.close(file)

    def _write(self, parts: Sequence[str], data: bytes) -> None:
        if not parts:
            raise FailedPrecondition("is a folder, wanted a file")
        with self._folder(parts[:-1], make=True) as above:
            replace_in(above, parts[-1], data)

    def _list(self, parts: Sequence[str]) -> Sequence[FileEntry]:
        try:
            with self._folder(parts) as folder:
                return sorted(_entries(folder, self._entries_limit), key=lambda entry: entry.name)
        except NotADirectoryError:
            if not parts:
                raise
            with self._folder(parts[:-1]) as above:
                status = os.stat(parts[-1].encode(), dir_fd=above, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                raise
            raise FailedPrecondition("is no folder") from None

    def _delete(self, parts: Sequence[str]) -> None:
        if not parts:
            raise FailedPrecondition("is the root itself, wanted something in it")
        with self._folder(parts[:-1]) as above:
            name = parts[-1].encode()
            status = os.stat(name, dir_fd=above, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                _remove_folder(parts[-1], above)
            elif stat.S_ISLNK(status.st_mode):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            else:
                require_plain(status)
                os.unlink(name, dir_fd=above)
            os.fsync(above)


def _all_of(file: int, limit_bytes: int) -> bytes:
    status = os.fstat(file)
    require_plain(status)
    require_disk(file)
    if status.st_size > limit_bytes:
        raise LimitExceeded(f"has {status.st_size} bytes, wanted at most {limit_bytes}")
    data = os.read(file, status.st_size + 1)
    while len(data) <= limit_bytes and (more := os.read(file, CHUNK_BYTES)):
        data += more  # it has grown since, or the file system answers in pieces
    if len(data) > limit_bytes:
        raise LimitExceeded(f"has grown, wanted at most {limit_bytes} bytes")
    return data


def _entries(folder: int, limit: int) -> Iterator[FileEntry]:
    count = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            count += 1
            if count > limit:
                raise LimitExceeded(f"has more than {limit:,} entries")
            name = decoded_name(os.fsencode(entry.name))
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # removed since
                continue
            is_dir = stat.S_ISDIR(status.st_mode)
            if name is not None and (is_dir or stat.S_ISREG(status.st_mode)):
                yield FileEntry(name=name, is_dir=is_dir, size=0 if is_dir else status.st_size)


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
