"""What is wrong with a plugin's folder, as the errors of whoever signs or installs it. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from coredeno.errors import FetchLimitExceeded, InstallError, UnsafePath
from coredeno.plugin_files import FolderFault, FolderTooLarge, OddEntry


@contextmanager
def install_errors() -> Iterator[None]:
    """Round a loop over `walk`: turns its errors, and those of `pieces`, into ones of installing.

    Raises:
        UnsafePath: instead of OddEntry.
        FetchLimitExceeded: instead of FolderTooLarge.
        InstallError: instead of any other FolderFault.
    """
    try:
        yield
    except OddEntry as error:
        raise UnsafePath(error.path, error.problem) from None
    except FolderTooLarge as error:
        limit = "files" if error.bound == "entries" else "depth"
        raise FetchLimitExceeded(str(error), limit=limit, allowed=error.allowed) from None
    except FolderFault as error:
        raise InstallError(str(error)) from error
