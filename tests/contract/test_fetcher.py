from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from coredeno.errors import InstallError, SourceInvalid
from coredeno.install.git import GitFetcher
from coredeno.interfaces import Fetched, Fetcher
from coredeno.testing.contracts.fetcher import FetcherContract
from coredeno.testing.memory_fetcher import MemoryFetcher
from tests.git.repositories import commit, make_repository
from tests.git.server import GitServer


class TestMemoryFetcher(FetcherContract):
    def make_fetcher(self) -> Fetcher:
        self.fetcher = MemoryFetcher()
        return self.fetcher

    async def publish(self, folder: Path, published: Mapping[str, Mapping[str, bytes]]) -> str:
        self.fetcher.sources["/memory/plugin"] = published
        return "/memory/plugin"


class GitContract(FetcherContract):
    def make_fetcher(self) -> Fetcher:
        return GitFetcher()

    async def publish(self, folder: Path, published: Mapping[str, Mapping[str, bytes]]) -> str:
        (first, files), *others = published.items()
        repository = folder / "plugin.git"
        make_repository(repository, files, tag=first)
        for tag, files in others:
            commit(repository, files, tag=tag, annotated=True)
        return str(repository)


class TestGitFetcherByPath(GitContract):
    pass


class TestGitFetcherByHttp(GitContract):
    @pytest.fixture(autouse=True)
    def server(self, tmp_path: Path):
        with GitServer(tmp_path) as self.running:
            yield

    async def publish(self, folder: Path, published: Mapping[str, Mapping[str, bytes]]) -> str:
        repository = Path(await super().publish(folder, published))
        return self.running.url(str(repository.relative_to(self.running.folder)))


class Executable(MemoryFetcher):
    async def fetch(self, order, on_progress):
        fetched = await super().fetch(order, on_progress)
        (order.folder / "main.ts").chmod(0o755)
        return fetched


class LeavesItsWork(MemoryFetcher):
    async def fetch(self, order, on_progress):
        order.folder.with_suffix(".git").mkdir()
        return await super().fetch(order, on_progress)


class TakesTheLast(MemoryFetcher):
    def _find(self, order):
        return next(reversed(self.sources[order.source].values()))


class Lenient(MemoryFetcher):
    def _find(self, order):
        return self.sources.get(order.source, {}).get(order.ref, {})


class Crlf(MemoryFetcher):
    def _find(self, order):
        return {path: data.replace(b"\n", b"\r\n") for path, data in super()._find(order).items()}


class Blames(MemoryFetcher):
    async def fetch(self, order, on_progress):
        try:
            return await super().fetch(order, on_progress)
        except InstallError:
            raise SourceInvalid("it did not work") from None


class Silent(MemoryFetcher):
    async def fetch(self, order, on_progress):
        return await super().fetch(order, lambda _progress: None)


class WorksOn(MemoryFetcher):
    async def fetch(self, order, on_progress):
        on_progress.__self__.began.set()
        self.working = asyncio.create_task(self._late(order.folder))
        await asyncio.sleep(60)
        return Fetched("")

    async def _late(self, folder):
        await asyncio.sleep(0.02)
        (folder / "late.ts").touch()


class OneAtATime(MemoryFetcher):
    async def fetch(self, order, on_progress):
        self.order = order
        await asyncio.sleep(0)
        return await super().fetch(self.order, on_progress)


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (Executable, FetcherContract.test_puts_the_files_into_the_folder),
        (Crlf, FetcherContract.test_puts_the_files_into_the_folder),
        (LeavesItsWork, FetcherContract.test_leaves_nothing_beside_the_folder),
        (TakesTheLast, FetcherContract.test_gives_each_ref_its_own_files),
        (Lenient, FetcherContract.test_says_what_is_not_there),
        (Lenient, FetcherContract.test_refuses_what_is_no_ref),
        (Lenient, FetcherContract.test_refuses_what_is_no_source),
        (Blames, FetcherContract.test_keeps_to_the_limits),
        (Blames, FetcherContract.test_refuses_names_that_no_disk_should_get),
        (Silent, FetcherContract.test_says_how_far_it_is),
        (OneAtATime, FetcherContract.test_is_used_by_many_at_a_time),
        (WorksOn, FetcherContract.test_stops_when_it_is_cancelled),
    ],
)
async def test_the_suite_finds_a_broken_fetcher(broken, test, tmp_path: Path):
    """A fetcher that breaks one rule fails the test of that rule, with a message."""

    class Suite(TestMemoryFetcher):
        def make_fetcher(self) -> Fetcher:
            self.fetcher = broken()
            return self.fetcher

    with pytest.raises((AssertionError, InstallError), match=" "):
        await test(Suite(), tmp_path)


async def test_the_suite_wants_a_fetcher(tmp_path: Path):
    """A suite without a fetcher, or a way to publish, says what is missing."""
    with pytest.raises(NotImplementedError, match="make_fetcher"):
        FetcherContract().make_fetcher()
    with pytest.raises(NotImplementedError, match="publish"):
        await FetcherContract().publish(tmp_path, {})
