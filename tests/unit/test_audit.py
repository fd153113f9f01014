"""`Audit` on a log in memory: what is told is written in order, bounded, and checked; a failing disk stops nobody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from msgspec.structs import replace

from coredeno import AuditBroken, Hooks, PermissionRequest, PluginHost
from coredeno.audit.audit import LIMIT_WAITING, RETRY_S, Audit
from coredeno.audit.chain import EMPTY, linked
from coredeno.audit.throttle import LIMIT_REPEATING, WINDOW_S
from coredeno.errors import PluginRaised, StoreError, UsageError
from coredeno.events import AuditFailed, Event, ModuleStarted, PermissionDenied, PluginRemoved
from coredeno.health import PartHealth
from coredeno.interfaces import AuditHead, AuditRow
from coredeno.testing import MemoryAudit, MemoryFetcher, MemorySource, TurnedClock, fake_host
from tests.shops import plugin_files

FULL = StoreError("audit: writing: disk is full")


class Bench:
    """An `Audit` that is open, and what is round it."""

    def __init__(self) -> None:
        self.log = MemoryAudit()
        self.clock = TurnedClock()
        self.told: list[Event] = []
        self.audit = Audit(self.log, clock=self.clock, emit=self.told.append)

    async def rows(self, **wanted) -> list[AuditRow]:
        return [row async for row in self.audit.entries(**wanted)]

    async def facts(self) -> list[dict]:
        return [msgspec.json.decode(row.fields) for row in await self.rows()]


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench()
    await bench.audit.open(tmp_path)
    yield bench
    bench.log.fault = None
    await bench.audit.aclose()


def removed(number: int) -> PluginRemoved:
    return PluginRemoved(module=f"m{number}")


def denied(resource: object) -> PermissionDenied:
    return PermissionDenied(module="m", permission="read", resource=str(resource), remedy="r")


async def test_what_is_told_is_written_in_its_order(bench: Bench):
    """Numbered from 1, chained, with the time in UTC."""
    for number in range(600):
        bench.audit.record(removed(number))
    head = await bench.audit.head()
    assert [row.module for row in bench.log.rows] == [f"m{number}" for number in range(600)]
    assert bench.log.rows == linked(EMPTY, bench.log.rows)
    assert head == AuditHead(seq=600, digest=bench.log.rows[-1].digest)
    assert bench.log.rows[0].at.endswith("+00:00")
    assert await bench.audit.verify() == head


async def test_a_flush_waits_for_the_disk_and_recording_does_not(bench: Bench):
    """`record` only queues; what it queued is written by itself in the next turns of the loop."""
    bench.audit.record(removed(1))
    assert bench.log.rows == []
    await bench.audit.flush()
    assert len(bench.log.rows) == 1
    bench.audit.record(removed(2))
    await asyncio.sleep(0.01)
    assert len(bench.log.rows) == 2


async def test_entries_gives_what_is_asked_for(bench: Bench):
    """From a number on, at most so many, of a module or kind; over more rows than one page."""
    for number in range(2500):
        bench.audit.record(removed(number % 5))
        if number % 500 == 0:
            await bench.audit.flush()
    bench.audit.record(ModuleStarted(module="m1", version="1", load_s=1.0))
    assert [row.seq for row in await bench.rows()] == list(range(1, 2502))
    assert [row.seq for row in await bench.rows(since=2499, limit=2)] == [2499, 2500]
    assert len(await bench.rows(limit=1500)) == 1500
    assert await bench.rows(limit=0) == []
    assert len(await bench.rows(module="m1")) == 501
    [row] = await bench.rows(module="m1", kind="ModuleStarted")
    assert row.fields == '{"load_s":1.0,"version":"1"}'


async def test_a_flood_of_denials_is_a_few_rows(bench: Bench):
    """The first ones at once; a minute later, what was repeated and how many more there were."""
    for number in range(10_000):
        bench.audit.record(denied(number % 100))
    await bench.audit.flush()
    assert len(bench.log.rows) == LIMIT_REPEATING
    await bench.clock.turn(WINDOW_S)
    facts = await bench.facts()
    assert len(facts) == 2 * LIMIT_REPEATING + 1
    assert facts[LIMIT_REPEATING]["repeated"] == 99
    assert facts[-1] == {"further": 4000}
    bench.audit.record(denied(1))
    assert len(await bench.rows()) == len(facts) + 1


async def test_closing_tells_what_was_counted(tmp_path: Path):
    """No window is waited for, and nothing is taken afterwards; closing twice is harmless."""
    bench = Bench()
    await bench.audit.open(tmp_path)
    for _ in range(3):
        bench.audit.record(denied("a"))
    await bench.audit.aclose()
    await bench.audit.aclose()
    bench.audit.record(denied("b"))
    assert [msgspec.json.decode(row.fields).get("repeated") for row in bench.log.rows] == [None, 2]
    with pytest.raises(UsageError, match="audit: flush: the host does not run"):
        await bench.audit.flush()


async def test_a_closing_that_is_cancelled_goes_on(tmp_path: Path):
    """What was queued is written all the same."""
    bench = Bench()
    await bench.audit.open(tmp_path)
    bench.audit.record(removed(1))
    closing = asyncio.create_task(bench.audit.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await bench.audit.aclose()
    assert len(bench.log.rows) == 1


async def test_what_is_told_before_it_is_open_is_written_then(tmp_path: Path):
    """A part that starts beside the log may be first."""
    bench = Bench()
    bench.audit.record(removed(1))
    await bench.audit.settle()
    await bench.audit.open(tmp_path)
    assert [row.module for row in await bench.rows()] == ["m1"]
    await bench.audit.aclose()


async def test_a_full_disk_is_told_and_tried_again(bench: Bench, caplog: pytest.LogCaptureFixture):
    """Once in the log and once as an event; `flush` raises it, `settle` does not; no row is lost."""
    bench.log.fault = FULL
    bench.audit.record(removed(1))
    await bench.audit.settle()
    with pytest.raises(StoreError, match="disk is full"):
        await bench.audit.flush()
    bench.audit.record(removed(2))
    await asyncio.sleep(0.01)
    assert bench.audit.problem == str(FULL)
    assert bench.told == [AuditFailed(problem=str(FULL))]
    assert [record.levelno for record in caplog.records if record.name == "coredeno.audit"] == [logging.ERROR]
    bench.log.fault = None
    await bench.clock.turn(RETRY_S)
    await bench.audit.flush()
    assert bench.audit.problem == ""
    assert [row.module for row in bench.log.rows] == ["m1", "m2"]
    assert bench.log.rows == linked(EMPTY, bench.log.rows)


async def test_what_waits_for_a_full_disk_is_bounded(bench: Bench):
    """What is above the bound is counted, and a row says so where it happened."""
    bench.log.fault = FULL
    for number in range(LIMIT_WAITING + 10):
        bench.audit.record(removed(number))
    with pytest.raises(StoreError):
        await bench.audit.flush()
    bench.log.fault = None
    await bench.audit.flush()
    assert len(bench.log.rows) == LIMIT_WAITING + 1
    assert (bench.log.rows[-1].kind, bench.log.rows[-1].fields) == ("AuditGap", '{"lost":10}')
    await bench.audit.verify()


def fail_after(log: MemoryAudit, *changes: Callable[[list[AuditRow]], list[AuditRow]]) -> None:
    """So many next writes fail; what the log holds then is made of what it would hold without that."""
    append, left = log.append, list(changes)

    async def fails_afterwards(rows: Sequence[AuditRow]) -> None:
        await append(rows)
        if left:
            log.rows = left.pop(0)(log.rows)
            raise FULL

    log.append = fails_afterwards  # type: ignore[method-assign]


@pytest.mark.parametrize("came_through", [0, 1, 3, 5])
async def test_a_write_that_failed_is_made_up_for(bench: Bench, came_through: int):
    """Whatever of it is in the log, no row is missing and none is there twice."""
    bench.audit.record(removed(0))
    await bench.audit.flush()
    fail_after(bench.log, lambda rows: rows[: 1 + came_through])
    for number in range(1, 6):
        bench.audit.record(removed(number))
    with pytest.raises(StoreError, match="disk is full"):
        await bench.audit.flush()
    if came_through < 5:
        bench.audit.record(removed(6))
    await bench.audit.flush()
    assert bench.audit.problem == ""
    assert [row.module for row in bench.log.rows] == [f"m{number}" for number in range(7 - came_through // 5)]
    assert await bench.audit.verify() == await bench.audit.head()


@pytest.mark.parametrize("came_through", [LIMIT_WAITING, LIMIT_WAITING + 1])
async def test_a_gap_that_came_through_is_told_once(bench: Bench, came_through: int):
    """The row that says how many were lost is one of those of which it is seen whether they are there."""
    bench.log.fault = FULL
    for number in range(LIMIT_WAITING + 10):
        bench.audit.record(removed(number))
    with pytest.raises(StoreError):
        await bench.audit.flush()
    bench.log.fault = None
    writes = -(-LIMIT_WAITING // 256)
    fail_after(bench.log, *[lambda rows: rows] * (writes - 1), lambda rows: rows[:came_through])
    for _ in range(writes):
        with pytest.raises(StoreError):
            await bench.audit.flush()
    await bench.audit.flush()
    kinds = [row.kind for row in bench.log.rows]
    assert kinds == ["PluginRemoved"] * LIMIT_WAITING + ["AuditGap"]
    bench.audit.record(removed(1))
    await bench.audit.flush()
    assert [row.kind for row in bench.log.rows[len(kinds) :]] == ["PluginRemoved"]
    await bench.audit.verify()


FOREIGN = AuditRow(at="t", kind="k")


def made_anew(rows: list[AuditRow]) -> list[AuditRow]:
    return linked(EMPTY, [replace(rows[0], module="x"), *rows[1:]])


def with_foreign(rows: list[AuditRow], kept: int) -> list[AuditRow]:
    return linked(EMPTY, [*rows[:kept], FOREIGN])


@pytest.mark.parametrize(
    ("change", "seq", "problem"),
    [
        (lambda rows: [], 3, "the log ends before it, wanted rows up to 3"),
        (lambda rows: rows[:2], 3, "the log ends before it"),
        (made_anew, 3, "it is not the one whose digest was kept"),
        (lambda rows: made_anew(rows)[:3], 3, "it is not the one whose digest was kept"),
        (lambda rows: [*rows[:2], replace(rows[2], kind="k"), *rows[3:]], 3, "it is not what was written"),
        (lambda rows: [*rows[:3], *rows[4:]], 4, "it is missing"),
        (lambda rows: with_foreign(rows, 3), 4, "it is none that this host has written"),
        (lambda rows: with_foreign(rows, 5), 6, "it is none that this host has written"),
    ],
    ids=["empty", "cut", "anew", "anew and cut", "changed", "gap", "foreign", "foreign behind"],
)
async def test_an_end_that_is_not_what_was_acknowledged_is_no_end_to_go_on_from(
    bench: Bench, change: Callable[[list[AuditRow]], list[AuditRow]], seq: int, problem: str
):
    """Whoever changes the log while writes fail is found out: nothing more is written to it, and that is told."""
    for number in range(3):
        bench.audit.record(removed(number))
    kept = await bench.audit.head()
    fail_after(bench.log, change)
    for number in range(2):
        bench.audit.record(removed(number))
    with pytest.raises(StoreError):
        await bench.audit.flush()
    found = list(bench.log.rows)
    for _ in range(2):
        with pytest.raises(AuditBroken, match=problem) as caught:
            await bench.audit.flush()
        assert caught.value.seq == seq
        await bench.clock.turn(RETRY_S)
    assert bench.log.rows == found
    assert [type(event) for event in bench.told] == [AuditFailed, AuditFailed]
    assert problem in bench.told[1].problem  # type: ignore[attr-defined]
    assert bench.audit._head == kept


async def test_an_end_that_cannot_be_read_after_a_failed_write_is_asked_for_again(bench: Bench):
    """Nothing is written, and nothing concluded, before it is known what is there."""
    fail_after(bench.log, lambda rows: rows)
    bench.audit.record(removed(1))
    with pytest.raises(StoreError):
        await bench.audit.flush()
    bench.log.fault = FULL
    with pytest.raises(StoreError):
        await bench.audit.flush()
    bench.log.fault = None
    await bench.audit.flush()
    assert [row.module for row in bench.log.rows] == ["m1"]


async def test_a_log_that_lies_about_its_end_after_a_failed_write_is_not_written_to(bench: Bench):
    """`last` is a promise about what `read` gives, then too."""
    fail_after(bench.log, lambda rows: rows[:1])
    for number in range(3):
        bench.audit.record(removed(number))
    with pytest.raises(StoreError):
        await bench.audit.flush()

    async def last() -> int:
        return 2

    bench.log.last = last  # type: ignore[method-assign]
    with pytest.raises(AuditBroken, match="row 2: it is missing, though the log says that it has 2"):
        await bench.audit.flush()


async def test_a_log_with_a_bug_of_its_own_is_a_log_that_fails(bench: Bench):
    """Whatever an app's own log raises, the host goes on, and tells."""

    async def append(rows):
        raise KeyError("bug")

    bench.log.append = append
    bench.audit.record(removed(1))
    with pytest.raises(StoreError, match="audit: KeyError: 'bug'"):
        await bench.audit.flush()


async def test_closing_on_a_full_disk_says_what_is_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """It does not wait for better times."""
    bench = Bench()
    await bench.audit.open(tmp_path)
    bench.log.fault = FULL
    bench.audit.record(removed(1))
    await bench.audit.aclose()
    assert "the audit log lost 1 rows: audit: writing: disk is full" in caplog.text


@pytest.mark.parametrize("place", [0, 1500, 2999])
async def test_verify_finds_a_change_wherever_it_is(place: int, tmp_path: Path):
    """In the first page, across pages, in the last row; it says which row."""
    rows = linked(EMPTY, [AuditRow(at="t", kind="k")] * 3000)
    log = MemoryAudit(rows)
    audit = Audit(log, clock=TurnedClock(), emit=lambda event: None)
    await audit.open(tmp_path)
    kept = await audit.verify()
    assert kept.seq == 3000
    log.rows[place] = replace(rows[place], fields='{"changed":true}')
    with pytest.raises(AuditBroken) as caught:
        await audit.verify()
    assert caught.value.seq == place + 1
    log.rows = rows[:2900]
    assert (await audit.verify()).seq == 2900
    with pytest.raises(AuditBroken, match="row 2901: the log ends before it"):
        await audit.verify(kept)
    await audit.aclose()


async def test_a_host_does_not_start_on_an_end_that_was_changed(tmp_path: Path):
    """The log is left as it is, and the host leaves nothing behind."""
    rows = linked(EMPTY, [AuditRow(at="t", kind="k")] * 100)
    for damaged in (
        [*rows[:98], replace(rows[98], kind="other"), rows[99]],
        [*rows[:50], *rows[51:]],
    ):
        log = MemoryAudit(damaged)
        host = fake_host(tmp_path, {}, audit=log)
        with pytest.raises(AuditBroken, match="put it aside"):
            await host.start()
        assert log.rows == damaged


async def test_a_log_that_lies_about_its_end_is_refused(tmp_path: Path):
    """`last` is a promise about what `read` gives."""
    log = MemoryAudit(linked(EMPTY, [AuditRow(at="t", kind="k")] * 3))

    async def last() -> int:
        return 5

    log.last = last
    audit = Audit(log, clock=TurnedClock(), emit=lambda event: None)
    with pytest.raises(AuditBroken, match="row 4"):
        await audit.open(tmp_path)
    await audit.aclose()


# --- the host's events


class Reader:
    """A plugin that asks for what it has not been granted."""

    async def init(self, core):
        self._core = core

    async def read(self, path: str) -> str:
        return (await self._core.files.read(path)).decode()


def reader_host(root: Path, log: MemoryAudit) -> PluginHost:
    return fake_host(root, {"reader": Reader}, audit=log)


async def test_a_modules_life_is_in_the_log(tmp_path: Path):
    """Start, denial and stop, also what happens while the host stops."""
    log = MemoryAudit()
    async with reader_host(tmp_path, log) as host:
        module = await host.load_source(MemorySource("name: reader\ncode: reader\nversion: '1'\n"))
        for _ in range(3):
            with pytest.raises(PluginRaised, match="PermissionDenied"):
                await module.call("read", "secret.txt")
        assert (await host.audit.head()).seq == 2
        assert (await host.audit.verify()).seq == 2
    assert [(row.kind, row.module) for row in log.rows] == [
        ("ModuleStarted", "reader"),
        ("PermissionDenied", "reader"),
        ("ModuleStopped", "reader"),
        ("PermissionDenied", "reader"),
    ]
    assert '"repeated":2' in log.rows[-1].fields
    assert log.rows == linked(EMPTY, log.rows)


async def test_the_log_of_a_host_that_has_not_started_cannot_be_had(tmp_path: Path):
    """A usage error, as for the store."""
    with pytest.raises(UsageError, match="has not started"):
        _ = reader_host(tmp_path, MemoryAudit()).audit


class SlowAudit(MemoryAudit):
    """A disk that takes its time."""

    async def append(self, rows: Sequence[AuditRow]) -> None:
        await asyncio.sleep(0.02)
        await super().append(rows)


async def test_what_the_app_changes_is_durable_when_the_call_returns(tmp_path: Path):
    """Install, update, rollback and removal wait for their row, however slow the disk is."""
    log = SlowAudit()
    published = {"v1": plugin_files()}
    fetcher = MemoryFetcher({"shop": published})
    async with fake_host(tmp_path, {"tagger": Reader}, audit=log, fetcher=fetcher) as host:
        await host.install("shop")
        assert log.rows[-1].kind == "PluginInstalled"
        published["v2"] = plugin_files(version="2.0.0")
        await host.update("tagger")
        assert log.rows[-1].kind == "PluginUpdated"
        await host.rollback("tagger")
        assert log.rows[-1].kind == "PluginRolledBack"
        await host.remove("tagger")
        assert log.rows[-1].kind == "PluginRemoved"


async def test_a_permission_that_is_given_or_taken_back_is_durable_too(tmp_path: Path):
    """The module is told that it has it, and the app that it is revoked, when the log has the row."""
    log = SlowAudit()

    class Asking:
        async def init(self, core: Any) -> None:
            self.core = core

        async def ask(self) -> Any:
            answer = await self.core.permissions.request({"read": ["photos"]})
            return [answer["granted"], log.rows[-1].kind]

    class Granting(Hooks):
        async def permission_requested(self, request: PermissionRequest) -> bool:
            return True

    manifest = "code: asker\nversion: 1.0\npermissions: {optional: {read: [photos]}}\n"
    async with fake_host(tmp_path, {"asker": Asking}, audit=log, hooks=[Granting()]) as host:
        module = await host.load_source(MemorySource(manifest))
        assert await module.call("ask") == [True, "PermissionGranted"]
        assert await host.revoke("asker", "files.read") == ("photos",)
        assert log.rows[-1].kind == "PermissionRevoked"
        assert (await host.health()).audit == PartHealth(ok=True)


async def test_an_install_counts_though_its_row_cannot_be_written(tmp_path: Path):
    """The host goes on: the app is told by an event, and by `problem`."""
    log = MemoryAudit()
    fetcher = MemoryFetcher({"shop": {"v1": plugin_files()}})
    async with fake_host(tmp_path, {}, audit=log, fetcher=fetcher) as host:
        events = host.events()
        log.fault = FULL
        await host.install("shop")
        assert [plugin.code for plugin in await host.installed()] == ["tagger"]
        assert host.audit.problem == str(FULL)
        assert (await host.health()).audit == PartHealth(ok=False, why=str(FULL))
        kinds = {type(await anext(events)).__name__ for _ in range(2)}
        assert kinds == {"PluginInstalled", "AuditFailed"}
        log.fault = None
    assert [row.kind for row in log.rows] == ["PluginInstalled"]
