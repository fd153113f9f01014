"""From an event to the row of the audit log, bounded and printable. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from coredeno.events import Event
from coredeno.interfaces import AuditRow
from coredeno.wire.text import printable

LIMIT_TEXT = 1000
"""Characters of one text in a row; a plugin has its say in many of them."""

LIMIT_ITEMS = 64
"""Entries of one list in a row."""

_LIMIT_INT = 2**53  # what every reader of JSON can hold
_PLAIN = (bool, int, float, type(None))

_encode = msgspec.json.Encoder(order="deterministic").encode


class Record(msgspec.Struct, frozen=True):
    """What a row is about: the kind (the event's class), the module, and the event's other fields."""

    kind: str
    module: str
    fields: Mapping[str, Any]

    def key(self) -> tuple[str, str, str]:
        """The same for two that say the same."""
        return (self.kind, self.module, canonical(self.fields))

    def adding(self, **facts: int) -> Record:
        """With more fields."""
        return Record(self.kind, self.module, {**self.fields, **facts})

    def row(self, at: str) -> AuditRow:
        """The row, not chained yet."""
        return AuditRow(at=at, kind=self.kind, module=self.module, fields=canonical(self.fields))


def record_of(event: Event) -> Record:
    """What an event says."""
    fields = _bounded(msgspec.structs.asdict(event))
    return Record(type(event).__name__, fields.pop("module"), fields)


def canonical(fields: Mapping[str, Any]) -> str:
    """JSON with sorted keys, without white space, in UTF-8: the same for the same fields."""
    return _encode(fields).decode()


def _bounded(value: Any) -> Any:
    if isinstance(value, str):
        if len(value) <= LIMIT_TEXT and value.isprintable():
            return value
        # Cut before it is looked through: it may be long.
        shown = printable(value[:LIMIT_TEXT], one_line=True)
        return shown if len(shown) <= LIMIT_TEXT and len(value) <= LIMIT_TEXT else f"{shown[:LIMIT_TEXT]}…"
    if isinstance(value, Mapping):
        return {_bounded(str(name)): _bounded(each) for name, each in list(value.items())[:LIMIT_ITEMS]}
    if isinstance(value, list | tuple | set | frozenset):
        return [_bounded(each) for each in list(value)[:LIMIT_ITEMS]]
    too_large = isinstance(value, int) and abs(value) > _LIMIT_INT
    return value if isinstance(value, _PLAIN) and not too_large else _bounded(str(value))
