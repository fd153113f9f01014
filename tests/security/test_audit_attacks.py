"""Attacks on the log of what happened, by who can write to its file."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec import structs

from coredeno import AuditBroken
from coredeno.audit.chain import EMPTY, digest_of, linked
from coredeno.interfaces import AuditRow
from tests.security.arena import Arena

pytestmark = pytest.mark.isolation("process")

DENIED = """
    let core;
    export function init(c) { core = c; }
    export const read = () => core.files.readText("data/a.txt").catch((error) => error.name);
"""


class Rewriting:
    """Somebody who can write to the file of the audit log, while the host runs."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def rows(self) -> list[AuditRow]:
        """All that it has."""
        with contextlib.closing(sqlite3.connect(self._file)) as connection:
            columns = ", ".join(AuditRow.__struct_fields__)
            return [
                AuditRow(*values)
                for values in connection.execute(f"SELECT {columns} FROM entry ORDER BY seq")
            ]

    def put(self, rows: Sequence[AuditRow]) -> None:
        """Let it have these instead."""
        with contextlib.closing(sqlite3.connect(self._file)) as connection, connection:
            for trigger in ("entry_update", "entry_delete", "entry_insert"):
                connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
            connection.execute("DELETE FROM entry")
            connection.executemany(
                "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?)", map(structs.astuple, rows)
            )


def digested(row: AuditRow) -> AuditRow:
    """The row with the digest that it must have."""
    return structs.replace(row, digest=digest_of(row))


def forgeries(rows: Sequence[AuditRow], victim: int) -> dict[str, tuple[Sequence[AuditRow], int]]:
    """What can be done to hide the row at this place, and the number of the row at which that is found."""
    before, row, after = rows[:victim], rows[victim], rows[victim + 1 :]
    shifted = [structs.replace(each, seq=each.seq - 1) for each in after]
    return {
        "other fields": ([*before, structs.replace(row, fields="{}"), *after], row.seq),
        "another module": ([*before, structs.replace(row, module="bystander"), *after], row.seq),
        "another kind": ([*before, structs.replace(row, kind="ModuleLoaded"), *after], row.seq),
        "another time": ([*before, structs.replace(row, at=rows[0].at), *after], row.seq),
        "a digest of its own": (
            [*before, digested(structs.replace(row, module="bystander")), *after],
            row.seq + 1,
        ),
        "left out": ([*before, *after], row.seq),
        "left out, the others moved up": ([*before, *shifted], row.seq),
        "left out, the others digested anew": ([*before, *map(digested, shifted)], row.seq),
        "a copy of another": ([*before, structs.replace(rows[0], seq=row.seq), *after], row.seq),
    }


async def test_audit_rewritten(unopened_arena: Arena):
    """Who writes to the audit log's own file hides nothing: `verify` finds each row that is not as it was written."""
    arena = unopened_arena
    async with arena.open():
        audit = arena.host.audit
        attacker = await arena.attacker(DENIED)
        assert await attacker.call("read") == "PermissionDenied"
        await attacker.unload()
        kept = await audit.head()
        log = Rewriting(arena.root / ".core" / "audit.db")
        rows = await asyncio.to_thread(log.rows)
        [victim] = (place for place, row in enumerate(rows) if row.kind == "PermissionDenied")
        assert victim + 1 < len(rows)
        for name, (forged, seq) in forgeries(rows, victim).items():
            await asyncio.to_thread(log.put, forged)
            with pytest.raises(AuditBroken) as caught:
                await audit.verify()
            assert caught.value.seq == seq, name
        # A chain that is whole, of other rows or of fewer, is shown by a head that was kept elsewhere.
        anew = linked(EMPTY, [row for row in rows if row.kind != "PermissionDenied"])
        for whole in (rows[:victim], anew):
            await asyncio.to_thread(log.put, whole)
            assert (await audit.verify()).seq == len(whole)
            with pytest.raises(AuditBroken):
                await audit.verify(kept)
        await asyncio.to_thread(log.put, rows)
        assert await audit.verify(kept) == kept
