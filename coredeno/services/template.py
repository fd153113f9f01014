"""Templates filled with a store group's values. Pure: no I/O.

Of Go's text/template these forms, which are what templates made for the original use; nothing else:
`{{ .name }}`, `{{ index . "any key" }}`, and `{{ "text" }}`, which stands for its text (so `{{ "{{" }}` for
two braces). Texts are quoted as in Go: "…" with escapes, or `…` without.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from coredeno.errors import InvalidArgument, LimitExceeded

MOST_ACTIONS = 5_000
"""Actions in one template: what takes about 10 ms, for which the event loop stands still."""

_KEYS_NAMED = 10
"""How many of a group's keys an error lists."""

_QUOTED = r'"(?:[^"\\\n]|\\.)*"|`[^`]*`'
_ACTION = re.compile(
    rf"""\{{\{{ \s* (?:
        \.(?P<name>[^\W\d]\w*)
        | index \s+ \. \s+ (?P<key>{_QUOTED})
        | (?P<text>{_QUOTED})
    ) \s* \}}\}}""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))")
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"'}


class Place(msgspec.Struct, frozen=True):
    """Where the value of `key` belongs; `line` of the template, from 1, is for messages."""

    key: str
    line: int


Template = Sequence[str | Place]
"""A template, parsed: texts as they are, and places between them."""


def parse(template: str) -> Template:
    """Read a template.

    Raises:
        InvalidArgument: something between `{{` and `}}` has another form; the message names it and its line.
        LimitExceeded: it has more than `MOST_ACTIONS`, of which each escape in a text is one.
    """
    parts: list[str | Place] = []
    end = actions = 0
    line = 1
    while (start := template.find("{{", end)) >= 0:
        parts.append(template[end:start])
        line += template.count("\n", end, start)
        action = _ACTION.match(template, start)
        if action is None:
            raise InvalidArgument(_refusal(template, start, line))
        actions += 1 + action[0].count("\\")
        if actions > MOST_ACTIONS:
            raise LimitExceeded(
                f"template: it has more than {MOST_ACTIONS} actions in {{{{ }}}} and escapes in them, wanted fewer"
            )
        text = action["text"]
        parts.append(_unquoted(text, line) if text else Place(_key(action, line), line))
        end = action.end()
        line += template.count("\n", start, end)
    parts.append(template[end:])
    return parts


def keys_of(template: Template) -> list[str]:
    """The keys that it needs, each once, in order."""
    return list(dict.fromkeys(part.key for part in template if isinstance(part, Place)))


def fill(template: Template, values: Mapping[str, str], *, limit_bytes: int) -> str:
    """Put the values into their places. `values` must have all of `keys_of`.

    Raises:
        LimitExceeded: the result would have more than `limit_bytes` bytes as UTF-8; it was not made.
    """
    filled = [part if isinstance(part, str) else values[part.key] for part in template]
    sizes = {text: size_bytes(text) for text in set(filled)}
    size = sum(sizes[text] for text in filled)
    if size > limit_bytes:
        raise LimitExceeded(f"template: its result has {size} bytes, wanted at most {limit_bytes}")
    return "".join(filled)


def missing(template: Template, group: str, keys: Iterable[str]) -> InvalidArgument | None:
    """The error for the first place whose key is not among the group's `keys`, or None if there is none."""
    known = set(keys)
    place = next((part for part in template if isinstance(part, Place) and part.key not in known), None)
    if place is None:
        return None
    named = ", ".join(repr(key) for key in sorted(known)[:_KEYS_NAMED])
    more = f" and {len(known) - _KEYS_NAMED} more" if len(known) > _KEYS_NAMED else ""
    return InvalidArgument(
        f"template: line {place.line}: group {group!r} has no key {place.key!r}, wanted one of its keys: "
        f"{named or 'it has none'}{more}"
    )


def size_bytes(text: str) -> int:
    """What a text has as UTF-8, in bytes.

    Raises:
        UnicodeEncodeError: it has a lone surrogate.
    """
    return len(text) if text.isascii() else len(text.encode())


def _key(action: re.Match[str], line: int) -> str:
    name = action["name"]
    return str(name) if name else _unquoted(action["key"], line)


def _unquoted(quoted: str, line: int) -> str:
    if quoted.startswith("`"):
        return quoted[1:-1]

    def unescaped(escape: re.Match[str]) -> str:
        if escape[3] in _ESCAPED:
            return _ESCAPED[escape[3]]
        try:
            character = chr(int(escape[1] or escape[2] or "", 16))
            character.encode()  # no lone surrogate
        except (ValueError, OverflowError):
            raise InvalidArgument(
                f"template: line {line}: {_cut(quoted)}: {escape[0]!r} stands for no character, "
                'wanted one of \\a \\b \\f \\n \\r \\t \\v \\\\ \\" \\uXXXX \\UXXXXXXXX'
            ) from None
        return character

    return _ESCAPE.sub(unescaped, quoted[1:-1])


def _refusal(template: str, start: int, line: int) -> str:
    close = template.find("}}", start)
    there = _cut(template[start : close + 2] if close >= 0 else template[start:])
    closed = "" if close >= 0 else " is not closed by }}"
    return (
        f"template: line {line}: {there}{closed}, "
        'wanted {{ .name }}, {{ index . "any key" }} or {{ "text" }}'
    )


def _cut(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}…")  # noqa: PLR2004  enough to find it
