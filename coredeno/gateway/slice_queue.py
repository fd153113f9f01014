"""`SliceQueue`: one slice of work a turn of the loop, whoever has how many of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class SliceQueue:
    """Lets connections that have more to do than a slice do one after another, one slice a turn of the loop.

    So what many flooding clients cost in a turn is what one costs.
    """

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def add(self, feed: Callable[[], None]) -> None:
        """Call it when it is its turn."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._take)
        self._waiting.append(feed)

    def _take(self) -> None:
        try:
            self._waiting[0]()
        finally:  # whatever one of them meets, the others have their turns
            self._waiting.popleft()
            if self._waiting:
                asyncio.get_running_loop().call_soon(self._take)
