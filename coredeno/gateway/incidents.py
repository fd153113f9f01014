"""`Incidents`: bugs of the host's side and of the app's services that modules met, each under a number, in the log."""

from __future__ import annotations

import logging
import secrets
import time

from coredeno.errors import CoreDenoError, InternalError
from coredeno.line_rate import LineRate

_log = logging.getLogger("coredeno.gateway")
_LOGGED_PER_S = 50


class Incidents:
    """Logs what went wrong; if a module meets the same bug with each of thousands of requests, a part of it."""

    def __init__(self) -> None:
        self._rate = LineRate(_LOGGED_PER_S)

    def error(self, what: str, error: Exception) -> InternalError:
        """Log a bug under a number, and give the error that tells a peer no more than that number.

        More than 50 a second are only counted; the next that is logged says how many.
        """
        incident = secrets.token_hex(4)
        has = "has it as"
        if self._rate.passes(time.monotonic()):
            dropped = self._rate.take_dropped()
            if dropped:
                _log.error("incidents: %s", dropped)
            _log.error("incident %s: %s failed", incident, what, exc_info=error)
        else:
            has = "has too many to have"
        name = type(error).__name__ if isinstance(error, CoreDenoError) else "unexpected error"
        return InternalError(f"{what}: {name}; the host's log {has} incident {incident}", incident=incident)
