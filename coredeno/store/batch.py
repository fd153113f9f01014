"""Many small askings, few trips: what is asked while a trip is under way shares the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from coredeno.errors import StoreError

Item = TypeVar("Item")
Result = TypeVar("Result")


class StoreLockedError(StoreError):
    """Another process holds the database: each part of a batch would fail like the whole."""


class OverQuotaError(StoreError):
    """A change that is bound by a quota would go over it; nothing of its statement was done."""


class Batch(Generic[Item, Result]):
    """Collects items and has them carried out together, one batch at a time, in the order of `add`.

    The first batch holds what was added in one turn of the event loop; each later one, what was added while
    the one before was under way. So nothing ever waits for a timer, and one asker alone waits for nobody.

    A batch that fails is halved until the item at fault stands alone: only its asker gets the error.
    `carry_out` must therefore change nothing when it raises. `StoreLockedError` fails all of a batch at once.

    Args:
        carry_out: does the work, and gives one result for each item, in order.
        weigh: an item's weight.
        most: the most weight in one batch; a heavier item goes alone.
    """

    def __init__(
        self,
        carry_out: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        weigh: Callable[[Item], int],
        most: int,
    ) -> None:
        self._carry_out = carry_out
        self._weigh = weigh
        self._most = most
        self._queue: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._task: asyncio.Task[None] | None = None

    def add(self, item: Item) -> asyncio.Future[Result]:
        """Queue an item. It is carried out even if the future that stands for its result is cancelled."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._queue.append((item, future))
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run(), name="coredeno store batch")
        return future

    async def settled(self) -> None:
        """Wait until nothing is queued or under way. Being cancelled disturbs nothing."""
        while self._task is not None and not self._task.done():
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        entries: Sequence[tuple[Item, asyncio.Future[Result]]] = ()
        try:
            while self._queue:
                entries = self._take()
                await self._answer(entries)
        except asyncio.CancelledError:
            # Only a loop that is being torn down does this; no asker may be left waiting.
            error = StoreError("store: the event loop ended first, wanted `aclose` before that")
            self._fail([*entries, *self._queue], error)
            self._queue.clear()
            raise

    def _take(self) -> Sequence[tuple[Item, asyncio.Future[Result]]]:
        taken = [self._queue.popleft()]
        weight = self._weigh(taken[0][0])
        while self._queue and (weight := weight + self._weigh(self._queue[0][0])) <= self._most:
            taken.append(self._queue.popleft())
        return taken

    async def _answer(self, entries: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._carry_out([item for item, _ in entries])
        except StoreLockedError as error:
            self._fail(entries, error)
        except Exception as error:  # noqa: BLE001  the asker gets it
            if len(entries) == 1:
                self._fail(entries, error)
                return
            middle = len(entries) // 2
            await self._answer(entries[:middle])
            await self._answer(entries[middle:])
        else:
            for (_, future), result in zip(entries, results, strict=True):
                if not future.done():
                    future.set_result(result)

    def _fail(self, entries: Sequence[tuple[Item, asyncio.Future[Result]]], error: Exception) -> None:
        for _, future in entries:
            if not future.done():
                future.set_exception(error)
