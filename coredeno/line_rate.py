"""How many lines a second a plugin may have logged. Pure: no I/O."""

from __future__ import annotations


class LineRate:
    """Lets so many lines a second through, and counts the others.

    A second begins with its first line. Unlike the gateway's `Rate` it lends nothing for a silence: what it says of
    the lines that were dropped, "more than so many a second", is then true of each second.
    """

    def __init__(self, lines_per_s: int) -> None:
        self._lines_per_s = lines_per_s
        self._second_began = -1.0
        self._passed = 0
        self._dropped = 0

    def passes(self, now_s: float) -> bool:
        """Whether a line that comes now goes through."""
        if now_s - self._second_began >= 1:
            self._second_began, self._passed = now_s, 0
        if self._passed >= self._lines_per_s:
            self._dropped += 1
            return False
        self._passed += 1
        return True

    def is_spent(self, now_s: float) -> bool:
        """Whether no line that comes now goes through."""
        return self._passed >= self._lines_per_s and now_s - self._second_began < 1

    def drop(self, lines: int) -> None:
        """Count lines that nobody asked about."""
        self._dropped += lines

    def take_dropped(self) -> str:
        """What to say of the lines that were dropped since this was asked last; empty if there were none."""
        dropped, self._dropped = self._dropped, 0
        return f"{dropped:,} lines were dropped: more than {self._lines_per_s:,} a second" if dropped else ""
