"""The manifest `.core/view.yml`, of a plugin or of the app: its fields and their rules. Pure: no I/O."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sized
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from coredeno.errors import InvalidArgument, ManifestError
from coredeno.net_hosts import parse_net_host
from coredeno.permissions import HOST_FOLDER, is_host_group, is_host_path, normalise_path
from coredeno.plain_yaml import LIMIT_BYTES as _YAML_BYTES
from coredeno.plain_yaml import PlainYamlError, parse_plain_yaml

LIMIT_BYTES: Final = _YAML_BYTES
"""The size of the largest manifest that is read; whoever reads the file may stop one byte after it."""
LIMIT_CODE: Final = 63
"""The most characters of a plugin's code."""
LIMIT_LIST: Final = 256
"""The most entries of a list of permissions, and the most services: who is asked to consent reads them all."""
LIMIT_VERSION: Final = 64
"""The most characters of a version."""


class StoreGroups(msgspec.Struct, frozen=True, kw_only=True):
    """Store groups beside the plugin's own: 1 to 128 printable characters each, not beginning with `_`."""

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()


class PermissionSet(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for. Each list is in the manifest's order, in one spelling, without repetitions.

    Attributes:
        read: files and folders beneath the app root, as `normalise_path` gives them; `.` is the whole root.
        write: the same, for writing.
        net: hosts, as `parse_net_host` reads them.
        run: names of programs, without folders.
        store: groups of the store.
    """

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    net: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    store: StoreGroups = StoreGroups()


class OptionalPermissions(PermissionSet, frozen=True, kw_only=True):
    """What the plugin may ask for while it runs. `services` is as `Manifest.services`."""

    services: Mapping[str, tuple[str, ...]] = {}

    def __hash__(self) -> int:
        return hash((self.read, self.write, self.net, self.run, self.store, *sorted(self.services)))


class Permissions(PermissionSet, frozen=True, kw_only=True):
    """What the plugin needs to be loaded. `optional` is what it may ask for while it runs."""

    optional: OptionalPermissions = OptionalPermissions()


class ManifestLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds that the plugin sets itself; None leaves the host's.

    Attributes:
        memory_mb: the JavaScript heap, 16 to 65,536 MiB.
        call_timeout_s: deadline of a call that names none, more than 0 and at most 86,400 seconds.
        calls_in_flight: calls at once, 1 to 65,536.
    """

    memory_mb: int | None = None
    call_timeout_s: float | None = None
    calls_in_flight: int | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest as `parse_manifest` checked it.

    Attributes:
        code: what identifies the plugin: 1 to 63 of `a-z 0-9 - _ .`, a letter or digit at both ends, without
            `..`. It is fit to be a folder's name, a store group and a logger's name.
        name: for humans; the code where the file has none.
        version: 1 to 4 numbers with dots, and what may follow them after `-` or `+`.
        sign: the original's inline signature, as text; it authorises nothing.
        layout: the original's layout, as text.
        slots: the original's slots.
        permissions: what it may not do without.
        modules: the original's list of modules.
        entry: the file to import, relative to the plugin's folder.
        api: which host APIs it fits, such as `>=1,<2`; empty is any.
        services: the app's services that it calls, and the permissions that it needs there.
        events: names of the events that it receives.
        limits: bounds that it sets itself.
        config: JSON Schema of its settings, as written: every scalar is text, also numbers and booleans.
        absent: the top-level fields that the file does not have, for whom that is not the same as empty.
    """

    code: str
    name: str = ""
    version: str = "0.0.0"
    sign: str = ""
    layout: str = ""
    slots: Mapping[str, str] = {}
    permissions: Permissions = Permissions()
    modules: tuple[str, ...] = ()
    entry: str = "main.ts"
    api: str = ""
    services: Mapping[str, tuple[str, ...]] = {}
    events: tuple[str, ...] = ()
    limits: ManifestLimits = ManifestLimits()
    config: Mapping[str, Any] = {}
    absent: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not self.name:
            msgspec.structs.force_setattr(self, "name", self.code)


def parse_manifest(data: bytes, *, file: str) -> Manifest:
    """Read and check a manifest.

    Only `code` is required. A field with an empty value is as good as none.

    Args:
        data: the file, within the bounds of `parse_plain_yaml`.
        file: its path, for the error.

    Raises:
        ManifestError: it is no YAML of the plain kind, a field is unknown, or a value breaks its rule. The
            error names the field, what it is and what was wanted. Nothing else is raised, whatever the bytes.
    """
    at = _At(file, "")
    try:
        document = parse_plain_yaml(data)
    except PlainYamlError as error:
        raise at.error(str(error)) from None
    fields = _fields(_MANIFEST)(document, at)
    if "code" not in fields:
        raise at.key("code").error(f"is missing, wanted {_CODE_WANTED}")
    assert isinstance(document, dict)
    return Manifest(**fields, absent=frozenset(_MANIFEST) - frozenset(document))


def parse_permissions(asked: Any) -> OptionalPermissions:
    """Read what a plugin asks for while it runs: the same fields and rules as `permissions.optional` has.

    Args:
        asked: plain values, hostile.

    Raises:
        ManifestError: a field is unknown, or a value breaks its rule.
    """
    read = _struct(OptionalPermissions, {**_PERMISSION_SET, "services": _SERVICES})
    found: OptionalPermissions = read(asked, _At("request", "permissions"))
    return found


_SHOWN: Final = 80  # characters of a wrong value that an error repeats: enough to recognise it
_SHOWN_KEY: Final = 128  # and of a field's name; plain YAML has none that are longer
_LONGEST_GROUP: Final = 128


class _At(NamedTuple):
    """A place in a manifest."""

    file: str
    path: str

    def key(self, name: str) -> _At:
        shown = name if len(name) <= _SHOWN_KEY else name[:_SHOWN_KEY] + "…"
        return _At(self.file, f"{self.path}.{shown}" if self.path else shown)

    def item(self, index: int) -> _At:
        return _At(self.file, f"{self.path}[{index}]")

    def error(self, problem: str) -> ManifestError:
        return ManifestError(file=self.file, field=self.path, problem=problem)


# A rule takes a text and gives its one spelling, or raises InvalidArgument; a reader turns a value of the
# document into a field's value, or raises ManifestError.
_Rule: TypeAlias = Callable[[str], Any]
_Reader: TypeAlias = Callable[[Any, _At], Any]


def _shown(value: object) -> str:
    if isinstance(value, str):
        return repr(value if len(value) <= _SHOWN else value[:_SHOWN] + "…")
    if value is None:
        return "empty"
    return "a list" if isinstance(value, list) else "a mapping"


def _text(rule: _Rule) -> _Reader:
    def read(value: Any, at: _At) -> Any:
        if not isinstance(value, str):
            raise at.error(f"is {_shown(value)}, wanted text")
        try:
            return rule(value)
        except InvalidArgument as error:
            raise at.error(str(error)) from None

    return read


def _texts(rule: _Rule, *, most: int | None = None) -> _Reader:
    read_one = _text(rule)

    def read(value: Any, at: _At) -> tuple[Any, ...]:
        if value is None:
            return ()
        if not isinstance(value, list):
            raise at.error(f"is {_shown(value)}, wanted a list, such as [a, b]")
        _require_few(value, most, at)
        return tuple(dict.fromkeys(read_one(item, at.item(index)) for index, item in enumerate(value)))

    return read


def _mapping(rule: _Rule, reader: _Reader, *, most: int | None = None) -> _Reader:
    read_key = _text(rule)

    def read(value: Any, at: _At) -> dict[str, Any]:
        fields = _as_dict(value, at)
        _require_few(fields, most, at)
        return {read_key(key, at.key(key)): reader(inner, at.key(key)) for key, inner in fields.items()}

    return read


def _require_few(entries: Sized, most: int | None, at: _At) -> None:
    if most is not None and len(entries) > most:
        raise at.error(f"has {len(entries):,} entries, wanted at most {most:,}")


def _fields(readers: Mapping[str, _Reader]) -> Callable[[Any, _At], dict[str, Any]]:
    def read(value: Any, at: _At) -> dict[str, Any]:
        fields = {}
        for name, inner in _as_dict(value, at).items():
            reader = readers.get(name)
            if reader is None:
                # Cut first: it takes quadratic time, and a request for permissions has names of any length.
                near = difflib.get_close_matches(name[:_SHOWN_KEY].lower(), readers, n=1, cutoff=0.0)[0]
                known = ", ".join(readers)
                raise at.key(name).error(f"is not a known field, the nearest is {near!r} (of {known})")
            if inner is not None and inner != "":
                fields[name] = reader(inner, at.key(name))
        return fields

    return read


def _struct(kind: Callable[..., Any], readers: Mapping[str, _Reader]) -> _Reader:
    read_fields = _fields(readers)
    return lambda value, at: kind(**read_fields(value, at))


def _as_dict(value: Any, at: _At) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise at.error(f"is {_shown(value)}, wanted a mapping of fields")
    return value


def _matching(pattern: str, wanted: str) -> _Rule:
    compiled = re.compile(pattern)

    def rule(text: str) -> str:
        # fullmatch: `$` would accept a trailing newline.
        if compiled.fullmatch(text) is None:
            raise InvalidArgument(f"is {_shown(text)}, wanted {wanted}")
        return text

    return rule


def _path(text: str) -> str:
    path = normalise_path(text)
    if "," in path:
        raise InvalidArgument(f"is {_shown(text)}, wanted a path without commas (they separate Deno's lists)")
    if is_host_path(path):
        raise InvalidArgument(
            f"is {_shown(text)}, wanted a path outside {HOST_FOLDER}, the host's own folder"
        )
    return path


def check_entry(text: str) -> str:
    """The one spelling of a manifest's `entry`.

    Raises:
        InvalidArgument: it breaks the rule.
    """
    path = _path(text)
    if path == ".":
        raise InvalidArgument(f"is {_shown(text)}, wanted the path of a file in the plugin's folder")
    return path


def _host(text: str) -> str:
    return str(parse_net_host(text))


def _group(text: str) -> str:
    if not 1 <= len(text) <= _LONGEST_GROUP or not text.isprintable() or is_host_group(text):
        raise InvalidArgument(
            f"is {_shown(text)}, wanted 1 to 128 printable characters, not beginning with '_'"
        )
    return text


def _number(kind: type[int | float], lowest: float, highest: float) -> _Rule:
    digits = re.compile(r"[0-9]{1,9}" if kind is int else r"[0-9]{1,9}(?:\.[0-9]{1,9})?")

    def rule(text: str) -> int | float:
        if digits.fullmatch(text) is None or not lowest <= kind(text) <= highest:
            noun = "whole number" if kind is int else "number"
            raise InvalidArgument(f"is {_shown(text)}, wanted a {noun} from {lowest:,} to {highest:,}")
        return kind(text)

    return rule


_CODE_WANTED: Final = "1 to 63 of a-z 0-9 - _ . that begin and end with a letter or digit, without '..'"
_VERSION: Final = r"[0-9]{1,9}(?:\.[0-9]{1,9}){0,3}(?:[-+][0-9A-Za-z]+(?:[-+.][0-9A-Za-z]+)*)?"
_CLAUSE: Final = r"(?:(?:[<>]=?|[=!]=) *)?[0-9]{1,9}(?:\.[0-9]{1,9}){0,3}"

check_code: Callable[[str], str] = _matching(
    r"(?!.*\.\.)[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?", _CODE_WANTED
)
"""The rule of `code`: gives the text back, or raises `InvalidArgument`."""
check_version: Callable[[str], str] = _matching(
    rf"(?=.{{1,64}}\Z){_VERSION}", "a version such as 1.2.0 or 1.2.0-beta.1, at most 64 characters"
)
"""The rule of `version`: gives the text back, or raises `InvalidArgument`."""
_range = _matching(rf"{_CLAUSE}(?: *, *{_CLAUSE}){{0,7}}", "a range of versions such as '>=1,<2'")
_line = _matching(r"[^\n]{1,128}", "one line of 1 to 128 characters")
_sign = _matching(r"[!-~]{1,1024}", "base64, at most 1,024 characters")
_program = _matching(
    r"(?!\.{1,2}\Z)[A-Za-z0-9_.+][A-Za-z0-9_.+-]{0,62}",
    "a program's name (1 to 63 letters, digits, '_', '.', '+', '-'), not a path",
)
_service = _matching(r"[a-z][a-z0-9_]{0,62}", "a service's name, such as weather or photo_index")
_word = _matching(r"[a-z0-9][a-z0-9._-]{0,62}", "a permission's name, such as read")
_event = _matching(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", "an event's name, such as photo.saved")

_STORE: Final[Mapping[str, _Reader]] = {
    "read": _texts(_group, most=LIMIT_LIST),
    "write": _texts(_group, most=LIMIT_LIST),
}
_PERMISSION_SET: Final[Mapping[str, _Reader]] = {
    "read": _texts(_path, most=LIMIT_LIST),
    "write": _texts(_path, most=LIMIT_LIST),
    "net": _texts(_host, most=LIMIT_LIST),
    "run": _texts(_program, most=LIMIT_LIST),
    "store": _struct(StoreGroups, _STORE),
}
_SERVICES: Final = _mapping(_service, _texts(_word, most=LIMIT_LIST), most=LIMIT_LIST)
_LIMITS: Final[Mapping[str, _Reader]] = {
    "memory_mb": _text(_number(int, 16, 65_536)),
    "call_timeout_s": _text(_number(float, 0.001, 86_400)),
    "calls_in_flight": _text(_number(int, 1, 65_536)),
}
_MANIFEST: Final[Mapping[str, _Reader]] = {
    "code": _text(check_code),
    "name": _text(_line),
    "version": _text(check_version),
    "sign": _text(_sign),
    "layout": _text(_line),
    "slots": _mapping(_line, _text(_line)),
    "permissions": _struct(
        Permissions,
        {
            **_PERMISSION_SET,
            "optional": _struct(OptionalPermissions, {**_PERMISSION_SET, "services": _SERVICES}),
        },
    ),
    "modules": _texts(_line),
    "entry": _text(check_entry),
    "api": _text(_range),
    "services": _SERVICES,
    "events": _texts(_event),
    "limits": _struct(ManifestLimits, _LIMITS),
    "config": _as_dict,
}
