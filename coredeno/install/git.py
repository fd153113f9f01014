"""The default `Fetcher`: git repositories on this machine and over HTTPS, by a process that is told little."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from coredeno.errors import (
    FetchLimitExceeded,
    FetchTimeout,
    InstallError,
    SourceInvalid,
    SourceUnavailable,
    UsageError,
)
from coredeno.install import git_process
from coredeno.install.source import DEFAULT_SCHEMES, SCHEMES, PathSource, UrlSource, check_ref, parse_source
from coredeno.interfaces import Fetched, FetchOrder, FetchProgress
from coredeno.services.threads import in_thread
from coredeno.wire.text import printable

_PACKAGE = Path(__file__).parent.parent
_ENTRY = _PACKAGE / "install" / "git_child" / "entry.py"
_SHOWN = 200  # characters of a source that an error repeats: enough to recognise it
_PASSED_ON = ("SSL_CERT_FILE", "SSL_CERT_DIR")
# Isolated, and without `site`: where to look for modules is part of the order.
_COMMAND = (sys.executable, "-I", "-S", "-X", "utf8", str(_ENTRY))


class Credentials(msgspec.Struct, frozen=True):
    """A name and a password (or token) for one host. The password does not show when it is printed."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials(username={self.username!r}, password=...)"


AskCredentials = Callable[[str], Awaitable[Credentials | None]]
"""Called with a host (`git.example`, with a port where the URL names one) before it is contacted."""


class GitFetcher:
    """Fetches one commit, without its history, from a git repository.

    Sources are paths, `file://` and `https://` URLs, and `http://` ones to this machine. A ref is a branch, a tag
    (which comes first where both are there, as in git), a full `refs/...`, or a commit's id; None is the default
    branch. Redirects are not followed, submodules and links are refused, LFS files come as their pointers.

    A repository on this machine is read without its settings, and must have all that it consists of in its own folder:
    worktrees, submodules, and clones with `--shared` or `--reference` are refused.

    All of git happens in a process of its own that has limits on its memory, time and files; a fetch that is
    cancelled, or whose host dies, leaves no process. Beside the order's folder it uses one more, of the same name
    with `.git` after it, which it removes; if the host is killed, both are left to who sweeps the folder above.

    Args:
        schemes: what is allowed, of `path`, `file`, `https` and `http` (which stands for any host; to this
            machine it is allowed with `https`).
        credentials: asked for each fetch over HTTP. What it gives is sent to that host and no other, and to the
            process by a pipe. Its time does not count; what it raises comes out of `fetch`.

    Raises:
        UsageError: a scheme is none of these.
    """

    def __init__(
        self, *, schemes: Collection[str] = DEFAULT_SCHEMES, credentials: AskCredentials | None = None
    ) -> None:
        unknown = set(schemes) - SCHEMES
        if unknown:
            raise UsageError(f"GitFetcher: schemes has {sorted(unknown)}, wanted some of {sorted(SCHEMES)}")
        self._schemes = frozenset(schemes)
        self._credentials = credentials

    async def fetch(self, order: FetchOrder, on_progress: Callable[[FetchProgress], None]) -> Fetched:
        """See `Fetcher.fetch`; the revision is the commit's id. `order.folder` is absolute.

        Raises:
            SourceRefused: the source or the ref is none that is fetched; no process was started.
            SourceUnavailable: there is no such host, repository, branch or tag, or it wants other credentials.
            SourceInvalid: what it gives is broken, or leads elsewhere.
            FetchLimitExceeded, FetchTimeout: a bound was reached.
            UnsafePath: a name may not be written, or is that of a link, a submodule, or the like.
            InstallError: the folder, or the one beside it, cannot be written to.
        """
        here = await in_thread(_current_folder)
        source = parse_source(order.source, base=here, schemes=self._schemes)
        ref = check_ref(order.ref)
        login = await self._login(source)
        work = order.folder.with_name(order.folder.name + ".git")
        made: list[Path] = []
        try:
            await in_thread(lambda: made.append(_made(work)))
            with _naming(source):
                return await git_process.run(
                    _COMMAND,
                    _line(order, source=source, ref=ref, login=login, work=work, here=here),
                    folder=order.folder,
                    environment={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
                    limits=order.limits,
                    on_progress=on_progress,
                )
        finally:
            if made:  # also where it was cancelled while that was done
                await _remove(work)

    async def _login(self, source: PathSource | UrlSource) -> Credentials | None:
        if self._credentials is None or isinstance(source, PathSource):
            return None
        login = await self._credentials(source.origin)
        if login is not None and ":" in login.username:
            raise UsageError("GitFetcher: credentials gave a name with a ':', which HTTP cannot send")
        return login


@contextmanager
def _naming(source: PathSource | UrlSource) -> Iterator[None]:
    """Put the source in front of what is said of it. As it was parsed, so that there is no user info in it."""
    whole = printable(source.path if isinstance(source, PathSource) else source.url, one_line=True)
    name = whole if len(whole) <= _SHOWN else f"{whole[:_SHOWN]}..."
    try:
        yield
    except (SourceUnavailable, SourceInvalid) as error:
        raise type(error)(f"{name}: {str(error).removeprefix('source: ')}") from error.__cause__
    except FetchLimitExceeded as error:
        what = str(error).rpartition(": wanted at most")[0].removeprefix("source: ")
        raise FetchLimitExceeded(
            f"{name}: {what}", limit=error.limit, allowed=error.allowed
        ) from error.__cause__
    except FetchTimeout as error:
        raise FetchTimeout(f"fetch of {name}", timeout_s=error.timeout_s) from error.__cause__


def _line(
    order: FetchOrder,
    *,
    source: PathSource | UrlSource,
    ref: str | None,
    login: Credentials | None,
    work: Path,
    here: Path,
) -> bytes:
    return (
        msgspec.json.encode(
            {
                "sys_path": [str(here / path) for path in sys.path],  # '' is the current folder
                "package": str(_PACKAGE),
                "path": source.path if isinstance(source, PathSource) else None,
                "url": source.url if isinstance(source, UrlSource) else None,
                "login": login and [login.username, login.password],
                "ref": ref,
                "folder": str(order.folder),
                "work": str(work),
                "bounds": order.limits,
            }
        )
        + b"\n"
    )


def _current_folder() -> Path:
    try:
        return Path.cwd()
    except OSError:  # it was removed; then there is nothing for a path to be relative to
        return Path("/nonexistent")


def _made(work: Path) -> Path:
    try:
        work.mkdir(mode=0o700)
    except OSError as error:
        raise InstallError(f"fetch: {str(work)!r} cannot be made: {error.strerror}") from error
    return work


async def _remove(work: Path) -> None:
    """Remove it, however often that is cancelled; `CancelledError` comes out in the end."""
    removing = asyncio.create_task(in_thread(lambda: shutil.rmtree(work, ignore_errors=True)))
    cancelled = False
    while not removing.done():
        try:
            await asyncio.wait([removing])
        except asyncio.CancelledError:
            cancelled = True
    with suppress(OSError):
        removing.result()
    if cancelled:
        raise asyncio.CancelledError
