"""How many bytes of a peer's requests the host holds: above a bound it reads no further ones."""

from __future__ import annotations

import asyncio


class HeldBytes:
    """The bytes of all requests of one peer that are being served."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._now_bytes = 0
        self._news = asyncio.Event()

    @property
    def now_bytes(self) -> int:
        """What is held now."""
        return self._now_bytes

    def add(self, size_bytes: int) -> None:
        """More is held; less, if it is negative."""
        self._now_bytes += size_bytes
        if size_bytes < 0:
            self._news.set()

    async def room(self, size_bytes: int) -> None:
        """Wait until so many more bytes may be held. What is alone may be of any size."""
        while self._now_bytes and self._now_bytes + size_bytes > self._most_bytes:
            self._news.clear()
            await self._news.wait()


class Share:
    """What one message adds to the bytes held, until whoever uses it is done with it."""

    __slots__ = ("_held", "_size_bytes", "_users")

    def __init__(self, held: HeldBytes, size_bytes: int = 0) -> None:
        """Begin with one user, who made it."""
        self._held = held
        self._size_bytes = size_bytes
        self._users = 1
        held.add(size_bytes)

    async def take(self, size_bytes: int) -> None:
        """Take so many bytes more, as soon as there is room. Cancelled before, it takes none."""
        await self._held.room(size_bytes)
        self._size_bytes += size_bytes
        self._held.add(size_bytes)

    def use(self) -> None:
        """One user more."""
        self._users += 1

    def done(self) -> None:
        """One of the users is done; after the last one the bytes are held no more."""
        self._users -= 1
        if self._users == 0:
            self._held.add(-self._size_bytes)
