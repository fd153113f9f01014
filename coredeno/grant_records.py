"""What the store holds about grants that last until they are revoked. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from coredeno.grant import Permit

GRANTS = "_grants"
"""The store group of the records, by code and signer. Modules never reach groups that begin with `_`."""

FORMAT = 1


class _Stored(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    permits: tuple[Permit, ...]


_decode = msgspec.json.Decoder(_Stored).decode


def record_key(code: str, signer: str | None) -> str:
    """Where the record of this plugin by this key is; of all that nobody signed there is one."""
    return f"{code} {signer or 'unsigned'}"


def is_of(code: str, key: str) -> bool:
    """Whether a record is of this plugin, whoever signed it."""
    return key.partition(" ")[0] == code


def stored(permits: Iterable[Permit]) -> str | None:
    """The text of a record, or None if there is nothing to keep."""
    kept = tuple(dict.fromkeys(permits))
    return msgspec.json.encode(_Stored(FORMAT, kept)).decode() if kept else None


def parse(text: str | None) -> tuple[Permit, ...] | None:
    """The permits of a record, none if there is no record; None if it cannot be read."""
    if text is None:
        return ()
    try:
        record = _decode(text.encode("utf-8", "replace"))
    except (msgspec.MsgspecError, RecursionError):
        return None
    return record.permits if record.format == FORMAT else None
