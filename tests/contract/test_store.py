from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from coredeno.errors import StoreError
from coredeno.interfaces import StoreBackend, StoreChange, StoreQuota
from coredeno.services.watched_store import WatchedStore
from coredeno.store.sqlite import SqliteStore
from coredeno.testing.contracts.store import DurableStoreContract, StoreContract
from coredeno.testing.memory_store import FaultyStore, MemoryStore
from coredeno.testing.turned_clock import TurnedClock


class TestMemoryStore(StoreContract):
    def make_store(self) -> StoreBackend:
        return MemoryStore()


class TestFaultyStore(StoreContract):
    def make_store(self) -> StoreBackend:
        return FaultyStore(MemoryStore())


class TestWatchedStore(StoreContract):
    def make_store(self) -> StoreBackend:
        return WatchedStore(MemoryStore(), clock=TurnedClock())


class TestSqliteStore(DurableStoreContract):
    def make_store(self) -> StoreBackend:
        return SqliteStore()


class Unordered(MemoryStore):
    async def read(
        self, group: str, keys: Sequence[str] | None = None, *, limit_bytes: int | None = None
    ) -> dict[str, str]:
        return dict(reversed((await super().read(group, keys)).items()))


class CutsAtNul(MemoryStore):
    async def read(
        self, group: str, keys: Sequence[str] | None = None, *, limit_bytes: int | None = None
    ) -> dict[str, str]:
        return {key: value.partition("\0")[0] for key, value in (await super().read(group, keys)).items()}


class HalfWrites(MemoryStore):
    async def write(self, changes: Sequence[StoreChange], *, quota: StoreQuota | None = None) -> None:
        for change in changes:
            await super().write([change])


class Forgetful(MemoryStore):
    async def write(self, changes: Sequence[StoreChange], *, quota: StoreQuota | None = None) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await super().write(changes)


class Late(MemoryStore):
    """Keeps what it has in a file, but only when it is closed."""

    async def open(self, folder: Path) -> None:
        await super().open(folder)
        self._file = folder / "all.json"
        if self._file.exists():
            self.groups = json.loads(self._file.read_text())

    async def aclose(self) -> None:
        if self._is_open:
            self._file.write_text(json.dumps(self.groups))
        await super().aclose()


class Lenient(MemoryStore):
    async def count(self, group: str) -> int:
        return len(self.groups.get(group, {}))


class Unbounded(MemoryStore):
    async def write(self, changes: Sequence[StoreChange], *, quota: StoreQuota | None = None) -> None:
        await super().write(changes)


class Endless(MemoryStore):
    async def read(
        self, group: str, keys: Sequence[str] | None = None, *, limit_bytes: int | None = None
    ) -> dict[str, str]:
        return await super().read(group, keys)


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (Unbounded, StoreContract.test_holds_a_quota_of_keys),
        (Unbounded, StoreContract.test_holds_a_quota_of_bytes),
        (Unbounded, StoreContract.test_holds_a_quota_among_many_writers),
        (Endless, StoreContract.test_reads_no_more_than_its_limit),
        (Unordered, StoreContract.test_orders_keys_by_code_points),
        (CutsAtNul, StoreContract.test_keeps_any_text),
        (HalfWrites, StoreContract.test_writes_all_or_nothing),
        (Forgetful, StoreContract.test_carries_out_a_write_whose_caller_was_cancelled),
        (Late, DurableStoreContract.test_keeps_data_when_killed),
        (Lenient, StoreContract.test_is_used_between_open_and_aclose_only),
    ],
)
async def test_the_suite_finds_a_broken_store(broken, test, tmp_path: Path):
    """A store that breaks one rule fails the test of that rule, with a message."""

    class Suite(DurableStoreContract):
        def make_store(self) -> StoreBackend:
            return broken()

    with pytest.raises(AssertionError, match=" "):
        await test(Suite(), tmp_path)


async def test_the_suite_wants_a_store():
    """A subclass that forgot `make_store` is told so."""
    with pytest.raises(NotImplementedError, match="make_store"):
        StoreContract().make_store()


async def test_a_faulty_store_fails_as_often_as_it_was_told(tmp_path: Path):
    """Faults hit the next reads and writes, change nothing, and then it works again."""
    store = FaultyStore(MemoryStore())
    await store.open(tmp_path)
    error = StoreError("the disk is full")
    store.fail_writes(error, times=2)
    store.fail_reads(error)
    change = StoreChange(group="g", key="k", value="v")
    for _ in range(2):
        with pytest.raises(StoreError, match="disk is full"):
            await store.write([change])
    with pytest.raises(StoreError, match="disk is full"):
        await store.count("g")
    assert await store.read("g") == {}
    await store.write([change])
    assert await store.read("g") == {"k": "v"}
    await store.aclose()


async def test_a_faulty_store_holds_until_released(tmp_path: Path):
    """What is asked for while it holds waits and is then done in order, cancelled callers' writes too."""
    store = FaultyStore(MemoryStore())
    await store.open(tmp_path)
    store.hold()
    callers = [
        asyncio.create_task(store.write([StoreChange(group="g", key="k", value=value)]))
        for value in ("1", "2")
    ]
    reader = asyncio.create_task(store.read("g"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not any(task.done() for task in (*callers, reader))
    callers[1].cancel()
    store.release()
    await store.write([StoreChange(group="g", key="last", value="3")])
    assert await reader == {"k": "2"}
    assert await store.read("g") == {"k": "2", "last": "3"}
    await asyncio.wait(callers)
    assert callers[1].cancelled()
    await store.aclose()


async def test_a_faulty_store_closes_while_it_holds(tmp_path: Path):
    """`aclose` lets go what is held, so that nothing hangs."""
    store = FaultyStore(MemoryStore())
    await store.open(tmp_path)
    store.hold()
    writer = asyncio.create_task(store.write([StoreChange(group="g", key="k", value="v")]))
    await asyncio.sleep(0)
    await store.aclose()
    await writer
