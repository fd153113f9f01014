"""What every `Fetcher` must do. Subclass `FetcherContract` in your tests; pytest-asyncio (auto) runs it.

```python
class TestMyFetcher(FetcherContract):
    def make_fetcher(self) -> Fetcher:
        return MyFetcher()

    async def publish(self, folder: Path, published: Mapping[str, Mapping[str, bytes]]) -> str: ...
```
"""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Awaitable, Mapping
from itertools import pairwise
from pathlib import Path

from coredeno.config import FetchLimits
from coredeno.errors import (
    FetchLimitExceeded,
    InstallError,
    SourceRefused,
    SourceUnavailable,
    UnsafePath,
)
from coredeno.interfaces import Fetched, Fetcher, FetchOrder, FetchProgress

FILES = {
    "main.ts": b"export {};\n",
    ".core/view.yml": b"code: tagger\r\n",
    "empty": b"",
    "lib/deep/er/all bytes": bytes(range(256)) * 300,
    "lib/t\u00e4g.ts": b"\xff\xfe",
    ".gitattributes": b"* text eol=crlf ident filter=lfs\n",
}
"""Files whose bytes or names a careless fetcher changes."""

PHASES = ("connecting", "receiving", "checking", "writing")

_EXECUTABLE = stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH
_BAD_REFS = ("--upload-pack=touch x", "a..b", "a b", "a\nb", "")
_BAD_SOURCES = ("-x", "ext::sh -c true", "host:path", "https://user:word@git.example/x", "")


class FetcherContract:
    """The rules for a `Fetcher`, one test each. `tmp_path` is pytest's."""

    def make_fetcher(self) -> Fetcher:
        """Give a new fetcher."""
        raise NotImplementedError("FetcherContract: make_fetcher: wanted a method that gives a new Fetcher")

    async def publish(self, folder: Path, published: Mapping[str, Mapping[str, bytes]]) -> str:
        """Publish these files under these refs (tags, say), where the fetcher that was made last finds them.

        Args:
            folder: an empty folder that exists, for whatever it takes.
            published: by ref the files. What the source gives by default is the last one.

        Returns:
            The name of the source.
        """
        raise NotImplementedError("FetcherContract: publish: wanted a method that publishes files")

    async def test_puts_the_files_into_the_folder(self, tmp_path: Path) -> None:
        """Every file, byte by byte, and nothing else: plain files with one name each, none executable."""
        world = await _World.of(self, tmp_path, {"v1": FILES})
        fetched = await world.fetch("v1")
        assert fetched.revision, "the revision is empty"
        assert world.files() == FILES, f"the folder has {sorted(world.files())}, or other bytes"
        for path in world.folder.rglob("*"):
            status = path.lstat()
            is_folder = stat.S_ISDIR(status.st_mode)
            assert is_folder or stat.S_ISREG(status.st_mode), f"{path.name}: is no plain file"
            assert is_folder or status.st_nlink == 1, f"{path.name}: has another name somewhere"
            assert is_folder or not status.st_mode & _EXECUTABLE, f"{path.name}: is executable"

    async def test_leaves_nothing_beside_the_folder(self, tmp_path: Path) -> None:
        """What it needs meanwhile is gone when it is done, and when it has failed."""
        world = await _World.of(self, tmp_path, {"v1": {"main.ts": b"1"}})
        await world.fetch("v1")
        assert world.beside() == [], f"after a fetch there is {world.beside()}"
        await _wanted(SourceUnavailable, world.fetch("v9"), "a fetch of a ref that is not there")
        assert world.beside() == [], f"after a failure there is {world.beside()}"

    async def test_gives_each_ref_its_own_files(self, tmp_path: Path) -> None:
        """A ref is what was published under it, whatever came after; None is the last one."""
        published = {"v1": {"main.ts": b"1", "old.ts": b""}, "v2": {"main.ts": b"2"}}
        world = await _World.of(self, tmp_path, published)
        revisions = set()
        for ref, wanted in [("v1", "v1"), ("v2", "v2"), (None, "v2")]:
            revisions.add((await world.fetch(ref)).revision)
            assert world.files() == published[wanted], f"ref {ref!r} gave {sorted(world.files())}"
        assert len(revisions) == 2, "two refs have one revision, or one ref has two"  # noqa: PLR2004

    async def test_says_what_is_not_there(self, tmp_path: Path) -> None:
        """A ref that was not published, or a source that does not exist, is `SourceUnavailable`."""
        world = await _World.of(self, tmp_path, {"v1": {"main.ts": b"1"}})
        await _wanted(SourceUnavailable, world.fetch("v2"), "a fetch of a ref that is not there")
        await _wanted(
            SourceUnavailable, world.fetch("v1", source=world.source + "-not"), "a fetch from nowhere"
        )

    async def test_refuses_what_is_no_ref(self, tmp_path: Path) -> None:
        """What git would not have as a ref, or would take for an option, is `SourceRefused`."""
        world = await _World.of(self, tmp_path, {"v1": {"main.ts": b"1"}})
        for ref in _BAD_REFS:
            await _wanted(SourceRefused, world.fetch(ref), f"a fetch of ref {ref!r}")
            assert world.files() == {}, f"ref {ref!r} put files there"

    async def test_refuses_what_is_no_source(self, tmp_path: Path) -> None:
        """Options, commands, hosts of ssh and passwords in a URL are `SourceRefused`."""
        world = await _World.of(self, tmp_path, {"v1": {"main.ts": b"1"}})
        for source in _BAD_SOURCES:
            await _wanted(SourceRefused, world.fetch("v1", source=source), f"a fetch from {source!r}")

    async def test_keeps_to_the_limits(self, tmp_path: Path) -> None:
        """What is exactly at a limit is fetched; one more is `FetchLimitExceeded`, which names the limit."""
        files = {"main.ts": b"12345", "a/b/c.ts": b"123", "a/d.ts": b""}
        exact = {"file_bytes": 5, "total_bytes": 8, "files": 5, "depth": 2}
        world = await _World.of(self, tmp_path, {"v1": files})
        await world.fetch("v1", FetchLimits(**exact))
        assert world.files() == files, "what is exactly at all limits was not fetched whole"
        for limit, value in exact.items():
            limits = FetchLimits(**{**exact, limit: value - 1})
            error = await _wanted(FetchLimitExceeded, world.fetch("v1", limits), f"one more than {limit}")
            assert isinstance(error, FetchLimitExceeded)
            found = (error.limit, error.allowed)
            assert found == (limit, value - 1), f"{limit}: the error says {found}"

    async def test_refuses_names_that_no_disk_should_get(self, tmp_path: Path) -> None:
        """A device's name, a direction mark, and two names that some disks take for one are `UnsafePath`."""
        for number, (names, wanted) in enumerate(
            [(("lib/nul.ts",), "lib/nul.ts"), (("a\u202eb",), r"a\u202eb"), (("Main.ts", "main.ts"), "")]
        ):
            world = await _World.of(self, tmp_path / str(number), {"v1": dict.fromkeys(names, b"")})
            error = await _wanted(UnsafePath, world.fetch("v1"), f"a fetch of {names!a}")
            assert isinstance(error, UnsafePath)
            assert wanted in error.path, f"the error names {error.path!r}, wanted {wanted!r}"

    async def test_says_how_far_it_is(self, tmp_path: Path) -> None:
        """Its progress has known phases, in their order, within which it does not go back or past the end."""
        world = await _World.of(self, tmp_path, {"v1": FILES})
        await world.fetch("v1")
        said = world.progress
        assert said, "nothing was said of its progress"
        places = [PHASES.index(each.phase) for each in said]
        assert places == sorted(places), f"the phases are {[each.phase for each in said]}"
        for before, after in pairwise(said):
            assert after.phase != before.phase or after.done >= before.done, f"{after} after {before}"
        assert all(each.total is None or each.done <= each.total for each in said), "it went past the end"

    async def test_is_used_by_many_at_a_time(self, tmp_path: Path) -> None:
        """Fetches side by side, each into its own folder, do not meet."""
        published = {f"v{number}": {"main.ts": b"%d" % number} for number in range(3)}
        world = await _World.of(self, tmp_path, published)
        folders = {ref: tmp_path / f"many-{ref}" for ref in published}
        for folder in folders.values():
            await asyncio.to_thread(folder.mkdir)
        await asyncio.gather(*(world.fetch(ref, folder=folder) for ref, folder in folders.items()))
        for ref, folder in folders.items():
            assert _files(folder) == published[ref], f"ref {ref!r} gave {_files(folder)!r}"

    async def test_stops_when_it_is_cancelled(self, tmp_path: Path) -> None:
        """A cancelled fetch raises `CancelledError`, and nothing works on in its folder, or is beside it."""
        world = await _World.of(self, tmp_path, {"v1": FILES})
        for turns in (0, 1, 3):
            fetching = asyncio.create_task(world.fetch("v1"))
            await world.began.wait()
            for _ in range(turns):
                await asyncio.sleep(0)
            ended_before = fetching.done()
            fetching.cancel()
            await asyncio.wait([fetching])
            assert ended_before or fetching.cancelled(), "it did not raise CancelledError"
            found = world.files()
            await asyncio.sleep(0.05)
            assert world.files() == found, "something works on in the folder"
            assert world.beside() == [], f"beside the folder there is {world.beside()}"


class _World:
    """A source, a fetcher, and a folder that is new for each fetch."""

    def __init__(self, fetcher: Fetcher, source: str, room: Path) -> None:
        self.source = source
        self.progress: list[FetchProgress] = []
        self.began = asyncio.Event()
        self._fetcher = fetcher
        self._room = room
        self._count = 0

    @classmethod
    async def of(
        cls, suite: FetcherContract, tmp_path: Path, published: Mapping[str, Mapping[str, bytes]]
    ) -> _World:
        for name in ("published", "room"):
            await asyncio.to_thread((tmp_path / name).mkdir, parents=True)
        fetcher = suite.make_fetcher()
        source = await suite.publish(tmp_path / "published", published)
        return cls(fetcher, source, tmp_path / "room")

    @property
    def folder(self) -> Path:
        """Of the fetch that was begun last."""
        return self._room / f"{self._count}"

    async def fetch(
        self,
        ref: str | None,
        limits: FetchLimits | None = None,
        *,
        source: str | None = None,
        folder: Path | None = None,
    ) -> Fetched:
        self.progress = []
        self.began.clear()
        if folder is None:
            self._count += 1
            folder = self.folder
            await asyncio.to_thread(folder.mkdir)
        wanted = self.source if source is None else source
        return await self._fetcher.fetch(FetchOrder(wanted, ref, folder, limits or FetchLimits()), self._take)

    def files(self) -> dict[str, bytes]:
        return _files(self.folder)

    def beside(self) -> list[str]:
        """What the fetches left beside their folders."""
        own = {f"{number + 1}" for number in range(self._count)}
        return sorted(path.name for path in self._room.iterdir() if path.name not in own)

    def _take(self, progress: FetchProgress) -> None:
        self.progress.append(progress)
        self.began.set()


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if not stat.S_ISDIR(path.lstat().st_mode)
    }


async def _wanted(kind: type[InstallError], operation: Awaitable[object], what: str) -> InstallError:
    try:
        result = await operation
    except kind as error:
        return error
    except InstallError as error:
        raise AssertionError(f"{what}: it raised {error!r}, wanted {kind.__name__}") from error
    raise AssertionError(f"{what}: it gave {result!r}, wanted {kind.__name__}")
