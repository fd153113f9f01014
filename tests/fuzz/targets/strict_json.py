"""JSON that can mean one thing only: what is accepted has the same value for Python's own reader."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from coredeno.install.strict_json import StrictJsonError, decode_strict
from coredeno.wire.text import printable
from tests.fuzz.shape import Violation, require, require_equal

LIMIT = 2000


class Document(msgspec.Struct, forbid_unknown_fields=True):
    """Takes anything under one name."""

    format: int
    value: Any = None


SEEDS = [
    b'{"format": 1, "value": 1, "value": 2}',
    b'{"format": 1, "value": [NaN, Infinity]}',
    b'{"format": 1, "value": {"a": [1, -0, 2.5e-3, "\\u00e9", null, true], "b": {"a": 1}}}',
    b'{"format": 1}',
    b'{"format": 1, "value": 123456789012345678901234567890, "value": NaN}',
    b'{"format": 1.0, "value": "\\ud800"}',
]


def target(data: bytes) -> None:
    try:
        document = decode_strict(data, Document, limit_bytes=LIMIT)
    except StrictJsonError as error:
        text = str(error)
        require(len(text) < 1000 and printable(text, one_line=True) == text, "the error can be shown")
        return
    peer = json.loads(data, object_pairs_hook=_once, parse_constant=_never)
    require_equal(repr(document.value), repr(peer.get("value")), "Python's json reads another value")
    require_equal(repr(document.format), repr(peer["format"]), "the format")
    require(set(peer) <= {"format", "value"} and len(data) <= LIMIT, "nothing else is in it")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    require(len({name for name, _ in pairs}) == len(pairs), "no name stands twice")
    return dict(pairs)


def _never(name: str) -> None:
    raise Violation(f"{name} is no JSON")
