from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from coredeno.audit.sqlite import SqliteAudit
from coredeno.interfaces import AuditLog, AuditRow
from coredeno.testing.contracts.audit import AuditContract, DurableAuditContract
from coredeno.testing.memory_audit import MemoryAudit


class TestMemoryAudit(AuditContract):
    def make_audit(self) -> AuditLog:
        return MemoryAudit()


class TestSqliteAudit(DurableAuditContract):
    def make_audit(self) -> AuditLog:
        return SqliteAudit()


class TakesAnything(MemoryAudit):
    async def append(self, rows: Sequence[AuditRow]) -> None:
        await self.last()
        self.rows += rows


class AddsByHalves(MemoryAudit):
    async def append(self, rows: Sequence[AuditRow]) -> None:
        for row in rows:
            await super().append([row])


class IgnoresTheLimit(MemoryAudit):
    async def read(
        self, first: int, limit: int, *, module: str | None = None, kind: str | None = None
    ) -> list[AuditRow]:
        return await super().read(first, 10**6, module=module, kind=kind)


class IgnoresTheKind(MemoryAudit):
    async def read(
        self, first: int, limit: int, *, module: str | None = None, kind: str | None = None
    ) -> list[AuditRow]:
        return await super().read(first, limit, module=module)


@pytest.mark.parametrize(
    ("make", "test"),
    [
        (TakesAnything, "test_refuses_what_does_not_go_on"),
        (AddsByHalves, "test_refuses_what_does_not_go_on"),
        (IgnoresTheLimit, "test_gives_back_what_was_added"),
        (IgnoresTheKind, "test_gives_those_of_a_module_and_kind"),
    ],
)
async def test_the_suite_finds_a_wrong_log(make: type[MemoryAudit], test: str, tmp_path: Path):
    """Each rule is one that a log can break, and fails then."""
    contract = AuditContract()
    contract.make_audit = make  # type: ignore[method-assign]
    with pytest.raises(AssertionError):
        await getattr(contract, test)(tmp_path)
