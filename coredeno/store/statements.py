"""The SQL that the store runs, built for few trips and few rows. Pure: no I/O.

Why answers come as JSON: Python's sqlite3 gives up the interpreter's lock at each row that it steps to, and a
busy event loop lets it wait for the lock each time. With such a loop 64 rows took 12 ms, one row 0.9 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec

from coredeno.interfaces import StoreChange

Statement = tuple[str, Sequence[str | None]]
"""SQL and what is bound to it."""

MOST_ROWS = 256
"""Rows bound in one statement: three variables each stay below 999, the bound of SQLite before 3.32."""

_PAGE_BYTES = 64 * 1024
"""What a page holds, about: the event loop decodes so much in one go. A value of this size goes as it is."""

_VALUE_CHARACTERS = 4096
"""What counts as one row more: so a transaction that writes share has about 1 MiB of values, or one write."""

_ROW_BYTES = 64
"""What a row counts beside its value, so that a page of tiny values is bounded too."""

# `length` of text stops at a NUL, that of a blob does not.
_PAGED = f"""
SELECT
    CASE WHEN size >= {_PAGE_BYTES} THEN name END,
    CASE WHEN size >= {_PAGE_BYTES} THEN value
        ELSE json_group_object(name, CASE WHEN size < {_PAGE_BYTES} THEN value END) END
FROM (
    SELECT name, value, size,
        sum(size + {_ROW_BYTES}) OVER (ROWS UNBOUNDED PRECEDING) / {_PAGE_BYTES} AS page
    FROM (SELECT name, value, length(CAST(value AS BLOB)) AS size FROM (%s))
)
GROUP BY page, CASE WHEN size >= {_PAGE_BYTES} THEN name END
"""  # noqa: S608  of constants


COUNT = """SELECT count(*) FROM entry WHERE "group" = ?"""
"""How many keys the bound group has."""

READ_GROUP = _PAGED % """SELECT key AS name, value FROM entry WHERE "group" = ?"""
"""All of the bound group: rows for `values_by_key`."""

_decode_keys = msgspec.json.Decoder(dict[str, str]).decode
_decode_places = msgspec.json.Decoder(dict[int, str]).decode


def values_by_key(row: Sequence[Any]) -> dict[str, str]:
    """What one row of `READ_GROUP` holds."""
    name, text = row
    return _decode_keys(text) if name is None else {name: text}


def values_by_place(row: Sequence[Any]) -> dict[int, str]:
    """What one row of `read_pairs` holds: values by the place of their pair."""
    name, text = row
    return _decode_places(text) if name is None else {name: text}


def read_pairs(pairs: Sequence[tuple[str, str]]) -> Statement:
    """Read values by group and key; at least one pair and at most `MOST_ROWS`."""
    size = _round_up(len(pairs))
    bound: list[str | None] = [text for pair in pairs for text in pair]
    return _read_sql(size), bound + [None] * (2 * (size - len(pairs)))


def write(changes: Sequence[StoreChange]) -> Statement:
    """Make changes in their order, all or none; at least one and at most `MOST_ROWS`."""
    size = _round_up(len(changes))
    bound = [text for change in changes for text in (change.group, change.key, change.value)]
    return _write_sql(size), bound + [None] * (3 * (size - len(changes)))


def weigh(changes: Sequence[StoreChange]) -> int:
    """A write's weight, in rows. Long values count more: bound together, they hold the interpreter's lock."""
    return sum(1 + len(change.value or "") // _VALUE_CHARACTERS for change in changes)


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
def _write_sql(rows: int) -> str:
    return "INSERT INTO change VALUES " + ", ".join(["(?, ?, ?)"] * rows)  # noqa: S608  of nothing but marks
