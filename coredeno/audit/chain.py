r"""The chain of the audit log: what a row's digest covers, and how a break is found. Pure: no I/O.

The digest of a row is the SHA-256 of these bytes, as 64 hex digits:

```
coredeno-audit-1\n
then of each of seq, at, kind, module, fields, before:  <its bytes>:<the text as UTF-8>,
```

`<its bytes>` is how many bytes the text has, in decimal (a netstring), so that no two rows have the same bytes. `seq`
is written in decimal, `before` is the digest of the row before, and 64 zeros for the first one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from msgspec import structs

from coredeno.errors import AuditBroken
from coredeno.interfaces import AuditHead, AuditRow

NO_DIGEST = "0" * 64
"""What stands for the row before the first."""

EMPTY = AuditHead(seq=0, digest=NO_DIGEST)
"""The head of a log without rows."""

_DOMAIN = b"coredeno-audit-1\n"


def digest_of(row: AuditRow) -> str:
    """What `row.digest` must be. Text that is no UTF-8 (somebody tampered with it) is hashed as it lies there."""
    texts = (str(row.seq), row.at, row.kind, row.module, row.fields, row.before)
    parts = [text.encode("utf-8", "surrogateescape") for text in texts]
    return hashlib.sha256(_DOMAIN + b"".join([b"%d:%b," % (len(part), part) for part in parts])).hexdigest()


def linked(head: AuditHead, rows: Iterable[AuditRow]) -> list[AuditRow]:
    """The rows with sequence numbers, and digests that continue the chain behind `head`; theirs are not looked at."""
    chained: list[AuditRow] = []
    for row in rows:
        next_row = structs.replace(row, seq=head.seq + 1, before=head.digest)
        next_row = structs.replace(next_row, digest=digest_of(next_row))
        chained.append(next_row)
        head = AuditHead(seq=next_row.seq, digest=next_row.digest)
    return chained


class ChainCheck:
    """Takes the rows of a log in the order of their numbers, and raises at the first that breaks the chain.

    Args:
        first: the number that the first row must have. If it is not 1, what its `before` says is believed.
        kept: a head that was kept elsewhere, that the log must hold.
    """

    def __init__(self, *, first: int = 1, kept: AuditHead | None = None) -> None:
        self._next = first
        self._before = NO_DIGEST if first == 1 else None
        self._kept = kept

    @property
    def head(self) -> AuditHead:
        """Where the chain has got to."""
        return AuditHead(seq=self._next - 1, digest=self._before or NO_DIGEST)

    def take(self, rows: Sequence[AuditRow]) -> None:
        """Take the next rows.

        Raises:
            AuditBroken: one is changed, missing, or not where it was.
        """
        for row in rows:
            if row.seq != self._next:
                raise AuditBroken(self._next, f"it is missing; the next one that is there is row {row.seq}")
            if digest_of(row) != row.digest:
                raise AuditBroken(row.seq, "it is not what was written: changed, or moved here")
            if self._before is not None and row.before != self._before:
                raise AuditBroken(
                    row.seq,
                    f"it does not follow row {row.seq - 1}: one of the two was put in its place later",
                )
            if self._kept is not None and row.seq == self._kept.seq and row.digest != self._kept.digest:
                raise AuditBroken(row.seq, "it is not the one whose digest was kept: the chain was made anew")
            self._next, self._before = row.seq + 1, row.digest

    def finish(self) -> None:
        """All rows were taken.

        Raises:
            AuditBroken: the log ends before the head that was kept.
        """
        if self._kept is not None and self._kept.seq >= self._next:
            raise AuditBroken(self._next, f"the log ends before it, wanted rows up to {self._kept.seq}")
