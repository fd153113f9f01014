"""`PluginHost`: puts the parts together, starts and stops them in order, loads modules."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from os import PathLike
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar

from coredeno import events
from coredeno.clock import LoopClock, deadline
from coredeno.config import HostConfig
from coredeno.errors import UsageError
from coredeno.event_stream import EventStream
from coredeno.folder_source import FolderSource
from coredeno.gateway.gate import Gate
from coredeno.gateway.gateway import Gateway, Listener
from coredeno.hooks import Hooks
from coredeno.interfaces import Clock, Files, Launcher, PluginSource, Processes, StoreBackend
from coredeno.loader import Loader
from coredeno.module import Module
from coredeno.root import RootFolder, narrowed
from coredeno.services.builtin import builtin_methods
from coredeno.services.keyvalue import Store
from coredeno.services.registry import ServiceRegistry
from coredeno.services.rooted_files import in_thread
from coredeno.services.service import Service
from coredeno.sidecar.supervisor import Supervisor

_T = TypeVar("_T")
_log = logging.getLogger("coredeno.host")
_FILE_HEADROOM_BYTES = 512  # what an answer has besides a file's content


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
        files: Files | None = None,
        processes: Processes | None = None,
        launcher: Launcher | None = None,
        listener: Listener | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Plan a host; `start` (or `async with`) starts it.

        Args:
            root: the app root, made if it is missing. Plugins reach files beneath it, where they are granted.
            hooks: what the app wants to hear, and its services.
            services: the app's services, besides those that the hooks register.
            config: bounds, policy, isolation; the default is `HostConfig()`.
            store: where the store keeps its data; the default is a SQLite file beneath the root.
            files: how files are reached; the default is the disk beneath the root.
            processes: how programs are run; the default runs them.
            launcher: how sidecars are started; the default launches Deno.
            listener: how gRPC clients get in; the default is grpclib on a Unix socket.
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
        self._store_backend = store
        self._files = files
        self._processes = processes
        self._launcher = launcher
        self._listener = listener
        self._clock: Clock = clock or LoopClock()
        self._events = EventStream()
        self._parts = AsyncExitStack()
        self._loader: Loader | None = None
        self._store: Store | None = None
        self._gateway: Gateway | None = None
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
        """Start the host: lock the root, open the store, listen, and see a sidecar answer in both directions.

        If it fails or is cancelled, everything that was started is stopped again, and nothing is left behind.

        Raises:
            UsageError: it was started before, another host runs on this root, a service is wrong, or it was
                stopped meanwhile.
            ManifestError: the app's own `.core/view.yml` is not valid.
            StoreError: the store cannot be opened.
            DenoNotFound: there is no Deno, or not one that can be used.
            SidecarExited: the first sidecar could not be started.
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
        """Stop everything, in the reverse order of the start: modules, sidecars, gateway, processes, store.

        Harmless twice, before a start, and while another stop is under way; a start that is under way ends.
        Each step has a deadline (`HostConfig.stop_timeout_s`); what fails in one is logged, and the next goes
        on. If cancelled, it finishes first.
        """
        if self._starting is None:
            return
        if self._stopping is None:
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
                run, or a module of this code is loaded already and not ERRORED.
            ManifestError: the manifest is missing or not valid.
            PermissionDenied: the manifest asks for more than the app grants.
            PluginRaised: the plugin could not be imported, or its `init` threw.
            PluginTimeout: `init` did not return within `Limits.load_timeout_s`.
            PluginCrashed: its sidecar ended meanwhile.
            SidecarError: no sidecar could be started.
        """
        if not self._config.allow_unsigned:
            raise UsageError(
                f"load_path: {str(folder)!r} is not signed; for development set HostConfig(allow_unsigned=True)"
            )
        source = FolderSource(Path(folder).absolute())  # noqa: ASYNC240 - a matter of text only
        return await self.load_source(source, group=group, config=config)

    async def load_source(
        self, source: PluginSource, *, group: str | None = None, config: Mapping[str, Any] | None = None
    ) -> Module:
        """Load a plugin from wherever the app trusts its files to be; else as `load_path`."""
        return await self._running().load(source, group=group or "unsigned", config=config or {})

    @property
    def modules(self) -> Mapping[str, Module]:
        """The modules by their codes, the failed ones too (`module.state`, `module.error`)."""
        return MappingProxyType({} if self._loader is None else self._loader.modules)

    @property
    def store(self) -> Store:
        """The store. The app may use all groups, those beginning with `_` too.

        Raises:
            UsageError: the host has not started.
        """
        return self._started(self._store)

    @property
    def gateway(self) -> Gateway:
        """The gateway, for tokens of the app's own gRPC clients.

        Raises:
            UsageError: the host has not started.
        """
        return self._started(self._gateway)

    @property
    def socket(self) -> Path:
        """The Unix socket on which the gateway listens.

        Raises:
            UsageError: the host does not run.
        """
        return self._started(self._root.sockets) / "core.sock"

    @property
    def name(self) -> str:
        """The app's name by its own `.core/view.yml`, else empty."""
        return self._name

    def events(self) -> AsyncIterator[events.Event]:
        """The host's events from now on, in their order; the iteration ends when the host has stopped."""
        return self._events.listen()

    # --- start and stop, step by step

    async def _start(self) -> None:
        started = time.monotonic()
        self._undo("events", self._close_events)
        self._undo("root", lambda: in_thread(self._root.close))
        await in_thread(self._root.open)
        manifest = await in_thread(self._root.manifest)
        self._name = manifest.name if manifest else ""
        for hook in self._hooks:
            await hook.register_services(self._services)
        self._services.close()

        backend = self._store_backend or _sqlite_store()
        self._store = Store(backend)
        processes = self._processes or _process_table(self._clock)
        gateway = self._gateway = self._make_gateway(self._store, processes)
        supervisor = self._make_supervisor(gateway)
        self._loader = Loader(
            config=self._config,
            policy=narrowed(self._config.policy, manifest),
            clock=self._clock,
            supervisor=supervisor,
            gateway=gateway,
            services=self._services,
            processes=processes,
            hooks=self._hooks,
            emit=self._events.emit,
        )
        listener = self._listener or _grpc_listener()

        # Undone in the reverse order, whichever of the three below got how far.
        self._undo("store", backend.aclose)
        self._undo("processes", processes.stop_all)
        self._undo("gateway", gateway.aclose)
        self._undo("listener", listener.aclose)
        self._undo("sidecars", supervisor.aclose, self._config.limits.unload_grace_s)
        self._undo("modules", self._loader.aclose, 2 * self._config.limits.unload_grace_s)

        listener.bind(self.socket)

        async def open_gateway() -> None:
            await asyncio.gather(backend.open(self._root.host), listener.prepare())
            await listener.serve(gateway)

        if self._launcher is None:
            # A sidecar that joins the socket before the store is open waits in the socket's queue.
            await _all_or_none(open_gateway(), supervisor.start(self._loader))
        else:  # one of the app's own may open Sessions without the socket, and would not wait
            await open_gateway()
            await supervisor.start(self._loader)
        _log.info("started on %s in %.0f ms", self._root.path, (time.monotonic() - started) * 1000)

    async def _stop(self, starting: asyncio.Task[None]) -> None:
        starting.cancel()
        await asyncio.wait([starting])
        if not starting.cancelled():
            starting.exception()  # if `start` was cancelled nobody else looks at it
        await self._parts.aclose()
        _log.info("stopped on %s", self._root.path)

    def _undo(self, name: str, undo: Callable[[], Awaitable[None]], extra_s: float = 0.0) -> None:
        async def step() -> None:
            limit_s = self._config.stop_timeout_s + extra_s
            try:
                async with deadline(self._clock, limit_s):
                    await undo()
            except TimeoutError:
                _log.error("stop: %s: not done after %g s", name, limit_s)
            except Exception:  # noqa: BLE001 - the other steps must be done whatever this one raises
                _log.exception("stop: %s failed", name)

        self._parts.push_async_callback(step)

    async def _close_events(self) -> None:
        self._events.close()

    def _make_gateway(self, store: Store, processes: Processes) -> Gateway:
        limits = self._config.limits
        methods = [
            *builtin_methods(
                files=self._files or _rooted_files(self._root.path),
                store=store,
                processes=processes,
                programs=self._config.programs,
                root=self._root.path,
                limit_bytes=limits.message_bytes - _FILE_HEADROOM_BYTES,
                log_line_limit=limits.log_line_bytes,
            ),
            *self._services.methods(),
        ]
        return Gateway(
            Gate(methods, self._events.emit),
            clock=self._clock,
            message_bytes=limits.message_bytes,
            requests_in_flight=limits.requests_in_flight,
            emit=self._events.emit,
        )

    def _make_supervisor(self, gateway: Gateway) -> Supervisor:
        assert self._root.run is not None
        assert self._root.sockets is not None
        return Supervisor(
            config=self._config,
            launcher=self._launcher or _deno_launcher(self._config),
            office=gateway,
            clock=self._clock,
            run_folder=self._root.run,
            socket_folder=self._root.sockets,
            core_socket=self.socket,
            cache=self._root.deno_cache,
        )

    def _running(self) -> Loader:
        is_up = self._starting is not None and self._starting.done()
        if self._loader is None or not is_up or self._stopping is not None:
            raise UsageError("load: the host does not run, wanted after start() and before stop()")
        return self._loader

    @staticmethod
    def _started(part: _T | None) -> _T:
        if part is None:
            raise UsageError("the host has not started, wanted after start()")
        return part


# --- the default parts, imported only by a host that uses them


def _sqlite_store() -> StoreBackend:
    from coredeno.store.sqlite import SqliteStore  # noqa: PLC0415

    return SqliteStore()


def _rooted_files(root: Path) -> Files:
    from coredeno.services.rooted_files import RootedFiles  # noqa: PLC0415

    return RootedFiles(root)


def _process_table(clock: Clock) -> Processes:
    from coredeno.services.process_table import ProcessTable  # noqa: PLC0415

    return ProcessTable(clock)


def _deno_launcher(config: HostConfig) -> Launcher:
    from coredeno.sidecar.launcher import DenoLauncher  # noqa: PLC0415

    return DenoLauncher(config.deno)


def _grpc_listener() -> Listener:
    from coredeno.gateway.listener import GrpcListener  # noqa: PLC0415

    return GrpcListener()


async def _all_or_none(*steps: Coroutine[Any, Any, None]) -> None:
    """Run all steps at once. If one fails the others are cancelled, and the first that failed is raised."""
    tasks = [asyncio.create_task(step) for step in steps]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
