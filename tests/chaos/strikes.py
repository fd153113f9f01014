"""When the monkey struck which module, and when the host had noticed: what a call that failed may put it down to."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterable

import msgspec

from coredeno import Hooks, Module, ModuleState
from coredeno.errors import CoreDenoError

MOST_IN_A_ROW = 2
"""How often a module is struck before it has run stably again. Two more are left of its budget, for bad luck: the spare
that it comes to may be struck just then."""
_REMEMBERED = 8  # strikes of one module: far more than there can be within the time of one call


_SHOWN = 500  # characters of why one was given up


class Strike(msgspec.Struct, eq=False):
    """The time in which a module suffers from what was done to its process; `until` is None while it does."""

    since: float
    until: float | None = None


class Strikes(Hooks):
    """All strikes so far. A hook of the host, so that it hears when a module is down or up again.

    Args:
        stable_s: how long a module must have run to have all of its budget again.
    """

    def __init__(self, stable_s: float) -> None:
        self.count = 0
        self.quarantined: dict[str, str] = {}
        self._stable_s = stable_s
        self._strikes: dict[str, deque[Strike]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))
        self._in_a_row: dict[str, int] = defaultdict(int)
        self._up_since: dict[str, float] = {}

    def strike(self, codes: Iterable[str]) -> list[Strike]:
        """Their process is struck now."""
        made = []
        for code in codes:
            self.count += 1
            self._in_a_row[code] += 1
            made.append(Strike(_now()))
            self._strikes[code].append(made[-1])
        return made

    def over(self, strikes: Iterable[Strike]) -> None:
        """Nothing is amiss with them any more; harmless for those that the host has noticed."""
        for strike in strikes:
            if strike.until is None:
                strike.until = _now()

    def may_strike(self, code: str) -> bool:
        """Whether a module can take one more without being given up."""
        up_since = self._up_since.get(code)
        if up_since is not None and _now() - up_since > self._stable_s:
            self._in_a_row[code] = 0
        is_suffering = any(strike.until is None for strike in self._strikes[code])
        return not is_suffering and self._in_a_row[code] < MOST_IN_A_ROW

    def excuse(self, code: str, since: float) -> bool:
        """Whether a call that was under way from `since` until now shared some of that time with a strike."""
        return any(strike.until is None or strike.until >= since for strike in self._strikes[code])

    # --- Hooks

    async def module_started(self, module: Module) -> None:
        """It is up."""
        self._up_since[module.code] = _now()

    async def module_crashed(self, module: Module, error: CoreDenoError) -> None:
        """The host has noticed: from now on its calls wait for it, and must succeed."""
        self._up_since.pop(module.code, None)
        if module.state is not ModuleState.RUNNING:
            self.over(self._strikes[module.code])

    async def module_quarantined(self, module: Module, error: CoreDenoError) -> None:
        """It has been given up."""
        self.quarantined[module.code] = f"{error}"[:_SHOWN]


def _now() -> float:
    return asyncio.get_running_loop().time()
