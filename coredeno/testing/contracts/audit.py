"""What every `AuditLog` must do. Subclass `AuditContract` in your tests; pytest-asyncio (auto) runs it.

```python
class TestMyAudit(AuditContract):
    def make_audit(self) -> AuditLog:
        return MyAudit()
```
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from coredeno.errors import CoreDenoError, StoreError, UsageError
from coredeno.interfaces import AuditLog, AuditRow

ODD_TEXTS = ("", " ", "\x00", "a\x00b", "'; DROP TABLE entry; --", "é", "\u2028", "\U0001f600", "NULL")
"""Text that naive storage changes, confuses or cuts."""


def rows(first: int, last: int) -> list[AuditRow]:
    """Rows with these numbers, of two modules and two kinds; the chain is not the log's matter."""
    return [
        AuditRow(
            seq=seq,
            at="2026-01-01T00:00:00.000000+00:00",
            kind="PermissionDenied" if seq % 2 else "ModuleStarted",
            module="even" if seq % 4 < 2 else "odd",  # noqa: PLR2004
            fields=f'{{"number":{seq}}}',
            before=f"{seq - 1:064x}",
            digest=f"{seq:064x}",
        )
        for seq in range(first, last + 1)
    ]


class AuditContract:
    """The rules for an `AuditLog`, one test each. `tmp_path` is pytest's."""

    def make_audit(self) -> AuditLog:
        """Give a new log that has not been opened; called several times in a test."""
        raise NotImplementedError("AuditContract: make_audit: wanted a method that gives a new AuditLog")

    @asynccontextmanager
    async def opened(self, folder: Path) -> AsyncIterator[AuditLog]:
        """A new log, opened, and closed in the end."""
        audit = self.make_audit()
        try:
            await audit.open(folder)
            yield audit
        finally:
            await audit.aclose()

    async def test_a_new_log_is_empty(self, tmp_path: Path) -> None:
        """No rows, and the last number is 0."""
        async with self.opened(tmp_path) as audit:
            assert await audit.last() == 0
            assert await audit.read(1, 10) == []

    async def test_gives_back_what_was_added(self, tmp_path: Path) -> None:
        """Row by row, in the order of their numbers, from the one that is asked for, at most so many."""
        async with self.opened(tmp_path) as audit:
            await audit.append(rows(1, 3))
            await audit.append(rows(4, 10))
            assert await audit.last() == 10  # noqa: PLR2004
            assert await audit.read(1, 100) == rows(1, 10)
            assert await audit.read(4, 3) == rows(4, 6)
            assert await audit.read(11, 3) == []

    async def test_gives_those_of_a_module_and_kind(self, tmp_path: Path) -> None:
        """Both filters, each alone and together; the limit counts what is given."""
        async with self.opened(tmp_path) as audit:
            everything = rows(1, 20)
            await audit.append(everything)
            odd = [row for row in everything if row.module == "odd"]
            denied = [row for row in everything if row.kind == "PermissionDenied"]
            assert await audit.read(1, 100, module="odd") == odd
            assert await audit.read(1, 100, kind="PermissionDenied") == denied
            assert (
                await audit.read(1, 2, module="odd", kind="PermissionDenied")
                == [row for row in odd if row in denied][:2]
            )
            assert await audit.read(1, 100, module="nobody") == []

    async def test_keeps_any_text(self, tmp_path: Path) -> None:
        """What is empty, odd or looks like SQL comes back as it was."""
        odd = [
            AuditRow(index + 1, text, text, text, text, text, text) for index, text in enumerate(ODD_TEXTS)
        ]
        async with self.opened(tmp_path) as audit:
            await audit.append(odd)
            assert await audit.read(1, 100) == odd

    async def test_refuses_what_does_not_go_on(self, tmp_path: Path) -> None:
        """A number that is there, one that leaves a gap, or one out of order: nothing is added."""
        async with self.opened(tmp_path) as audit:
            await audit.append(rows(1, 3))
            for wrong in (rows(3, 4), rows(5, 5), [*rows(4, 5), *rows(5, 5)]):
                assert await _refused(audit, wrong, StoreError)
                assert await audit.read(1, 10) == rows(1, 3)

    async def test_can_be_used_while_it_is_open_only(self, tmp_path: Path) -> None:
        """A usage error before, and afterwards; closing is harmless twice, and without opening."""
        audit = self.make_audit()
        assert await _refused(audit, rows(1, 1), UsageError)
        await audit.open(tmp_path)
        await audit.aclose()
        await audit.aclose()
        assert await _refused(audit, rows(1, 1), UsageError)
        await self.make_audit().aclose()


class DurableAuditContract(AuditContract):
    """For logs that outlive their host."""

    async def test_another_one_finds_what_was_added(self, tmp_path: Path) -> None:
        """And goes on from there."""
        async with self.opened(tmp_path) as audit:
            await audit.append(rows(1, 3))
        async with self.opened(tmp_path) as audit:
            await audit.append(rows(4, 4))
            assert await audit.read(1, 10) == rows(1, 4)


async def _refused(audit: AuditLog, wrong: Sequence[AuditRow], kind: type[CoreDenoError]) -> bool:
    try:
        await audit.append(wrong)
    except kind:
        return True
    return False
