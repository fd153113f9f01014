"""What every `StoreBackend` must do. Subclass `StoreContract` in your tests; pytest-asyncio (auto) runs it.

```python
class TestMyStore(DurableStoreContract):
    def make_store(self) -> StoreBackend:
        return MyStore()
```
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

from coredeno.errors import CoreDenoError, LimitExceeded, StoreError, UsageError
from coredeno.interfaces import StoreBackend, StoreChange, StoreQuota

BAD_TEXT = "\ud800"
"""A lone surrogate: no store can hold it, so that a write with it must fail."""

ODD_TEXTS = (
    "",
    " ",
    "\x00",
    "a\x00b",
    "\x1b[31m",
    "'; DROP TABLE entry; --",
    '"\\\n\r\t',
    "é",
    "e\u0301",
    "\u2028",
    "\uffff",
    "\U0001f600",
    "__proto__",
    "%s {} $1 ?",
    "null",
)
"""Text that naive storage changes, confuses or cuts."""


class StoreContract:
    """The rules for a `StoreBackend`, one test each. `tmp_path` is pytest's."""

    def make_store(self) -> StoreBackend:
        """Give a new store that has not been opened; called several times in a test."""
        raise NotImplementedError("StoreContract: make_store: wanted a method that gives a new StoreBackend")

    @asynccontextmanager
    async def opened(self, folder: Path) -> AsyncIterator[StoreBackend]:
        """A new store, opened, and closed in the end."""
        store = self.make_store()
        try:
            await store.open(folder)
            yield store
        finally:
            await store.aclose()

    async def test_gives_back_what_was_set(self, tmp_path: Path) -> None:
        """A value that was written can be read; keys that do not exist are left out."""
        async with self.opened(tmp_path) as store:
            await store.write([_set("g", "k", "v")])
            found = await store.read("g", ["k", "missing"])
            assert found == {"k": "v"}, f"read gave {found!r}, wanted the written value alone"
            assert await store.read("other", ["k"]) == {}, "another group has the key too"
            assert await store.read("other") == {}, "a group that was never written has keys"

    async def test_reads_nothing_for_no_keys(self, tmp_path: Path) -> None:
        """No keys are asked for, none are given: an empty list is not `None`, which means all."""
        async with self.opened(tmp_path) as store:
            await store.write([_set("g", "k", "v")])
            assert await store.read("g", []) == {}, "a read of no keys gave some"

    async def test_orders_keys_by_code_points(self, tmp_path: Path) -> None:
        """Keys come in the order of code points, whatever the order of writing or asking."""
        keys = ["b", "\U0001f600", "a", "\uffff", "B", "é", "aa"]
        async with self.opened(tmp_path) as store:
            await store.write([_set("g", key, key) for key in keys])
            everything = list(await store.read("g"))
            assert everything == sorted(keys), f"all keys came as {everything!r}"
            some = list(await store.read("g", ["é", "a", "\uffff", "a"]))
            assert some == ["a", "é", "\uffff"], f"the keys asked for came as {some!r}"

    async def test_keeps_any_text(self, tmp_path: Path) -> None:
        """Text comes back character by character, as a value and as a key; what looks alike stays apart."""
        async with self.opened(tmp_path) as store:
            await store.write([_set("g", f"k{text}", text) for text in ODD_TEXTS])
            wanted = {f"k{text}": text for text in ODD_TEXTS}
            assert await store.read("g") == wanted, "reading the group gave other texts"
            assert await store.read("g", list(wanted)) == wanted, "reading the keys gave other texts"
            large = "é\x00" * 350_000
            await store.write([_set("g", "large", large)])
            assert await store.read("g", ["large"]) == {"large": large}, "a value of 1 MB came back changed"

    async def test_keeps_groups_apart(self, tmp_path: Path) -> None:
        """The same key in another group is another key, also where the groups' names look alike."""
        groups = ["g", "G", "g ", "g\x00", "é", "e\u0301", "_g", "%"]
        async with self.opened(tmp_path) as store:
            await store.write([_set(group, "k", group) for group in groups])
            for group in groups:
                assert await store.read(group) == {"k": group}, f"group {group!r} has another's value"

    async def test_makes_changes_in_order(self, tmp_path: Path) -> None:
        """Within one write a later change acts on what the earlier ones did."""
        async with self.opened(tmp_path) as store:
            await store.write(
                [_set("g", "a", "1"), _set("g", "a", "2"), _set("g", "b", "1"), _delete("g", "b")]
            )
            assert await store.read("g") == {"a": "2"}, "a set and a delete were not made in order"
            await store.write([_set("g", "c", "1"), StoreChange(group="g"), _set("g", "d", "1")])
            assert await store.read("g") == {"d": "1"}, "deleting the group was not made in order"

    async def test_deletes_what_is_not_there_without_complaint(self, tmp_path: Path) -> None:
        """Deleting a missing key or group, and writing nothing, is harmless."""
        async with self.opened(tmp_path) as store:
            await store.write([_delete("g", "k")])
            await store.write([StoreChange(group="g")])
            await store.write([])
            assert await store.read("g") == {}, "deleting made a key"

    async def test_deletes_one_group_only(self, tmp_path: Path) -> None:
        """Deleting a group leaves the others as they are."""
        async with self.opened(tmp_path) as store:
            await store.write([_set(group, "k", "v") for group in ("g", "gg", "G")])
            await store.write([StoreChange(group="g")])
            left = [group for group in ("g", "gg", "G") if await store.count(group)]
            assert left == ["gg", "G"], f"the groups left are {left!r}"

    async def test_counts_keys(self, tmp_path: Path) -> None:
        """`count` follows sets, replacements and deletions."""
        async with self.opened(tmp_path) as store:
            assert await store.count("g") == 0, "a new store has keys"
            await store.write([_set("g", "a", "1"), _set("g", "b", "1"), _set("g", "a", "2")])
            assert await store.count("g") == 2, "two keys are not counted as two"  # noqa: PLR2004
            await store.write([_delete("g", "a")])
            assert await store.count("g") == 1, "a deleted key is counted"

    async def test_takes_many_changes_and_keys(self, tmp_path: Path) -> None:
        """One write may have thousands of changes, one read may ask for thousands of keys."""
        wanted = {f"{number:04}": str(number) for number in range(2_000)}
        async with self.opened(tmp_path) as store:
            await store.write([_set("g", key, value) for key, value in wanted.items()])
            assert await store.read("g", [*wanted, "missing"]) == wanted, "reading 2,000 keys gave others"
            assert list(await store.read("g")) == list(wanted), "reading the group gave others"

    async def test_writes_all_or_nothing(self, tmp_path: Path) -> None:
        """A write that cannot be made whole changes nothing, and the store goes on."""
        async with self.opened(tmp_path) as store:
            await store.write([_set("g", "a", "before")])
            for many in (1, 2_000):
                bad = [_set("g", "a", "after")] * many + [_set("g", "b", BAD_TEXT)]
                await _wanted(StoreError, store.write(bad), "text that cannot be stored")
                assert await store.read("g") == {"a": "before"}, "half of a failed write was made"
            await store.write([_set("g", "a", "after")])
            assert await store.read("g") == {"a": "after"}, "the store does not work after a failed write"

    async def test_a_write_fails_alone(self, tmp_path: Path) -> None:
        """Of many writes at once only those fail that are at fault."""
        async with self.opened(tmp_path) as store:
            values = [BAD_TEXT if number % 7 == 3 else str(number) for number in range(40)]  # noqa: PLR2004
            writes = [store.write([_set("g", f"{n:02}", value)]) for n, value in enumerate(values)]
            results = await asyncio.gather(*writes, return_exceptions=True)
            for value, result in zip(values, results, strict=True):
                good = isinstance(result, StoreError) if value == BAD_TEXT else result is None
                assert good, f"the write of {value!r} ended as {result!r}"
            found = list((await store.read("g")).values())
            assert found == [value for value in values if value != BAD_TEXT], f"what was kept is {found!r}"

    async def test_keeps_the_order_of_writes(self, tmp_path: Path) -> None:
        """Writes at once are made in the order of their calls: the last one stays."""
        async with self.opened(tmp_path) as store:
            await asyncio.gather(*(store.write([_set("g", "k", str(number))]) for number in range(100)))
            assert await store.read("g") == {"k": "99"}, "an earlier write overtook the last one"

    async def test_a_read_sees_every_write_that_returned(self, tmp_path: Path) -> None:
        """Each of many tasks at once reads at once what it has written."""
        async with self.opened(tmp_path) as store:

            async def write_and_read(key: str) -> None:
                for number in range(10):
                    await store.write([_set("g", key, str(number))])
                    found = await store.read("g", [key])
                    assert found == {key: str(number)}, f"after writing {number} a read gave {found!r}"

            await asyncio.gather(*(write_and_read(str(task)) for task in range(10)))

    async def test_carries_out_a_write_whose_caller_was_cancelled(self, tmp_path: Path) -> None:
        """A write that was called is made, and in its order, whatever becomes of its caller."""
        async with self.opened(tmp_path) as store:
            caller = asyncio.create_task(store.write([_set("g", "a", "1"), _set("g", "b", "1")]))
            await asyncio.sleep(0)
            caller.cancel()
            await asyncio.wait({caller})
            await store.write([_set("g", "b", "2")])
            found = await store.read("g")
            assert found == {"a": "1", "b": "2"}, f"the cancelled write and a later one gave {found!r}"

    async def test_holds_a_quota_of_keys(self, tmp_path: Path) -> None:
        """A key too many is refused and changes nothing; replacing and deleting go on; no quota, no bound."""
        quota = StoreQuota(keys=2, bytes=1000)
        async with self.opened(tmp_path) as store:
            await store.write([_set("g", "a", "1")])
            await store.write([_set("g", "b", "1")], quota=quota)
            await _wanted(LimitExceeded, store.write([_set("g", "c", "1")], quota=quota), "a key too many")
            assert await store.read("g") == {"a": "1", "b": "1"}, "a refused write changed something"
            await store.write([_set("g", "b", "2")], quota=quota)
            await store.write([_set("h", "c", "1")], quota=quota)
            await store.write([_set("g", "c", "1")])
            await _wanted(LimitExceeded, store.write([_set("g", "a", "2")], quota=quota), "a group over it")
            await store.write([_delete("g", "c"), _delete("g", "c"), _delete("g", "never")], quota=quota)
            await store.write([_set("g", "a", "2")], quota=quota)
            found = await store.read("g")
            assert found == {"a": "2", "b": "2"}, f"after making room the group was {found!r}"
            await store.write([StoreChange(group="g"), _set("g", "x", "1"), _set("g", "y", "1")], quota=quota)
            assert await store.count("g") == 1 + 1, "deleting the group made no room"

    async def test_holds_a_quota_of_bytes(self, tmp_path: Path) -> None:
        """Keys and values count as UTF-8, to the byte, whatever is in them; what is replaced counts no more."""
        quota = StoreQuota(keys=100, bytes=20)
        async with self.opened(tmp_path) as store:
            await store.write([_set("g", "é\x00", "\x00" * 6 + "😀")], quota=quota)  # 3 and 10 bytes
            await store.write([_set("g", "k", "x" * 6)], quota=quota)
            await _wanted(
                LimitExceeded, store.write([_set("g", "k", "x" * 7)], quota=quota), "a byte too many"
            )
            await _wanted(
                LimitExceeded, store.write([_set("g", "l", "")], quota=quota), "a key's byte too many"
            )
            assert await store.read("g", ["k", "l"]) == {"k": "x" * 6}, "a refused write changed something"
            await store.write([_set("g", "k", "")], quota=quota)
            await store.write([_set("g", "é\x00", "x" * 16)], quota=quota)
            await store.write([_delete("g", "é\x00"), _set("g", "k", "x" * 19)], quota=quota)
            both = [_set("g", "k", "y"), _set("g", "l", "x" * 18)]
            await _wanted(LimitExceeded, store.write(both, quota=quota), "two changes with a byte too many")
            assert await store.read("g") == {"k": "x" * 19}, "a part of a refused write was made"

    async def test_holds_a_quota_among_many_writers(self, tmp_path: Path) -> None:
        """Of many writes at once just so many succeed as there is room for; others' writes are not harmed."""
        quota = StoreQuota(keys=10, bytes=1000)
        async with self.opened(tmp_path) as store:
            bound = [store.write([_set("g", str(number), "1")], quota=quota) for number in range(40)]
            free = [store.write([_set("h", str(number), "1")]) for number in range(40)]
            mixed = [write for pair in zip(bound, free, strict=True) for write in pair]
            results = await asyncio.gather(*mixed, return_exceptions=True)
            refused = [result for result in results[::2] if isinstance(result, LimitExceeded)]
            assert len(refused) == len(bound) - quota.keys, (
                f"{len(refused)} of 40 writes were refused, wanted 30"
            )
            assert results[1::2] == [None] * 40, "a write without a quota failed beside refused ones"
            assert (await store.count("g"), await store.count("h")) == (10, 40), "not as many as were told"

    async def test_reads_no_more_than_its_limit(self, tmp_path: Path) -> None:
        """What has just the limit is read, a byte more is refused, of a group and of keys."""
        async with self.opened(tmp_path) as store:
            assert await store.read("g", limit_bytes=1) == {}, "an empty group is over no limit"
            await store.write([_set("g", "é", "12345"), _set("g", "b", "1"), _set("other", "c", "x" * 99)])
            assert await store.read("g", limit_bytes=9) == {"b": "1", "é": "12345"}, "a group of the limit"
            await _wanted(LimitExceeded, store.read("g", limit_bytes=8), "a group of a byte more")
            some = await store.read("g", ["é", "é", "missing"], limit_bytes=7)
            assert some == {"é": "12345"}, "keys of the limit, one of them named twice"
            await _wanted(LimitExceeded, store.read("g", ["é", "b"], limit_bytes=8), "keys of a byte more")

    async def test_gives_each_reader_its_own_answer(self, tmp_path: Path) -> None:
        """Changing what a read gave changes neither the store nor another's answer."""
        async with self.opened(tmp_path) as store:
            await store.write([_set("g", "k", "v")])
            first, second = await asyncio.gather(store.read("g", ["k"]), store.read("g", ["k"]))
            first["k"] = "changed"
            (await store.read("g"))["k"] = "changed"
            assert second == {"k": "v"}, "two readers share one answer"
            assert await store.read("g") == {"k": "v"}, "an answer is the store's own"

    async def test_is_used_between_open_and_aclose_only(self, tmp_path: Path) -> None:
        """Before `open` and after `aclose` everything is a UsageError, and so is a second `open`."""
        store = self.make_store()
        await _refuses_all(store, "before open")
        await store.open(tmp_path)
        await _wanted(UsageError, store.open(tmp_path), "a second open")
        await store.aclose()
        await _refuses_all(store, "after aclose")

    async def test_closes_more_than_once(self, tmp_path: Path) -> None:
        """`aclose` is harmless twice, at once too, and where nothing was opened."""
        store = self.make_store()
        await store.open(tmp_path)
        await asyncio.gather(store.aclose(), store.aclose())
        await store.aclose()
        await self.make_store().aclose()

    async def test_finishes_writes_before_it_closes(self, tmp_path: Path) -> None:
        """A write that was called before `aclose` succeeds."""
        store = self.make_store()
        await store.open(tmp_path)
        writes = [asyncio.create_task(store.write([_set("g", str(number), "v")])) for number in range(10)]
        await asyncio.sleep(0)
        await store.aclose()
        results = await asyncio.gather(*writes, return_exceptions=True)
        assert results == [None] * 10, f"writes under way ended as {results!r}"


class DurableStoreContract(StoreContract):
    """The rules for a `StoreBackend` that keeps data beneath its folder."""

    async def test_keeps_data_when_closed(self, tmp_path: Path) -> None:
        """A new store on the same folder has what was written, and not what was deleted."""
        async with self.opened(tmp_path) as store:
            await store.write([_set("g", "a", "1"), _set("g", "b", "1"), _set("h", "a", "1")])
            await store.write([_delete("g", "b"), StoreChange(group="h")])
        async with self.opened(tmp_path) as store:
            found = await store.read("g")
            assert found == {"a": "1"}, f"the group came back as {found!r}"
            assert await store.count("h") == 0, "a deleted group came back"

    async def test_keeps_count_when_closed(self, tmp_path: Path) -> None:
        """What a group has is known to a new store on the same folder, also after refused writes."""
        quota = StoreQuota(keys=3, bytes=12)
        async with self.opened(tmp_path) as store:
            await store.write([_set("g", "a", "12345"), _set("g", "b", "1234")], quota=quota)
            await _wanted(LimitExceeded, store.write([_set("g", "c", "1")], quota=quota), "a byte too many")
        async with self.opened(tmp_path) as store:
            await _wanted(LimitExceeded, store.write([_set("g", "c", "1")], quota=quota), "the same again")
            await store.write([_set("g", "c", "")], quota=quota)
            await _wanted(LimitExceeded, store.write([_set("g", "", "")], quota=quota), "a key too many")

    async def test_keeps_data_when_killed(self, tmp_path: Path) -> None:
        """What was acknowledged is in the folder by then: a copy of it, made while the store is open, has it all.

        That is what a process that is killed leaves. Whether it outlives a power cut no test can show.
        """
        copy = tmp_path / "copy"
        folder = tmp_path / "folder"
        await asyncio.to_thread(folder.mkdir)
        wanted = {f"{number:02}": str(number) * 999 for number in range(40)}
        async with self.opened(folder) as store:
            await asyncio.gather(*(store.write([_set("g", key, value)]) for key, value in wanted.items()))
            await store.write([_delete("g", "07"), _set("g", "08", "new")])
            await asyncio.to_thread(shutil.copytree, folder, copy)
        del wanted["07"]
        wanted["08"] = "new"
        async with self.opened(copy) as store:
            found = await store.read("g")
            assert found == wanted, f"of {len(wanted)} keys that were acknowledged {len(found)} came back"

    async def test_keeps_folders_apart(self, tmp_path: Path) -> None:
        """A store on another folder has other data."""
        other = tmp_path / "other"
        await asyncio.to_thread(other.mkdir)
        async with self.opened(tmp_path) as store:
            await store.write([_set("g", "k", "v")])
            async with self.opened(other) as another:
                assert await another.read("g") == {}, "two folders share their data"


def _set(group: str, key: str, value: str) -> StoreChange:
    return StoreChange(group=group, key=key, value=value)


def _delete(group: str, key: str) -> StoreChange:
    return StoreChange(group=group, key=key)


async def _refuses_all(store: StoreBackend, when: str) -> None:
    await _wanted(UsageError, store.read("g", ["k"]), f"read of a key {when}")
    await _wanted(UsageError, store.read("g"), f"read of a group {when}")
    await _wanted(UsageError, store.count("g"), f"count {when}")
    await _wanted(UsageError, store.write([_set("g", "k", "v")]), f"write {when}")


async def _wanted(kind: type[CoreDenoError], operation: Awaitable[object], what: str) -> None:
    try:
        result = await operation
    except kind:
        return
    raise AssertionError(f"{what}: it gave {result!r}, wanted {kind.__name__}")
