"""A whole host on fakes, for unit tests of an app: no process, no socket, no database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import msgspec

from coredeno.config import HostConfig
from coredeno.gateway.gateway import Gateway
from coredeno.hooks import Hooks
from coredeno.host import PluginHost
from coredeno.install.trust import TrustStore
from coredeno.interfaces import AuditLog, Clock, Fetcher, Files, Processes, StoreBackend
from coredeno.manifest import Manifest, parse_manifest
from coredeno.services.service import Service
from coredeno.testing.fake_processes import FakeProcesses
from coredeno.testing.fake_sidecar import FakeLauncher
from coredeno.testing.memory_audit import MemoryAudit
from coredeno.testing.memory_fetcher import MemoryFetcher
from coredeno.testing.memory_files import MemoryFiles
from coredeno.testing.memory_store import MemoryStore


class MemoryListener:
    """A `Listener` that nobody can join: fakes need no socket."""

    def bind(self, socket: Path) -> None:
        """Make nothing."""

    async def prepare(self) -> None:
        """Do nothing."""

    async def serve(self, gateway: Gateway) -> None:
        """Serve nobody."""

    async def aclose(self) -> None:
        """Nothing was opened."""


class MemorySource:
    """A `PluginSource` in memory: a manifest, and files by their paths."""

    def __init__(self, manifest: str, files: Mapping[str, bytes] | None = None) -> None:
        """Take the text of a `.core/view.yml`, and files where a real Deno shall run them."""
        self._manifest = manifest
        self._files = dict(files or {})

    @property
    def name(self) -> str:
        """For messages."""
        return "memory"

    async def read_manifest(self) -> Manifest:
        """Check the manifest.

        Raises:
            ManifestError: it is not valid.
        """
        return parse_manifest(self._manifest.encode(), file="memory:.core/view.yml")

    async def copy_to(self, folder: Path) -> None:
        """Write the files."""
        if self._files:
            await asyncio.to_thread(self._write, folder)

    def _write(self, folder: Path) -> None:
        for path, data in self._files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)


def fake_host(
    root: str | PathLike[str],
    plugins: Mapping[str, Callable[[], Any]],
    *,
    services: Sequence[Service] = (),
    hooks: Sequence[Hooks] = (),
    config: HostConfig | None = None,
    store: StoreBackend | None = None,
    audit: AuditLog | None = None,
    files: Files | None = None,
    processes: Processes | None = None,
    launcher: FakeLauncher | None = None,
    fetcher: Fetcher | None = None,
    trust: TrustStore | None = None,
    clock: Clock | None = None,
) -> PluginHost:
    """A `PluginHost` on fakes; the host, its gate and the rules for values are the real ones.

    Args:
        root: an empty folder; the host makes its lock in it.
        plugins: classes that stand for plugins, by code (see `FakeLauncher`).
        services: the app's services.
        hooks: the app's hooks.
        config: as for a real host; unsigned plugins are allowed whatever it says.
        store: a `MemoryStore` by default.
        audit: a `MemoryAudit` by default.
        files: an empty `MemoryFiles` by default.
        processes: a `FakeProcesses` without programs by default.
        launcher: a `FakeLauncher` of one's own, instead of `plugins`.
        fetcher: a `MemoryFetcher` that knows no source by default.
        trust: whose plugins count, as for a real host.
        clock: a `TurnedClock`, where a test turns time.
    """
    return PluginHost(
        root,
        hooks=hooks,
        services=services,
        config=msgspec.structs.replace(config or HostConfig(), allow_unsigned=True),
        store=store or MemoryStore(),
        audit=audit or MemoryAudit(),
        files=files or MemoryFiles(),
        processes=processes or FakeProcesses({}),
        launcher=launcher or FakeLauncher(plugins),
        listener=MemoryListener(),
        fetcher=fetcher or MemoryFetcher(),
        trust=trust,
        clock=clock,
    )
