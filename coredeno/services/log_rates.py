"""`LogRates`: how many log records each module may write, and one line now and then for those that it may not."""

from __future__ import annotations

import logging

import msgspec

from coredeno.interfaces import Clock, Timer
from coredeno.line_rate import LineRate
from coredeno.services.method import Caller
from coredeno.services.plugin_log import log_of_plugin

_TELL_DROPPED_S = 1.0


class _Telling(msgspec.Struct):
    version: str
    timer: Timer


class LogRates:
    """Lets so many records a second of each module through. How many it dropped is told a second later, in one line."""

    def __init__(self, lines_per_s: int, *, clock: Clock) -> None:
        self._lines_per_s = lines_per_s
        self._clock = clock
        self._rates: dict[str, LineRate] = {}
        self._telling: dict[str, _Telling] = {}

    def passes(self, caller: Caller) -> bool:
        """Whether a record that comes now is written; if not, it is counted."""
        code = caller.code
        rate = self._rates.get(code)
        if rate is None:
            rate = self._rates[code] = LineRate(self._lines_per_s)
        if rate.passes(self._clock.now()):
            return True
        if code not in self._telling:
            timer = self._clock.call_later(_TELL_DROPPED_S, lambda: self._tell(code))
            self._telling[code] = _Telling(caller.version, timer)
        return False

    async def aclose(self) -> None:
        """Tell now of what was dropped. Harmless twice."""
        for code in list(self._telling):
            self._tell(code)

    def _tell(self, code: str) -> None:
        telling = self._telling.pop(code)
        telling.timer.cancel()
        log_of_plugin(code, telling.version, logging.WARNING, self._rates[code].take_dropped())
