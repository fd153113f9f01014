"""The SQL that the store runs, built for few trips and few rows. Pure: no I/O.

Why answers come as JSON: Python's sqlite3 gives up the interpreter's lock at each row that it steps to, and a
busy event loop lets it wait for the lock each time. With such a loop 64 rows took 12 ms, one row 0.9 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec

from coredeno.interfaces import StoreChange, StoreQuota
from coredeno.store.schema import size_of

Statement = tuple[str, Sequence[str | int | None]]
"""SQL and what is bound to it."""

Change = tuple[StoreChange, StoreQuota | None]
"""A change, and the quota that it is bound by."""

MOST_ROWS = 128
"""Rows bound in one statement: five variables each stay below 999, the bound of SQLite before 3.32."""

_PAGE_BYTES = 64 * 1024
"""What a page holds, about: the event loop decodes so much in one go. A value of this size goes as it is."""

_VALUE_CHARACTERS = 8192
"""What counts as one row more: so a transaction that writes share has about 1 MiB of values, or one write."""

_ROW_BYTES = 64
"""What a row counts beside its value, so that a page of tiny values is bounded too."""

_PAGED = f"""
SELECT
    CASE WHEN size >= {_PAGE_BYTES} THEN name END,
    CASE WHEN size >= {_PAGE_BYTES} THEN value
        ELSE json_group_object(name, CASE WHEN size < {_PAGE_BYTES} THEN value END) END
FROM (
    SELECT name, value, size,
        sum(size + {_ROW_BYTES}) OVER (ROWS UNBOUNDED PRECEDING) / {_PAGE_BYTES} AS page
    FROM (SELECT name, value, {size_of("value")} AS size FROM (%s))
)
GROUP BY page, CASE WHEN size >= {_PAGE_BYTES} THEN name END
"""  # noqa: S608  of constants


USAGE = """SELECT ifnull(max(keys), 0), ifnull(max(bytes), 0) FROM usage WHERE "group" = ?"""
"""How many keys the bound group has, and how many bytes: one row."""

READ_GROUP = _PAGED % """SELECT key AS name, value FROM entry WHERE "group" = ?"""
"""All of the bound group: rows for `values_by_key`."""

READ_SMALL_GROUP = (
    _PAGED
    % """
    SELECT key AS name, value FROM entry WHERE "group" = ?1
    AND (SELECT bytes FROM usage WHERE "group" = ?1) <= ?2
    """
)
"""The same, if the group has no more bytes than those bound second; else no row."""

_decode_keys = msgspec.json.Decoder(dict[str, str]).decode
_decode_places = msgspec.json.Decoder(dict[int, str]).decode


def values_by_key(row: Sequence[Any]) -> dict[str, str]:
    """What one row of `READ_GROUP` holds.

    Raises:
        msgspec.DecodeError: it is no text, as all is that is ever written.
    """
    name, text = row
    return _decode_keys(text) if name is None else msgspec.convert({name: text}, dict[str, str])


def values_by_place(row: Sequence[Any]) -> dict[int, str]:
    """What one row of `read_pairs` holds: values by the place of their pair.

    Raises:
        msgspec.DecodeError: it is no text, as all is that is ever written.
    """
    place, text = row
    return _decode_places(text) if place is None else msgspec.convert({place: text}, dict[int, str])


def usage(row: Sequence[Any]) -> tuple[int, int]:
    """What the row of `USAGE` holds: keys and bytes.

    Raises:
        msgspec.DecodeError: these are no numbers, as all are that are ever written.
    """
    return msgspec.convert(tuple(row), tuple[int, int])


def read_pairs(pairs: Sequence[tuple[str, str]]) -> Statement:
    """Read values by group and key; at least one pair and at most `MOST_ROWS`."""
    size = _round_up(len(pairs))
    bound: list[str | int | None] = [text for pair in pairs for text in pair]
    return _read_sql(size), bound + [None] * (2 * (size - len(pairs)))


def size_of_pairs(pairs: Sequence[tuple[str, str]]) -> Statement:
    """The bytes of those keys and values that there are: one row; at least one pair and at most `MOST_ROWS`."""
    _, bound = read_pairs(pairs)
    return _size_sql(len(bound) // 2), bound


def write(changes: Sequence[Change]) -> Statement:
    """Make changes in their order, all or none; at least one and at most `MOST_ROWS`.

    It fails with `OVER_QUOTA` if one is bound by a quota, and its group would have more.
    """
    size = _round_up(len(changes))
    bound: list[str | int | None] = []
    for change, quota in changes:
        most = (None, None) if quota is None else (quota.keys, quota.bytes)
        bound += (change.group, change.key, change.value, *most)
    return _write_sql(size), bound + [None] * (5 * (size - len(changes)))


def weigh(change: StoreChange) -> int:
    """A change's weight, in rows. Long values count more: bound together, they hold the interpreter's lock."""
    return 1 + len(change.value or "") // _VALUE_CHARACTERS


def _round_up(rows: int) -> int:
    # To a power of two: nine texts in all, soon compiled. The added rows of NULL match and change nothing.
    return 1 << (rows - 1).bit_length()


@cache
def _read_sql(rows: int) -> str:
    wanted = ", ".join(f"({place}, ?, ?)" for place in range(rows))
    # CROSS JOIN is how SQLite is told to look up each wanted pair, and not to walk the table.
    found = """
        SELECT wanted.place AS name, entry.value FROM wanted
        CROSS JOIN entry ON entry."group" = wanted."group" AND entry.key = wanted.key
    """
    return f"""WITH wanted (place, "group", key) AS (VALUES {wanted}) {_PAGED % found}"""


@cache
def _size_sql(rows: int) -> str:
    # `read_pairs` pads with pairs that match nothing; two pairs that are alike count once.
    wanted = ", ".join(["(?, ?)"] * rows)
    return f"""
        WITH wanted ("group", key) AS (VALUES {wanted}), each AS (SELECT DISTINCT "group", key FROM wanted)
        SELECT ifnull(sum({size_of("entry.key")} + {size_of("entry.value")}), 0) FROM each
        CROSS JOIN entry ON entry."group" = each."group" AND entry.key = each.key
    """  # noqa: S608  of nothing but marks


@cache
def _write_sql(rows: int) -> str:
    return "INSERT INTO change VALUES " + ", ".join(["(?, ?, ?, ?, ?)"] * rows)  # noqa: S608  of nothing but marks
