"""The folders of one sidecar: its stage, which only the host can write, and its caches."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coredeno.disk import remove
from coredeno.errors import SidecarError
from coredeno.services.threads import in_thread


class Stage:
    """What one sidecar may read of the disk: places of modules beneath `folder`, made one by one.

    Beside the stage stands the sidecar's own `DENO_DIR`. Both are removed together. A method that is cancelled
    waits until it does nothing more.
    """

    def __init__(self, base: Path) -> None:
        """Plan a stage beneath `base`, which does not exist yet."""
        self._base = base
        self.folder: Path = base / "stage"
        self.deno_dir: Path = base / "deno"
        self._places = 0

    async def make(self, cache: Path) -> Path:
        """Make the folders and the first place.

        Args:
            cache: what `keep_cache` kept, copied into the new `DENO_DIR` if it is there: compiling our own
                runtime anew costs each sidecar tens of milliseconds.

        Raises:
            SidecarError: they cannot be made (disk full, no right).
        """

        def make() -> Path:
            with _writing():
                self._base.mkdir(mode=0o700)
                if cache.is_dir():
                    shutil.copytree(cache, self.deno_dir, ignore=_links)
                else:
                    self.deno_dir.mkdir(mode=0o700)
                self.folder.mkdir(mode=0o700)
            return self._next_place()

        return await in_thread(make)

    async def keep_cache(self, cache: Path) -> None:
        """Keep this sidecar's caches for later ones. Only for a sidecar that has never run a plugin's code."""

        def keep() -> None:
            if cache.exists():
                return
            fresh = cache.with_name(f"{cache.name}.{self._base.name}")
            try:
                shutil.copytree(self.deno_dir, fresh, ignore=_links)
                fresh.rename(cache)
            except OSError:  # the cache only saves time; another host or a full disk is no reason to fail
                shutil.rmtree(fresh, ignore_errors=True)

        await in_thread(keep)

    async def place(self) -> Path:
        """Make one more place for a module.

        Raises:
            SidecarError: it cannot be made (disk full, no right).
        """
        return await in_thread(self._next_place)

    async def remove(self) -> None:
        """Remove everything. Harmless twice."""
        await in_thread(lambda: remove(self._base))

    def _next_place(self) -> Path:
        place = self.folder / str(self._places)
        self._places += 1
        with _writing():
            place.mkdir(mode=0o700)
        return place


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except shutil.Error as error:  # a list: source, target and problem of each file
        problem = str(error.args[0][0][2]).partition(": '")[0]  # both paths come after it
        raise SidecarError(f"stage of a sidecar: cannot be written: {problem}") from error
    except OSError as error:
        raise SidecarError(f"stage of a sidecar: cannot be written: {error.strerror}") from error


def _links(folder: str, names: list[str]) -> list[str]:
    """Which entries are no plain files or folders: Deno keeps a link to itself, of a hundred megabytes."""
    return [name for name in names if os.path.islink(os.path.join(folder, name))]  # noqa: PTH114, PTH118
