"""How much of what plugins cause becomes rows of the audit log. Pure: no I/O.

A window begins with the first event of a kind and module. In it, what was said already is counted, not written
again, and what is over the bound is counted as a whole; the counts become rows when the window ends. So nothing is
untold, and a plugin adds at most about two rows a second of denials and of broken rules, and ten of any other kind.
"""

from __future__ import annotations

from coredeno.audit.records import Record

WINDOW_S = 60.0
"""How long the same thing is counted before it is told again, in seconds."""

REPEATING = frozenset({"PermissionDenied", "ProtocolBroken"})
"""Kinds that a plugin or client can cause as often as it can send."""

LIMIT_REPEATING = 60
"""Different rows of such a kind, a module and window."""

LIMIT_OTHER = 600
"""Rows of any other kind, a module and window: each tells its own, and is not counted together with its like."""


class _Window:
    def __init__(self, ends: float) -> None:
        self.ends = ends
        self.rows = 0
        self.said: dict[tuple[str, str, str], tuple[Record, int]] = {}
        self.further = 0


class Throttle:
    """Decides for each record whether it becomes a row at once. Time is given to it, in seconds."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, str], _Window] = {}

    @property
    def next_end(self) -> float | None:
        """When the next window ends; None if there is none."""
        # All last equally long: the oldest ends first.
        return next((window.ends for window in self._windows.values()), None)

    def admits(self, record: Record, now: float) -> bool:
        """Whether to write it now; else it is counted."""
        window = self._windows.get((record.kind, record.module))
        if window is None:
            window = self._windows[record.kind, record.module] = _Window(now + WINDOW_S)
        repeating = record.kind in REPEATING
        key = record.key() if repeating else None
        if key is not None and key in window.said:
            window.said[key] = (record, window.said[key][1] + 1)
            return False
        if window.rows >= (LIMIT_REPEATING if repeating else LIMIT_OTHER):
            window.further += 1
            return False
        window.rows += 1
        if key is not None:
            window.said[key] = (record, 0)
        return True

    def ended(self, now: float | None = None) -> list[Record]:
        """What the windows that have ended by now (all, if None) have counted; they are over then.

        A record with `repeated` was said so many times more; one with only `further` stands for so many others.
        """
        over = [name for name, window in self._windows.items() if now is None or window.ends <= now]
        told: list[Record] = []
        for kind, module in over:
            window = self._windows.pop((kind, module))
            told += [record.adding(repeated=times) for record, times in window.said.values() if times]
            if window.further:
                told.append(Record(kind, module, {"further": window.further}))
        return told
