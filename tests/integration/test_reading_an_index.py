"""`read_index` of what is no repository: the error says what is there, and what was meant perhaps."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from coredeno import PluginHost
from coredeno.errors import SourceUnavailable
from coredeno.install.git import GitFetcher
from tests.git.repositories import make_repository
from tests.shops import Shop

INDEX = json.dumps({"format": 1, "name": "Acme plugins", "plugins": []}).encode()


@pytest.fixture
def host(tmp_path: Path) -> PluginHost:
    return Shop(tmp_path).host(fetcher=GitFetcher())


@pytest.fixture
def market(tmp_path: Path) -> Path:
    market = tmp_path / "market"
    market.mkdir()
    (market / "index.json").write_bytes(INDEX)
    return market


async def test_a_folder_that_has_the_file(host: PluginHost, market: Path):
    """It is not read, for only a repository has versions; the message says which path is."""
    async with host:
        read = host.installer.read_index
        for source in (market, str(market), f"{market}/"):
            with pytest.raises(SourceUnavailable) as caught:
                await read(source)
            hint = f"; for a file name it: {market}/index.json"
            assert str(caught.value) == f"{market}: is no git repository that can be read{hint}"
        assert (await read(market / "index.json")).name == "Acme plugins"


async def test_a_folder_that_has_it_not(host: PluginHost, market: Path):
    """Nothing is proposed that is not there, nor what the file system does not take."""
    async with host:
        for file in ("other.json", "x" * 300, "a\0b"):
            with pytest.raises(SourceUnavailable, match=r"no git repository that can be read$"):
                await host.installer.read_index(market, file=file)


async def test_a_repository_without_the_branch(host: PluginHost, tmp_path: Path):
    """What is proposed is no way round the ref that was asked for."""
    make_repository(tmp_path / "r" / ".git", {"index.json": INDEX})
    (tmp_path / "r" / "index.json").write_bytes(INDEX)
    async with host:
        assert (await host.installer.read_index(tmp_path / "r")).name == "Acme plugins"
        with pytest.raises(SourceUnavailable, match=r"has no branch or tag 'v9'$"):
            await host.installer.read_index(tmp_path / "r", ref="v9")


async def test_a_path_that_is_not_there(host: PluginHost, tmp_path: Path):
    """It is said so, of an index as of a plugin, and not that it is no repository."""
    problem = rf"^{re.escape(str(tmp_path))}/nowhere: there is no such file or folder$"
    async with host:
        with pytest.raises(SourceUnavailable, match=problem):
            await host.installer.read_index(tmp_path / "nowhere")
        with pytest.raises(SourceUnavailable, match=problem):
            await host.install(str(tmp_path / "nowhere"))
