"""`MemoryStore`, a `StoreBackend` in a dictionary, and `FaultyStore`, which makes one fail or wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from coredeno.errors import LimitExceeded, StoreError, UsageError
from coredeno.interfaces import StoreBackend, StoreChange, StoreQuota

Result = TypeVar("Result")


class MemoryStore:
    """A `StoreBackend` without a file: what it holds is gone with it, and closing makes it empty.

    Each operation is done at once when it is called, so nothing of it can be cancelled half way.

    Attributes:
        groups: what is there, by group and key. May be filled by a test, also before `open`.
    """

    def __init__(self) -> None:
        self.groups: dict[str, dict[str, str]] = {}
        self._is_open = False
        self._was_open = False

    async def open(self, folder: Path) -> None:  # noqa: ARG002  the interface's
        """See `StoreBackend.open`. The folder is not looked at.

        Raises:
            UsageError: it was opened or closed before.
        """
        if self._was_open:
            raise UsageError("store: open: it was opened or closed before, wanted a new MemoryStore")
        self._is_open = self._was_open = True

    async def read(
        self, group: str, keys: Sequence[str] | None = None, *, limit_bytes: int | None = None
    ) -> dict[str, str]:
        """See `StoreBackend.read`.

        Raises:
            LimitExceeded: it is more than `limit_bytes`.
            UsageError: the store is not open.
        """
        self._check_open("read")
        there = self.groups.get(group, {})
        found = {key: there[key] for key in sorted(there if keys is None else there.keys() & set(keys))}
        if limit_bytes is not None and (size := _size(found)) > limit_bytes:
            raise LimitExceeded(
                f"store: group {group!r}: {size} bytes were asked for, wanted at most {limit_bytes}"
            )
        return found

    async def count(self, group: str) -> int:
        """See `StoreBackend.count`.

        Raises:
            UsageError: the store is not open.
        """
        self._check_open("count")
        return len(self.groups.get(group, {}))

    async def write(self, changes: Sequence[StoreChange], *, quota: StoreQuota | None = None) -> None:
        """See `StoreBackend.write`.

        Raises:
            StoreError: a text has a lone surrogate; nothing changed.
            LimitExceeded: a group would have more than the quota; nothing changed.
            UsageError: the store is not open.
        """
        self._check_open("write")
        for change in changes:
            _check_text(change)
        changed = {change.group: dict(self.groups.get(change.group, {})) for change in changes}
        for change in changes:
            entries = changed[change.group]
            if change.key is None:
                entries.clear()
            elif change.value is None:
                entries.pop(change.key, None)
            else:
                entries[change.key] = change.value
                _check_quota(change.group, entries, quota)
        for group, entries in changed.items():
            if entries:
                self.groups[group] = entries
            else:
                self.groups.pop(group, None)

    async def aclose(self) -> None:
        """See `StoreBackend.aclose`."""
        self._is_open, self._was_open = False, True
        self.groups.clear()

    def _check_open(self, what: str) -> None:
        if not self._is_open:
            raise UsageError(f"store: {what}: it is not open, wanted between `open` and `aclose`")


def _check_text(change: StoreChange) -> None:
    for text in (change.group, change.key, change.value):
        try:
            (text or "").encode()
        except UnicodeEncodeError as error:
            raise StoreError(f"store: writing: {error}, wanted text that UTF-8 can hold") from error


def _check_quota(group: str, entries: Mapping[str, str], quota: StoreQuota | None) -> None:
    if quota is not None and (len(entries) > quota.keys or _size(entries) > quota.bytes):
        raise LimitExceeded(
            f"store: group {group!r}: it would have {len(entries)} keys and {_size(entries)} bytes, "
            f"wanted at most {quota.keys} and {quota.bytes}"
        )


def _size(entries: Mapping[str, str]) -> int:
    return sum(len(key.encode()) + len(value.encode()) for key, value in entries.items())


class FaultyStore:
    """Passes everything on to another `StoreBackend`, but fails or waits when a test says so.

    Like every `StoreBackend` it carries out a write whose caller was cancelled, also one that it held.

    Args:
        inner: does what does not fail.
    """

    def __init__(self, inner: StoreBackend) -> None:
        self._inner = inner
        self._failures: dict[str, list[StoreError]] = {"read": [], "write": []}
        self._released = asyncio.Event()
        self._released.set()
        self._under_way: set[asyncio.Task[Any]] = set()

    def fail_writes(self, error: StoreError, times: int = 1) -> None:
        """Let the next `times` writes raise `error` and change nothing; adds to what was told before."""
        self._failures["write"] += [error] * times

    def fail_reads(self, error: StoreError, times: int = 1) -> None:
        """Let the next `times` reads (a `count` is one) raise `error`; adds to what was told before."""
        self._failures["read"] += [error] * times

    def hold(self) -> None:
        """Let all that is asked from now on wait for `release`."""
        self._released.clear()

    def release(self) -> None:
        """Let go on, in the order in which it was asked, what waits; hold nothing any more."""
        self._released.set()

    async def open(self, folder: Path) -> None:
        """See `StoreBackend.open`; never fails or waits on purpose."""
        await self._inner.open(folder)

    async def read(
        self, group: str, keys: Sequence[str] | None = None, *, limit_bytes: int | None = None
    ) -> dict[str, str]:
        """See `StoreBackend.read`; or the fault."""
        return await self._in_order(
            self._perhaps("read", lambda: self._inner.read(group, keys, limit_bytes=limit_bytes))
        )

    async def count(self, group: str) -> int:
        """See `StoreBackend.count`; or the fault."""
        return await self._in_order(self._perhaps("read", lambda: self._inner.count(group)))

    async def write(self, changes: Sequence[StoreChange], *, quota: StoreQuota | None = None) -> None:
        """See `StoreBackend.write`; or the fault."""
        await self._in_order(self._perhaps("write", lambda: self._inner.write(changes, quota=quota)))

    async def aclose(self) -> None:
        """Release what is held, let it finish, then as `StoreBackend.aclose`."""
        self.release()
        if self._under_way:
            await asyncio.wait(self._under_way)
        await self._inner.aclose()

    async def _perhaps(self, kind: str, carry_out: Callable[[], Awaitable[Result]]) -> Result:
        await self._released.wait()
        if self._failures[kind]:
            raise self._failures[kind].pop(0)
        return await carry_out()

    async def _in_order(self, operation: Coroutine[Any, Any, Result]) -> Result:
        # A task of its own: it goes on if its caller is cancelled. Tasks begin, and wake, in order.
        task = asyncio.create_task(operation, name="coredeno faulty store")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)
