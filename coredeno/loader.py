"""The modules of a host: loads them, unloads them, and answers for them when a sidecar ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import msgspec

from coredeno.announcer import Announcer
from coredeno.config import HostConfig, Limits
from coredeno.errors import (
    CoreDenoError,
    InstallError,
    InternalError,
    PluginCrashed,
    ProtocolError,
    RestartLimitReached,
    UsageError,
)
from coredeno.gateway.gateway import Gateway
from coredeno.interfaces import Clock, PluginSource
from coredeno.manifest import Manifest
from coredeno.module import Module, ModuleState
from coredeno.permission_desk import PermissionDesk
from coredeno.permissions import Grants
from coredeno.placement import LoadOrder, Placement
from coredeno.policy import Policy
from coredeno.restarts import guilty_of
from coredeno.revival import Revival
from coredeno.services.method import Caller
from coredeno.services.plugin_log import log_of_plugin
from coredeno.sidecar.homes import Home
from coredeno.sidecar.supervisor import Supervisor
from coredeno.stats import ModuleStats
from coredeno.tasks import outlast
from coredeno.wire.text import printable
from coredeno.wire.values import Outgoing

UNSIGNED_GROUP = "unsigned"
"""The trust group of all modules whose code nobody signed."""

_log = logging.getLogger("coredeno.host")


class _Wanted(msgspec.Struct, frozen=True):
    """What `Loader.load` was asked for."""

    source: PluginSource
    group: str
    config: Mapping[str, Any]
    signer: str | None


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
        placement: Placement,
        gateway: Gateway,
        desk: PermissionDesk,
        announcer: Announcer,
    ) -> None:
        self.modules: dict[str, Module] = {}
        self._config = config
        self._policy = policy
        self._clock = clock
        self._supervisor = supervisor
        self._placement = placement
        self._gateway = gateway
        self._desk = desk
        self._announcer = announcer
        self._revival = Revival(config.restart, self, clock=clock) if config.restart else None
        self._wanted: dict[Module, _Wanted] = {}
        self._orders: dict[Module, LoadOrder] = {}
        self._loading: dict[Module, asyncio.Task[None]] = {}
        self._leaving: dict[Module, asyncio.Task[None]] = {}  # its former sidecar
        self._unloading: dict[Module, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    # --- loading

    async def load(
        self,
        source: PluginSource,
        *,
        group: str,
        config: Mapping[str, Any],
        signer: str | None = None,
        on_made: Callable[[Module], None] = lambda _module: None,
    ) -> Module:
        """Load a plugin; returns when its `init` has returned. Errors are those of `PluginHost.load_path`.

        `signer` is the key that signed it: grants that were kept for it are its alone. `on_made` is given the module as
        soon as it is in `modules`, whatever becomes of it.
        """
        started = self._clock.now()
        manifest = await source.read_manifest()
        if self._closed:
            raise UsageError("load: the host is stopping")
        self.require_free(manifest.code)
        grants = self._policy.grants(manifest)
        module = self._new_module(manifest, grants, self._limits_of(manifest))
        on_made(module)
        wanted = self._wanted[module] = _Wanted(source, group, config, signer)
        task = self._loading[module] = asyncio.create_task(self._bring_up(module, wanted))
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            await outlast(task)
            await outlast(asyncio.create_task(self._take_back(module)))
            raise
        finally:
            del self._loading[module]
        if task.cancelled():
            raise UsageError(f"load: module {module.code!r} was unloaded while it was loading")
        error = task.exception()
        if error is not None:
            await self._failed(module, _as_ours(error, f"load: module {module.code!r}"))
        if module.error is not None:  # it went down in the turn in which it came up
            raise module.error
        if module in self._unloading or module.state is not ModuleState.RUNNING:
            raise UsageError(f"load: module {module.code!r} was unloaded while it was loading")
        if self._revival is not None:
            self._revival.came_up(module)
        told = self._announcer.started(module, self._clock.now() - started)
        self._supervisor.replenish()
        try:
            await told
        except asyncio.CancelledError:
            await outlast(asyncio.create_task(self.unload(module, "its load was cancelled")))
            raise
        return module

    def require_free(self, code: str) -> None:
        """Return if a module of this code may be loaded now.

        Raises:
            UsageError: there is one that is not down for good.
        """
        former = self.modules.get(code)
        if former is not None and not former.has_failed:
            raise UsageError(
                f"load: module {code!r} is {former.state.value} already, wanted none, ERRORED or QUARANTINED; "
                "it is in host.modules, and its unload() makes room"
            )

    async def release(self, code: str) -> Module:
        """Load a module in quarantine again, as it was loaded before.

        Raises:
            UsageError: as `require_quarantined`, or it could not even begin to load.
            CoreDenoError: as `load`.
        """
        wanted = self._wanted.get(self.require_quarantined(code))
        if wanted is None:
            raise UsageError(
                f"release: module {code!r} could not even begin to load, wanted it loaded as it was the first time"
            )
        return await self.load(wanted.source, group=wanted.group, config=wanted.config, signer=wanted.signer)

    def require_quarantined(self, code: str) -> Module:
        """The module of this code, if it is in quarantine.

        Raises:
            UsageError: there is none, or it is not.
        """
        module = self.modules.get(code)
        if module is None or module.state is not ModuleState.QUARANTINED:
            state = "not loaded" if module is None else module.state.value
            raise UsageError(f"release: module {code!r} is {state}, wanted QUARANTINED")
        return module

    async def not_loaded(
        self,
        code: str,
        version: str,
        error: CoreDenoError,
        *,
        on_made: Callable[[Module], None] = lambda _module: None,
    ) -> None:
        """Show a plugin that could not even begin to load; harmless where its module shows that, or is not down.

        Args:
            code: its code.
            version: its version, or empty.
            error: why. With an `InstallError` it is QUARANTINED, else ERRORED.
            on_made: as for `load`; not called where it is harmless.
        """
        module = self.modules.get(code)
        if module is not None and (not module.has_failed or module.error is error):
            return
        manifest = Manifest(code=code, version=version)  # its own is not to be believed
        module = self._new_module(manifest, Grants(), self._config.limits)
        on_made(module)
        await self._show_down(module, error)

    def _new_module(self, manifest: Manifest, grants: Grants, limits: Limits) -> Module:
        """A module in the place of a former one of its code."""
        former = self.modules.get(manifest.code)
        if former is not None:
            self._wanted.pop(former, None)
        module = Module(manifest, grants, limits=limits, clock=self._clock, unload=self.unload)
        module.when_overdue(self._is_overdue)
        self.modules[manifest.code] = module
        return module

    async def _show_down(self, module: Module, error: CoreDenoError) -> None:
        if isinstance(error, InstallError):
            module.set_quarantined(error)
            await self._announcer.quarantined(module, error)
        else:
            module.set_errored(error)
            await self._announcer.crashed(module, error)

    async def _take_back(self, module: Module) -> None:
        """Undo a load that nobody wants any more, also one that had come up before it could be cancelled."""
        await self._placement.take_out(module, grace_s=module.limits.unload_grace_s)
        self._bury(module)
        self._forget(module)
        module.set_stopped()

    async def _failed(self, module: Module, error: CoreDenoError) -> None:
        await self._show_down(module, error)
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

    async def _bring_up(self, module: Module, wanted: _Wanted) -> None:
        settings = Outgoing(wanted.config, ("params", "config"))
        await self._left(module.code)  # a sidecar that they shared would be told of both by the same code
        held = await self._desk.open(module.manifest, module.grants, signer=wanted.signer)
        module.follow(held)
        # Grants and identity are the module's from its load to its end, however often it is restarted: what was taken
        # from it does not come back because it crashes.
        caller = Caller(module.code, module.version, module.grants, held=held, tally=module.tally)
        order = self._orders[module] = LoadOrder(wanted.source, wanted.group, settings, caller)
        try:
            await self._placement.put_in(module, order, on_admitted=lambda: self._desk.announce(held))
        except BaseException:
            self._bury(module)
            raise

    def stats(self) -> dict[str, ModuleStats]:
        """What was counted of each module, by code."""
        return {code: self._placement.stats_of(module) for code, module in self.modules.items()}

    # --- unloading

    async def unload(
        self, module: Module, reason: str = "the app unloaded it", *, at_once: bool = False
    ) -> None:
        """Stop a module and forget it. Works in every state, and twice; goes on if the caller is cancelled.

        With `at_once` it has no grace in which to dispose of what it holds.
        """
        if (
            module.state is ModuleState.STOPPED
        ):  # its hooks may not have been told yet: one of them may be asking
            return
        task = self._unloading.get(module)
        if task is None:
            task = self._unloading[module] = asyncio.create_task(
                self._unload(module, reason, at_once=at_once)
            )
            task.add_done_callback(lambda _task: self._unloading.pop(module, None))
        await asyncio.shield(task)

    async def revoke(self, code: str, permission: str, resource: str | None) -> tuple[str, ...]:
        """Take a grant back. See `PluginHost.revoke`."""
        try:
            taken = await self._desk.revoke(code, permission, resource)
        except asyncio.CancelledError:
            if permission == "net":  # it was taken back all the same
                await self._cut_off(code)
            raise
        if permission == "net" and taken:
            await self._cut_off(code)
        return tuple(permit.resource for permit in taken)

    async def _cut_off(self, code: str) -> None:
        """What a live Worker may reach cannot be changed, so the Worker has to go."""
        module = self.modules.get(code)
        if module is not None and not module.has_failed:
            await self.unload(module, "its permission to reach the network was revoked", at_once=True)

    async def _unload(self, module: Module, reason: str, *, at_once: bool) -> None:
        loading = self._loading.get(module)
        if loading is not None:
            loading.cancel()
            await asyncio.wait([loading])
        if self._revival is not None:
            await self._revival.remove(module)
        await self._left(module.code)
        await self._placement.take_out(module, grace_s=0 if at_once else module.limits.unload_grace_s)
        self._bury(module)
        self._forget(module)
        was_up = not module.has_failed
        module.set_stopped()
        if was_up:
            await self._announcer.stopped(module, reason)

    def _bury(self, module: Module) -> None:
        """It will not come up again: it holds nothing any more. Harmless twice."""
        order = self._orders.pop(module, None)
        if order is not None:
            self._gateway.dismiss_clients_of(module.code, order.caller)
            if order.caller.held is not None:
                self._desk.close(order.caller.held)

    def _forget(self, module: Module) -> None:
        self._wanted.pop(module, None)
        if self.modules.get(module.code) is module:
            del self.modules[module.code]

    def excuse(self, task: asyncio.Task[Any] | None) -> None:
        """Do not wait for this task at the end, if it is one in which hooks are told: it waits for the end itself."""
        self._tasks.discard(task)

    async def aclose(self) -> None:
        """Unload all modules at once, and take no more."""
        self._closed = True
        modules = list(self.modules.values())
        await asyncio.gather(
            *(self.unload(module, "the host stops") for module in modules), return_exceptions=True
        )
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._desk.aclose()

    # --- what sidecars do by themselves

    def sidecar_said(self, home: Home, method: str, params: msgspec.Raw) -> None:
        """A Worker ended by itself, or a neighbour says so for it; anything else is no notification that we know."""
        try:
            if method != "ModuleExited":
                raise ProtocolError(f"{home.sidecar.order.name}: notification {method[:80]!r}")
            exited = msgspec.json.decode(params, type=_ModuleExited)
        except (ProtocolError, msgspec.MsgspecError, RecursionError) as error:
            home.sidecar.broken(ProtocolError(f"{home.sidecar.order.name}: {error}"))
            return
        for module in self._placement.modules_in(home):
            if module.code == exited.code:
                reason = printable(exited.reason[:500], one_line=True)
                guilty = guilty_of(None, home.codes)
                if not guilty:
                    self._put_apart(module)
                crash = PluginCrashed(module=module.code, reason=reason)
                self._went_down(module, crash, is_to_blame=module.code == guilty)

    def sidecar_wrote(self, home: Home, line: str) -> None:
        """Log what a sidecar writes, as its module's where there is only one."""
        text = f"{home.sidecar.order.name}: {line}"
        modules = self._placement.modules_in(home)
        if len(modules) == 1:
            log_of_plugin(modules[0].code, modules[0].version, logging.INFO, text)
        else:
            logging.getLogger("coredeno.sidecar").info("%s", text)

    def sidecar_ended(self, home: Home, error: CoreDenoError | None) -> None:
        """All modules in it are down, unless they were being unloaded."""
        modules = self._placement.modules_in(home)
        guilty = guilty_of(error, home.codes)
        for module in modules:
            crash = PluginCrashed(
                module=module.code, reason=str(error) if error else "its sidecar was stopped"
            )
            crash.__cause__ = error
            if not guilty:
                self._put_apart(module)
            self._went_down(module, crash, is_to_blame=module.code == guilty)

    def _put_apart(self, module: Module) -> None:
        """Nobody can say whose fault it was. Each comes back alone: if it was one of them, it shows itself."""
        if module in self._orders:
            self._orders[module] = msgspec.structs.replace(self._orders[module], alone=True)

    def _went_down(self, module: Module, error: PluginCrashed, *, is_to_blame: bool = True) -> None:
        revival = self._revival if self._revival is not None and self._revival.knows(module) else None
        if self._placement.is_entering(module):
            self._placement.lose(module, error)
            if revival is not None:
                revival.went_down(module, error, is_to_blame=is_to_blame)
            return
        if module.state is not ModuleState.RUNNING or module in self._unloading:
            return
        if revival is not None:
            self._later(self._announcer.crashed(module, error))
            revival.went_down(module, error, is_to_blame=is_to_blame)
        else:
            module.set_errored(error)
            self._later(self._announcer.crashed(module, error))
            self._leave(module, self._lay_down(module))

    async def _lay_down(self, module: Module) -> None:
        self._bury(module)  # first: that it is down may be a lie of its own
        await self._placement.take_out(module, grace_s=0)

    # --- what its revival wants

    def will_restart(self, module: Module, error: CoreDenoError, delay_s: float, attempt: int) -> None:
        """See `ModuleKeeper`."""
        module.set_restarting(error)
        self._announcer.restarting(module, delay_s, attempt)
        self._leave(module, self._placement.take_out(module, grace_s=0))

    async def load_again(self, module: Module) -> None:
        """See `ModuleKeeper`."""
        await self._left(module.code)
        started = self._clock.now()
        try:
            await self._placement.put_in(module, self._orders[module])
        except Exception as error:  # noqa: BLE001 - of a part of the app's own, too
            told = _as_ours(error, f"restart: module {module.code!r}")
            self._later(self._announcer.crashed(module, told))
            raise told from told.__cause__
        self._later(self._announcer.started(module, self._clock.now() - started))
        self._supervisor.replenish()

    def given_up(self, module: Module, error: CoreDenoError, *, is_spent: bool) -> None:
        """See `ModuleKeeper`."""
        policy = self._config.restart
        assert policy is not None
        assert self._revival is not None
        self._revival.drop(module)
        if is_spent:
            last, error = (
                error,
                RestartLimitReached(
                    module=module.code, restarts=policy.budget, window_s=policy.window_s, last=error
                ),
            )
            error.__cause__ = last
        module.set_quarantined(error)
        told = self._announcer.quarantined(module, error)
        self._leave(module, self._lay_down(module))
        self._later(told)

    def _leave(self, module: Module, work: Coroutine[Any, Any, None]) -> None:
        self._leaving[module] = task = self._later(work)
        task.add_done_callback(lambda _task: self._leaving.pop(module, None))

    async def _left(self, code: str) -> None:
        """Wait until whatever went down under this code is out of its sidecar."""
        leaving = [task for module, task in self._leaving.items() if module.code == code]
        if leaving:
            await asyncio.wait(leaving)

    # --- calls that do not end

    def _is_overdue(self, module: Module) -> None:
        """A call has not ended in time: see whether the module can hear at all that it was cancelled."""
        place = self._placement.place_of(module)
        if place is not None:
            self._supervisor.look_at(place, patience_s=module.limits.cancel_grace_s)

    def _later(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _as_ours(error: BaseException, what: str) -> CoreDenoError:
    if isinstance(error, CoreDenoError):
        return error
    bug = InternalError(f"{what}: {type(error).__name__}: {error}")
    bug.__cause__ = error
    return bug
