"""What the tests with a real Deno share: hosts in both isolations, and plugins written where they are needed."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from textwrap import dedent
from typing import Any, Self

import pytest
import pytest_asyncio

from coredeno import HostConfig, Limits, PluginHost, Service

PLUGINS = Path(__file__).parent / "plugins"
CACHE = ".core/deno-cache"


class Boot:
    """Starts hosts, each on a root of its own; the fixture stops them."""

    def __init__(self, folder: Path, isolation: Any, running: AsyncExitStack, compiled: Path) -> None:
        self._folder = folder
        self._isolation = isolation
        self._running = running
        self._compiled = compiled
        self._count = 0

    async def __call__(
        self, *services: Service, hooks: Sequence[Any] = (), config: Mapping[str, Any] = {}, **limits: Any
    ) -> PluginHost:
        """A running host; `config` and `limits` are what is not as usual in `HostConfig` and `Limits`."""
        self._count += 1
        settings = HostConfig(
            isolation=self._isolation,
            allow_unsigned=True,
            limits=Limits(**limits),
            **{"restart": None, **config},  # most tests look at what went down
        )
        host = PluginHost(self.root, services=services, hooks=hooks, config=settings)
        if self._compiled.exists():
            shutil.copytree(self._compiled, self.root / CACHE, dirs_exist_ok=True)
        await self._running.enter_async_context(host)
        if not self._compiled.exists():
            shutil.copytree(self.root / CACHE, self._compiled)
        return host

    @property
    def root(self) -> Path:
        """The app root of the host that was started last (or of the first one, before)."""
        return self._folder / f"app-{max(self._count, 1)}"


Write = Callable[..., Path]


class Complaints(logging.Handler):
    """What the host, its sidecars' keeper and asyncio log as errors: no test of modules makes them fail."""

    LOGGERS = ("coredeno.host", "coredeno.sidecar", "asyncio")

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(self.format(record))

    def __enter__(self) -> Self:
        for name in self.LOGGERS:
            logging.getLogger(name).addHandler(self)
        return self

    def __exit__(self, *_error: object) -> None:
        for name in self.LOGGERS:
            logging.getLogger(name).removeHandler(self)


@pytest.fixture(params=["process", "worker"])
def isolation(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the first host of a run compiled of our own runtime: it saves the others a third of their start."""
    return tmp_path_factory.mktemp("compiled") / "cache"


@pytest_asyncio.fixture
async def boot(tmp_path: Path, isolation: str, compiled: Path) -> AsyncIterator[Boot]:
    with Complaints() as complaints:
        async with AsyncExitStack() as running:
            yield Boot(tmp_path, isolation, running, compiled)
    assert not complaints.said


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["process", "worker"])
async def shared_boot(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, compiled: Path
) -> AsyncIterator[Boot]:
    """As `boot`, for hosts that all tests of a file use: `pytestmark = pytest.mark.asyncio(loop_scope="module")`.

    Before a test begins, `rested` must have been awaited: what a host has not begun is no leak of the test.
    """
    with Complaints() as complaints:
        async with AsyncExitStack() as running:
            yield Boot(tmp_path_factory.mktemp("shared"), request.param, running, compiled)
    assert not complaints.said


@pytest.fixture(scope="session")
def rested() -> Callable[[PluginHost], Awaitable[None]]:
    """Waits until a host has its next spare, and so starts nothing more by itself."""

    async def wait(host: PluginHost) -> None:
        spare = host._parts.loader._supervisor._spare
        await asyncio.wait([spare])

    return wait


@pytest.fixture(scope="session")
def plugins() -> Path:
    """The folder of the plugins that are kept as files."""
    return PLUGINS


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a plugin: `write("code", "its main.ts", "more of its manifest", **{"other.ts": "…"})`."""

    def write(code: str, source: str, manifest: str = "", **files: str) -> Path:
        folder = tmp_path / "plugins" / code
        view = f"code: {code}\nversion: 1.0.0\n{dedent(manifest)}"
        for name, text in {".core/view.yml": view, "main.ts": dedent(source), **files}.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return folder

    return write
