"""A fetcher in memory: what is published is what the test says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from coredeno.config import FetchLimits
from coredeno.errors import FetchLimitExceeded, InstallError, SourceUnavailable
from coredeno.install.paths import PathSet, check_path
from coredeno.install.source import SCHEMES, check_ref, parse_source
from coredeno.interfaces import Fetched, FetchOrder, FetchProgress
from coredeno.services.threads import in_thread

Published = Mapping[str, Mapping[str, bytes]]
"""What one source has: by ref the files, by path their contents."""


class MemoryFetcher:
    """A `Fetcher` of what it is told, under the same rules: refs, paths and limits are checked as by the default.

    ```python
    fetcher = MemoryFetcher({"https://git.example/acme/tagger.git": {"v1": {"main.ts": b"..."}}})
    ```

    A source is known by any name. Of one that is not, `SourceRefused` says whether its form would be fetched.

    Args:
        sources: what each source has. The default ref is `HEAD`, or the last one where there is none.

    Attributes:
        sources: the same, to be changed as the test goes on.
        orders: all that was asked for.
    """

    def __init__(self, sources: Mapping[str, Published] | None = None) -> None:
        self.sources: dict[str, Published] = dict(sources or {})
        self.orders: list[FetchOrder] = []
        self._failures: list[InstallError] = []

    def fail_next(self, error: InstallError) -> None:
        """Have the next fetch raise this; called more often, the ones after it too."""
        self._failures.append(error)

    async def fetch(self, order: FetchOrder, on_progress: Callable[[FetchProgress], None]) -> Fetched:
        """See `Fetcher.fetch`; the revision is made of the files."""
        self.orders.append(order)
        on_progress(FetchProgress("connecting"))
        if self._failures:
            raise self._failures.pop(0)
        files = self._find(order)
        on_progress(FetchProgress("checking"))
        _check(files, order.limits)
        on_progress(FetchProgress("writing", 0, len(files)))
        await in_thread(lambda: _write(order.folder, files))
        on_progress(FetchProgress("writing", len(files), len(files)))
        return Fetched(revision=_revision(files))

    def _find(self, order: FetchOrder) -> Mapping[str, bytes]:
        if order.source not in self.sources:
            parse_source(order.source, base=Path("/"), schemes=SCHEMES)
            raise SourceUnavailable(f"source: there is no {order.source!r}")
        ref = check_ref(order.ref)
        published = self.sources[order.source]
        if ref is None:
            ref = "HEAD" if "HEAD" in published else next(reversed(list(published)), None)
        if ref is None or ref not in published:
            raise SourceUnavailable(f"source: has no branch or tag {ref!r}")
        return published[ref]


def _check(files: Mapping[str, bytes], limits: FetchLimits) -> None:
    paths = PathSet()
    folders: set[str] = set()
    for path, content in files.items():
        paths.add(check_path(path))
        above = path.split("/")[:-1]
        if len(above) > limits.depth:
            raise _exceeded(f"folder of {path!a}: lies within too many others", "depth", limits)
        folders |= {"/".join(above[:depth]) for depth in range(1, len(above) + 1)}
        if len(content) > limits.file_bytes:
            raise _exceeded(f"file {path!a}: has {len(content):,} bytes", "file_bytes", limits)
    if len(files) + len(folders) > limits.files:
        raise _exceeded("plugin: has more files and folders", "files", limits)
    if sum(map(len, files.values())) > limits.total_bytes:
        raise _exceeded("plugin: its files have more bytes in all", "total_bytes", limits)


def _exceeded(what: str, limit: str, limits: FetchLimits) -> FetchLimitExceeded:
    return FetchLimitExceeded(what, limit=limit, allowed=getattr(limits, limit))


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    try:
        for path, content in files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("xb") as new:
                new.write(content)
            file.chmod(0o444)
    except OSError as error:
        raise InstallError(f"folder of the fetch: cannot be written: {error.strerror}") from error


def _revision(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha1(usedforsecurity=False)
    for path in sorted(files):
        digest.update(f"{path}\0{len(files[path])}\0".encode() + files[path])
    return digest.hexdigest()
