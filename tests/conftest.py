"""What all tests share: the guards round them, hypothesis profiles, and a few fixtures."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import blockbuster
import hypothesis
import pytest
import pytest_asyncio

from tests import leaks

# Time says nothing on a machine that does other work too, so no example has a deadline. CI takes the same
# examples every time: new ones are looked for by hand, where a find does not block an unrelated change.
hypothesis.settings.register_profile("default", max_examples=50, deadline=None)
hypothesis.settings.register_profile(
    "ci", max_examples=200, deadline=None, derandomize=True, database=None, print_blob=True
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"may_leave(*kinds, reason): the leak guard lets these kinds pass ({', '.join(leaks.KINDS)})",
    )
    _use_own_temp_folder(config)


def _use_own_temp_folder(config: pytest.Config) -> None:
    """Let temporary files be made in a folder of this run: the guard must not see those of other programs."""
    patch = pytest.MonkeyPatch()
    if "PYTEST_DEBUG_TEMPROOT" not in os.environ:  # `tmp_path` stays where one looks for it afterwards
        patch.setenv("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    folder = tempfile.mkdtemp(prefix="cd-")  # short: the paths of sockets end at about 100 bytes
    patch.setenv("TMPDIR", folder)
    patch.delenv("XDG_RUNTIME_DIR", raising=False)  # hosts make their sockets there, if it is set
    patch.setattr(tempfile, "tempdir", folder)
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    config.add_cleanup(patch.undo)


@pytest.fixture(scope="session", autouse=True)
def no_blocking_calls() -> Iterator[None]:
    """A call in `coredeno` that would block a running event loop raises `BlockingError` instead.

    The contract suites are tests, though they stand in the package: they may look at files as tests do.
    """
    with blockbuster.blockbuster_ctx("coredeno", excluded_modules=["coredeno.testing.contracts"]) as guard:
        # Coverage takes a lock of its own when it meets a file for the first time, wherever that is.
        guard.functions["threading.Lock.acquire"].can_block_in("coverage/collector.py", "lock_data")
        yield


@pytest.fixture(autouse=True)
def leak_guard(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test if it leaves something behind; `tests/leaks.py` says what counts.

    It is the first fixture of the test's own scope, so it is taken down last.
    """
    if request.node.get_closest_marker("asyncio"):
        request.getfixturevalue("leak_guard_in_loop")
        yield
        return
    before = leaks.belongings()
    yield
    _judge(leaks.settled(before, _allowed(request)))


@pytest_asyncio.fixture(loop_scope="function")
async def leak_guard_in_loop(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """The guard of a test that runs in a loop: looks before the loop is closed, which cancels all tasks."""
    before = leaks.belongings(asyncio.get_running_loop())
    yield
    _judge(await leaks.settled_in_loop(before, _allowed(request)))


def _allowed(request: pytest.FixtureRequest) -> frozenset[str]:
    kinds: set[str] = set()
    for marker in request.node.iter_markers("may_leave"):
        if not set(marker.args) <= set(leaks.KINDS) or not marker.kwargs.get("reason"):
            pytest.fail(f"may_leave: wanted kinds of {leaks.KINDS} and a reason", pytrace=False)
        kinds |= set(marker.args)
    return frozenset(kinds)


def _judge(left: leaks.Belongings) -> None:
    if left:
        pytest.fail(leaks.report(left), pytrace=False)


@pytest.fixture(scope="session")
def project() -> Path:
    """The project's folder."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """An empty folder whose path is short enough for Unix sockets, which `tmp_path` may not be."""
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        yield Path(folder)


Eventually = Callable[..., Awaitable[None]]


@pytest.fixture
def eventually() -> Eventually:
    """Wait until a condition is true, for what another process does. Unit tests need none of it."""

    async def wait(condition: Callable[[], object], *, within_s: float = 10) -> None:
        end = asyncio.get_running_loop().time() + within_s
        while not condition():
            if asyncio.get_running_loop().time() > end:
                pytest.fail(f"eventually: still not true after {within_s:g} s")
            await asyncio.sleep(0.002)

    return wait
