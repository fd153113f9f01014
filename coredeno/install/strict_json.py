"""JSON documents with a format number, read so that they can mean one thing only. Pure: no I/O.

A name that stands twice, a number that is none in JSON (`NaN`), and a field that is not known are refused:
another program could read such a document differently.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Final, NoReturn, TypeVar

import msgspec

from coredeno.errors import CoreDenoError
from coredeno.wire.text import printable

FORMAT: Final = 1
"""The only format that is read, of each of the documents."""

_SHOWN: Final = 200  # characters of a decoder's message, which may repeat names of the document

_T = TypeVar("_T")


class StrictJsonError(CoreDenoError):
    """The bytes are not the wanted document. Callers turn it into an error of their own.

    Attributes:
        problem: what is wrong.
        field: where, such as `files[3][1]`; empty if it is the whole document.
    """

    def __init__(self, problem: str, *, field: str = "") -> None:
        super().__init__(f"{field}: {problem}" if field else problem)
        self.problem = problem
        self.field = field


def decode_strict(data: bytes, kind: type[_T], *, limit_bytes: int) -> _T:
    """Read one JSON object in UTF-8 whose `format` is 1 as a struct.

    Args:
        data: the document.
        kind: a struct that forbids unknown fields, and has the field `format`.
        limit_bytes: the largest document that is read.

    Raises:
        StrictJsonError: it is too large, no JSON, of another format, or not of this kind. Nothing else is
            raised, whatever the bytes are.
    """
    if len(data) > limit_bytes:
        raise StrictJsonError(f"has {len(data):,} bytes, wanted at most {limit_bytes:,}")
    document = _parsed(data)
    if not isinstance(document, dict):
        raise StrictJsonError("is not an object, wanted {…}")
    number = document.get("format")
    if type(number) is int and number > FORMAT:
        raise StrictJsonError(
            f"is of a newer format, wanted {FORMAT}: it needs a newer coredeno", field="format"
        )
    if type(number) is not int or number != FORMAT:
        raise StrictJsonError(f"is missing or wrong, wanted {FORMAT}", field="format")
    return convert_strict(document, kind)


def convert_strict(document: dict[str, Any], kind: type[_T]) -> _T:
    """Turn one object of a document into a struct.

    Raises:
        StrictJsonError: it is not of this kind.
    """
    try:
        return msgspec.convert(document, kind)
    except UnicodeEncodeError:  # a lone surrogate in a name
        raise StrictJsonError("has a name that is not valid Unicode") from None
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$")
        field = place.removesuffix("`").removeprefix(".")
        raise StrictJsonError(_shown(problem), field=_shown(field)) from None


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse_constant)
    except RecursionError:
        raise StrictJsonError("is nested too deeply") from None
    except ValueError as error:  # no JSON, no UTF-8, or a number of thousands of digits
        raise StrictJsonError(f"is not JSON: {_shown(str(error))}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        counts = Counter(name for name, _ in pairs)  # a list's `count` for each would be quadratic
        twice = next(name for name, count in counts.items() if count > 1)
        raise StrictJsonError(f"has the name '{_shown(twice)}' twice in one object")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise StrictJsonError(f"has {name}, which is no JSON")


def _shown(text: str) -> str:
    text = printable(text, one_line=True)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
