"""Loads modules into sidecars and takes them out again; answers for them when a sidecar ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from coredeno import events
from coredeno.config import HostConfig, Limits
from coredeno.errors import (
    CoreDenoError,
    InternalError,
    PluginCrashed,
    PluginError,
    PluginTimeout,
    ProtocolError,
    SidecarError,
    SidecarExited,
    UsageError,
)
from coredeno.gateway.gateway import Gateway
from coredeno.hooks import Hooks
from coredeno.interfaces import Clock, PluginSource, Processes
from coredeno.manifest import Manifest
from coredeno.module import Module, ModuleState, told_error
from coredeno.policy import Policy
from coredeno.services.method import Caller
from coredeno.services.registry import ServiceRegistry
from coredeno.sidecar.supervisor import Home, Need, Place, Supervisor
from coredeno.wire.text import printable
from coredeno.wire.typed import decoder_for
from coredeno.wire.values import Outgoing

_log = logging.getLogger("coredeno.host")
_CALLED_BY_THE_SIDECAR = frozenset({"init", "dispose"})
# For the end of a Worker that has nothing to dispose of. Its thread takes some milliseconds to end, on a busy
# machine more; and if it does not end in time, its sidecar is killed, with all modules that share it.
_THREAD_END_S = 0.5
_ANSWER_WAIT_S = 0.5  # a sidecar's own time to answer, beyond what it was given


class _Loaded(msgspec.Struct):
    ok: bool
    exports: list[str]
    load_ms: float


class _Unloaded(msgspec.Struct):
    ok: bool
    clean: bool = True


class _ModuleExited(msgspec.Struct):
    code: str
    reason: str


class Loader:
    """The modules of one host. Hears of its sidecars as their `SidecarOwner`."""

    def __init__(
        self,
        *,
        config: HostConfig,
        policy: Policy,
        clock: Clock,
        supervisor: Supervisor,
        gateway: Gateway,
        services: ServiceRegistry,
        processes: Processes,
        hooks: Sequence[Hooks],
        emit: Callable[[events.Event], None],
    ) -> None:
        self.modules: dict[str, Module] = {}
        self._config = config
        self._policy = policy
        self._clock = clock
        self._supervisor = supervisor
        self._gateway = gateway
        self._services = services
        self._processes = processes
        self._hooks = hooks
        self._emit = emit
        self._places: dict[Module, Place] = {}
        self._callers: dict[Module, Caller] = {}
        self._loading: dict[Module, asyncio.Task[None]] = {}
        self._lost: dict[Module, PluginCrashed] = {}  # while they load
        self._unloading: dict[Module, asyncio.Task[None]] = {}
        self._telling: set[asyncio.Task[None]] = set()
        self._closed = False

    # --- loading

    async def load(self, source: PluginSource, *, group: str, config: Mapping[str, Any]) -> Module:
        """Load a plugin; returns when its `init` has returned. Errors are those of `PluginHost.load_path`."""
        started = self._clock.now()
        manifest = await source.read_manifest()
        if self._closed:
            raise UsageError("load: the host is stopping")
        former = self.modules.get(manifest.code)
        if former is not None and former.state is not ModuleState.ERRORED:
            raise UsageError(
                f"load: module {manifest.code!r} is {former.state.value} already, wanted none or ERRORED"
            )
        grants = self._policy.grants(manifest)
        module = Module(
            manifest, grants, limits=self._limits_of(manifest), clock=self._clock, unload=self.unload
        )
        self.modules[manifest.code] = module
        task = self._loading[module] = asyncio.create_task(self._bring_up(module, source, group, config))
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            await _outlast(task)
            await _outlast(asyncio.create_task(self._take_back(module)))
            raise
        finally:
            del self._loading[module]
            self._lost.pop(module, None)
        if task.cancelled():
            raise UsageError(f"load: module {module.code!r} was unloaded while it was loading")
        error = task.exception()
        if error is not None:
            await self._failed(module, error)
        if module.error is not None:  # it went down in the turn in which it came up
            raise module.error
        if module in self._unloading or module.state is not ModuleState.RUNNING:
            raise UsageError(f"load: module {module.code!r} was unloaded while it was loading")
        await self._tell(lambda hook: hook.module_started(module))
        load_s = self._clock.now() - started
        self._emit(events.ModuleStarted(module=module.code, version=module.version, load_s=load_s))
        self._supervisor.replenish()
        return module

    async def _take_back(self, module: Module) -> None:
        """Undo a load that nobody wants any more, also one that had come up before it could be cancelled."""
        place = self._places.get(module)
        if place is not None:
            await self._take_out(module, place, grace_s=module.limits.unload_grace_s)
        self._forget(module)
        module.set_stopped()

    async def _failed(self, module: Module, error: BaseException) -> None:
        if not isinstance(error, CoreDenoError):
            bug = InternalError(f"load: module {module.code!r}: {type(error).__name__}: {error}")
            bug.__cause__ = error
            error = bug
        module.set_errored(error)
        self._emit(events.ModuleCrashed(module=module.code, error=str(error)))
        await self._tell(lambda hook: hook.module_crashed(module, error))
        self._supervisor.replenish()
        raise error

    def _limits_of(self, manifest: Manifest) -> Limits:
        """The app's limits, under what the manifest sets itself; a manifest never raises them."""
        limits, own = self._config.limits, manifest.limits
        return msgspec.structs.replace(
            limits,
            memory_mb=min(own.memory_mb or limits.memory_mb, limits.memory_mb),
            call_timeout_s=min(own.call_timeout_s or limits.call_timeout_s, limits.call_timeout_s),
            calls_in_flight=min(own.calls_in_flight or limits.calls_in_flight, limits.calls_in_flight),
        )

    async def _bring_up(
        self, module: Module, source: PluginSource, group: str, config: Mapping[str, Any]
    ) -> None:
        settings = Outgoing(config, ("params", "config"))
        need = Need(group=group, net=module.grants.net, heap_mb=module.limits.memory_mb)
        place = await self._supervisor.take_place(need)
        self._places[module] = place
        try:
            await source.copy_to(place.root)
            if module in self._lost:
                raise self._lost[module]
            caller = self._callers[module] = Caller(module.code, module.version, module.grants)
            self._gateway.admit_module(place.token, caller)
            exports = await self._load_into(module, place, settings)
            if module in self._lost:
                raise self._lost[module]
            module.set_running(place.sidecar.rpc, exports)
        except BaseException:
            await asyncio.shield(self._take_out(module, place, grace_s=0))
            raise

    async def _load_into(self, module: Module, place: Place, settings: Outgoing) -> frozenset[str]:
        limit_s = module.limits.load_timeout_s
        params = {
            "code": module.code,
            "entry_point": module.manifest.entry,
            "root": str(place.root),
            "permissions": {"net": module.grants.net},
            "services": self._services.offered_to(module.grants),
            "config": settings.plain,
            "deadline_ms": limit_s * 1000,
        }
        try:
            reply = await place.sidecar.rpc.request(
                "LoadModule",
                params,
                entries=settings.entries or None,
                attachments=settings.attachments,
                timeout_s=limit_s + _ANSWER_WAIT_S,
            )
        except (SidecarError, PluginError) as error:
            raise PluginCrashed(module=module.code, reason=f"load: {error}") from error
        except TimeoutError:
            raise PluginTimeout(module=module.code, what="load", timeout_s=limit_s) from None
        if reply.error is not None:
            raise told_error(reply.error, module=module.code, what="load", timeout_s=limit_s)
        try:
            loaded: _Loaded = reply.result(decoder_for(_Loaded))
        except msgspec.ValidationError as error:
            raise ProtocolError(f"{module.code}: load: {error}") from None
        return frozenset(loaded.exports) - _CALLED_BY_THE_SIDECAR

    # --- unloading

    async def unload(self, module: Module, reason: str = "the app unloaded it") -> None:
        """Stop a module and forget it. Works in every state, and twice; goes on if the caller is cancelled."""
        task = self._unloading.get(module)
        if task is None:
            if module.state is ModuleState.STOPPED:
                return
            task = self._unloading[module] = asyncio.create_task(self._unload(module, reason))
            task.add_done_callback(lambda _task: self._unloading.pop(module, None))
        await asyncio.shield(task)

    async def _unload(self, module: Module, reason: str) -> None:
        loading = self._loading.get(module)
        if loading is not None:
            loading.cancel()
            await asyncio.wait([loading])
        place = self._places.get(module)
        if place is not None:
            await self._take_out(module, place, grace_s=module.limits.unload_grace_s)
        self._forget(module)
        was_up = module.state is not ModuleState.ERRORED
        module.set_stopped()
        if was_up:
            self._emit(events.ModuleStopped(module=module.code, reason=reason))
            await self._tell(lambda hook: hook.module_stopped(module, reason))

    async def _take_out(self, module: Module, place: Place, *, grace_s: float) -> None:
        """Take a module out of its sidecar, with all that it holds; whatever it does, it is out then."""
        if module.state is ModuleState.ERRORED:
            # At once: when its former sidecar has answered, a new module of the same code may have begun to work.
            await self._stop_processes(module)
        if place.sidecar.alive and not await self._asked_out(module, place, grace_s):
            # `terminate()` does not stop a Worker that is busy; only the end of its process does, whoever shares it.
            place.sidecar.broken(
                SidecarExited(reason=f"killed: module {module.code!r} did not end by itself", exit_code=None)
            )
            await place.sidecar.stop(0)  # now it is gone, and its other modules have been told
        caller = self._callers.pop(module, None)
        if caller is not None:
            self._gateway.dismiss_module(place.token, module.code, caller)
            self._gateway.dismiss_clients_of(module.code, caller)
        if self._places.get(module) is place:
            del self._places[module]
        if module.state is not ModuleState.ERRORED:
            await self._stop_processes(module)
        await self._supervisor.give_up(place)

    async def _stop_processes(self, module: Module) -> None:
        try:
            await self._processes.stop_all(module.code)
        except Exception:  # noqa: BLE001 - the module must be out whatever a part of the app's own does
            _log.exception("the processes of module %r could not be stopped", module.code)

    async def _asked_out(self, module: Module, place: Place, grace_s: float) -> bool:
        """Whether the module has ended as it was asked to, in time."""
        grace_s = grace_s or _THREAD_END_S
        try:
            reply = await place.sidecar.rpc.request(
                "UnloadModule",
                {"code": module.code, "grace_ms": grace_s * 1000},
                timeout_s=grace_s + _ANSWER_WAIT_S,
            )
            if reply.error is not None:
                return False
            unloaded: _Unloaded = reply.result(decoder_for(_Unloaded))
        except (TimeoutError, CoreDenoError, msgspec.ValidationError):
            return False
        return unloaded.clean

    def _forget(self, module: Module) -> None:
        if self.modules.get(module.code) is module:
            del self.modules[module.code]

    async def aclose(self) -> None:
        """Unload all modules at once, and take no more."""
        self._closed = True
        modules = list(self.modules.values())
        await asyncio.gather(
            *(self.unload(module, "the host stops") for module in modules), return_exceptions=True
        )
        if self._telling:
            await asyncio.gather(*self._telling, return_exceptions=True)

    # --- what sidecars do by themselves

    def sidecar_said(self, home: Home, method: str, params: msgspec.Raw) -> None:
        """A Worker ended by itself; anything else is no notification that we know."""
        try:
            if method != "ModuleExited":
                raise ProtocolError(f"{home.sidecar.order.name}: notification {method[:80]!r}")
            exited = msgspec.json.decode(params, type=_ModuleExited)
        except (ProtocolError, msgspec.MsgspecError, RecursionError) as error:
            home.sidecar.broken(ProtocolError(f"{home.sidecar.order.name}: {error}"))
            return
        for module, place in list(self._places.items()):
            if place.home is home and module.code == exited.code:
                reason = printable(exited.reason[:500], one_line=True)
                self._crashed(module, place, PluginCrashed(module=module.code, reason=reason))

    def sidecar_wrote(self, home: Home, line: str) -> None:
        """Log what a sidecar writes, by the name of its module where there is only one."""
        codes = [module.code for module, place in self._places.items() if place.home is home]
        name = f"coredeno.plugin.{codes[0]}" if len(codes) == 1 else "coredeno.sidecar"
        logging.getLogger(name).info("%s: %s", home.sidecar.order.name, line)

    def sidecar_ended(self, home: Home, error: CoreDenoError | None) -> None:
        """All modules in it are down, unless they were being unloaded."""
        for module, place in list(self._places.items()):
            if place.home is home:
                reason = str(error) if error else "its sidecar was stopped"
                crash = PluginCrashed(module=module.code, reason=reason)
                crash.__cause__ = error
                self._crashed(module, place, crash)

    def _crashed(self, module: Module, place: Place, error: PluginCrashed) -> None:
        if module.state is ModuleState.LOADING:
            self._lost[module] = (
                error  # its load fails with it, though the sidecar may have said that it succeeded
            )
            return
        if module.state is not ModuleState.RUNNING or module in self._unloading:
            return
        module.set_errored(error)
        self._emit(events.ModuleCrashed(module=module.code, error=str(error)))
        self._later(self._take_out(module, place, grace_s=0))
        self._later(self._tell(lambda hook: hook.module_crashed(module, error)))

    def _later(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell(self, say: Callable[[Hooks], Awaitable[None]]) -> None:
        for hook in self._hooks:
            try:
                await say(hook)
            except Exception:  # noqa: BLE001 - an app's code
                _log.exception("a hook of the app failed: %r", hook)


async def _outlast(task: asyncio.Task[None]) -> None:
    """Wait until a task is done, however often whoever waits is cancelled meanwhile."""
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # nobody else may look at it
