"""Compares files with what was signed, byte for byte; copies them while it does, so that no time lies between.

The same judgement on a tree that was just sealed and on one that has lain on the disk: what is listed must be there,
and what is there must be listed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from coredeno.errors import IntegrityError, SidecarError
from coredeno.install.release import RELEASE, SIGNATURE, Release, ReleaseFile
from coredeno.install.sealing import FILE_MODE, FOLDER_MODE, is_sealed
from coredeno.plugin_files import FolderFault, PluginFile, walk
from coredeno.services.descriptors import NEW_FILE, opened, opened_folder, write_all

_CHANGED = " (not what its author signed: it was changed, or not signed anew)"
_IGNORED = " (ignored by git when it was signed?)"


def compare(release: Release, found: Iterable[ReleaseFile]) -> None:
    """Return if these files are exactly those of the release, beside the release's own two.

    Raises:
        IntegrityError: one is missing, is not listed, or differs; it names the plugin and the first such file.
    """
    left = {file.path: file for file in release.files}
    plugin = f"{release.code} {release.version}"
    with naming(plugin, _CHANGED):
        for file in found:
            if file.path not in (RELEASE, SIGNATURE):
                _judge(_listed(left, file.path), file)
    with naming(plugin, _IGNORED):
        _require_none_missing(left)


@contextmanager
def naming(plugin: str, hint: str) -> Iterator[None]:
    """Put into an `IntegrityError` which plugin it is about, and what its message ends with."""
    try:
        yield
    except IntegrityError as error:
        raise IntegrityError(
            error.path, expected=error.expected, actual=error.actual, plugin=plugin, hint=hint
        ) from error.__cause__


def copy_verified(folder: int, release: Release, target: Path | None, *, signed: bool) -> None:
    """Verify an installed release, and copy what it lists to `target`, if there is one. Blocks.

    Args:
        folder: a descriptor of where it lies.
        release: what it must be.
        target: an empty folder, or None to copy nothing.
        signed: whether it has the file of a signature, which no release lists.

    Raises:
        IntegrityError: a file or folder is missing, is not listed, differs, was given another mode or a second
            name, or is no plain file; it names the first.
        SidecarError: `target` cannot be written to.
    """
    left = {file.path: file for file in release.files}
    unlisted = {RELEASE, SIGNATURE} if signed else {RELEASE}
    folders = {path[:place] for path in left for place, char in enumerate(path) if char == "/"}
    with _integrity_errors(), closing(walk(folder)) as entries:
        for entry in entries:
            if entry.is_folder:
                if entry.path not in folders:
                    raise IntegrityError(
                        entry.path, expected="absent", actual="a folder in which no listed file lies"
                    )
                _require_untouched(entry)
                if target is not None:
                    _make_folder(target, entry.path)
            elif entry.path in unlisted:
                _require_untouched(entry)
            else:
                listed = _listed(left, entry.path)  # first: a file that was added has any mode
                _require_untouched(entry)
                _copy(listed, entry, target)
    _require_none_missing(left)


def _listed(left: dict[str, ReleaseFile], path: str) -> ReleaseFile:
    listed = left.pop(path, None)
    if listed is None:
        raise IntegrityError(path, expected="absent", actual="a file that is not listed in the release")
    return listed


def _judge(listed: ReleaseFile, found: ReleaseFile) -> None:
    if listed != found:
        raise _differing(listed, f"{found.size:,} bytes with SHA-256 {found.sha256}")


def _differing(listed: ReleaseFile, actual: str) -> IntegrityError:
    expected = f"{listed.size:,} bytes with SHA-256 {listed.sha256}"
    return IntegrityError(listed.path, expected=expected, actual=actual)


def _require_none_missing(left: dict[str, ReleaseFile]) -> None:
    if left:
        raise IntegrityError(min(left), expected="a file that the release lists", actual="missing")


def _require_untouched(entry: PluginFile) -> None:
    if not is_sealed(entry):
        mode = f"mode {entry.status.st_mode & 0o7777:04o}"
        raise IntegrityError(entry.path, expected="the mode that it was installed with", actual=mode)
    if not entry.is_folder and entry.status.st_nlink != 1:
        raise IntegrityError(entry.path, expected="one name", actual=f"a file with {entry.status.st_nlink}")


def _copy(listed: ReleaseFile, entry: PluginFile, target: Path | None) -> None:
    """Never more than is listed: a file that was made huge is refused before it fills the disk."""
    if entry.status.st_size != listed.size:
        raise _differing(listed, f"{entry.status.st_size:,} bytes")
    digest, size = hashlib.sha256(), 0
    with _copy_of(entry, target) as copy:
        for piece in entry.pieces():
            digest.update(piece)
            size += len(piece)
            if size > listed.size:  # it grows meanwhile
                raise _differing(listed, f"more than {listed.size:,} bytes")
            if copy is not None:
                with _copying():
                    write_all(copy, piece)
    _judge(listed, ReleaseFile(entry.path, digest.hexdigest(), size))


@contextmanager
def _copy_of(entry: PluginFile, target: Path | None) -> Iterator[int | None]:
    if target is None:
        yield None
        return
    *folders, name = entry.path.split("/")
    with ExitStack() as open_ones:
        with _copying():
            above = open_ones.enter_context(opened_folder(target, folders))
            copy = open_ones.enter_context(opened(name, NEW_FILE, FILE_MODE, above=above))
        yield copy


def _make_folder(target: Path, path: str) -> None:
    *folders, name = path.split("/")
    with _copying(), opened_folder(target, folders) as above:
        os.mkdir(name.encode(), FOLDER_MODE, dir_fd=above)


@contextmanager
def _integrity_errors() -> Iterator[None]:
    try:
        yield
    except FolderFault as error:
        path = error.path if error.path.isprintable() else ascii(error.path)
        actual = f"not as it was installed: {error.problem}"
        raise IntegrityError(
            path or ".", expected="a file or folder of the release", actual=actual
        ) from error


@contextmanager
def _copying() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SidecarError(f"copy of the plugin: cannot be written: {error.strerror}") from error
