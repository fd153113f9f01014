"""Takes a damaged database out of the way, with all that belongs to it: renamed, never overwritten, never deleted.

Everything here blocks.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from coredeno.disk import sync_folder

_BESIDE = ("-wal", "-shm", "-journal")  # what SQLite keeps beside a database, by the database's name

Identity = tuple[int, int]
"""Device and inode: which file it is, whatever its name."""


def identity_of(file: Path) -> Identity | None:
    """Which file lies there, or None if there is none."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def set_aside(file: Path, judged: Identity | None) -> Path | None:
    """Rename the database to `<name>.corrupt-<UTC time>`, and what lies beside it so that it still belongs to it.

    The database goes first: if the machine stops in between, a log without its database is found next time, and set
    aside in its turn. It never happens that a database is used without the log that belongs to it.

    Args:
        file: the database.
        judged: which file was found to be damaged. If another one lies there by now, somebody was faster.

    Returns:
        Where it lies now (its log, if there was no more than that); None if there is nothing to set aside any more.

    Raises:
        OSError: there is no room for the new names, or the folder may not be written: all is where it was. Should the
            system carry out one rename and refuse the next, that one and what follows are where they were.
    """
    with _one_at_a_time(file.parent):
        if identity_of(file) != judged:
            return None
        found = [end for end in ("", *_BESIDE) if os.path.lexists(f"{file}{end}")]
        if not found:
            return None
        target = _free_name(file)
        _rename_all([(f"{file}{end}", f"{target}{end}") for end in found])
        sync_folder(file.parent)
    return target.with_name(target.name + found[0])


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Among all that set aside in this folder, in any process."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _free_name(file: Path) -> Path:
    stamp = f"{file.name}.corrupt-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    names = itertools.chain((stamp,), (f"{stamp}-{number}" for number in itertools.count(2)))
    targets = (file.with_name(name) for name in names)
    return next(
        each for each in targets if not any(os.path.lexists(f"{each}{end}") for end in ("", *_BESIDE))
    )


def _rename_all(names: Sequence[tuple[str, str]]) -> None:
    # A rename replaces what is there. So each name is taken first, by a file that can only be our own; and all of them
    # before anything is renamed, since that needs no room any more, and on a full disk there may be none for the next.
    taken: list[str] = []
    try:
        for _, target in names:
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            taken.append(target)
        for source, target in names:
            os.rename(source, target)  # noqa: PTH104
            taken.remove(target)
    except BaseException:
        for target in taken:
            os.unlink(target)  # noqa: PTH108
        raise
