"""`PluginHost`: puts the parts together, starts and stops them in order, loads modules."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

from coredeno import events
from coredeno.assembly import BroughtParts, HostParts, assemble
from coredeno.audit.audit import Audit
from coredeno.clock import LoopClock
from coredeno.config import HostConfig
from coredeno.errors import UsageError
from coredeno.event_stream import EventStream
from coredeno.folder_source import FolderSource
from coredeno.gateway.gateway import Gateway, Listener
from coredeno.health import HostHealth, PartHealth
from coredeno.hooks import Hooks
from coredeno.install.index import IndexEntry
from coredeno.install.plan import InstalledPlugin, InstallPlan
from coredeno.install.planner import OnProgress, Source
from coredeno.install.trust import TrustStore
from coredeno.installer import Installer
from coredeno.interfaces import (
    AuditLog,
    Clock,
    Fetcher,
    Files,
    Launcher,
    PluginSource,
    Processes,
    StoreBackend,
)
from coredeno.loader import UNSIGNED_GROUP, Loader
from coredeno.module import Module
from coredeno.root import RootFolder, narrowed
from coredeno.services.keyvalue import Store
from coredeno.services.registry import ServiceRegistry
from coredeno.services.service import Service
from coredeno.services.threads import in_thread
from coredeno.stats import HostStats
from coredeno.stop_steps import StopSteps
from coredeno.tasks import all_or_none

_log = logging.getLogger("coredeno.host")


class PluginHost:
    """Runs plugins: `async with PluginHost("var/app") as host: module = await host.load_path("plugins/hello")`.

    One host a root; it makes `<root>/.core` its own. Use it within one event loop.
    """

    def __init__(
        self,
        root: str | PathLike[str],
        *,
        hooks: Sequence[Hooks] = (),
        services: Sequence[Service] = (),
        config: HostConfig | None = None,
        store: StoreBackend | None = None,
        audit: AuditLog | None = None,
        files: Files | None = None,
        processes: Processes | None = None,
        launcher: Launcher | None = None,
        listener: Listener | None = None,
        fetcher: Fetcher | None = None,
        trust: TrustStore | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Plan a host; `start` (or `async with`) starts it.

        Args:
            root: the app root, made if it is missing. Plugins reach files beneath it, where they are granted.
            hooks: what the app wants to hear, and its services.
            services: the app's services, besides those that the hooks register.
            config: bounds, policy, isolation; the default is `HostConfig()`.
            store: where the store keeps its data; the default is a SQLite file beneath the root.
            audit: where the audit log keeps its rows; the default is a SQLite file beneath the root.
            files: how files are reached; the default is the disk beneath the root.
            processes: how programs are run; the default runs them.
            launcher: how sidecars are started; the default launches Deno.
            listener: how gRPC clients get in; the default is grpclib on a Unix socket.
            fetcher: how plugins are fetched; the default fetches git repositories.
            trust: whose plugins the app takes; the default trusts nobody, so that each install names its signer.
            clock: whose time counts; the default is the event loop's.

        Raises:
            UsageError: a hook or service is not of its class.
        """
        for hook in hooks:
            if not isinstance(hook, Hooks):
                raise UsageError(f"PluginHost: hooks has {hook!r}, wanted instances of Hooks")
        self._root = RootFolder(Path(root))
        self._hooks = tuple(hooks)
        self._services = ServiceRegistry()
        for service in services:
            self._services.add(service)
        self._config = config or HostConfig()
        self._brought = BroughtParts(
            store=store,
            audit=audit,
            files=files,
            processes=processes,
            launcher=launcher,
            listener=listener,
            fetcher=fetcher,
            trust=trust,
            clock=clock,
        )
        self._events = EventStream()
        self._parts: HostParts | None = None
        self._undo = StopSteps(clock or LoopClock(), self._config.stop_timeout_s)
        self._starting: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._name = ""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # --- life

    async def start(self) -> None:
        """Start the host: lock the root, open the store, listen, see a sidecar answer in both directions, load plugins.

        What is installed is verified and loaded, four at a time, and waited for (`HostConfig.autoload`), at most
        `Limits.load_timeout_s` each.

        If it fails or is cancelled, everything that was started is stopped again, and nothing is left behind.

        Raises:
            UsageError: it was started before, another host runs on this root, a service is wrong, or it was
                stopped meanwhile.
            ManifestError: the app's own `.core/view.yml` is not valid.
            StoreCorrupt: the store is damaged (`HostConfig.corrupt_store` says what else may come of that).
            StoreFull: there is no room to make the store or to bring it up to date.
            StoreError: the store or the audit log cannot be opened.
            AuditBroken: the end of the audit log is not what was written. It is left as it is: put it aside.
            InstallError: the folder of installed plugins cannot be made. (A plugin that cannot be loaded is no
                reason to fail: it is ERRORED or QUARANTINED in `modules`.)
            DenoNotFound: there is no Deno, or not one that can be used.
            SidecarExited: the first sidecar could not be started.
            SidecarError: there is no room for its files.
        """
        if self._starting is not None:
            raise UsageError("start: this host was started before, wanted a new PluginHost")
        # A task of its own, so that `stop` can end it, whoever waits for it here.
        starting = self._starting = asyncio.create_task(self._start(), name="coredeno start")
        try:
            await asyncio.wait([starting])
        except asyncio.CancelledError:
            await self.stop()
            raise
        if starting.cancelled():
            await self.stop()
            raise UsageError("start: the host was stopped meanwhile")
        error = starting.exception()
        if error is not None:
            await self.stop()
            raise error

    async def stop(self) -> None:
        """Stop everything, in the reverse order of the start.

        That is: modules, installs, sidecars, gateway, processes, store, audit log. Whoever waits for an install gets a
        `UsageError`; plans that were not applied are gone.

        Harmless twice, before a start, and while another stop is under way; a start that is under way ends.
        Each step has a deadline (`HostConfig.stop_timeout_s`); what fails in one is logged, and the next goes
        on. If cancelled, it finishes first.
        """
        if self._starting is None:
            return
        if self._stopping is None:
            if self._parts is not None:
                self._parts.loader.excuse(asyncio.current_task())
            self._stopping = asyncio.create_task(self._stop(self._starting), name="coredeno stop")
        cancelled: asyncio.CancelledError | None = None
        while not self._stopping.done():
            try:
                await asyncio.shield(self._stopping)
            except asyncio.CancelledError as error:
                if self._stopping.cancelled():
                    raise
                cancelled = error
        self._stopping.result()
        if cancelled is not None:
            raise cancelled

    # --- what the app uses

    async def load_path(
        self,
        folder: str | PathLike[str],
        *,
        group: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> Module:
        """Load an unsigned plugin from a folder, for development; returns when its `init` has returned.

        Args:
            folder: it has `.core/view.yml` in it.
            group: the trust group, which means something with `isolation="worker"` only: modules of one group
                share a process and could speak as one another. None is the group of all unsigned plugins.
            config: what the plugin finds in `core.config`.

        Raises:
            UsageError: unsigned plugins are not allowed (`HostConfig(allow_unsigned=True)`), the host does not
                run, or a module of this code is loaded already, and neither ERRORED nor QUARANTINED.
            ManifestError: the manifest is missing or not valid.
            PermissionDenied: the manifest asks for more than the app grants.
            PluginRaised: the plugin could not be imported, or its `init` threw.
            PluginTimeout: `init` did not return within `Limits.load_timeout_s`.
            PluginCrashed: its sidecar ended meanwhile.
            SidecarError: no sidecar could be started.
        """
        if not self._config.allow_unsigned:
            raise UsageError(
                f"load_path: {str(folder)!r} would not be verified; for development set "
                "HostConfig(allow_unsigned=True), else install() it, signed, from a git repository"
            )
        source = FolderSource(Path(folder).absolute())  # noqa: ASYNC240 - a matter of text only
        return await self.load_source(source, group=group, config=config)

    async def load_source(
        self, source: PluginSource, *, group: str | None = None, config: Mapping[str, Any] | None = None
    ) -> Module:
        """Load a plugin from wherever the app trusts its files to be; else as `load_path`."""
        return await self._running().load(source, group=group or UNSIGNED_GROUP, config=config or {})

    async def load(
        self, code: str, *, group: str | None = None, config: Mapping[str, Any] | None = None
    ) -> Module:
        """Load an installed plugin, verified byte for byte; returns when its `init` has returned.

        Args:
            code: the plugin's code.
            group: the trust group, as for `load_path`; None is that of the key that signed it, or of all unsigned
                plugins.
            config: what the plugin finds in `core.config`; None is what `HostConfig.settings` has for it.

        Raises:
            UsageError: it is not installed, is loaded already, or the host does not run.
            InstallError: it is not what was installed (`IntegrityError`), or its signature does not count any more
                (`SignatureError`). It is QUARANTINED then.
            CoreDenoError: it cannot be loaded; see `load_path`.
        """
        return await self.installer.load(code, group=group, config=config)

    async def release(self, code: str) -> Module:
        """Let a module in quarantine run again, loaded as it was before, with all of its budget of restarts.

        An installed plugin is verified anew. Quarantine does not outlive the host: the next start loads what is
        installed, whatever it came to in this one.

        Args:
            code: the plugin's code.

        Returns:
            The module, RUNNING: a new one, also in `modules`.

        Raises:
            UsageError: there is no module of this code, or it is not QUARANTINED.
            CoreDenoError: it cannot be loaded; see `load` and `load_path`. It is ERRORED or QUARANTINED again.
        """
        return await self.installer.release(code)

    async def plan_install(
        self,
        source: Source,
        *,
        ref: str | None = None,
        signer: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> InstallPlan:
        """Fetch and verify a plugin, and say what installing it, or updating to it, would do. Nothing is live yet.

        If it fails or is cancelled, nothing of it is left.

        Args:
            source: a git repository (a path, `file://`, `https://`, or `http://` on loopback), or an entry of an index.
                A relative path is taken anew at each update if it is a text, and once if it is a `Path`.
            ref: a branch, tag or commit; None is the repository's default branch.
            signer: the only key that may have signed it, in hex or base64. None: for a plugin that is installed, the
                key that was named then; else the trust store decides.
            on_progress: is told how far the fetch is, some times a second.

        Raises:
            UsageError: `signer` is no key, or the host does not run.
            SourceRefused, SourceUnavailable, SourceInvalid, FetchLimitExceeded, FetchTimeout: it cannot be fetched.
            SignatureError: it has no signature that counts.
            IntegrityError, UnsafePath: a file is not what was signed, or none that may be installed.
            DowngradeRefused: it is older than a release seen before from its key, or another one of its number.
            ManifestError: its manifest, or the list of its files, is not valid.
            RecordInvalid: what the store holds of the plugin cannot be read; `remove` takes it away.
            InstallError: anything else, such as a full disk.
        """
        return await self.installer.plan(source, ref=ref, signer=signer, on_progress=on_progress)

    async def install(
        self,
        source: Source,
        *,
        ref: str | None = None,
        signer: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> InstalledPlugin:
        """Plan and apply, for a plugin that is not installed. It is not loaded: `load` does that, and the next start.

        All or nothing: if it fails, or is cancelled before it counts, nothing of it is left.

        Args:
            source: as for `plan_install`.
            ref: as for `plan_install`.
            signer: as for `plan_install`.
            on_progress: as for `plan_install`.

        Raises:
            UsageError: it is installed already; or as `plan_install`.
            PermissionDenied: it asks for more than the app's policy allows.
            DowngradeRefused: it is older than a release seen before from its key, or another one of its number.
            CoreDenoError: as `plan_install`.
        """
        return await self.installer.install(source, ref=ref, signer=signer, on_progress=on_progress)

    async def update(
        self,
        plugin: str | IndexEntry,
        *,
        ref: str | None = None,
        signer: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> InstalledPlugin:
        """Fetch what is published now and change to it; the module is reloaded if there is one.

        The same release as the installed one changes nothing, but what was damaged of it is put right; a module that
        went down too often stays in quarantine. Until the new version is on the disk the old one runs on; if it does
        not load, the old one is put back and loaded. The module is a new one then: take it from `modules`.

        Args:
            plugin: the plugin's code; or an entry of an index, whose source and ref are followed from now on.
            ref: another branch, tag or commit from now on; None stays with the former.
            signer: another key from now on; None stays with the former, or with the trust store.
            on_progress: as for `plan_install`.

        Raises:
            UsageError: it is not installed, or is pinned.
            ConsentRequired: it asks for more than before, and no hook consented (`Hooks.update_widens`).
            UpdateUndone: the new version did not load.
            CoreDenoError: as `install`. The old version is as it was.
        """
        return await self.installer.update(plugin, ref=ref, signer=signer, on_progress=on_progress)

    async def rollback(self, code: str, version: str | None = None) -> InstalledPlugin:
        """Go back to a version that is kept (`HostConfig.kept_releases`), verified again; reload the module.

        Args:
            code: the plugin's code.
            version: which one; None is the one that was installed before the active one.

        Raises:
            UsageError: the plugin, or such a version, is not there.
            InstallError: it is not what was installed, or not to be trusted any more.
            PermissionDenied: it asks for more than the app's policy allows (now).
            UpdateUndone: it did not load; the version from before is put back.
        """
        return await self.installer.rollback(code, version)

    async def remove(self, code: str, *, data: bool = False) -> None:
        """Unload a plugin and remove all its versions.

        Args:
            code: the plugin's code; one whose record cannot be read can be removed too.
            data: whether its own store group goes too.

        Raises:
            UsageError: it is not installed.
        """
        await self.installer.remove(code, data=data)

    async def pin(self, code: str, *, pinned: bool = True) -> InstalledPlugin:
        """Hold a plugin at its version: `update` refuses it until it is let go (`pinned=False`).

        Raises:
            UsageError: it is not installed.
        """
        return await self.installer.pin(code, pinned=pinned)

    async def revoke(self, code: str, permission: str, resource: str | None = None) -> tuple[str, ...]:
        """Take a permission back, from a module that is loaded and from what was granted to it until revoked.

        What the host mediates (files, store, processes, services) is refused from now on. Requests under way that rely
        on it are cancelled, with `PermissionDenied` for the module, and programs that ran by it are stopped; both have
        ended when this returns (a service that does not let itself be cancelled is waited for at most five seconds).
        The row of the audit log is on the disk by then, unless `audit.problem` says otherwise.
        For `net` the module is stopped at once and unloaded, since what a running Worker may reach cannot change.

        What the manifest does not list as optional is granted again at the next load: to make its end last, narrow
        the app's `Policy`. If cancelled, it is revoked all the same.

        Args:
            code: the plugin's code.
            permission: as `PermissionDenied` names it: `files.read`, `files.write`, `net`, `processes.start`,
                `store.read`, `store.write`, `services.<name>`.
            resource: what shall not be reached any more, such as a path; None is all of that kind. An entry by which
                it could be reached is taken back whole: without `photos/private` there is no `photos` either.

        Returns:
            The entries that were taken back, as the manifest or the request named them.

        Raises:
            UsageError: there is no such permission, or the host does not run.
            StoreError: the store failed; nothing was taken back.
        """
        return await self._running().revoke(code, permission, resource)

    async def installed(self) -> list[InstalledPlugin]:
        """The installed plugins, by their codes; those in quarantine say why in `problem`.

        Raises:
            UsageError: the host does not run.
        """
        return await self.installer.installed()

    @property
    def installer(self) -> Installer:
        """The installer, for what is not on the host itself, such as `read_index`.

        Raises:
            UsageError: the host has not started.
        """
        return self._started().installer

    @property
    def modules(self) -> Mapping[str, Module]:
        """The modules by their codes, the failed ones too (`module.state`, `module.error`)."""
        return MappingProxyType({} if self._parts is None else self._parts.loader.modules)

    @property
    def store(self) -> Store:
        """The store. The app may use all groups, those beginning with `_` too.

        Raises:
            UsageError: the host has not started.
        """
        return self._started().store

    @property
    def audit(self) -> Audit:
        """The audit log: its rows, and whether they are what was written.

        Raises:
            UsageError: the host has not started.
        """
        return self._started().audit

    @property
    def gateway(self) -> Gateway:
        """The gateway, for tokens of the app's own gRPC clients.

        Raises:
            UsageError: the host has not started.
        """
        return self._started().gateway

    @property
    def socket(self) -> Path:
        """The Unix socket on which the gateway listens.

        Raises:
            UsageError: the host does not run.
        """
        if self._root.sockets is None:
            raise UsageError(
                "the host has not started or has stopped, wanted after start() and before stop()"
            )
        return self._root.core_socket

    @property
    def name(self) -> str:
        """The app's name by its own `.core/view.yml`, else empty."""
        return self._name

    async def health(self) -> HostHealth:
        """How the host is now: what confines its sidecars, whether store and audit log work, each sidecar and module.

        Nothing that it finds is raised.

        Raises:
            UsageError: the host does not run.
        """
        self._running("health")
        parts = self._started()
        store = await parts.backend.health()
        said = parts.supervisor.first_said
        return HostHealth(
            deno=said.deno if said else "",
            platform=sys.platform,
            layers=said.layers if said else (),
            store=store,
            audit=PartHealth(ok=not parts.audit.problem, why=parts.audit.problem),
            sidecars=parts.supervisor.health(),
            modules={code: module.state.value for code, module in parts.loader.modules.items()},
        )

    def stats(self) -> HostStats:
        """What the host has counted of its modules, and what their sidecars use. It only looks, and costs little.

        Raises:
            UsageError: the host does not run.
        """
        return HostStats(modules=self._running("stats").stats())

    def events(self) -> AsyncIterator[events.Event]:
        """The host's events from now on, in their order; the iteration ends when the host has stopped.

        It never holds up the host: of more than 1,024 that were not taken the oldest are dropped, and an `EventsLost`
        stands in their place.
        """
        return self._events.listen()

    # --- start and stop, step by step

    async def _start(self) -> None:
        started = time.monotonic()
        undo = self._undo
        undo.add("events", self._close_events)
        undo.add("root", lambda: in_thread(self._root.close))
        await in_thread(self._root.open)
        manifest = await in_thread(self._root.manifest)
        self._name = manifest.name if manifest else ""
        for hook in self._hooks:
            await hook.register_services(self._services)
        self._services.close()

        parts = self._parts = assemble(
            self._brought,
            root=self._root,
            config=self._config,
            policy=narrowed(self._config.policy, manifest),
            services=self._services,
            hooks=self._hooks,
            emit=self._events.emit,
        )
        # Undone in the reverse order, whichever of what is started below got how far.
        grace_s = self._config.limits.unload_grace_s
        undo.add("audit", parts.audit.aclose)  # the last: all others may have something to tell
        undo.add("disk threads", parts.disk.aclose)
        undo.add("log records", parts.log_rates.aclose)
        undo.add("store", parts.backend.aclose)
        undo.add("processes", parts.processes.stop_all)
        undo.add("gateway", parts.gateway.aclose)
        undo.add("listener", parts.listener.aclose)
        undo.add("sidecars", parts.supervisor.aclose, extra_s=grace_s)
        undo.add("installer", parts.installer.aclose)
        undo.add("modules", parts.loader.aclose, extra_s=2 * grace_s)

        await self._open(parts)
        await parts.installer.open()
        _log.info("started on %s in %.0f ms", self._root.path, (time.monotonic() - started) * 1000)

    async def _open(self, parts: HostParts) -> None:
        parts.listener.bind(self._root.core_socket)

        async def open_gateway() -> None:
            await asyncio.gather(
                parts.backend.open(self._root.host),
                parts.audit.open(self._root.host),
                parts.listener.prepare(),
            )
            await parts.listener.serve(parts.gateway)

        if self._brought.launcher is None:
            # A sidecar that joins the socket before the store is open waits in the socket's queue.
            await all_or_none(open_gateway(), parts.supervisor.start(parts.loader))
        else:  # one of the app's own may open Sessions without the socket, and would not wait
            await open_gateway()
            await parts.supervisor.start(parts.loader)

    async def _stop(self, starting: asyncio.Task[None]) -> None:
        starting.cancel()
        await asyncio.wait([starting])
        if not starting.cancelled():
            starting.exception()  # if `start` was cancelled nobody else looks at it
        await self._undo.run()
        _log.info("stopped on %s", self._root.path)

    async def _close_events(self) -> None:
        self._events.close()

    def _running(self, what: str = "load") -> Loader:
        is_up = self._starting is not None and self._starting.done()
        if self._parts is None or not is_up or self._stopping is not None:
            raise UsageError(f"{what}: the host does not run, wanted after start() and before stop()")
        return self._parts.loader

    def _started(self) -> HostParts:
        if self._parts is None:
            raise UsageError("the host has not started, wanted after start()")
        return self._parts
