"""The handle on one module: one running instance of a plugin."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, TypeVar, overload

import msgspec

from coredeno.clock import deadline
from coredeno.config import Limits
from coredeno.errors import (
    CoreDenoError,
    FailedPrecondition,
    InvalidResult,
    PluginCrashed,
    PluginError,
    PluginTimeout,
    ProtocolError,
    SidecarError,
    UsageError,
)
from coredeno.held_grants import HeldGrants
from coredeno.interfaces import Clock
from coredeno.manifest import Manifest
from coredeno.permissions import Grants
from coredeno.sidecar.rpc import Reply, RpcClient
from coredeno.slots import Slots
from coredeno.tally import Tally
from coredeno.wire.codes import WireError, from_wire
from coredeno.wire.typed import TypedDecoder, decoder_for
from coredeno.wire.values import Outgoing

T = TypeVar("T")

_SHOWN_EXPORTS = 20  # of the names that a module exports, where one is called that it does not


class ModuleState(Enum):
    """Where a module is in its life."""

    LOADING = "LOADING"
    RUNNING = "RUNNING"
    RESTARTING = "RESTARTING"
    STOPPED = "STOPPED"
    ERRORED = "ERRORED"
    QUARANTINED = "QUARANTINED"


class _CallParams(msgspec.Struct, omit_defaults=True):
    code: str
    function: str
    args: Any
    deadline_ms: float
    number: int
    trace: str | None = None


class Module:
    """A plugin that was loaded: call its functions, look at its state, unload it. Made by `PluginHost.load…`.

    Attributes:
        manifest: the plugin's manifest.
        grants: what the module may do now; `PermissionRequest`s and `PluginHost.revoke` change it.
        limits: its bounds.
        exports: the names of the functions that can be called, sorted; empty until it is RUNNING.
        restarts: how often it has come back after it went down.
        tally: what was counted of it, for `PluginHost.stats`.
    """

    def __init__(
        self,
        manifest: Manifest,
        grants: Grants,
        *,
        limits: Limits,
        clock: Clock,
        unload: Callable[[Module], Awaitable[None]],
    ) -> None:
        """A module that is LOADING; the host does the rest."""
        self.manifest = manifest
        self.grants = grants
        self.exports: frozenset[str] = frozenset()
        self.limits = limits
        self.restarts: int = 0
        self.tally: Tally = Tally()
        self._clock = clock
        self._unload = unload
        self._state = ModuleState.LOADING
        self._error: CoreDenoError | None = None
        self._rpc: RpcClient | None = None
        self._slots = Slots(limits.calls_in_flight)
        self._settled = asyncio.Event()  # whenever it is not RESTARTING
        self._settled.set()
        self._on_overdue: Callable[[Module], None] = lambda _module: None

    def __repr__(self) -> str:
        return f"<Module {self.code} {self.version} {self._state.value}>"

    @property
    def code(self) -> str:
        """The plugin's code, by which the host knows the module."""
        return self.manifest.code

    @property
    def version(self) -> str:
        """The plugin's version."""
        return self.manifest.version

    @property
    def state(self) -> ModuleState:
        """LOADING, then RUNNING (RESTARTING while it comes back), then STOPPED, ERRORED or QUARANTINED."""
        return self._state

    @property
    def error(self) -> CoreDenoError | None:
        """Why it is RESTARTING, ERRORED or QUARANTINED, or was when it was unloaded; else None."""
        return self._error

    @overload
    async def call(
        self,
        function: str,
        /,
        *args: Any,
        returns: type[T],
        timeout_s: float | None = None,
        trace: str | None = None,
    ) -> T: ...
    @overload
    async def call(
        self,
        function: str,
        /,
        *args: Any,
        returns: Any = Any,
        timeout_s: float | None = None,
        trace: str | None = None,
    ) -> Any: ...
    async def call(
        self,
        function: str,
        /,
        *args: Any,
        returns: Any = Any,
        timeout_s: float | None = None,
        trace: str | None = None,
    ) -> Any:
        """Call a function that the plugin exports, and give what it returns.

        Many calls may be under way at once; they end in any order. Those over `Limits.calls_in_flight` wait
        here, within their deadline, and so do those to a module that is RESTARTING. A cancelled call is cancelled in
        the plugin too (`core.call.signal`), and so is one whose deadline has passed.

        Args:
            function: its name, one of `exports`.
            args: what it gets, exactly: what JSON can carry, bytes, and what msgspec can write.
            returns: the type that the result must have, by msgspec's rules; `Any` takes what comes.
            timeout_s: the deadline, in seconds from now; None means `Limits.call_timeout_s`.
            trace: a text that the plugin finds in `core.call.trace`, the app's services in `Context.trace`, and log
                handlers in `call_id` of the records that the plugin writes in this call.

        Raises:
            UsageError: the module does not run, exports no such function, or an argument cannot cross.
            MessageTooLarge: the arguments are larger than `Limits.message_bytes`.
            PluginRaised: the function threw, or returned what cannot cross.
            InvalidResult: what it returned is not of the type `returns`.
            LimitExceeded: what it returned is larger than `Limits.message_bytes`.
            PluginTimeout: the deadline passed.
            PluginCrashed: the module went down, before or meanwhile.
        """
        if self._state is not ModuleState.RESTARTING:
            self._ready_for(function)
        decoder = decoder_for(returns)
        value = Outgoing(args, ("params", "args"), depth=-1)
        limit_s = self.limits.call_timeout_s if timeout_s is None else self._checked(timeout_s, function)
        if not (trace is None or isinstance(trace, str)):
            raise UsageError(f"call: trace is {trace!r}, wanted a text or None")
        started = self._clock.now()
        tally = self.tally
        number = tally.begun = tally.begun + 1
        rpc: RpcClient | None = None
        try:
            try:
                left_s = limit_s
                rpc = self._rpc
                if rpc is None or not self._slots.take_now():
                    rpc = None
                    async with deadline(self._clock, limit_s):
                        rpc = await self._turn(function)
                    left_s -= self._clock.now() - started
                reply = await rpc.request(
                    "Call",
                    _CallParams(self.code, function, value.plain, max(left_s * 1000, 0), number, trace),
                    entries=value.entries or None,
                    attachments=value.attachments,
                    timeout_s=left_s,
                    on_settled=self._slots.give_back,
                    tally=tally,
                )
            except PluginCrashed:  # it did not come up again
                raise
            except (SidecarError, PluginError) as error:
                raise PluginCrashed(module=self.code, reason=f"{function}: {error}") from error
            except TimeoutError:
                if rpc is not None:  # the plugin had it, and was told to cancel it
                    self._on_overdue(self)
                raise PluginTimeout(module=self.code, what=function, timeout_s=limit_s) from self._error
            return self._result(reply, decoder, function, limit_s)
        except BaseException as error:
            tally.call_failed(error)
            raise
        finally:
            tally.ended += 1
            tally.took_s.append(self._clock.now() - started)

    async def _turn(self, function: str) -> RpcClient:
        """Wait until it is up and has a slot free, which is the caller's then.

        Raises:
            UsageError, PluginCrashed: it is not up, and does not come up again.
        """
        self.tally.waiting += 1
        try:
            while True:
                await self._settled.wait()
                await self._slots.take()
                try:
                    if self._state is ModuleState.STOPPED:
                        raise PluginCrashed(module=self.code, reason=f"{function}: it was unloaded")
                    if self._state is not ModuleState.RESTARTING:
                        return self._ready_for(function)
                except BaseException:
                    self._slots.give_back()
                    raise
                self._slots.give_back()
        finally:
            self.tally.waiting -= 1

    async def status(self) -> str:
        """What its sidecar says of it: `UNKNOWN`, `LOADING`, `RUNNING`, `STOPPED` or `ERRORED`.

        Raises:
            UsageError: the module has no sidecar (any more).
            PluginTimeout: the sidecar did not answer within `Limits.call_timeout_s`.
            PluginCrashed: it ended meanwhile.
        """
        if self._rpc is None:
            raise UsageError(
                f"status: module {self.code!r} is {self._state.value}, wanted one that has a sidecar"
            )
        limit_s = self.limits.call_timeout_s
        try:
            reply = await self._rpc.request("ModuleStatus", {"code": self.code}, timeout_s=limit_s)
        except (SidecarError, PluginError) as error:
            raise PluginCrashed(module=self.code, reason=f"status: {error}") from error
        except TimeoutError:
            raise PluginTimeout(module=self.code, what="status", timeout_s=limit_s) from None
        answer = self._result(reply, decoder_for(dict[str, str]), "status", limit_s)
        return str(answer.get("status", ""))

    async def unload(self) -> None:
        """Stop it: `dispose` runs within `Limits.unload_grace_s`, then it is ended, and `host.modules` has it no more.

        Works in every state, and twice. Calls that are under way raise `PluginCrashed`. If cancelled, it is
        unloaded all the same.
        """
        await self._unload(self)

    # --- for the host

    def follow(self, held: HeldGrants) -> None:
        """Show in `grants` what it holds, as that changes."""

        def show(grants: Grants) -> None:
            self.grants = grants

        held.on_change = show
        show(held.grants)

    @property
    def is_down(self) -> bool:
        """Whether it went down, and is not up again (yet)."""
        return self._state in (ModuleState.RESTARTING, ModuleState.ERRORED, ModuleState.QUARANTINED)

    @property
    def has_failed(self) -> bool:
        """Whether it is down, and does not come up by itself."""
        return self._state in (ModuleState.ERRORED, ModuleState.QUARANTINED)

    def when_overdue(self, tell: Callable[[Module], None]) -> None:
        """Have `tell` called whenever a call's deadline passes while the plugin has it."""
        self._on_overdue = tell

    def set_running(self, rpc: RpcClient, exports: frozenset[str]) -> None:
        """`init` has returned."""
        self.exports = exports
        if self._state is ModuleState.RESTARTING:
            self.restarts += 1
        self._become(ModuleState.RUNNING, rpc=rpc)

    def set_restarting(self, error: CoreDenoError) -> None:
        """It went down, and comes back."""
        self._become(ModuleState.RESTARTING, error=error)

    def set_stopped(self) -> None:
        """It was unloaded."""
        self._become(ModuleState.STOPPED, error=self._error)

    def set_errored(self, error: CoreDenoError) -> None:
        """It could not be loaded, or went down and does not come back."""
        self._become(ModuleState.ERRORED, error=error)

    def set_quarantined(self, error: CoreDenoError) -> None:
        """It is not what was installed, or went down too often."""
        self._become(ModuleState.QUARANTINED, error=error)

    def _become(
        self, state: ModuleState, *, rpc: RpcClient | None = None, error: CoreDenoError | None = None
    ) -> None:
        self._state, self._rpc, self._error = state, rpc, error
        if state is ModuleState.RESTARTING:
            self._settled.clear()
        else:
            self._settled.set()

    def _ready_for(self, function: str) -> RpcClient:
        if self._error is not None:
            raise PluginCrashed(
                module=self.code, reason=f"{function}: it is down: {self._error}"
            ) from self._error
        if self._rpc is None:
            raise UsageError(f"call: module {self.code!r} is {self._state.value}, wanted RUNNING")
        if function not in self.exports:
            known = ", ".join(heapq.nsmallest(_SHOWN_EXPORTS, self.exports)) or "nothing"
            if len(self.exports) > _SHOWN_EXPORTS:
                known += f" and {len(self.exports) - _SHOWN_EXPORTS:,} more"
            raise UsageError(
                f"call: module {self.code!r} exports no function {function!r}; it exports {known}"
            )
        return self._rpc

    def _checked(self, timeout_s: object, function: str) -> float:
        is_number = isinstance(timeout_s, int | float) and not isinstance(timeout_s, bool)
        if not is_number or not -math.inf < timeout_s < math.inf:  # type: ignore[operator]
            raise UsageError(f"call: timeout_s is {timeout_s!r}, wanted a number of seconds")
        limit_s = float(timeout_s)  # type: ignore[arg-type]
        if limit_s <= 0:
            raise PluginTimeout(module=self.code, what=function, timeout_s=limit_s)
        return limit_s

    def _result(self, reply: Reply, decoder: TypedDecoder, function: str, limit_s: float) -> Any:
        if reply.error is not None:
            raise told_error(reply.error, module=self.code, what=function, timeout_s=limit_s)
        try:
            return reply.result(decoder)
        except msgspec.ValidationError as error:
            raise InvalidResult(
                f"{self.code}: {function}: returned something else than wanted: {error}"
            ) from None


def told_error(error: WireError, *, module: str, what: str, timeout_s: float) -> CoreDenoError:
    """The error for what a sidecar answered to a request about `module`.

    Args:
        error: the error object, hostile.
        module: the module's code.
        what: what was asked for, such as the function's name.
        timeout_s: the time that it was given, in seconds.
    """
    told = from_wire(error, module=module, timeout_s=timeout_s)
    if isinstance(told, PluginTimeout):
        return PluginTimeout(module=module, what=what, timeout_s=timeout_s)
    if isinstance(told, FailedPrecondition | ProtocolError):  # its Worker ended, or was ended for what it did
        crash = PluginCrashed(module=module, reason=f"{what}: {str(told).removeprefix(f'{module}: ')}")
        crash.__cause__ = told
        return crash
    return told
