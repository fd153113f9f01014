"""`MemoryAudit`: an `AuditLog` in a list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from coredeno.errors import StoreError, UsageError
from coredeno.interfaces import AuditRow


class MemoryAudit:
    """An `AuditLog` without a file. What it holds stays when it is closed, so that a test can look at it.

    Attributes:
        rows: the rows, in the order of their numbers. May be filled, or damaged, by a test.
        fault: what the next operations raise, as long as it is set.
    """

    def __init__(self, rows: Sequence[AuditRow] = ()) -> None:
        """Take rows that are there already."""
        self.rows: list[AuditRow] = list(rows)
        self.fault: StoreError | None = None
        self._is_open = False
        self._was_open = False

    async def open(self, folder: Path) -> None:  # noqa: ARG002  the interface's
        """See `AuditLog.open`. The folder is not looked at.

        Raises:
            UsageError: it was opened or closed before.
            StoreError: the fault.
        """
        if self._was_open:
            raise UsageError("audit: open: it was opened or closed before, wanted a new MemoryAudit")
        self._is_open = self._was_open = True
        self._check()

    async def append(self, rows: Sequence[AuditRow]) -> None:
        """See `AuditLog.append`.

        Raises:
            StoreError: the numbers do not go on, or the fault.
            UsageError: it is not open.
        """
        last = await self.last()
        if [row.seq for row in rows] != list(range(last + 1, last + 1 + len(rows))):
            raise StoreError(f"audit: appending: the rows do not go on from {last}, wanted the next numbers")
        self.rows += rows

    async def read(
        self, first: int, limit: int, *, module: str | None = None, kind: str | None = None
    ) -> list[AuditRow]:
        """See `AuditLog.read`.

        Raises:
            StoreError: the fault.
            UsageError: it is not open.
        """
        self._check()
        found = [
            row
            for row in sorted(self.rows, key=lambda row: row.seq)
            if row.seq >= first and module in (None, row.module) and kind in (None, row.kind)
        ]
        return found[:limit]

    async def last(self) -> int:
        """See `AuditLog.last`.

        Raises:
            StoreError: the fault.
            UsageError: it is not open.
        """
        self._check()
        return max((row.seq for row in self.rows), default=0)

    async def aclose(self) -> None:
        """See `AuditLog.aclose`."""
        self._is_open, self._was_open = False, True

    def _check(self) -> None:
        if not self._is_open:
            raise UsageError("audit: it is not open, wanted between `open` and `aclose`")
        if self.fault is not None:
            raise self.fault
