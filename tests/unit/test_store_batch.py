from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from coredeno.errors import StoreError
from coredeno.store.batch import Batch, StoreLockedError


class Trips:
    """Carries out batches of numbers; a negative one fails; waits for `free` while it is cleared."""

    def __init__(self, most: int = 100) -> None:
        self.batches: list[list[int]] = []
        self.free = asyncio.Event()
        self.free.set()
        self.error: Exception | None = None
        self.batch: Batch[int, int] = Batch(self._carry_out, weigh=abs, most=most)

    async def _carry_out(self, items: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(items))
        await self.free.wait()
        if self.error:
            raise self.error
        for item in items:
            if item < 0:
                raise StoreError(f"{item} is negative")
        return [item * 2 for item in items]


async def test_one_turn_shares_one_trip():
    """What is added in one turn of the loop is carried out together, in order, each with its own result."""
    trips = Trips()
    futures = [trips.batch.add(item) for item in (3, 1, 2)]
    assert await asyncio.gather(*futures) == [6, 2, 4]
    assert trips.batches == [[3, 1, 2]]


async def test_what_comes_during_a_trip_shares_the_next():
    """While one trip is under way no other begins; all that came meanwhile goes together."""
    trips = Trips()
    trips.free.clear()
    futures = [trips.batch.add(1)]
    for item in (2, 3):
        await asyncio.sleep(0)
        futures.append(trips.batch.add(item))
    trips.free.set()
    assert await asyncio.gather(*futures) == [2, 4, 6]
    assert trips.batches == [[1], [2, 3]]


async def test_a_trip_has_a_bound():
    """A batch weighs at most `most`; an item that is heavier alone goes alone; the order stays."""
    trips = Trips(most=5)
    await asyncio.gather(*(trips.batch.add(item) for item in (2, 3, 1, 9, 4, 1)))
    assert trips.batches == [[2, 3], [1], [9], [4, 1]]


async def test_an_item_fails_alone():
    """A failing batch is halved until the items at fault stand alone; the others succeed, in order."""
    trips = Trips()
    futures = [trips.batch.add(item) for item in (1, -2, 3, 4, 5, -6, 7)]
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert [r if isinstance(r, int) else str(r) for r in results] == [
        2,
        "-2 is negative",
        6,
        8,
        10,
        "-6 is negative",
        14,
    ]
    good = [batch for batch in trips.batches if min(batch) > 0]
    assert [item for batch in good for item in batch] == [1, 3, 4, 5, 7]


async def test_a_locked_database_fails_the_batch_at_once():
    """Where each item would fail alike after a long wait, there is one wait."""
    trips = Trips()
    trips.error = StoreLockedError("locked")
    results = await asyncio.gather(*(trips.batch.add(item) for item in (1, 2, 3)), return_exceptions=True)
    assert [str(result) for result in results] == ["locked"] * 3
    assert trips.batches == [[1, 2, 3]]


async def test_any_exception_reaches_the_asker():
    """An error of another kind hangs nobody either."""
    trips = Trips()
    trips.error = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError, match="a bug"):
        await trips.batch.add(1)
    trips.error = None
    assert await trips.batch.add(1) == 2


async def test_a_cancelled_asker_stops_nothing():
    """Items of cancelled askers are carried out, whether they succeed, fail alone, or fail together."""
    trips = Trips()
    futures = [trips.batch.add(item) for item in (1, -2, 3)]
    futures[0].cancel()
    futures[1].cancel()
    assert await futures[2] == 6
    assert trips.batches[0] == [1, -2, 3]
    assert futures[0].cancelled()


async def test_settled_waits_for_everything():
    """`settled` returns when nothing is queued or under way, also for what was added while it waited."""
    trips = Trips(most=1)
    await trips.batch.settled()
    trips.free.clear()
    first = trips.batch.add(1)
    waiting = asyncio.create_task(trips.batch.settled())
    await asyncio.sleep(0)
    second = trips.batch.add(1)
    waiting_too = asyncio.create_task(trips.batch.settled())
    await asyncio.sleep(0)
    waiting_too.cancel()
    await asyncio.sleep(0)
    assert not waiting.done()
    trips.free.set()
    await waiting
    assert (first.result(), second.result()) == (2, 2)


async def test_a_loop_that_ends_leaves_nobody_waiting():
    """If the loop is torn down in the middle, all that wait are told, and the cancellation goes on."""
    trips = Trips(most=1)
    trips.free.clear()
    futures = [trips.batch.add(1), trips.batch.add(1)]
    await asyncio.sleep(0)
    (task,) = (t for t in asyncio.all_tasks() if t.get_name() == "coredeno store batch")
    task.cancel()
    for future in futures:
        with pytest.raises(StoreError, match="event loop ended"):
            await future
    assert task.cancelled()
