"""`KeptGrants`: the grants in the store that last until they are revoked, changed by one at a time."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager

from coredeno import grant_records
from coredeno.grant import Permit, is_touched
from coredeno.interfaces import StoreBackend, StoreChange

_log = logging.getLogger("coredeno.host")


class KeptGrants:
    """What the plugins of one host hold for good, by code and signer.

    All but `remove` is called within a block of `alone`: so nobody revokes, keeps or removes between what was read
    and what is made of it.
    """

    def __init__(self, backend: StoreBackend) -> None:
        """Take the host's store, open when this is used."""
        self._backend = backend
        self._lock = asyncio.Lock()
        self._removals: Counter[str] = Counter()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Let nobody else read or change them within the block. It must not wait for what wants a block of its own."""
        async with self._lock:
            yield

    def removals(self, code: str) -> int:
        """How often the plugin of this code was removed; to be shown to `keep`."""
        return self._removals[code]

    async def of(self, code: str, signer: str | None) -> tuple[Permit, ...]:
        """What a plugin of this signer holds; nothing, and a log record, if that cannot be read.

        Raises:
            StoreError: the store cannot be read.
        """
        key = grant_records.record_key(code, signer)
        text = (await self._backend.read(grant_records.GRANTS, (key,))).get(key)
        permits = grant_records.parse(text)
        if permits is None:
            _log.error(
                "%s: what was granted to it for good cannot be read, so it is granted to it no more", code
            )
        return permits or ()

    async def keep(self, code: str, signer: str | None, permits: Iterable[Permit], *, removals: int) -> bool:
        """Add permits to what a plugin holds; False, and nothing is kept, if it was removed since `removals` was asked.

        Raises:
            StoreError: nothing was kept.
        """
        if removals != self._removals[code]:
            return False
        text = grant_records.stored([*await self.of(code, signer), *permits])
        key = grant_records.record_key(code, signer)
        await self._backend.write([StoreChange(group=grant_records.GRANTS, key=key, value=text)])
        return True

    async def forget(self, code: str, permission: str, resource: str | None) -> list[Permit]:
        """Take back what reaches `resource`, or all of a kind, whoever signed the plugin; gives what that was.

        Raises:
            StoreError: nothing was taken back.
            InvalidArgument: `resource` is no host, where one is wanted.
        """
        changes, gone = [], []
        for key, text in (await self._backend.read(grant_records.GRANTS)).items():
            if not grant_records.is_of(code, key):
                continue
            permits = grant_records.parse(text) or ()
            lost = [permit for permit in permits if is_touched(permit, permission, resource)]
            if lost:
                gone += lost
                left = grant_records.stored(permit for permit in permits if permit not in lost)
                changes.append(StoreChange(group=grant_records.GRANTS, key=key, value=left))
        if changes:
            await self._backend.write(changes)
        return gone

    async def remove(self, code: str, changes: Sequence[StoreChange]) -> None:
        """Take everything from a plugin that is removed, and make `changes` in the same transaction.

        A module of it that still runs can have nothing kept any more. Not to be cancelled.

        Raises:
            StoreError: nothing has changed.
        """
        async with self._lock:
            grants = await self._backend.read(grant_records.GRANTS)
            gone = [
                StoreChange(group=grant_records.GRANTS, key=key)
                for key in grants
                if grant_records.is_of(code, key)
            ]
            await self._backend.write([*changes, *gone])
            self._removals[code] += 1
