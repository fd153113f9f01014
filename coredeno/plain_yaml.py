"""A small, strict part of YAML: mappings and lists of text, as a manifest needs them. Pure: no I/O.

What is built comes from PyYAML's *events*, never from its loaders: those turn `1.0` into a number and `no`
into a boolean, let a key that stands twice win silently, expand aliases without bound, and end the process
on deep nesting. Here every value is the text that was written, and whatever does not fit is refused by line.
"""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any, TypeAlias

from coredeno.errors import CoreDenoError

PlainValue: TypeAlias = "str | list[PlainValue] | dict[str, PlainValue] | None"
"""What `parse_plain_yaml` gives: text, lists, mappings, and None where nothing is written."""

LIMIT_BYTES = 64 * 1024
LIMIT_DEPTH = 8
LIMIT_NODES = 4096
LIMIT_KEY = 128

# Characters that could forge a log line or hide what a reader sees: controls (line feed excepted; YAML's two
# parsers disagree about tabs), line and paragraph separators, the bidirectional overrides (CVE-2021-42574),
# lone surrogates, non-characters.
_HIDDEN = "\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff"
_NOT_IN_FILE = re.compile(f"[{_HIDDEN}]")
# In a file a carriage return ends a line; in a value it can only come from an escape.
_NOT_IN_VALUE = re.compile(f"[\r{_HIDDEN}]")
# https://yaml.org/spec/1.2.2/#1031-tags, as Go's yaml.v3 reads them too.
_NOTHING = frozenset({"", "~", "null", "Null", "NULL"})


class PlainYamlError(CoreDenoError):
    """The bytes are not of the part of YAML that is read. Callers turn it into an error of their own.

    Attributes:
        problem: what is wrong.
        line: where, counted from 1; 0 if it is the whole file.
    """

    def __init__(self, problem: str, *, line: int = 0) -> None:
        super().__init__(f"line {line}: {problem}" if line else problem)
        self.problem = problem
        self.line = line


def parse_plain_yaml(data: bytes, *, loader: Any = None) -> PlainValue:
    """Read one YAML document whose values are all text.

    A value that is not written at all, or written as a bare `~` or `null`, is None; in quotes they are text.
    Keys are always text. Lines may end in CRLF and the file may begin with a byte order mark.

    Args:
        data: the file, at most 64 KiB of UTF-8; at most 8 levels deep, with at most 4,096 keys and values.
        loader: the PyYAML loader whose parser is used; None takes libyaml's where it was built in.

    Raises:
        PlainYamlError: it is not YAML, breaks a bound above, has an anchor, alias, tag, directive, merge key
            or second document, a key twice in one mapping, a key that is not one line of at most 128
            characters, or a control character (a tab is one). Nothing else is raised, whatever the bytes are.
    """
    text = _decode(data)
    import yaml  # noqa: PLC0415 - it takes longer to import than coredeno may; only who reads a manifest pays

    try:
        builder = _Builder(yaml)
        for event in yaml.parse(text, loader or getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            builder.take(event)
    # The two others come from `chr()` in the Python parser, for escapes that name no character.
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", -1) + 1
        problem = getattr(error, "problem", None) or "found an escape that is no character"
        raise PlainYamlError(f"is not YAML: {problem}", line=line) from None
    return builder.root


def _decode(data: bytes) -> str:
    if len(data) > LIMIT_BYTES:
        raise PlainYamlError(f"has {len(data):,} bytes, wanted at most {LIMIT_BYTES:,}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PlainYamlError(f"byte 0x{data[error.start]:02x} is not UTF-8", line=line) from None
    text = text.removeprefix("\ufeff")
    if bad := _NOT_IN_FILE.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        raise PlainYamlError(f"has the character U+{ord(bad[0]):04X}, wanted visible text", line=line)
    return text


class _Open:
    """A list or mapping whose end has not come yet; of a mapping also the key that waits for its value."""

    def __init__(self, value: list[PlainValue] | dict[str, PlainValue]) -> None:
        self.value = value
        self.key: str | None = None
        self.lines: dict[str, int] = {}

    def wants_key(self) -> bool:
        return isinstance(self.value, dict) and self.key is None

    def put(self, value: PlainValue) -> None:
        if isinstance(self.value, list):
            self.value.append(value)
        else:
            assert self.key is not None
            self.value[self.key] = value
            self.key = None


class _Builder:
    """Puts the values together, event by event; never deeper on Python's stack than one call."""

    def __init__(self, yaml: ModuleType) -> None:
        self.root: PlainValue = None
        self._yaml = yaml
        self._open: list[_Open] = []
        self._documents = 0
        self._nodes = 0

    def take(self, event: Any) -> None:
        line = event.start_mark.line + 1
        if isinstance(event, self._yaml.NodeEvent):
            self._take_node(event, line)
        elif isinstance(event, self._yaml.CollectionEndEvent):
            self._open.pop()
        elif isinstance(event, self._yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise PlainYamlError("begins a second document, wanted one", line=line)
            if event.version or event.tags:
                raise PlainYamlError("has a directive, wanted none", line=line)

    def _take_node(self, event: Any, line: int) -> None:
        self._nodes += 1
        if self._nodes > LIMIT_NODES:
            raise PlainYamlError(f"has too many values, wanted at most {LIMIT_NODES:,}", line=line)
        if isinstance(event, self._yaml.AliasEvent):
            raise PlainYamlError("has an alias, wanted the value itself", line=line)
        if event.anchor is not None or event.tag is not None:
            raise PlainYamlError("has an anchor or tag, wanted a plain value", line=line)
        if self._open and self._open[-1].wants_key():
            self._take_key(event, line)
            return
        value = self._value_of(event, line)
        if self._open:
            self._open[-1].put(value)
        else:
            self.root = value
        if isinstance(value, list | dict):
            if len(self._open) == LIMIT_DEPTH:
                raise PlainYamlError(f"is nested too deeply, wanted at most {LIMIT_DEPTH} levels", line=line)
            self._open.append(_Open(value))

    def _take_key(self, event: Any, line: int) -> None:
        if not isinstance(event, self._yaml.ScalarEvent):
            raise PlainYamlError("has a list or mapping as a key, wanted text", line=line)
        key = _visible(event.value, line)
        if not event.style and key == "<<":
            raise PlainYamlError("has a merge key, wanted the values themselves", line=line)
        if len(key) > LIMIT_KEY or "\n" in key:
            raise PlainYamlError(f"has a key of more than one line or {LIMIT_KEY} characters", line=line)
        mapping = self._open[-1]
        first = mapping.lines.setdefault(key, line)
        if key in mapping.value:
            raise PlainYamlError(f"key {key!r} stands here again, first in line {first}", line=line)
        mapping.key = key

    def _value_of(self, event: Any, line: int) -> PlainValue:
        if isinstance(event, self._yaml.MappingStartEvent):
            return {}
        if isinstance(event, self._yaml.SequenceStartEvent):
            return []
        # A bare scalar has no style: None in the Python parser, empty text in libyaml's.
        if not event.style and event.value in _NOTHING:
            return None
        return _visible(event.value, line)


def _visible(text: str, line: int) -> str:
    if bad := _NOT_IN_VALUE.search(text):
        raise PlainYamlError(f"has the character U+{ord(bad[0]):04X}, wanted visible text", line=line)
    return text
