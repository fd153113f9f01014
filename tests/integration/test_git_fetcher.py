"""`GitFetcher`: real processes, from the order to the files, and to their end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from coredeno.config import FetchLimits
from coredeno.errors import (
    FetchLimitExceeded,
    FetchTimeout,
    InstallError,
    SourceInvalid,
    SourceRefused,
    SourceUnavailable,
    UsageError,
)
from coredeno.install.git import Credentials, GitFetcher
from coredeno.interfaces import FetchOrder, FetchProgress
from tests.git.attempts import attempt, fetching_processes, refusal
from tests.git.hostile import STALL, HostileServer, advertised, answered
from tests.git.objects import blob, pack, plain
from tests.git.repositories import commit, make_repository
from tests.git.server import GitServer, make_certificate

FILES = {"main.ts": b"export {};\n", "lib/a.ts": bytes(100_000)}
X = blob(b"x")
DEAD_S = 0.1
"""What a fetch that is cancelled may take to end its process, in seconds."""


@pytest.fixture
def room(tmp_path: Path) -> Path:
    return tmp_path / "room"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    make_repository(tmp_path / "repositories" / "plugin.git", FILES, tag="v1")
    with GitServer(tmp_path / "repositories") as running:
        yield running


@pytest.fixture
def stalled() -> Iterator[HostileServer]:
    """Answers nothing, for as long as somebody waits."""
    with HostileServer(refs=lambda: [STALL]) as running:
        yield running


def order(room: Path, source: str, ref: str | None = None, **limits: float) -> FetchOrder:
    (room / "plugin").mkdir(parents=True)
    return FetchOrder(source, ref, room / "plugin", FetchLimits(**limits))


async def test_over_http_and_by_path(server: GitServer, room: Path):
    """The same files and the same revision, by whatever way; the loop turns meanwhile, and nothing is left."""
    path = server.folder / "plugin.git"
    over_http = await attempt(room / "1", server.url("plugin.git"), "v1")
    by_path = await attempt(room / "2", str(path), "v1")
    by_url = await attempt(room / "3", path.as_uri())
    assert over_http.fetched == by_path.fetched == by_url.fetched is not None
    assert over_http.files == by_path.files == by_url.files == {**FILES, "lib/": b""}
    assert [each.phase for each in over_http.progress][:2] == ["connecting", "receiving"]


async def test_over_tls(server: GitServer, room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A server is believed if its certificate is; which ones are can be said by `SSL_CERT_FILE`."""
    certificate = tmp_path / "certificate.pem"
    make_certificate(certificate)
    with GitServer(server.folder, certificate=certificate) as secure:
        error = await refusal(room / "1", secure.url("plugin.git"))
        assert isinstance(error, SourceUnavailable)
        assert "certificate" in str(error)
        assert secure.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert (await attempt(room / "2", secure.url("plugin.git"), "v1")).files == {**FILES, "lib/": b""}
        wrong_name = secure.url("plugin.git").replace("127.0.0.1", "localhost")
        assert "certificate" in str(await refusal(room / "3", wrong_name))


async def test_a_relative_path(server: GitServer, room: Path, monkeypatch: pytest.MonkeyPatch):
    """It is relative to where the app runs."""
    monkeypatch.chdir(server.folder)
    assert (await attempt(room, "plugin.git")).error is None


async def test_where_the_current_folder_is_gone(
    server: GitServer, room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """An absolute source needs none; a relative one is not there."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert (await attempt(room / "1", str(server.folder / "plugin.git"))).error is None
    assert isinstance(await refusal(room / "2", "plugin.git"), SourceUnavailable)


async def test_errors_name_the_source(server: GitServer, room: Path, monkeypatch: pytest.MonkeyPatch):
    """Its URL or its whole path stands in front, whatever is wrong; a long one is cut."""
    url, path = server.url("plugin.git"), server.folder / "plugin.git"
    long = server.folder / ("n" * 200) / "x"
    monkeypatch.chdir(server.folder)
    for count, (source, ref, message) in enumerate(
        [
            (url, "v9", f"{url}: has no branch or tag 'v9'"),
            (url, "a1b2c3d", f"{url}: has no branch or tag 'a1b2c3d' (a commit needs all its 40 digits)"),
            (path.as_uri() + "/", "v9", f"{path}: has no branch or tag 'v9'"),
            ("nowhere", None, f"{server.folder}/nowhere: there is no such file or folder"),
            (str(server.folder), None, f"{server.folder}: is no git repository that can be read"),
            (str(long), None, f"{str(long)[:200]}...: there is no such file or folder"),
            (server.url("nowhere"), None, f"{server.url('nowhere')}: 127.0.0.1:{server.port} has no such "),
        ]
    ):
        error = await refusal(room / str(count), source, ref)
        assert isinstance(error, SourceUnavailable)
        assert str(error).startswith(message)
    error = await refusal(room / "bytes", url, transfer_bytes=1000)
    assert isinstance(error, FetchLimitExceeded)
    assert str(error).startswith(f"{url}: sends more ")
    assert (error.limit, error.allowed) == ("transfer_bytes", 1000)


async def test_a_timeout_names_the_source(stalled: HostileServer, room: Path):
    """Which it was that did not answer."""
    error = await refusal(room, stalled.url, timeout_s=0.5)
    assert isinstance(error, FetchTimeout)
    assert str(error) == f"fetch of {stalled.url}: not done after 0.5 s"
    assert error.timeout_s == 0.5


async def test_a_tag_that_moves_meanwhile(server: GitServer, room: Path):
    """What comes is what the tag was when it was looked up, and that commit is what is reported."""
    repository = server.folder / "plugin.git"
    first = (await attempt(room / "1", server.url("plugin.git"), "v1")).fetched
    server.before_pack = lambda: commit(repository, {"main.ts": b"evil"}, tag="v1")
    moved = await attempt(room / "2", server.url("plugin.git"), "v1")
    assert moved.fetched == first
    assert moved.files["main.ts"] == FILES["main.ts"]


async def test_credentials_are_asked_for_once_and_only_where_needed(server: GitServer, room: Path):
    """Asked with host and port for a URL; never for a path, nor for a source that is refused."""
    asked: list[str] = []

    async def login(host: str) -> Credentials | None:
        asked.append(host)
        return Credentials("acme", "hunter2") if len(asked) > 1 else None

    fetcher = GitFetcher(credentials=login)
    await attempt(room / "1", str(server.folder / "plugin.git"), fetcher=fetcher)
    assert isinstance((await attempt(room / "2", "ssh://x/y", fetcher=fetcher)).error, SourceRefused)
    assert asked == []
    with GitServer(server.folder, users={"acme": "hunter2"}) as private:
        nobody = await attempt(room / "3", private.url("plugin.git"), fetcher=fetcher)
        assert isinstance(nobody.error, SourceUnavailable)
        assert (await attempt(room / "4", private.url("plugin.git"), fetcher=fetcher)).error is None
        assert asked == [f"127.0.0.1:{private.port}"] * 2


async def test_a_password_is_on_no_command_line(stalled: HostileServer, room: Path, eventually):
    """Nor in the environment: whoever may list processes does not see it."""

    async def login(_host: str) -> Credentials:
        return Credentials("acme", "hunter2")

    fetching = asyncio.create_task(
        GitFetcher(credentials=login).fetch(order(room, stalled.url), lambda _progress: None)
    )
    await eventually(lambda: stalled.requests)
    (process,) = await asyncio.to_thread(fetching_processes)
    shown = " ".join(process.cmdline()) + json.dumps(process.environ())
    assert "hunter2" not in shown
    assert set(process.environ()) <= {"SSL_CERT_FILE", "SSL_CERT_DIR", "LC_CTYPE"}
    assert "hunter2" not in repr(Credentials("acme", "hunter2"))
    fetching.cancel()
    await asyncio.wait([fetching])


async def test_what_an_app_does_wrong(room: Path, server: GitServer):
    """Schemes that there are not, a name with a colon, a callback that raises."""
    with pytest.raises(UsageError, match="'ssh'"):
        GitFetcher(schemes=["https", "ssh"])

    async def colon(_host: str) -> Credentials:
        return Credentials("a:b", "c")

    async def raises(_host: str) -> Credentials:
        raise ZeroDivisionError

    wanted = order(room, server.url("plugin.git"))
    with pytest.raises(UsageError, match="a ':'"):
        await GitFetcher(credentials=colon).fetch(wanted, print)
    with pytest.raises(ZeroDivisionError):
        await GitFetcher(credentials=raises).fetch(wanted, print)
    assert list(room.iterdir()) == [wanted.folder]


async def test_schemes_can_be_narrowed(room: Path, server: GitServer):
    """An app that takes plugins from its own servers only says so."""
    fetcher = GitFetcher(schemes=["https"])
    outcome = await attempt(room, str(server.folder / "plugin.git"), fetcher=fetcher)
    assert isinstance(outcome.error, SourceRefused)


async def test_progress_that_the_app_cannot_take(room: Path, server: GitServer):
    """What the app's callback raises ends the fetch and comes out of it."""

    def raises(_progress: FetchProgress) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await GitFetcher().fetch(order(room, server.url("plugin.git")), raises)
    assert await asyncio.to_thread(fetching_processes) == []


async def test_folders_that_cannot_be_written_to(room: Path, server: GitServer):
    """No folder, one beside it already, and a file where a file should go: `InstallError`, and which."""
    source = str(server.folder / "plugin.git")
    wanted = order(room, source)
    wanted.folder.rmdir()
    with pytest.raises(InstallError, match="cannot be started: No such file"):
        await GitFetcher().fetch(wanted, lambda _progress: None)
    wanted.folder.mkdir()
    (wanted.folder / "main.ts").touch()
    with pytest.raises(InstallError, match="cannot be written: File exists"):
        await GitFetcher().fetch(wanted, lambda _progress: None)
    beside = room / "plugin.git"
    beside.mkdir()
    with pytest.raises(InstallError, match=r"plugin\.git' cannot be made"):
        await GitFetcher().fetch(wanted, lambda _progress: None)
    assert beside.exists()


# --- its end


@pytest.mark.parametrize("where", ["at once", "in its start", "in the refs", "in the pack"])
async def test_a_fetch_that_is_cancelled(room: Path, eventually, where):
    """The process is dead within 100 ms, whatever it was at; then `CancelledError` comes out, and nothing is left."""
    packs = [*answered(X.digits, pack(*plain(X)))()]
    refs = advertised(X.digits) if where == "in the pack" else lambda: [STALL]
    took_s = []
    for _attempt in range(5):  # the best of them: a machine does other work too
        with HostileServer(refs=refs, pack=lambda: [*packs[:-1], STALL]) as server:
            fetching = asyncio.create_task(
                GitFetcher().fetch(order(room, server.url), lambda _progress: None)
            )
            if where == "in its start":
                await eventually(fetching_processes)
            elif where != "at once":
                await eventually(lambda: len(server.requests) == (2 if where == "in the pack" else 1))
            fetching.cancel()
            began = time.monotonic()
            await asyncio.wait([fetching])
            took_s.append(time.monotonic() - began)
        assert fetching.cancelled()
        assert await asyncio.to_thread(fetching_processes) == []
        assert [path.name for path in room.iterdir()] == ["plugin"]
        if took_s[-1] <= DEAD_S:
            break
    assert min(took_s) <= DEAD_S


async def test_a_fetch_that_is_cancelled_while_it_prepares(stalled: HostileServer, room: Path):
    """In whatever turn of the loop, and however far a thread has come: nothing is left."""
    wanted = order(room, stalled.url)
    for turns in range(20):
        fetching = asyncio.create_task(GitFetcher().fetch(wanted, lambda _progress: None))
        for turn in range(turns):
            await asyncio.sleep(0.0005 * (turn % 2))
        fetching.cancel()
        await asyncio.wait([fetching])
        assert fetching.cancelled()
        assert [path.name for path in room.iterdir()] == ["plugin"]
    assert await asyncio.to_thread(fetching_processes) == []


async def test_a_fetch_that_is_cancelled_again_and_again(stalled: HostileServer, room: Path, eventually):
    """However impatient who cancels: the process is waited for, and the folder beside is gone."""
    fetching = asyncio.create_task(GitFetcher().fetch(order(room, stalled.url), lambda _progress: None))
    await eventually(lambda: stalled.requests)
    while not fetching.done():
        fetching.cancel()
        await asyncio.sleep(0)
    assert fetching.cancelled()
    assert await asyncio.to_thread(fetching_processes) == []
    assert [path.name for path in room.iterdir()] == ["plugin"]


async def test_a_second_fetch_after_a_cancelled_one(server: GitServer, stalled: HostileServer, room: Path):
    """Into the same folder, if it is still empty."""
    wanted = order(room, stalled.url)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await GitFetcher().fetch(wanted, lambda _progress: None)
    again = FetchOrder(server.url("plugin.git"), None, wanted.folder, FetchLimits())
    assert await GitFetcher().fetch(again, lambda _progress: None)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
async def test_a_process_that_is_killed(stalled: HostileServer, room: Path, eventually, number):
    """By the kernel, or by whoever: a typed error that names the signal."""
    fetching = asyncio.create_task(GitFetcher().fetch(order(room, stalled.url), lambda _progress: None))
    await eventually(lambda: stalled.requests)
    (process,) = await asyncio.to_thread(fetching_processes)
    process.send_signal(number)
    with pytest.raises(SourceInvalid, match=number.name):
        await fetching
    assert [path.name for path in room.iterdir()] == ["plugin"]


async def test_a_process_that_is_stopped(stalled: HostileServer, room: Path, eventually):
    """One that does not run any more is killed when its time is over."""
    fetching = asyncio.create_task(
        GitFetcher().fetch(order(room, stalled.url, timeout_s=1), lambda _progress: None)
    )
    await eventually(lambda: stalled.requests)
    (process,) = await asyncio.to_thread(fetching_processes)
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(FetchTimeout):
        await fetching


HOST = """
import asyncio, sys
from pathlib import Path
from coredeno.config import FetchLimits
from coredeno.install.git import GitFetcher
from coredeno.interfaces import FetchOrder
order = FetchOrder(sys.argv[1], None, Path(sys.argv[2]), FetchLimits())
asyncio.run(GitFetcher().fetch(order, lambda progress: None))
"""


async def test_a_host_that_is_killed(stalled: HostileServer, room: Path, project: Path, eventually):
    """SIGKILL leaves it no time to say anything; within a second its fetching process is gone all the same."""
    room.mkdir()
    folder = room / "plugin"
    folder.mkdir()
    host = subprocess.Popen([sys.executable, "-c", HOST, stalled.url, str(folder)], cwd=project)
    try:
        await eventually(lambda: stalled.requests)
        (process,) = await asyncio.to_thread(fetching_processes)
        assert os.getpgid(process.pid) == process.pid != os.getpgid(host.pid)
    finally:
        host.kill()
        host.wait()
    await eventually(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, within_s=1)
    assert list(folder.iterdir()) == []
