"""Where installed plugins lie on the disk, and how a release gets there and goes again.

```
<root>/.core/plugins/<code>/<digest>/…    a release, never changed
                     .staging/*/tree/…    what is being fetched and verified; swept at each start
                     .staging/dead-*/…    what is being removed; swept too
```
What is installed is what the records in the store name, not what lies here. So a release is complete and on the
disk before a record names it, and no record names it before it is removed. Everything here blocks.
"""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from coredeno.disk import remove, sync_folder
from coredeno.errors import InstallError

_log = logging.getLogger(__name__)

_STAGING = ".staging"
_DEAD = "dead-"


class PluginFolders:
    """The folder `plugins` of one host. One host at a time uses it: the root's lock sees to that."""

    def __init__(self, base: Path) -> None:
        """Plan for the folder `base`; nothing is touched."""
        self.base: Path = base
        self._staging = base / _STAGING

    def open(self) -> None:
        """Make what is missing.

        Raises:
            InstallError: it cannot be made.
        """
        with writing("the folder of installed plugins"):
            self.base.mkdir(mode=0o700, exist_ok=True)
            self._staging.mkdir(mode=0o700, exist_ok=True)

    def new_stage(self) -> Path:
        """Where the next plugin can be staged. Blocks nothing: it is not made yet."""
        return self._staging / secrets.token_hex(8)

    def make_stage(self, stage: Path) -> None:
        """Make the private folder `stage`, with an empty folder `tree` in it.

        Raises:
            InstallError: it cannot be made.
        """
        with writing("a folder to stage a plugin in"):
            stage.mkdir(mode=0o700)
            (stage / "tree").mkdir(mode=0o755)

    def discard(self, stage: Path) -> None:
        """Remove a stage. Harmless twice; what cannot be removed is swept at the next start."""
        remove(stage)

    def clear_staging(self) -> None:
        """Remove everything that is staged or being removed."""
        with suppress(OSError):
            for entry in self._staging.iterdir():
                remove(entry)

    def release(self, code: str, digest: str) -> Path:
        """The folder of a release, whether it exists or not."""
        return self.base / code / digest

    def put(self, tree: Path, code: str, digest: str) -> None:
        """Move a sealed tree to its place, durably. What stood there, damaged as it must be, is removed.

        Raises:
            InstallError: it cannot be moved; the tree is where it was.
        """
        target = self.release(code, digest)
        with writing(f"the release of {code!r}"):
            target.parent.mkdir(mode=0o700, exist_ok=True)
            if os.path.lexists(target):
                self._bury(target)
            os.rename(tree, target)  # noqa: PTH104 - `Path.rename` would hide which of the two is durable
            for folder in (target.parent, self.base):
                sync_folder(folder)

    def take_away(self, code: str, digests: Collection[str] | None = None) -> None:
        """Remove releases of a plugin that no record names any more, or all that there is of it.

        What cannot be removed now is swept at the next start.
        """
        folder = self.base / code
        with suppress(OSError):
            if digests is None:
                self._bury(folder)
                return
            for digest in digests:
                if os.path.lexists(folder / digest):
                    self._bury(folder / digest)

    def sweep(self, named: Mapping[str, Collection[str]], *, unreadable: Collection[str]) -> list[str]:
        """Remove what no record names: what a host that was killed left half done.

        Args:
            named: the digests that records name, by code.
            unreadable: codes whose records cannot be read; nothing of theirs is touched.

        Returns:
            What was removed, for the log. What cannot be read or removed is passed over, and logged here: one
            folder with odd modes keeps no host from starting.

        Raises:
            InstallError: the folder itself cannot be read.
        """
        with reading("the folder of installed plugins"):
            swept = [f"{_STAGING}/{entry.name}" for entry in sorted(self._staging.iterdir())]
            folders = sorted(self.base.iterdir())
        self.clear_staging()
        for folder in folders:
            if folder == self._staging or folder.name in unreadable:
                continue
            with _passing_over(folder):
                for each in _unnamed(folder, named.get(folder.name, ())):
                    with _passing_over(each):
                        self._bury(each)
                        swept.append(str(each.relative_to(self.base)))
        return swept

    def _bury(self, path: Path) -> None:
        """Out of the way first, at one stroke: half a release is never seen in its place."""
        grave = Path(tempfile.mkdtemp(prefix=_DEAD, dir=self._staging))
        try:
            _make_movable(path)
            os.rename(path, grave / "it")  # noqa: PTH104
            sync_folder(path.parent)
        finally:
            remove(grave)


def _unnamed(folder: Path, wanted: Collection[str]) -> list[Path]:
    if not wanted or folder.is_symlink() or not folder.is_dir():
        return [folder]
    return [each for each in sorted(folder.iterdir()) if each.name not in wanted]


def _make_movable(path: Path) -> None:
    """A folder that moves has its `..` changed, so it must be writable itself. If it cannot be, the move says why."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(descriptor, 0o700)
        finally:
            os.close(descriptor)


@contextmanager
def _passing_over(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _log.warning("plugins: %r cannot be swept, it stays: %s", path.name, error.strerror or error)


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn an OSError into an `InstallError` that says what could not be read."""
    try:
        yield
    except OSError as error:
        raise InstallError(f"install: {what} cannot be read: {error.strerror or error}") from error


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Turn an OSError into an `InstallError` that says what could not be written."""
    try:
        yield
    except OSError as error:
        raise InstallError(f"install: {what} cannot be written: {error.strerror or error}") from error
