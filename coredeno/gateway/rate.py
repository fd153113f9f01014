"""How much may come in a time. Pure: no I/O."""

from __future__ import annotations


class Rate:
    """A token bucket: so much a second on average, and `burst` at once after a silence.

    Clients come in bursts, so they may; what a plugin has logged has a `LineRate`, which also counts what it refused.
    """

    __slots__ = ("_burst", "_left", "_per_s", "_then")

    def __init__(self, *, per_s: float, burst: float, now: float) -> None:
        """Begin with all of the burst; `now` is in seconds, by the clock that `allows` is given too."""
        self._per_s = per_s
        self._burst = burst
        self._left = burst
        self._then = now

    def allows(self, now: float, cost: float = 1) -> bool:
        """Whether there is room for it now; what is refused costs nothing."""
        self._left = min(self._burst, self._left + (now - self._then) * self._per_s)
        self._then = now
        if cost > self._left:
            return False
        self._left -= cost
        return True
