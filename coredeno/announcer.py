"""Tells the app what becomes of its modules: an event at once, then each of its hooks."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from coredeno import events
from coredeno.errors import CoreDenoError
from coredeno.hooks import Hooks
from coredeno.module import Module

_log = logging.getLogger("coredeno.host")


class Announcer:
    """For all modules of a host. Each method has emitted its event when it returns; what it returns tells the hooks."""

    def __init__(self, hooks: Sequence[Hooks], emit: Callable[[events.Event], None]) -> None:
        """Take who is told."""
        self._hooks = hooks
        self._emit = emit

    def started(self, module: Module, load_s: float) -> Coroutine[Any, Any, None]:
        """It is RUNNING, `load_s` seconds after its load was begun."""
        self._emit(events.ModuleStarted(module=module.code, version=module.version, load_s=load_s))
        return self._tell(lambda hook: hook.module_started(module))

    def stopped(self, module: Module, reason: str) -> Coroutine[Any, Any, None]:
        """It was unloaded."""
        self._emit(events.ModuleStopped(module=module.code, reason=reason))
        return self._tell(lambda hook: hook.module_stopped(module, reason))

    def crashed(self, module: Module, error: CoreDenoError) -> Coroutine[Any, Any, None]:
        """It did not come up, or went down."""
        self._emit(events.ModuleCrashed(module=module.code, error=str(error)))
        return self._tell(lambda hook: hook.module_crashed(module, error))

    def quarantined(self, module: Module, error: CoreDenoError) -> Coroutine[Any, Any, None]:
        """It is not run any more."""
        self._emit(events.ModuleQuarantined(module=module.code, error=str(error)))
        return self._tell(lambda hook: hook.module_quarantined(module, error))

    def restarting(self, module: Module, delay_s: float, attempt: int) -> None:
        """It is started again soon; there is no hook for that."""
        self._emit(events.ModuleRestarting(module=module.code, delay_s=delay_s, attempt=attempt))

    async def _tell(self, say: Callable[[Hooks], Awaitable[None]]) -> None:
        for hook in self._hooks:
            try:
                await say(hook)
            except Exception:  # noqa: BLE001 - an app's code
                _log.exception("a hook of the app failed: %r", hook)
