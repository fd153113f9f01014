"""`Turns`: how many things of one kind each owner does at once, so that a busy one delays the others little."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """Lets each owner have so many turns at once; who wants one more waits for one of that owner's to end.

    Turns are had in the order in which they were wanted. Nothing is kept of an owner that has no turn.

    Args:
        each: how many turns an owner has at once; at least 1.
    """

    def __init__(self, each: int) -> None:
        self._each = each
        self._owners: dict[str, _Owner] = {}

    @asynccontextmanager
    async def of(self, owner: str) -> AsyncIterator[None]:
        """Have a turn of this owner's for the time of the block. A cancelled wait takes none."""
        state = self._owners.get(owner)
        if state is None:
            state = self._owners[owner] = _Owner(self._each)
        state.wanted += 1
        try:
            async with state.free:
                yield
        finally:
            state.wanted -= 1
            if not state.wanted:
                del self._owners[owner]


class _Owner:
    def __init__(self, each: int) -> None:
        self.free = asyncio.Semaphore(each)
        self.wanted = 0
