"""Puts the parts of a host together: those that the app brought, our own for the others, and what joins them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from coredeno.announcer import Announcer
from coredeno.audit.audit import Audit
from coredeno.clock import LoopClock
from coredeno.config import HostConfig, Limits
from coredeno.events import Event, StoreSetAside
from coredeno.gateway.gate import Gate
from coredeno.gateway.gateway import Gateway, Listener
from coredeno.hooks import Hooks
from coredeno.install.depot import Depot
from coredeno.install.planner import Planner
from coredeno.install.trust import TrustStore
from coredeno.installed_modules import InstalledModules
from coredeno.installer import Installer
from coredeno.interfaces import AuditLog, Clock, Fetcher, Files, Launcher, Processes, StoreBackend
from coredeno.kept_grants import KeptGrants
from coredeno.loader import Loader
from coredeno.permission_desk import PermissionDesk
from coredeno.permissions import HOST_FOLDER
from coredeno.placement import Placement
from coredeno.policy import Policy
from coredeno.root import RootFolder
from coredeno.services.builtin import builtin_methods
from coredeno.services.keyvalue import Store
from coredeno.services.log_rates import LogRates
from coredeno.services.registry import ServiceRegistry
from coredeno.services.threads import DiskThreads
from coredeno.services.watched_store import WatchedStore
from coredeno.sidecar.supervisor import Supervisor

_FILE_HEADROOM_BYTES = 512  # what an answer has besides a file's content


class BroughtParts(msgspec.Struct, frozen=True, kw_only=True):
    """What the app brought itself; None is ours. See `PluginHost`."""

    store: StoreBackend | None
    audit: AuditLog | None
    files: Files | None
    processes: Processes | None
    launcher: Launcher | None
    listener: Listener | None
    fetcher: Fetcher | None
    trust: TrustStore | None
    clock: Clock | None


class HostParts(msgspec.Struct, frozen=True, kw_only=True):
    """All parts of one host that have a life of their own. Nothing is started yet."""

    backend: WatchedStore
    store: Store
    audit: Audit
    disk: DiskThreads
    log_rates: LogRates
    processes: Processes
    gateway: Gateway
    listener: Listener
    supervisor: Supervisor
    loader: Loader
    installer: Installer


def assemble(
    brought: BroughtParts,
    *,
    root: RootFolder,
    config: HostConfig,
    policy: Policy,
    services: ServiceRegistry,
    hooks: Sequence[Hooks],
    emit: Callable[[Event], None],
) -> HostParts:
    """Make the parts of a host whose root is open.

    Args:
        brought: what the app brought.
        root: the root's folders.
        config: the host's.
        policy: the app's, under the ceiling of its own manifest.
        services: the app's services, all of them.
        hooks: who is told.
        emit: takes the events.
    """
    assert root.run is not None
    assert root.sockets is not None
    clock = brought.clock or LoopClock()
    audit = Audit(brought.audit or _sqlite_audit(), clock=clock, emit=emit)

    def tell(event: Event) -> None:
        audit.record(event)
        emit(event)

    def store_set_aside(path: Path, problem: str) -> None:
        backend.note = f"the start found it damaged ({problem}), and set it aside as {path}"
        tell(StoreSetAside(path=str(path), problem=problem))

    backend = WatchedStore(brought.store or _sqlite_store(config, store_set_aside), clock=clock)
    store = Store(backend)
    limits = config.limits
    disk = DiskThreads()
    log_rates = LogRates(limits.log_lines_per_s, clock=clock)
    processes = brought.processes or _process_table(clock, limits)
    methods = builtin_methods(
        files=brought.files or _rooted_files(root.path, disk, limits),
        store=store,
        processes=processes,
        programs=config.programs,
        root=root.path,
        log_rates=log_rates,
        limit_bytes=limits.message_bytes - _FILE_HEADROOM_BYTES,
        limits=limits,
    )
    kept = KeptGrants(backend)
    desk = PermissionDesk(
        policy=policy,
        hooks=hooks,
        config=config,
        kept=kept,
        processes=processes,
        clock=clock,
        emit=tell,
        audited=audit.settle,
    )
    gateway = Gateway(
        Gate([*methods, *desk.methods(), *services.methods()], tell),
        clock=clock,
        message_bytes=limits.message_bytes,
        requests_in_flight=limits.requests_in_flight,
        emit=tell,
    )
    supervisor = Supervisor(
        config=config,
        launcher=brought.launcher or _deno_launcher(config),
        office=gateway,
        clock=clock,
        run_folder=root.run,
        socket_folder=root.sockets,
        core_socket=root.core_socket,
        cache=root.deno_cache,
        emit=tell,
    )
    loader = Loader(
        config=config,
        policy=policy,
        clock=clock,
        supervisor=supervisor,
        placement=Placement(supervisor=supervisor, gateway=gateway, services=services, processes=processes),
        gateway=gateway,
        desk=desk,
        announcer=Announcer(hooks, tell),
    )
    depot = Depot(root.plugins, backend, kept)
    trust = brought.trust or TrustStore()
    installer = Installer(
        depot,
        Planner(depot, fetcher=brought.fetcher or _git_fetcher(), trust=trust, config=config, policy=policy),
        InstalledModules(depot, loader, trust=trust, config=config),
        config=config,
        policy=policy,
        hooks=hooks,
        emit=tell,
        audited=audit.settle,
    )
    return HostParts(
        backend=backend,
        store=store,
        audit=audit,
        disk=disk,
        log_rates=log_rates,
        processes=processes,
        gateway=gateway,
        listener=brought.listener or _grpc_listener(),
        supervisor=supervisor,
        loader=loader,
        installer=installer,
    )


# --- our own parts, each imported only by a host that uses it


def _sqlite_store(config: HostConfig, on_set_aside: Callable[[Path, str], None]) -> StoreBackend:
    from coredeno.store.sqlite import SqliteStore  # noqa: PLC0415

    return SqliteStore(corrupt=config.corrupt_store, on_set_aside=on_set_aside)


def _sqlite_audit() -> AuditLog:
    from coredeno.audit.sqlite import SqliteAudit  # noqa: PLC0415

    return SqliteAudit()


def _rooted_files(root: Path, disk: DiskThreads, limits: Limits) -> Files:
    from coredeno.services.rooted_files import RootedFiles  # noqa: PLC0415

    return RootedFiles(root, entries_limit=limits.list_entries, hidden=HOST_FOLDER, run=disk.run)


def _process_table(clock: Clock, limits: Limits) -> Processes:
    from coredeno.services.process_table import ProcessTable  # noqa: PLC0415

    return ProcessTable(clock, running_limit=limits.processes)


def _deno_launcher(config: HostConfig) -> Launcher:
    from coredeno.sidecar.launcher import DenoLauncher  # noqa: PLC0415

    return DenoLauncher(config.deno)


def _grpc_listener() -> Listener:
    from coredeno.gateway.listener import GrpcListener  # noqa: PLC0415

    return GrpcListener()


def _git_fetcher() -> Fetcher:
    from coredeno.install.git import GitFetcher  # noqa: PLC0415

    return GitFetcher()
