"""What may cross between Python and a plugin, checked value by value. Pure: no I/O.

The rules are those of `docs/wire.md`, "Values" and "Bytes". A value that may not cross fails alone, before
any of it is sent.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import math
import re
import uuid
from array import array
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import msgspec

from coredeno.errors import ProtocolError, UsageError

MAX_DEPTH = 128
MAX_BYTES_ENTRIES = 1024
MAX_SAFE_INTEGER = 2**53 - 1  # ECMAScript Number.MAX_SAFE_INTEGER: beyond it a JavaScript number loses digits

PathPart = str | int


class BytesEntry(msgspec.Struct):
    """One entry of a message's `bytes`: where a binary value belongs, and its length in bytes."""

    at: list[PathPart]
    len: int


_BYTES_TYPES = (bytes, bytearray, memoryview)
# What msgspec writes as one JSON value or as an object; any other class is an unknown type.
_CONVERTED_TYPES = (
    msgspec.Struct,
    dt.date,  # dt.datetime is one
    dt.time,
    dt.timedelta,
    uuid.UUID,
    decimal.Decimal,
    enum.Enum,
)
# A subclass crosses as its base: a text or number by what it holds, whatever its own `__str__` would say.
_AS_BASE: dict[type[Any], Callable[[Any], Any]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    dict: dict,
    list: list,
    tuple: list,
}


class Outgoing:
    """A value made ready to cross: plain JSON, and its binary values beside it."""

    __slots__ = ("attachments", "entries", "plain")

    def __init__(self, value: Any, path: Sequence[PathPart], *, depth: int = 0) -> None:
        """Check and convert `value`, which will stand at `path` of a message.

        Args:
            value: anything.
            path: where it will stand.
            depth: levels that count already; -1 for the list of a call's arguments, which does not count.

        Raises:
            UsageError: something in it cannot cross; the message says where and why.
        """
        self.entries: list[BytesEntry] = []
        self.attachments: list[bytes] = []
        self.plain: Any = self._convert(value, path, depth)

    # One branch for each kind of value, the frequent ones first.
    def _convert(self, value: Any, path: Sequence[PathPart], depth: int) -> Any:  # noqa: PLR0911
        kind = type(value)
        if kind is str or value is None or kind is bool:
            return value  # lone surrogates are found when the message is encoded
        if kind is int:
            if -MAX_SAFE_INTEGER <= value <= MAX_SAFE_INTEGER:
                return value
            found = f"an integer of {value.bit_length()} bits"
            raise self._refusal(path, found, "at most ±(2^53-1), what JavaScript can count")
        if kind is float:
            if math.isfinite(value):
                return value
            raise self._refusal(path, str(value), "a finite number")
        if kind is dict:
            self._check_depth(path, depth)
            return {
                self._key(key, path): self._convert(item, (*path, key), depth + 1)
                for key, item in value.items()
            }
        if kind is list or kind is tuple:
            self._check_depth(path, depth)
            return [self._convert(item, (*path, index), depth + 1) for index, item in enumerate(value)]
        if isinstance(value, _BYTES_TYPES):
            return self._attach(value, path)
        if isinstance(value, _CONVERTED_TYPES) or (
            dataclasses.is_dataclass(value) and not isinstance(value, type)
        ):
            return self._convert(self._as_builtins(value, path), path, depth)
        for base, as_base in _AS_BASE.items():
            if isinstance(value, base):
                return self._convert(as_base(value), path, depth)
        raise self._refusal(path, f"a {kind.__module__}.{kind.__qualname__}", "what JSON can carry, or bytes")

    def _as_builtins(self, value: Any, path: Sequence[PathPart]) -> Any:
        try:
            return msgspec.to_builtins(value, builtin_types=_BYTES_TYPES)
        except RecursionError:
            raise self._refusal(path, "a cycle", f"at most {MAX_DEPTH} levels") from None
        except (TypeError, ValueError, msgspec.MsgspecError) as error:
            raise self._refusal(path, str(error), "what msgspec can write") from None

    def _attach(self, value: bytes | bytearray | memoryview, path: Sequence[PathPart]) -> None:
        if len(self.entries) == MAX_BYTES_ENTRIES:
            raise self._refusal(path, "one binary value more", f"at most {MAX_BYTES_ENTRIES} in a message")
        try:
            data = bytes(value)
        except ValueError:
            raise self._refusal(path, "a released memoryview", "one that has its bytes") from None
        self.entries.append(BytesEntry(list(path), len(data)))
        self.attachments.append(data)

    def _check_depth(self, path: Sequence[PathPart], depth: int) -> None:
        if depth >= MAX_DEPTH:
            where = _where(path[:8])
            raise UsageError(f"send: value deeper than {MAX_DEPTH} levels (or a cycle) at {where}…")

    def _key(self, key: Any, path: Sequence[PathPart]) -> str:
        if isinstance(key, str):
            return key
        raise self._refusal(path, f"a key that is a {type(key).__name__}", "text")

    @staticmethod
    def _refusal(path: Sequence[PathPart], found: str, wanted: str) -> UsageError:
        return UsageError(f"send: {_where(path)} is {found}, wanted {wanted}")


def _where(path: Sequence[PathPart]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return ascii(text.removeprefix(".")).strip("'\"")


def encode(message: Any, *, what: str) -> bytes:
    """Encode a message whose values have been checked.

    Raises:
        UsageError: a text in it cannot be written as UTF-8 (a lone surrogate).
    """
    try:
        return _ENCODER.encode(message)
    except UnicodeEncodeError:
        raise UsageError(f"{what}: a text with a lone surrogate, wanted text that UTF-8 can write") from None


_ENCODER = msgspec.json.Encoder()


def put_bytes(message: Any, entries: Sequence[BytesEntry], attachments: Sequence[bytes]) -> None:
    """Put received binary values at their places in a message decoded to plain values.

    Raises:
        ProtocolError: a place that does not exist, is taken, or is named twice.
    """
    for entry, data in zip(entries, attachments, strict=True):
        if not entry.at or entry.at[0] not in ("params", "result"):
            raise ProtocolError("receive: bytes at no place of the message, wanted params or result")
        holder: Any = message
        for part in entry.at[:-1]:
            holder = _step(holder, part)
        last = entry.at[-1]
        if _step(holder, last) is not None:
            where = _where(entry.at)[:200]
            raise ProtocolError(f"receive: bytes at {where}, where a value stands already, wanted null")
        holder[last] = data


def _step(holder: Any, part: PathPart) -> Any:
    if isinstance(holder, dict) and isinstance(part, str) and part in holder:
        return holder[part]
    if isinstance(holder, list) and type(part) is int and 0 <= part < len(holder):
        return holder[part]
    raise ProtocolError("receive: bytes at a place that the message does not have")


def check_depth(text: bytes | msgspec.Raw, *, allowance: int = 0) -> None:
    """Refuse JSON deeper than `MAX_DEPTH` (plus `allowance` for its envelope), before it is decoded.

    Counting brackets settles nearly every message: fewer than the bound cannot be deeper than it. For the
    others texts are taken out, then the innermost pairs, at the speed of C; what is left is counted through.
    So the worst text costs about what decoding a text of its size does (measured: 0.6 s for 16 MiB).

    Raises:
        ProtocolError: it is deeper (or, where brackets stay open, nearly as deep).
    """
    bound = MAX_DEPTH + allowance
    data = bytes(text)
    if data.count(b"[") + data.count(b"{") <= bound:
        return
    # Without escapes a text ends at the next quote. Two quotes side by side hold nothing, or join two texts.
    data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = _TEXTS.sub(b"", data.translate(_BRACKETS, _OTHERS).replace(b'""', b""))
    for _level in range(_LEVELS_BY_PAIRS):
        brackets = brackets.replace(b"[]", b"")
    steps = array("b", brackets.translate(_STEPS))
    depth = _LEVELS_BY_PAIRS
    for begin in range(0, len(steps), _STEPS_AT_ONCE):
        depths = list(accumulate(steps[begin : begin + _STEPS_AT_ONCE], initial=depth))
        if max(depths) > bound:
            raise ProtocolError(f"receive: JSON deeper than {MAX_DEPTH} levels")
        depth = depths[-1]


_TEXTS = re.compile(rb'"[^"]*"')
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_OTHERS = bytes(byte for byte in range(256) if byte not in b'[]{}"')
_LEVELS_BY_PAIRS = 2  # most of what is large is wide, not deep: lists of small objects
_STEPS = bytes.maketrans(b'[]"', b"\x01\xff\x00")  # as signed numbers: up, down, neither
_STEPS_AT_ONCE = 65_536
