"""What the attacks share. By default each is run in both isolations; `@pytest.mark.isolation("process")` chooses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.security.arena import Arena


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "isolation(*names): the isolations in which this attack makes sense")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "isolation" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("isolation")
        metafunc.parametrize("isolation", marker.args if marker else ["process", "worker"])


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the first host of a run compiled of our own runtime: it saves the others a third of their start."""
    return tmp_path_factory.mktemp("compiled") / "cache"


@pytest.fixture
def unopened_arena(tmp_path: Path, isolation: str, compiled: Path) -> Arena:
    """An arena whose settings the test changes; `async with unopened_arena.open():` starts its host."""
    return Arena(tmp_path, isolation, compiled)


@pytest_asyncio.fixture
async def arena(unopened_arena: Arena) -> AsyncIterator[Arena]:
    """A running host with a bystander, under watch until the test is over."""
    async with unopened_arena.open():
        yield unopened_arena
