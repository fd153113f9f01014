"""`WatchedStore`: passes everything on to the host's store, and knows whether it works."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from coredeno.clock import deadline
from coredeno.errors import StoreCorrupt, StoreError
from coredeno.health import PartHealth
from coredeno.interfaces import Clock, StoreBackend, StoreChange, StoreQuota

_log = logging.getLogger("coredeno.store")

_PATIENCE_S = 5.0
_QUIET_S = (
    60.0  # a disk with little room left may refuse and take writes in turns: no line of the log for each
)
_GROUP = "_health"
# Leaves nothing, and needs a page of its own.
_ATTEMPT = (
    StoreChange(group=_GROUP, key="attempt", value="." * 4096),
    StoreChange(group=_GROUP, key="attempt"),
)


class WatchedStore:
    """A `StoreBackend` in front of another one.

    Args:
        inner: does the work.
        clock: whose time counts.

    Attributes:
        note: what `health` says beside; empty if there is nothing to say.
    """

    def __init__(self, inner: StoreBackend, *, clock: Clock) -> None:
        self.note = ""
        self._inner = inner
        self._clock = clock
        self._refused = False  # the last write, by a fault of the store
        self._damage = ""
        self._quiet_until = 0.0
        self._told = False

    async def open(self, folder: Path) -> None:
        """See `StoreBackend.open`."""
        await self._inner.open(folder)

    async def read(
        self, group: str, keys: Sequence[str] | None = None, *, limit_bytes: int | None = None
    ) -> dict[str, str]:
        """See `StoreBackend.read`."""
        try:
            return await self._inner.read(group, keys, limit_bytes=limit_bytes)
        except StoreCorrupt as error:
            self._met_damage(error)
            raise

    async def count(self, group: str) -> int:
        """See `StoreBackend.count`."""
        try:
            return await self._inner.count(group)
        except StoreCorrupt as error:
            self._met_damage(error)
            raise

    async def write(self, changes: Sequence[StoreChange], *, quota: StoreQuota | None = None) -> None:
        """See `StoreBackend.write`."""
        try:
            await self._inner.write(changes, quota=quota)
        except StoreCorrupt as error:
            self._met_damage(error)
            raise
        except StoreError as error:
            self._was_refused(error)
            raise
        if self._refused:
            self._is_written_again()

    async def aclose(self) -> None:
        """See `StoreBackend.aclose`."""
        await self._inner.aclose()

    async def health(self) -> PartHealth:
        """Whether a read succeeds, and, if the last write failed, another one; and whether damage was met before.

        Nothing that it finds is raised. It waits five seconds at most.
        """
        try:
            async with deadline(self._clock, _PATIENCE_S):
                await self.read(_GROUP, ("any",))
                if self._refused:
                    await self.write(_ATTEMPT)
        except TimeoutError:
            return self._failing(f"it has not answered within {_PATIENCE_S:g} s")
        except Exception as error:  # noqa: BLE001 - a backend of the app's own may raise anything
            return self._failing(f"{type(error).__name__}: {error}")
        return self._failing(self._damage) if self._damage else PartHealth(ok=True, note=self.note)

    def _failing(self, why: str) -> PartHealth:
        return PartHealth(ok=False, why=why, note=self.note)

    def _met_damage(self, error: StoreCorrupt) -> None:
        if not self._damage:
            self._damage = f"{type(error).__name__}: {error}"
            _log.error("the store is damaged; the next start checks it: %s", error)

    def _was_refused(self, error: StoreError) -> None:
        self._refused = True
        now = self._clock.now()
        if now >= self._quiet_until:
            self._quiet_until, self._told = now + _QUIET_S, True
            _log.error("the store cannot be written: %s", error)

    def _is_written_again(self) -> None:
        self._refused = False
        if self._told:
            self._told = False
            _log.warning("the store is written again")
