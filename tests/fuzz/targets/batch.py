"""The Session's message: read and written again it is the same, and no longer than what it came from."""

from __future__ import annotations

from coredeno.errors import ProtocolError
from coredeno.gateway.batch import Batch
from tests.fuzz.shape import require, require_equal, value_of

SEEDS = [
    Batch(b'[{"jsonrpc":"2.0","id":1,"method":"m"}]', [b"abc", b"", b"x" * 200]).SerializeToString(),
    b"\x0a\x02[]\x12\x01a\x18\x96\x01\x25abcd\x29abcdefgh\x0a\x02[]",
    b"",
]


def target(data: bytes) -> None:
    batch = value_of(lambda: Batch.FromString(data), ProtocolError)
    if batch is None:
        return
    require(len(batch.messages) + sum(map(len, batch.attachments)) <= len(data), "no more than came")
    again = Batch.FromString(batch.SerializeToString())
    require_equal(
        (again.messages, list(again.attachments)), (batch.messages, list(batch.attachments)), "read again"
    )
    longer = Batch.FromString(data + b"\x12\x01x")  # one more attachment
    require_equal(
        (longer.messages, list(longer.attachments)),
        (batch.messages, [*batch.attachments, b"x"]),
        "what is accepted ends where a field ends",
    )
