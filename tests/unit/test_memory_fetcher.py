"""`MemoryFetcher`, beyond what every fetcher does (tests/contract/test_fetcher.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from coredeno.config import FetchLimits
from coredeno.errors import FetchTimeout, InstallError, SourceRefused, SourceUnavailable
from coredeno.interfaces import Fetched, FetchOrder
from coredeno.testing import MemoryFetcher

SOURCE = "https://git.example/acme/tagger.git"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "plugin"
    folder.mkdir()
    return folder


async def fetch(
    fetcher: MemoryFetcher, folder: Path, ref: str | None = None, source: str = SOURCE
) -> Fetched:
    return await fetcher.fetch(FetchOrder(source, ref, folder, FetchLimits()), lambda _progress: None)


async def test_what_is_to_fail_fails_in_turn(folder: Path):
    """Each error once, then it fetches again; every order is kept."""
    fetcher = MemoryFetcher({SOURCE: {"v1": {"main.ts": b"x"}}})
    fetcher.fail_next(SourceUnavailable("no network"))
    fetcher.fail_next(FetchTimeout("fetch", timeout_s=1))
    with pytest.raises(SourceUnavailable, match="no network"):
        await fetch(fetcher, folder)
    with pytest.raises(FetchTimeout):
        await fetch(fetcher, folder)
    assert await fetch(fetcher, folder)
    assert [order.source for order in fetcher.orders] == [SOURCE] * 3


async def test_the_default_is_head_or_the_last(tmp_path: Path):
    """`HEAD` where it is published, whatever the order."""
    fetcher = MemoryFetcher({SOURCE: {"HEAD": {"a": b""}, "v1": {"b": b""}}})
    (tmp_path / "1").mkdir()
    await fetch(fetcher, tmp_path / "1")
    assert [path.name for path in (tmp_path / "1").iterdir()] == ["a"]
    fetcher.sources[SOURCE] = {}
    with pytest.raises(SourceUnavailable):
        await fetch(fetcher, tmp_path / "1")


async def test_one_revision_for_the_same_files(tmp_path: Path):
    """And another one for others."""
    fetcher = MemoryFetcher({SOURCE: {"v1": {"a": b"1"}, "v2": {"a": b"1"}, "v3": {"a": b"2"}}})
    revisions = []
    for ref in ("v1", "v2", "v3"):
        (tmp_path / ref).mkdir()
        revisions.append((await fetch(fetcher, tmp_path / ref, ref)).revision)
    assert revisions[0] == revisions[1] != revisions[2]


async def test_any_name_can_be_published(folder: Path):
    """What is not published is refused by its form, as by the default fetcher."""
    fetcher = MemoryFetcher({"memory:tagger": {"v1": {"main.ts": b"x"}}})
    assert await fetch(fetcher, folder, source="memory:tagger")
    with pytest.raises(SourceRefused):
        await fetch(fetcher, folder, source="memory:other")


async def test_a_folder_that_has_something_in_it(folder: Path):
    """It writes over nothing, as every fetcher."""
    fetcher = MemoryFetcher({SOURCE: {"v1": {"main.ts": b"x"}}})
    (folder / "main.ts").touch()
    with pytest.raises(InstallError, match="File exists"):
        await fetch(fetcher, folder)
