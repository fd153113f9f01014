"""A host on a disk that becomes full, and has room again: `python -m tests.integration.small_disk FOLDER DISK`.

The disk `real` is a tmpfs of a few megabytes, in a mount namespace of this process alone, so that nothing of it can be
left. Whoever is not root is so in a user namespace. For `counted`, and where neither is allowed (macOS, some
containers), SQLite itself is told how many pages there are. The last line says which it was.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from coredeno import HostConfig, PluginHost
from coredeno.errors import CoreDenoError, StoreError, StoreFull
from coredeno.services.keyvalue import Store
from coredeno.store.sqlite import SqliteStore
from coredeno.testing import FakeLauncher, FakeProcesses, MemoryFiles, MemoryListener, MemorySource

SIZE = 6 * 1024 * 1024
AT_ONCE = 16
_NEW_MOUNTS, _NEW_USER = 0x00020000, 0x10000000
_PRIVATE, _RECURSIVE = 1 << 18, 1 << 14
_DETACHED = 2  # as far as it is still in use, it goes when it is so no more


class TmpfsDisk:
    """A file system of its own, which a file fills."""

    name = "real"

    def __init__(self, folder: Path, size: int, files: int = 0) -> None:
        """Mount it, for so many bytes and files (0: any). The process must have one thread only: others do not see it.

        Raises:
            OSError: that is not allowed here.
        """
        user, group = os.geteuid(), os.getegid()
        try:
            _call("unshare", _NEW_MOUNTS)
        except OSError:
            _call("unshare", _NEW_MOUNTS | _NEW_USER)
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        _call("mount", b"none", b"/", None, _PRIVATE | _RECURSIVE, None)
        _call("mount", b"tmpfs", os.fsencode(folder), b"tmpfs", 0, f"size={size},nr_inodes={files}".encode())
        self._folder = folder
        self._ballast = folder / "ballast"

    async def fill(self, _host: PluginHost) -> None:
        """Leave not a block."""
        await asyncio.to_thread(self._fill)

    async def free(self, _host: PluginHost) -> None:
        """Give back what the ballast took."""
        await asyncio.to_thread(self._ballast.unlink)

    def unmount(self) -> None:
        """Take it away, with all that is on it."""
        _call("umount2", os.fsencode(self._folder), _DETACHED)

    def _fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as stream:
            for size in (1 << 20, 4096):
                block = bytes(size)
                try:
                    while stream.write(block) == size:
                        pass
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise


class CountedPages:
    """No disk of its own: the database may have no more pages than it has."""

    name = "counted"

    async def fill(self, host: PluginHost) -> None:
        """No page more."""
        await self._limit(host, 1)

    async def free(self, host: PluginHost) -> None:
        """As many as it likes."""
        await self._limit(host, 1_000_000)

    async def _limit(self, host: PluginHost, pages: int) -> None:
        store = host._parts.backend._inner
        assert isinstance(store, SqliteStore)
        await store._writer.fetch((f"PRAGMA max_page_count = {pages}", ()), "limiting")


class Writer:
    """Stands for a plugin."""

    async def init(self, core):
        self._core = core

    async def set(self, key, value):
        """What comes of it, as the plugin sees it."""
        try:
            await self._core.store.set(key, value)
        except CoreDenoError as error:
            return type(error).__name__
        return "done"

    async def get(self, key):
        return await self._core.store.get(key)


def host_on(root: Path) -> PluginHost:
    """Store and audit log are the host's own, on that disk."""
    return PluginHost(
        root,
        config=HostConfig(allow_unsigned=True),
        launcher=FakeLauncher({"writer": Writer}),
        listener=MemoryListener(),
        files=MemoryFiles(),
        processes=FakeProcesses({}),
    )


async def main(folder: Path, kind: str) -> None:
    """Fill the disk, look at everything, make room, look again."""
    small = folder / "small"
    small.mkdir()
    disk = CountedPages() if kind == "counted" else real_if_allowed(small)
    kept = Kept()
    async with host_on(small / "app") as host:
        module = await host.load_source(MemorySource("code: writer\nname: writer\nversion: '1'\n"))
        assert await module.call("set", "before", "b" * 5_000) == "done"
        await kept.write_at_once(host.store, AT_ONCE)
        assert kept.refused == []
        for _ in range(2):  # what was once full can become full again
            await disk.fill(host)
            # The write-ahead log may have room of its own yet; it is full when not even small values fit.
            while len(kept.refused) < AT_ONCE:
                await kept.write_at_once(host.store, AT_ONCE)
            assert {type(error) for error in kept.refused} == {StoreFull}, kept.refused
            assert "free space on its disk" in str(kept.refused[0])

            health = (await host.health()).store
            assert not health.ok, health
            assert health.why.startswith("StoreFull: store: writing to store.db: "), health
            assert await module.call("set", "full", "f" * 50_000) == "StoreFull"
            assert await module.call("get", "before") == "b" * 5_000
            await kept.are_in(host.store, "while it is full")
            await kept.are_on_the_disk(small / "app" / ".core", folder / "image")

            await disk.free(host)
            assert (await host.health()).store.ok
            await kept.write_at_once(host.store, AT_ONCE)
            assert kept.refused == []
            assert await module.call("set", "after", "a" * 50_000) == "done"
            await kept.are_in(host.store, "with room again")
        await disk.fill(host)
    # It ended while the disk was full.
    await kept.are_on_the_disk(small / "app" / ".core", folder / "image")
    if isinstance(disk, TmpfsDisk):
        try:
            async with host_on(small / "app"):
                pass
        except StoreError:
            await kept.are_on_the_disk(small / "app" / ".core", folder / "image")
        (small / "ballast").unlink()
    async with host_on(small / "app") as host:
        await kept.are_in(host.store, "in the next life")
        assert await host.store.get("writer", "after") == "a" * 50_000
    print(disk.name)


class Kept:
    """What was acknowledged, and what the last attempts came to."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, str] = {}
        self.refused: list[BaseException] = []
        self._next = 0

    async def write_at_once(self, store: Store, many: int) -> None:
        """Large and small values, in shared transactions."""
        first = self._next
        self._next += many
        values = {f"{n:05}": str(n) * (20 if n % 2 else 12_000) for n in range(first, first + many)}
        results = await asyncio.gather(
            *(store.set("g", key, value) for key, value in values.items()), return_exceptions=True
        )
        self.refused = [result for result in results if result is not None]
        self.acknowledged |= {
            key: value for (key, value), result in zip(values.items(), results, strict=True) if result is None
        }

    async def are_in(self, store: Store, when: str) -> None:
        """All that was acknowledged is there, and nothing that was refused."""
        assert await store.get_all("g") == self.acknowledged, when

    async def are_on_the_disk(self, core: Path, image: Path) -> None:
        """What a host that is killed now would leave: the files as they are, copied to where there is room."""
        image.mkdir()
        for file in core.glob("store.db*"):
            if not file.name.endswith("-shm"):
                await asyncio.to_thread(shutil.copy, file, image)
        store = SqliteStore()
        try:
            await store.open(image)
            assert await store.read("g") == self.acknowledged
        finally:
            await store.aclose()
        await asyncio.to_thread(shutil.rmtree, image)


def real_if_allowed(folder: Path, size: int = SIZE) -> TmpfsDisk | CountedPages:
    """The best there is here."""
    try:
        return TmpfsDisk(folder, size)
    except OSError:
        return CountedPages()


def _call(name: str, *arguments: object) -> None:
    try:
        function: Callable[..., int] = getattr(ctypes.CDLL(None, use_errno=True), name)
    except AttributeError:  # of Linux alone
        raise OSError(errno.ENOSYS, name) from None
    if function(*arguments) != 0:
        raise OSError(ctypes.get_errno(), name)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
