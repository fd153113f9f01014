"""Puts modules into sidecars, and takes them out again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Annotated

import msgspec

from coredeno.errors import (
    CoreDenoError,
    PluginCrashed,
    PluginError,
    PluginTimeout,
    ProtocolError,
    SidecarError,
    SidecarExited,
)
from coredeno.gateway.gateway import Gateway
from coredeno.interfaces import PluginSource, Processes
from coredeno.module import Module, told_error
from coredeno.services.method import Caller
from coredeno.services.registry import ServiceRegistry
from coredeno.sidecar.homes import Home, Need, Place
from coredeno.sidecar.supervisor import Supervisor
from coredeno.stats import ModuleStats
from coredeno.wire.typed import decoder_for
from coredeno.wire.values import Outgoing

_log = logging.getLogger("coredeno.host")
_CALLED_BY_THE_SIDECAR = frozenset({"init", "dispose"})
# For the end of a Worker that is given no time to dispose of what it holds. Its thread takes some milliseconds to end,
# on a busy machine more; and if it does not end in time, its sidecar is killed, with all modules that share it.
_THREAD_END_S = 0.5
_ANSWER_WAIT_S = 0.5  # a sidecar's own time to answer, beyond what it was given


class _Loaded(msgspec.Struct):
    ok: bool
    exports: Annotated[list[Annotated[str, msgspec.Meta(max_length=256)]], msgspec.Meta(max_length=4096)]
    load_ms: float


class _Unloaded(msgspec.Struct):
    ok: bool
    clean: bool = True


class LoadOrder(msgspec.Struct, frozen=True):
    """With what a module is loaded, each time that it is.

    Attributes:
        source: where its files come from.
        group: its trust group.
        settings: what it finds in `core.config`.
        caller: who it is for the gate.
        alone: it shares no sidecar, whatever its group.
    """

    source: PluginSource
    group: str
    settings: Outgoing
    caller: Caller
    alone: bool = False


class Placement:
    """Which module is in which sidecar, and how it gets there and out again."""

    def __init__(
        self,
        *,
        supervisor: Supervisor,
        gateway: Gateway,
        services: ServiceRegistry,
        processes: Processes,
    ) -> None:
        """Take the parts that it needs."""
        self._supervisor = supervisor
        self._gateway = gateway
        self._services = services
        self._processes = processes
        self._places: dict[Module, Place] = {}
        self._callers: dict[Module, Caller] = {}
        self._entering: set[Module] = set()
        self._lost: dict[Module, CoreDenoError] = {}

    def place_of(self, module: Module) -> Place | None:
        """Where a module is, or None."""
        return self._places.get(module)

    def modules_in(self, home: Home) -> list[Module]:
        """The modules in a sidecar, those included that are coming in or going out."""
        return [module for module, place in self._places.items() if place.home is home]

    def stats_of(self, module: Module) -> ModuleStats:
        """What was counted of a module, and what its sidecar uses."""
        place = self._places.get(module)
        home = None if place is None else place.home
        return module.tally.stats(
            version=module.version,
            state=module.state.value,
            restarts=module.restarts,
            sidecar="" if home is None else home.sidecar.order.name,
            sidecar_modules=0 if home is None else len(home.places),
            memory_bytes=None if home is None else home.vitals.used_bytes,
            cpu_s=None if home is None else home.vitals.cpu_s,
        )

    def is_entering(self, module: Module) -> bool:
        """Whether it is being put in now."""
        return module in self._entering

    def lose(self, module: Module, error: CoreDenoError) -> None:
        """It went down while it was being put in: that fails with `error`, whatever its sidecar says later."""
        self._lost[module] = error

    async def put_in(
        self, module: Module, order: LoadOrder, *, on_admitted: Callable[[], None] = lambda: None
    ) -> None:
        """Load a module into a sidecar; it is RUNNING then. If it fails or is cancelled, nothing of it is left there.

        Args:
            module: the module.
            order: with what.
            on_admitted: called once its files are what they should be, before any of them runs.

        Raises:
            InstallError: its files are not what was installed.
            PluginRaised, PluginTimeout, PluginCrashed, ProtocolError: it did not come up.
            SidecarError: there is no sidecar for it.
        """
        self._entering.add(module)
        try:
            await self._put_in(module, order, on_admitted)
        finally:
            self._entering.discard(module)
            self._lost.pop(module, None)

    async def _put_in(self, module: Module, order: LoadOrder, on_admitted: Callable[[], None]) -> None:
        place = await self._supervisor.take_place(
            Need(
                group=order.group,
                net=module.grants.net,
                heap_mb=module.limits.memory_mb,
                alone=module.code if order.alone else "",
            )
        )
        self._places[module] = place
        place.code = module.code
        try:
            await order.source.copy_to(place.root)
            self._raise_lost(module)
            on_admitted()
            self._callers[module] = order.caller
            self._gateway.admit_module(place.token, order.caller)
            exports = await self._load_into(module, place, order.settings)
            self._raise_lost(module)
            module.set_running(place.sidecar.rpc, exports)
            place.is_watched = True
        except BaseException:
            await asyncio.shield(self.take_out(module, grace_s=0))
            raise

    def _raise_lost(self, module: Module) -> None:
        if module in self._lost:
            raise self._lost[module]

    async def _load_into(self, module: Module, place: Place, settings: Outgoing) -> frozenset[str]:
        limit_s = module.limits.load_timeout_s
        params = {
            "code": module.code,
            "entry_point": module.manifest.entry,
            "root": str(place.root),
            "permissions": {"net": module.grants.net},
            "services": self._services.offered_to(
                module.grants, module.manifest.permissions.optional.services
            ),
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

    async def take_out(self, module: Module, *, grace_s: float) -> None:
        """Take a module out of its sidecar, with all that it holds there; whatever it does, it is out then.

        What shares its sidecar goes down with it if the module does not end when it is asked to. Harmless for one that
        is in none. If cancelled, what is not done is left undone: shield it.

        Args:
            module: the module.
            grace_s: what it has to dispose of what it holds, in seconds; 0 asks for no more than its end.
        """
        place = self._places.get(module)
        if place is None:
            return
        place.is_watched = False
        if module.is_down:
            # By what it said, perhaps, which may be a lie: whatever runs there yet must not begin anything more.
            if module in self._callers:
                self._gateway.silence_module(place.token, module.code, self._callers[module])
            await self._stop_processes(module)
        if place.sidecar.alive and not await self._asked_out(module, place, grace_s):
            # `terminate()` does not stop a Worker that is busy; only the end of its process does, whoever shares it.
            place.sidecar.broken(
                SidecarExited(
                    reason=f"killed: module {module.code!r} did not end by itself",
                    exit_code=None,
                    cause="unload",
                    module=module.code,
                )
            )
            await place.sidecar.stop(0)  # now it is gone, and its other modules have been told
        caller = self._callers.pop(module, None)
        if caller is not None:
            self._gateway.dismiss_module(place.token, module.code, caller)
        if self._places.get(module) is place:
            del self._places[module]
        await self._stop_processes(module)
        await self._supervisor.give_up(place)

    async def _stop_processes(self, module: Module) -> None:
        try:
            await self._processes.stop_all(module.code)
        except Exception:  # noqa: BLE001 - the module must be out whatever a part of the app's own does
            _log.exception("the processes of module %r could not be stopped", module.code)

    async def _asked_out(self, module: Module, place: Place, grace_s: float) -> bool:
        """Whether the module has ended as it was asked to, in time."""
        try:
            reply = await place.sidecar.rpc.request(
                "UnloadModule",
                {"code": module.code, "grace_ms": grace_s * 1000},
                timeout_s=(grace_s or _THREAD_END_S) + _ANSWER_WAIT_S,
            )
            if reply.error is not None:
                return False
            unloaded: _Unloaded = reply.result(decoder_for(_Unloaded))
        except (TimeoutError, CoreDenoError, msgspec.ValidationError):
            return False
        return unloaded.clean
